"""A CT series of an export as its headers tell it: whose it is, what it is called, and where in the patient it lies."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from client.copies import Slices, without_copies
from common.dicom_files import reading
from common.errors import ImageError
from common.file_tree import shown

HALF_SLICE = 0.5
"""Contours may lie this far beyond the outer slices' centres, in slices."""


@dataclass(frozen=True, eq=False)
class Extent:
    """The box that a series' voxels fill, along its own axes."""

    axes: NDArray[np.float64]
    """(3, 3): rows are the directions of columns, rows and slices in the patient."""
    low_mm: NDArray[np.float64]
    """(3,): the faces of the first voxels along the axes."""
    high_mm: NDArray[np.float64]
    """(3,): the faces of the last ones."""

    def holds(self, points_mm: NDArray[np.float64]) -> bool:
        """Whether all points (N, 3), as (x, y, z), lie inside; True for none."""
        places = points_mm @ self.axes.T
        return bool(((places >= self.low_mm - 1e-3) & (places <= self.high_mm + 1e-3)).all())


@dataclass(frozen=True, eq=False)
class Series:
    """A CT series, not yet read."""

    uid: str
    name: str
    """For messages: its folder, with the UID where the folder holds several."""
    files: tuple[Path, ...]
    patient_id: str
    """Empty where the headers have none."""
    patient_key: str
    """PatientID, or the study where that is empty."""
    description: str
    frame_uid: str
    """Frame of reference; empty where the headers have none."""
    sop_uids: frozenset[str]
    extent: Extent | None
    """None where the headers do not tell positions."""
    copies: tuple[Path, ...] = ()
    """Files that hold the same bytes as one of its own."""
    study_uid: str = ""

    def described_as(self, patterns: Sequence[str]) -> bool:
        """Whether the description matches any of the patterns, in any case."""
        return any(re.search(pattern, self.description, re.IGNORECASE) for pattern in patterns)


def list_series(
    source: Path, files: Mapping[str, tuple[Path, ...]], headers: Mapping[Path, Dataset]
) -> dict[str, Series]:
    """Returns the series of an export by SeriesInstanceUID, ordered by their first files.

    Args:
        source: the export, which names are relative to.
        files: of each series.
        headers: of each of these files, as `scan_folder` gives them.

    Raises:
        ImageError: a header cannot be decoded.
    """
    folders = [paths[0].parent for paths in files.values()]
    return {
        uid: _series(uid, without_copies(paths, headers), headers, source, folders.count(paths[0].parent) > 1)
        for uid, paths in sorted(files.items(), key=lambda item: item[1][0])
    }


def _series(uid: str, slices: Slices, headers: Mapping[Path, Dataset], source: Path, beside: bool) -> Series:
    paths, own = slices.files, [headers[path] for path in slices.files]
    first = own[0]
    with reading(paths[0], ImageError, "a CT slice"):
        patient_id = str(first.get("PatientID") or "").strip()
        return Series(
            uid=uid,
            name=shown(paths[0].parent, source) + (f" (series {uid})" if beside else ""),
            files=paths,
            patient_id=patient_id,
            patient_key=patient_id or str(first.get("StudyInstanceUID") or uid),
            description=str(first.get("SeriesDescription") or "").strip(),
            frame_uid=str(first.get("FrameOfReferenceUID") or ""),
            sop_uids=frozenset(str(header.get("SOPInstanceUID")) for header in own),
            extent=_extent(own),
            copies=slices.copies,
            study_uid=str(first.get("StudyInstanceUID") or ""),
        )


def _extent(headers: Sequence[Dataset]) -> Extent | None:
    first = headers[0]
    try:
        row, column = np.array(first.ImageOrientationPatient, np.float64).reshape(2, 3)
        axes = np.stack([row, column, np.cross(row, column)])
        places = np.array([header.ImagePositionPatient for header in headers], np.float64) @ axes.T
        row_mm, column_mm = (float(value) for value in first.PixelSpacing)
        plane_mm = np.array([column_mm * first.Columns, row_mm * first.Rows, 0.0])
    except (AttributeError, TypeError, ValueError):  # reading the series says what is wrong with it
        return None
    low, high = places.min(axis=0), places.max(axis=0)
    step = (high[2] - low[2]) / max(len(headers) - 1, 1)
    half = np.array([column_mm / 2, row_mm / 2, HALF_SLICE * step])
    return Extent(axes, low - half, high + plane_mm - half * (1, 1, -1))
