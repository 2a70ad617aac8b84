"""Pre-flight check of one target: is it there, in one piece, inside the patient and inside what a recipe keeps?

The limits are ours.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from client.finding import Finding
from client.result_check import piece_sizes
from common.alignment import what_is_cut
from common.fitness import NO_TARGET, no_target, share_outside
from common.gaps import num_empty_slices
from common.preprocess import Patient
from common.volume import Geometry

LEAST_LABEL_ML = 0.5
MOST_LABEL_ML = 500.0
"""No gross tumour of the head and neck is as large; a planning volume or a body outline is."""
OUTSIDE_SHARE = 0.05
"""Of the target outside the body mask; a mask whose rim is smoothed misses less."""

Mask = NDArray[np.bool_]


def check_label(case_id: str, mask: Mask, patient: Patient) -> Iterator[Finding]:
    """Gives findings on a target (z, y, x) on the grid of `patient.lps`; none for a good one."""
    if not mask.any():
        yield Finding("error", case_id, "label-empty", NO_TARGET, "import it again with its contour")
        return
    yield from _check_size(case_id, target_ml(mask, patient.lps.geometry))
    yield from _check_place(case_id, mask, patient)
    yield from _check_gaps(case_id, mask)
    yield from _check_parts(case_id, mask, patient)


def target_ml(mask: Mask, geometry: Geometry) -> float:
    """Returns the volume of a target on this grid."""
    return int(np.count_nonzero(mask)) * geometry.voxel_ml


def _check_size(case_id: str, volume_ml: float) -> Iterator[Finding]:
    if not LEAST_LABEL_ML <= volume_ml <= MOST_LABEL_ML:
        shown = f"{volume_ml:.2f}" if volume_ml < LEAST_LABEL_ML else f"{volume_ml:.0f}"
        limits = f"{LEAST_LABEL_ML:g} to {MOST_LABEL_ML:g} (limits for gross tumours of head and neck)"
        what = f"target of {shown} ml, expected {limits}"
        yield Finding("warning", case_id, "label-size", what, "is it the right structure?")


def _check_place(case_id: str, mask: Mask, patient: Patient) -> Iterator[Finding]:
    """Outside the patient comes first: no region of interest could hold such a target."""
    fault = no_target(mask, patient)
    if fault:
        remedy = "is it this patient's structure set, drawn on this CT? export both anew and import again"
        yield Finding("error", case_id, "label-outside", fault, remedy)
        return
    outside = share_outside(mask, patient)
    if outside > OUTSIDE_SHARE:
        what = f"{100 * outside:.0f} % of the target lies outside the patient"
        yield Finding("warning", case_id, "label-outside", what, "see in the picture whether the contour is shifted")
    cut = what_is_cut(mask, patient.lps.geometry, patient.box)
    if cut:
        remedy = (
            "the case will be left out; ask the coordinator for a recipe with roi.crop_at_neck: false or larger margins"
        )
        yield Finding("error", case_id, "label-cut", f"target: {cut}", remedy)


def _check_gaps(case_id: str, mask: Mask) -> Iterator[Finding]:
    num_empty = num_empty_slices(mask)
    if not num_empty:
        return
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    span = len(slices) + num_empty
    every_second = len(slices) > 2 and bool((np.diff(slices) == 2).all())
    what = (
        f"contours on every second slice only ({len(slices)} of {span})"
        if every_second
        else f"{num_empty} of the {span} slices that the target spans {'has' if num_empty == 1 else 'have'} no contour"
    )
    yield Finding(
        "warning",
        case_id,
        "label-gaps",
        what,
        "draw what was skipped, or set ingest.interpolate_gaps in site.yaml, and import again; two targets are fine",
    )


def _check_parts(case_id: str, mask: Mask, patient: Patient) -> Iterator[Finding]:
    """Counts parts as if there were no skipped slices, which have a finding of their own."""
    drawn = mask[mask.any(axis=(1, 2))]
    sizes_ml = piece_sizes(drawn) * patient.lps.geometry.voxel_ml
    if len(sizes_ml) > 1:
        rest_ml, total_ml = sizes_ml[1:].sum(), sizes_ml.sum()
        what = f"target in {len(sizes_ml)} parts; {rest_ml:.2f} of its {total_ml:.1f} ml lie beside the largest"
        yield Finding("warning", case_id, "label-parts", what, "see in the picture whether a part is a slip of the pen")
