"""Which CT series a structure set was drawn on: by its references or, where those are wrong, by frame and position."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.series import Series
from client.target import candidates
from common.errors import LabelError
from common.rtstruct import References, contour_images, read_references, read_rtstruct
from common.site_config import IngestConfig

BY_SERIES = "series reference"
BY_IMAGES = "references of its contours"
BY_PLACE = "frame of reference and position"


@dataclass(frozen=True)
class Pairing:
    """The series that a structure set belongs to."""

    series_uid: str
    reason: str
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    """Why the two cannot be a case all the same; empty if they can."""
    num_there: int = 0
    """Images of the series that the structure set lists and that are there."""
    num_lost: int = 0
    """Those that are not, unless all are: then the list is wrong."""


def pair(path: Path, patient_id: str, series: Mapping[str, Series], config: IngestConfig) -> Pairing:
    """Returns the series that the structure set in `path` was drawn on.

    The series that it names decides. Where it names several, those that its contours' image references name; where that
    leaves several, or it names none that is there, the frame of reference and the place: the target's contours (all
    contours, if no name matches `ingest.structures`) lie within the series. Where a plain and contrast-enhanced CTs, by
    `ingest.contrast`, lie there, it is the plain one, whose grid the target gets.

    Raises:
        LabelError: no series fits, or several; or the file is no RTSTRUCT.
    """
    references = read_references(path)
    named = [series[uid] for uid in references.series_uids if uid in series]
    if len(named) == 1:
        return _named(BY_SERIES, path, patient_id, named[0], references)
    if named:
        return _by_contours(path, patient_id, named, references)
    told = ", ".join(references.series_uids) or "none"
    in_frame = [each for each in series.values() if each.frame_uid and each.frame_uid in references.frame_uids]
    if not in_frame:
        raise LabelError(
            f"refers to CT series {told}, and no CT in the export has that identity or its frame of reference; export "
            "the CT with it"
        )
    own = [each for each in in_frame if not patient_id or each.patient_id in ("", patient_id)]
    if not own:
        raise LabelError(
            f"has the frame of reference of {_names(in_frame)}, which is another patient's; expected one PatientID in "
            "both; export the CT that it was drawn on"
        )
    found = _in_place(path, own, config)
    warning = (
        f"{path.name} refers to CT series {told}, which is not in the export; paired with {found.uid} by frame of "
        "reference and position; see that it was drawn on this CT, else leave it out of the export"
    )
    return Pairing(found.uid, BY_PLACE, (warning,))


def _named(reason: str, path: Path, patient_id: str, series: Series, references: References) -> Pairing:
    listed = references.images[series.uid]
    num_there = len(listed & series.sop_uids)
    num_lost = len(listed) - num_there if num_there else 0
    refusal = _other_patient(path, patient_id, series)
    return Pairing(series.uid, reason, refusal=refusal, num_there=num_there, num_lost=num_lost)


def _by_contours(path: Path, patient_id: str, named: Sequence[Series], references: References) -> Pairing:
    """Returns the one of several named series whose images the contours refer to."""
    images = contour_images(path)
    drawn = [each for each in named if each.sop_uids & images]
    if len(drawn) == 1:
        return _named(BY_IMAGES, path, patient_id, drawn[0], references)
    raise LabelError(
        f"fits {len(drawn or named)} CT series: {_names(drawn or named)}; expected one; export only the series it was "
        "drawn on"
    )


def _in_place(path: Path, in_frame: Sequence[Series], config: IngestConfig) -> Series:
    """Returns the only series, or only plain one, in the frame of reference that the contours lie in."""
    points = _points(path, config.structures)
    around = [each for each in in_frame if each.extent is None or each.extent.holds(points)]
    plain = [each for each in around if not each.described_as(config.contrast)]
    for fitting in (around, plain):
        if len(fitting) == 1:
            return fitting[0]
    if around:
        raise LabelError(
            f"fits {len(around)} CT series: {_names(around)}; expected one; export only the series it was drawn on"
        )
    raise LabelError(
        f"has the frame of reference of {_names(in_frame)}, but its contours reach outside; expected them inside; "
        "export the CT that it was drawn on, whole"
    )


def _points(path: Path, patterns: Sequence[str]) -> NDArray[np.float64]:
    """Returns the points (N, 3) of the contours that could be the target's, or else of all."""
    structures = read_rtstruct(path).structures
    contours = [contour for each in candidates(structures, patterns) or structures for contour in each.contours]
    return np.concatenate(contours) if contours else np.empty((0, 3))


def _other_patient(path: Path, patient_id: str, series: Series) -> str:
    """Returns why a structure set that names a series is not its own patient's; an ID that is missing says nothing."""
    if not patient_id or not series.patient_id or patient_id == series.patient_id:
        return ""
    return (
        f"{path.name} is of another patient by its PatientID; expected the CT's; export both of one patient, or "
        "anonymise them together"
    )


def _names(series: Sequence[Series]) -> str:
    return ", ".join(each.name for each in series)
