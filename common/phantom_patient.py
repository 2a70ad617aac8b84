"""Who the phantom is: the few numbers that differ from patient to patient, drawn before any grid exists."""

from dataclasses import dataclass

import numpy as np

from common.phantom_institutions import Institution

STAGE_COUNTS = {"T1": 30, "T2": 93, "T3": 87, "T4": 47}
"""Institution A's cases by stage (paper, table 1)."""


@dataclass(frozen=True)
class Patient:
    """One patient's size, pose, disease and scan."""

    stretch: tuple[float, float, float]
    """Size along x, y and z, as factors of the drawn adult."""
    yaw: float
    """Turn of the head about z in radians."""
    neck_half_mm: float
    slice_mm: float
    num_slices: int
    """At full scale."""
    top_mm: float
    """Air above the head."""
    enhanced: bool
    """Scanned with contrast medium."""
    couch_touches: bool
    """Couch or head rest lies against the skin."""
    metal: bool
    """Teeth with fillings that streak."""
    side: int
    """+1: the tumour is on the patient's left; -1: right."""
    stage: str


def draw_patient(institution: Institution, rng: np.random.Generator) -> Patient:
    """Returns a patient as the institution sees them; the same generator state gives the same patient."""
    slice_mm = 2.5 if rng.random() < institution.thin_slices else 3.0
    weights = np.array(list(STAGE_COUNTS.values())) / sum(STAGE_COUNTS.values())
    stretch = 1 + np.clip(rng.normal(0, (0.025, 0.025, 0.02)), -0.06, 0.06)
    return Patient(
        stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        yaw=float(np.clip(rng.normal(0, 0.035), -0.09, 0.09)),
        neck_half_mm=float(rng.uniform(62.5, 71)),
        slice_mm=slice_mm,
        num_slices=round(float(np.clip(rng.normal(130, 12), 114, 152)) * 3.0 / slice_mm),
        top_mm=float(rng.uniform(8, 18)),
        enhanced=bool(rng.random() < institution.enhanced),
        couch_touches=bool(rng.random() < 0.5),
        metal=bool(rng.random() < 0.25),
        side=1 if rng.random() < 0.5 else -1,
        stage=str(rng.choice(list(STAGE_COUNTS), p=weights)),
    )
