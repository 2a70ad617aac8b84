"""Metrics against hand-computed facts and a brute-force oracle."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from common.errors import ImageError
from common.metrics import METRIC_NAMES, CaseMetrics, case_metrics, summarise, surface

SPACING = (3.0, 2.0, 1.0)


def voxels(*indices: tuple[int, int, int], shape: tuple[int, int, int] = (5, 5, 5)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for index in indices:
        mask[index] = True
    return mask


@pytest.mark.parametrize(
    ("other", "distance"), [((0, 1, 0), 2.0), ((1, 0, 0), 3.0), ((0, 0, 2), 2.0), ((1, 2, 0), 5.0)]
)
def test_two_voxels_are_as_far_as_their_centres(other: tuple[int, int, int], distance: float) -> None:
    assert case_metrics(voxels((0, 0, 0)), voxels(other), SPACING) == CaseMetrics(0.0, 0.0, 0.0, distance, distance)


def test_equal_masks() -> None:
    mask = voxels((1, 1, 1), (1, 1, 2))
    assert case_metrics(mask, mask, SPACING) == CaseMetrics(1.0, 1.0, 1.0, 0.0, 0.0)


def test_overlap_of_two_voxels_with_one_of_them() -> None:
    metrics = case_metrics(voxels((0, 0, 0), (0, 0, 1)), voxels((0, 0, 0)), SPACING)
    assert metrics.dsc == pytest.approx(2 / 3)
    assert (metrics.ppv, metrics.sen) == (0.5, 1.0)
    assert metrics.assd_mm == pytest.approx((0.5 + 0.0) / 2)  # directed means: (0 + 1) / 2 mm, and 0
    assert metrics.hd95_mm == pytest.approx(0.95)  # linear percentile of 0 and 1 mm


def test_directions_are_averaged_and_not_pooled() -> None:
    """A line of 21 voxels lies 0, 1 ... 20 mm from the point at its end, and the point 0 mm from the line.

    MedPy and MONAI pool both directions' distances in the ASSD, MedPy in the HD95 too: there the larger surface counts
    for more, and the value is another.
    """
    line, point = (voxels(*((0, 0, x) for x in range(n)), shape=(1, 1, 21)) for n in (21, 1))
    metrics = case_metrics(line, point, (1.0, 1.0, 1.0))
    assert metrics.assd_mm == (10.0 + 0.0) / 2
    assert metrics.hd95_mm == pytest.approx(19.0)
    pooled = [0.0, *range(21)]
    assert np.mean(pooled) == pytest.approx(210 / 22)
    assert np.percentile(pooled, 95) == pytest.approx(18.95)


def test_a_stray_component_counts_as_the_surface_it_is() -> None:
    block = voxels(*np.ndindex(2, 2, 2), shape=(4, 4, 20))
    stray = block.copy()
    stray[0, 0, 11] = True  # 10 mm from the block's last voxel
    metrics = case_metrics(stray, block, SPACING)
    assert (metrics.dsc, metrics.ppv, metrics.sen) == pytest.approx((16 / 17, 8 / 9, 1.0))
    assert metrics.assd_mm == pytest.approx((10 / 9 + 0) / 2)
    assert metrics.hd95_mm == pytest.approx(6.0)  # of eight 0 and one 10: rank 0.95 x 8 = 7.6


def test_distances_are_between_surfaces_and_see_no_inside() -> None:
    cube, shell = np.ones((5, 5, 5), bool), np.ones((5, 5, 5), bool)
    shell[2, 2, 2] = False
    assert not surface(cube)[2, 2, 2]
    assert surface(cube).sum() == 125 - 27
    metrics = case_metrics(cube, shell, (1.0, 1.0, 1.0))
    assert metrics.assd_mm == pytest.approx(6 * 1.0 / 104 / 2)  # the hole's six neighbours are surface, 1 mm deep
    assert metrics.dsc == pytest.approx(248 / 249)


def test_a_mask_at_the_border_of_the_image_has_its_surface_there() -> None:
    inner = np.zeros((9, 9, 9), bool)
    inner[2:7, 2:7, 2:7] = True
    moved = np.roll(inner, 1, axis=2)
    crop = (slice(2, 7), slice(2, 7), slice(2, 8))
    assert case_metrics(inner, moved, SPACING) == case_metrics(inner[crop], moved[crop], SPACING)


def test_a_mask_that_fills_the_image_has_its_surface_at_all_borders() -> None:
    """Truth is 27 voxels, 26 of them surface; the predicted one in their middle lies 1 mm off the nearest."""
    metrics = case_metrics(voxels((1, 1, 1), shape=(3, 3, 3)), np.ones((3, 3, 3), bool), SPACING)
    back = sorted(math.sqrt(9 * abs(z) + 4 * abs(y) + abs(x)) for z, y, x in product((-1, 0, 1), repeat=3))[1:]
    assert back[-8:] == [math.sqrt(14)] * 8
    assert metrics.assd_mm == pytest.approx((1.0 + sum(back) / 26) / 2)
    assert metrics.hd95_mm == pytest.approx(math.sqrt(14))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_moved_by_a_voxel_is_off_by_the_spacing_of_that_axis(axis: int) -> None:
    """Two square plates of one voxel's thickness, side by side."""
    plates = [np.zeros((6, 6, 6), bool) for _ in range(2)]
    for number, plate in enumerate(plates):
        np.moveaxis(plate, axis, 0)[number + 2, 1:5, 1:5] = True
    assert case_metrics(*plates, SPACING) == CaseMetrics(0.0, 0.0, 0.0, SPACING[axis], SPACING[axis])


def test_empty_masks() -> None:
    empty, one = voxels(), voxels((1, 1, 1))
    assert case_metrics(empty, empty, SPACING) == CaseMetrics(1.0, 1.0, 1.0, 0.0, 0.0)
    for metrics in (case_metrics(empty, one, SPACING), case_metrics(one, empty, SPACING)):
        assert (metrics.dsc, metrics.ppv, metrics.sen) == (0.0, 0.0, 0.0)
        assert math.isnan(metrics.assd_mm)
        assert math.isnan(metrics.hd95_mm)


def test_numbers_serve_as_masks() -> None:
    mask = voxels((1, 1, 1), (2, 1, 1))
    assert case_metrics(mask.astype(np.uint8), mask.astype(np.float32) * 7, SPACING).dsc == 1.0


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0)])
def test_bad_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match="three lengths above 0"):
        case_metrics(voxels(), voxels(), spacing)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match=r"\(5, 5, 5\).*\(5, 5, 6\)"):
        case_metrics(voxels(), np.zeros((5, 5, 6), bool), SPACING)


masks = st.builds(
    lambda seed, density: np.random.default_rng(seed).random((4, 5, 6)) < density,
    st.integers(0, 10**6),
    st.floats(0.02, 1),
).filter(lambda mask: bool(mask.any()))
spacings = st.tuples(*[st.floats(0.5, 4.0)] * 3)


def brute_surface(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    padded = np.pad(mask, 1)
    inside = np.ones(mask.shape, bool)
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inside)


@given(masks, masks, spacings)
def test_against_all_pairs_of_surface_voxels(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> None:
    pairs = cdist(brute_surface(prediction) * spacing, brute_surface(truth) * spacing)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    metrics = case_metrics(prediction, truth, spacing)
    assert metrics.assd_mm == pytest.approx((there.mean() + back.mean()) / 2)
    assert metrics.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert metrics.dsc == pytest.approx(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))


@given(masks, masks, spacings)
def test_exchanging_the_masks_exchanges_ppv_and_sen_alone(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> None:
    there, back = case_metrics(a, b, spacing), case_metrics(b, a, spacing)
    assert (there.dsc, there.ppv, there.sen) == (back.dsc, back.sen, back.ppv)
    assert (there.assd_mm, there.hd95_mm) == (back.assd_mm, back.hd95_mm)


@given(masks, masks, spacings, st.tuples(*[st.integers(0, 3)] * 3))
def test_moving_both_masks_changes_nothing(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float], move: tuple[int, int, int]
) -> None:
    widths = [(m, 3 - m) for m in move]
    assert case_metrics(np.pad(a, widths), np.pad(b, widths), spacing) == case_metrics(a, b, spacing)


@given(masks, masks, spacings)
def test_lengths_scale_the_distances(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> None:
    one, two = case_metrics(a, b, spacing), case_metrics(a, b, [2 * value for value in spacing])
    assert (two.assd_mm, two.hd95_mm) == pytest.approx((2 * one.assd_mm, 2 * one.hd95_mm))


def test_a_summary_counts_undefined_distances_and_keeps_their_overlap() -> None:
    cases = [
        CaseMetrics(0.8, 0.7, 0.9, 1.0, 4.0),
        CaseMetrics(0.6, 0.7, 0.5, 2.0, 6.0),
        CaseMetrics(0, 0, 0, math.nan, math.nan),
    ]
    summary = summarise(cases)
    assert (summary.n, summary.num_undefined) == (3, 1)
    assert summary.metrics["dsc"].mean == pytest.approx(1.4 / 3)
    assert summary.metrics["assd_mm"].mean == pytest.approx(1.5)
    assert summary.metrics["assd_mm"].sd == pytest.approx(math.sqrt(0.5))  # sample SD of 1 and 2


def test_a_summary_of_few_cases_says_none_and_not_nan() -> None:
    one = CaseMetrics(0.8, 0.7, 0.9, 1.0, 4.0)
    assert summarise([one]).to_dict() == {
        "n": 1,
        "num_undefined": 0,
        "metrics": {name: {"mean": pytest.approx(getattr(one, name)), "sd": None} for name in METRIC_NAMES},
    }
    assert summarise([]).to_dict()["metrics"]["dsc"] == {"mean": None, "sd": None}
    lost = summarise([CaseMetrics(0, 0, 0, math.nan, math.nan)]).to_dict()
    assert (lost["num_undefined"], lost["metrics"]["hd95_mm"]["mean"]) == (1, None)
