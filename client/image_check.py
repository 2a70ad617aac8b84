"""Pre-flight check of one image: is it a planning CT, the right way round, on a plausible grid?

The limits are ours: wide enough for any planning CT, narrow enough for what is none.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from client.finding import Finding, Severity
from common.body import PRONE, TRUNCATED
from common.fitness import no_hu, no_soft_tissue
from common.preprocess import FEET_FIRST, Patient
from common.region import CHEST_IN_VIEW, NO_HEAD, NO_SHOULDERS
from common.volume import Geometry, lps_geometry

OBLIQUE_DEG = 1.0
PIXEL_MM = (0.3, 2.0)
SLICE_MM = (0.5, 5.0)

ABOUT_FLAGS = {
    FEET_FIRST: (
        "orientation",
        "the slices run from head to feet",
        "see in the picture that the head is up; if not, the position in the header is wrong: export it again",
    ),
    PRONE: (
        "orientation",
        "the couch is in front of the body: the patient lies prone, or the image is upside down",
        "see in the picture which; an image that is upside down must be exported again",
    ),
    NO_SHOULDERS: (
        "field-of-view",
        "no neck between head and shoulders was found, so that nothing was cut off below it",
        "expected for a head without shoulders; another part of the body is not what this recipe is for: leave it out",
    ),
    CHEST_IN_VIEW: (
        "field-of-view",
        "the scan reaches down into the chest",
        "none is needed: what lies below the neck is cut off; see in the picture that the patient is the right one",
    ),
    NO_HEAD: (
        "orientation",
        "what lies above the neck is wider than a head",
        "see in the picture that the head is up; nothing was cut off below the neck",
    ),
    TRUNCATED: (
        "field-of-view",
        "the body reaches the border of the image",
        "use the reconstruction with the full field of view, if there is one",
    ),
}
"""Flags of the preprocessing that a person should look at: check, what, remedy."""


def check_grid(case_id: str, geometry: Geometry) -> Iterator[Finding]:
    """Gives a warning for an oblique grid."""
    degrees = obliquity_deg(geometry)
    if degrees > OBLIQUE_DEG:
        what = f"the grid is turned by {degrees:.0f} degrees from the patient's axes"
        yield Finding("warning", case_id, "orientation", what, "import a series with straight axes, if there is one")


def is_planning_grid(spacing_mm: Sequence[float]) -> bool:
    """Returns whether a planning CT may have such voxels (z, y, x), turned to LPS."""
    slice_mm, *pixel_mm = spacing_mm
    return SLICE_MM[0] <= slice_mm <= SLICE_MM[1] and all(PIXEL_MM[0] <= mm <= PIXEL_MM[1] for mm in pixel_mm)


def check_patient(case_id: str, patient: Patient) -> Iterator[Finding]:
    """Gives a warning for each flag of the preprocessing that a person should look at, and one for odd HU."""
    for flag in patient.flags:
        if flag in ABOUT_FLAGS:
            check, what, remedy = ABOUT_FLAGS[flag]
            yield Finding("warning", case_id, check, what + _where(flag, patient), remedy)
    fault = no_soft_tissue(patient)
    if fault:
        yield Finding("error", case_id, "hu", fault, "is it CT, with the right rescale slope and intercept?")


def _where(flag: str, patient: Patient) -> str:
    """Tells the slice of what the picture's planes, which go through the target, need not show."""
    if flag != TRUNCATED or patient.body.border_slice is None:
        return ""
    return f", most on slice {patient.body.border_slice + 1} of {len(patient.body.mask)} from the feet"


def check_range(case_id: str, hu: NDArray[np.generic], number: int, is_seen: bool) -> Iterator[Finding]:
    """Gives a finding where the values of a case's image are not HU; the first, the plain CT, is told without number.

    It is an error in an image that the recipe's networks see, else a warning.
    """
    fault = no_hu(hu)
    if fault:
        severity: Severity = "error" if is_seen else "warning"
        what = fault if number == 1 else f"image {number}: {fault}"
        yield Finding(severity, case_id, "hu", what, "is it CT, and rescaled?")


def obliquity_deg(geometry: Geometry) -> float:
    """Returns the largest angle between an axis of the grid and the patient's axis that it is nearest to."""
    cosines = np.array(lps_geometry(geometry).direction).reshape(3, 3).diagonal()
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).max())


def show_mm(spacing_mm: Sequence[float]) -> str:
    """Returns the spacing as `3 x 0.977 x 0.977`, slices first."""
    return " x ".join(f"{mm:.3g}" for mm in spacing_mm)


def show_grid(geometry: Geometry) -> str:
    """Returns an LPS grid as `60 slices of 3 x 0.977 x 0.977 mm`."""
    return f"{geometry.size[0]} slices of {show_mm(geometry.spacing_mm)} mm"
