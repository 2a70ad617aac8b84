"""What an exported case becomes when it is read, and what is checked of it, DICOM or NIfTI."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.target import Found
from common.alignment import described
from common.errors import ImageError, LabelError
from common.file_tree import lies_below
from common.gaps import WIDEST_GAP_MM, interpolate_gaps, num_empty_slices
from common.site_config import IngestConfig
from common.text import counted
from common.volume import Geometry, Volume, index_to_patient, read_nifti

TRUTH_NAME = "truth.nii.gz"
GRID_TOLERANCE_MM = 0.1  # NIfTI keeps grids in single precision

Tell = Callable[[Found], None]
"""Called with what was found in a case as soon as it is known, so that it is told of refused cases too."""


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """Images in HU, their target as uint8 on the first image's grid, and what may be told about them."""

    images: tuple[Volume, ...]
    """Plain CT, then contrast-enhanced CT if there is one, on its own grid."""
    label: Volume
    truth: Volume | None
    """A phantom's true mask as uint8."""
    info: Mapping[str, Any]
    """An allow-list: spacing_mm, size, manufacturer, kernel."""
    warnings: tuple[str, ...] = ()


def grid_info(geometry: Geometry) -> dict[str, Any]:
    """Returns what the case index keeps of a grid."""
    return {"spacing_mm": [round(value, 4) for value in geometry.spacing_mm], "size": list(geometry.size)}


def find_truth(folder: Path, source: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Returns a phantom's true mask in `folder`, and a warning if there is one that is no part of the export."""
    path = folder / TRUTH_NAME
    if not path.is_file():
        return None, ()
    if lies_below(path, source):
        return path, ()
    where = "is a link that leads out of the export" if lies_below(folder, source) else "lies above the folder given"
    return None, (f"its {TRUTH_NAME} {where}, and is passed over; copy the file itself into it if it is this case's",)


def read_truth(path: Path | None, geometry: Geometry) -> Volume | None:
    """Returns a phantom's true mask, read rather than copied: a NIfTI header has room for free text."""
    if path is None:
        return None
    truth = read_nifti(path)
    check_same_grid(geometry, truth.geometry, path.name, "the image")
    return Volume((truth.array > 0).astype(np.uint8), truth.geometry)


def bridged(
    mask: NDArray[np.bool_], geometry: Geometry, config: IngestConfig
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Returns the mask (slice, row, column), its gaps filled if `config` asks for it, and a warning if it has gaps."""
    num_empty = num_empty_slices(mask)
    if not num_empty:
        return mask, ()
    filled = interpolate_gaps(mask, geometry)
    num_left = num_empty_slices(filled)
    if config.interpolate_gaps and num_left < num_empty:
        num_filled = num_empty - num_left
        return filled, (
            f"{counted(num_filled, 'slice')} without a contour {'was' if num_filled == 1 else 'were'} filled from the "
            "neighbours"
            + (f", {num_left} left empty in gaps wider than {WIDEST_GAP_MM:g} mm" if num_left else "")
            + "; see them in the pictures of the check",
        )
    fillable = ", or set ingest.interpolate_gaps in site.yaml," if num_left < num_empty else ""
    wide = "" if fillable else f", in gaps wider than {WIDEST_GAP_MM:g} mm, which are never filled"
    return mask, (
        f"{num_empty} of the slices that the target spans {'has' if num_empty == 1 else 'have'} no contour{wide}; "
        f"expected one on each, unless there are two targets; draw what was skipped{fillable} and import again",
    )


def check_same_grid(image: Geometry, label: Geometry, label_name: str, image_name: str) -> None:
    """Raises LabelError if a label has other voxels than its image."""
    if not image.matches(label, GRID_TOLERANCE_MM):
        raise LabelError(
            f"{label_name} has size {label.size}, spacing {label.spacing_mm} and origin {label.origin_mm}; "
            f"expected {image.size}, {image.spacing_mm} and {image.origin_mm} as {image_name}; resample it"
        )


def check_overlap(plain: Geometry, contrast: Geometry) -> None:
    """Raises ImageError if the boxes round two images do not meet; whether it covers the target is seen later."""
    (low, high), (other_low, other_high) = _box(plain), _box(contrast)
    if (low > other_high).any() or (other_low > high).any():
        raise ImageError(
            f"contrast CT ({described(contrast)}) lies beside the plain CT ({described(plain)}); expected both over "
            "the same part of the patient; register it to the plain CT"
        )


def _box(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the least and the largest coordinates (x, y, z) of an image's corners."""
    depth, height, width = (size - 1 for size in geometry.size)
    corners = index_to_patient(
        geometry, np.array([[z, y, x] for z in (0, depth) for y in (0, height) for x in (0, width)])
    )
    return corners.min(axis=0), corners.max(axis=0)
