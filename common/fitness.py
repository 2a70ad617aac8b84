"""What keeps a case from training though its files can be read: no HU, no target, or another patient's target.

The site's check tells the same faults, by the same functions. The limits are ours: wide enough for any planning CT.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.alignment import finite, label_on
from common.errors import ImageError, LabelError
from common.preprocess import Patient, PreparedCase, find_patient, prepare_patient
from common.recipe import PreprocessConfig
from common.volume import Volume

PLAUSIBLE_AIR_HU = -500.0
PLAUSIBLE_BONE_HU = 200.0
MOST_MEDIAN_HU = 250.0
"""The middle of all HU in a body is that of fat or muscle, -100 to 60."""
WRONG_PATIENT_SHARE = 0.5
"""Of the target outside the body mask: not a rim, but another place."""
NO_TARGET = "the target is empty"

Mask = NDArray[np.bool_]


def no_hu(hu: NDArray[np.generic]) -> str:
    """Says so where there is no air or no bone in the values, as in MR, in a mask, or without rescale; else empty."""
    low, high = float(hu.min()), float(hu.max())
    if low <= PLAUSIBLE_AIR_HU and high >= PLAUSIBLE_BONE_HU:
        return ""
    return f"values {low:.0f} to {high:.0f} are not HU"


def no_soft_tissue(patient: Patient) -> str:
    """Says so where the middle of the body's values is that of no tissue, as with a wrong rescale; else empty."""
    median = float(np.median(patient.lps.array[patient.body.mask]))
    return (
        ""
        if abs(median) <= MOST_MEDIAN_HU
        else f"half of the body lies above {median:.0f} HU; soft tissue has -100 to 60"
    )


def no_target(mask: Mask, patient: Patient) -> str:
    """Says so where a target (z, y, x) on the grid of `patient.lps` is empty or not this patient's; else empty."""
    if not mask.any():
        return NO_TARGET
    outside = share_outside(mask, patient)
    return f"{100 * outside:.0f} % of the target lies outside the patient" if outside > WRONG_PATIENT_SHARE else ""


def share_outside(mask: Mask, patient: Patient) -> float:
    """Returns which part of a target that is not empty lies outside the patient's body."""
    return float(np.count_nonzero(mask & ~patient.body.mask) / np.count_nonzero(mask))


def prepare_fit(images: Sequence[Volume], label: Volume | None, config: PreprocessConfig) -> PreparedCase:
    """Returns what `prepare` does, of a case that may train or test a model.

    Raises:
        ImageError: an image's values are not HU, or as `prepare` says.
        LabelError: the label is empty, or more than half of it lies outside the patient, or as `prepare` says.
    """
    for number, image in enumerate(images, 1):
        _refuse(ImageError, f"image {number}: ", no_hu(finite(image, number - 1).array), "is it CT, and rescaled?")
    patient = find_patient(images[0], config.roi)
    _refuse(ImageError, "image 1: ", no_soft_tissue(patient), "is it CT, with the right rescale slope and intercept?")
    if label is not None:
        fault = no_target(label_on(label, patient.lps.geometry), patient)
        _refuse(LabelError, "label: ", fault, "export image and structure set anew, and import again")
    return prepare_patient(patient, images, label, config)


def _refuse(kind: type[ImageError | LabelError], what: str, fault: str, remedy: str) -> None:
    if fault:
        raise kind(f"{what}{fault}; {remedy}")
