"""What makes the phantoms' institutions A, B and C differ: scanner, immobilisation and the hand that contours."""

from dataclasses import dataclass
from typing import Literal

from common.errors import ConfigError

InstitutionName = Literal["A", "B", "C"]


@dataclass(frozen=True)
class Institution:
    """One hospital's scanner and habits; spacings are at full scale, 512 x 512 pixels."""

    name: InstitutionName
    pixel_mm: float
    """In-plane spacing."""
    thin_slices: float
    """Share of the cases with 2.5 mm slices; the others have 3 mm."""
    noise_sd_hu: float
    """Standard deviation of the noise in the head; the shoulders have more."""
    kernel_mm: float
    """Standard deviation of the Gaussian that stands for the reconstruction kernel; larger is smoother."""
    overshoot: float
    """Share of the high frequencies added back: a sharp kernel's bright and dark rims."""
    shift_hu: float
    gain: float
    """HU are multiplied by `gain`, then raised by `shift_hu`."""
    enhanced: float
    """Share of the cases scanned with contrast medium."""
    couch: Literal["flat", "curved"]
    mask_shell: bool
    """Whether a thermoplastic mask is moulded over the face."""
    margin_mm: float
    """How far outside the true tumour the contour runs; negative: inside."""
    jitter_mm: float
    """Standard deviation of the contour's smooth deviation from that margin."""
    takes_in_air: bool
    """Whether the contour may enter the air next to the tumour."""
    skips_end_slices: bool
    """Whether the first and the last slice of the tumour are left out."""


INSTITUTIONS: dict[str, Institution] = {
    "A": Institution(
        name="A",
        pixel_mm=0.976,
        thin_slices=0.0,
        noise_sd_hu=6.0,
        kernel_mm=1.1,
        overshoot=0.0,
        shift_hu=0.0,
        gain=1.0,
        enhanced=0.5,
        couch="flat",
        mask_shell=False,
        margin_mm=0.0,
        jitter_mm=0.5,
        takes_in_air=False,
        skips_end_slices=False,
    ),
    "B": Institution(
        name="B",
        pixel_mm=0.75,
        thin_slices=0.0,
        noise_sd_hu=14.0,
        kernel_mm=0.45,
        overshoot=0.6,
        shift_hu=8.0,
        gain=1.0,
        enhanced=0.0,
        couch="curved",
        mask_shell=False,
        margin_mm=2.0,
        jitter_mm=0.3,
        takes_in_air=True,
        skips_end_slices=False,
    ),
    "C": Institution(
        name="C",
        pixel_mm=0.9,
        thin_slices=0.3,
        noise_sd_hu=9.0,
        kernel_mm=0.75,
        overshoot=0.0,
        shift_hu=-5.0,
        gain=1.02,
        enhanced=0.0,
        couch="flat",
        mask_shell=True,
        margin_mm=-1.0,
        jitter_mm=0.3,
        takes_in_air=False,
        skips_end_slices=True,
    ),
}
"""[C] Our choice: three sites that differ as hospitals do, in noise, HU, couch and contouring."""


def institution_named(name: str) -> Institution:
    """Returns an institution's description, or raises a ConfigError."""
    if name not in INSTITUTIONS:
        raise ConfigError(f"phantom institution {name!r} is unknown; expected one of {', '.join(INSTITUTIONS)}")
    return INSTITUTIONS[name]
