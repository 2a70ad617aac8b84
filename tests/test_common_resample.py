"""Resampling against SimpleITK, against straight lines and against itself."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from hypothesis import given, settings
from hypothesis import strategies as st

from common.resample import (
    reached_spacing,
    resample_linear,
    resample_spline,
    sample_positions,
    spline_at,
    spline_weights,
    target_shape,
)

SPACINGS_MM = st.tuples(*[st.floats(0.5, 5.0)] * 3)
SHAPES = st.tuples(*[st.integers(4, 14)] * 3)


def by_simpleitk(array, interpolator, spacing_mm, shape_to, spacing_to_mm, origin_to_mm):
    """The image at `spacing_mm` with its first centre at 0 mm, read by SimpleITK on another grid; NaN outside."""
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    origin, spacing = ([float(value) for value in part[::-1]] for part in (origin_to_mm, spacing_to_mm))
    size = [int(n) for n in shape_to[::-1]]
    return sitk.GetArrayFromImage(
        sitk.Resample(
            image, size, sitk.Transform(), interpolator, origin, spacing, image.GetDirection(), np.nan, sitk.sitkFloat32
        )
    )  # fmt: skip


def same_extent(array, interpolator, spacing_mm, shape_to):
    """SimpleITK's result on the grid of the same extent: the origin moves by half the difference of the spacings."""
    spacing_to = np.array(reached_spacing(array.shape, spacing_mm, shape_to))
    return by_simpleitk(array, interpolator, spacing_mm, shape_to, spacing_to, (spacing_to - spacing_mm) / 2)


def ct_like(shape, seed=0):
    """HU that jump from voxel to voxel: the hardest image for a spline."""
    return np.random.default_rng(seed).uniform(-1000, 2000, shape).astype(np.float32)


@pytest.mark.parametrize("shape_to", [(9, 40, 33), (20, 24, 20), (31, 60, 61), (13, 41, 30)])
def test_spline_agrees_with_simpleitk_border_included(shape_to):
    array = ct_like((13, 41, 37))
    expected = same_extent(array, sitk.sitkBSpline, (3.0, 0.976, 0.976), shape_to)
    np.testing.assert_allclose(resample_spline(array, shape_to, clip=False), expected, atol=0.01)


@given(SHAPES, SPACINGS_MM, SPACINGS_MM, st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_spline_agrees_with_simpleitk_from_any_spacing_to_any(shape, spacing_mm, wanted_mm, seed):
    array = ct_like(shape, seed)
    shape_to = target_shape(shape, spacing_mm, wanted_mm)
    expected = same_extent(array, sitk.sitkBSpline, spacing_mm, shape_to)
    np.testing.assert_allclose(resample_spline(array, shape_to, clip=False), expected, atol=0.01)


@given(SHAPES, SHAPES, SPACINGS_MM, SPACINGS_MM, st.tuples(*[st.floats(-20.0, 20.0)] * 3))
@settings(deadline=None, max_examples=40)
def test_spline_at_any_grid_agrees_with_simpleitk_and_is_nan_outside(shape, shape_to, before_mm, after_mm, origin_mm):
    array = ct_like(shape)
    positions = [
        (start + step * np.arange(size)) / spacing
        for start, step, size, spacing in zip(origin_mm, after_mm, shape_to, before_mm, strict=True)
    ]
    expected = by_simpleitk(array, sitk.sitkBSpline, before_mm, shape_to, np.array(after_mm), origin_mm)
    on_the_rim = [np.abs(np.abs(at - (n - 1) / 2) - n / 2) < 1e-6 for at, n in zip(positions, shape, strict=True)]
    compared = ~np.logical_or.reduce(np.meshgrid(*on_the_rim, indexing="ij"))  # rounding decides there who is inside
    np.testing.assert_allclose(spline_at(array, positions)[compared], expected[compared], atol=0.01)


def test_linear_agrees_with_simpleitk():
    array = np.random.default_rng(0).uniform(size=(9, 12, 10)).astype(np.float32)
    shape_to = (6, 15, 17)
    expected = same_extent(array, sitk.sitkLinear, (3.0, 0.976, 0.976), shape_to)
    np.testing.assert_allclose(resample_linear(array, shape_to), expected, atol=1e-5)


def test_positions_keep_the_edges():
    np.testing.assert_allclose(sample_positions(4, 2), [0.5, 2.5])
    np.testing.assert_allclose(sample_positions(2, 4), [-0.25, 0.25, 0.75, 1.25])


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_way_back_lands_on_the_original_voxel_centres(before, after):
    """Positions on the new grid that the way back samples, mapped to the old grid, are 0, 1, 2 ..."""
    new = sample_positions(after, before)
    old = (new + 0.5) * before / after - 0.5
    np.testing.assert_allclose(old, np.arange(before), atol=1e-9)


def test_shape_and_spacing_keep_the_extent():
    assert target_shape((130, 512, 512), (3.0, 0.976, 0.976), (3.0, 0.952, 0.952)) == (130, 525, 525)
    assert target_shape((1, 1, 1), (1.0, 1.0, 1.0), (4.0, 4.0, 4.0)) == (1, 1, 1)
    assert reached_spacing((10, 20), (3.0, 1.0), (15, 10)) == (2.0, 2.0)


@given(SHAPES, SHAPES)
@settings(deadline=None, max_examples=40)
def test_constants_stay_and_slopes_stay_in_the_middle(shape, shape_to):
    constant = np.full(shape, 37.0, np.float32)
    np.testing.assert_allclose(resample_spline(constant, shape_to), 37.0, atol=1e-3)
    np.testing.assert_allclose(resample_linear(constant, shape_to), 37.0, atol=1e-3)
    slope = np.broadcast_to(np.arange(shape[2], dtype=np.float32), shape)
    expected = np.clip(sample_positions(shape[2], shape_to[2]), 0, shape[2] - 1)
    np.testing.assert_allclose(resample_linear(slope, shape_to)[0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("size_to", [50, 100, 110, 300])
def test_spline_reproduces_a_line_away_from_the_border(size_to):
    """A cubic spline holds every cubic; the mirrored border is felt for about ten voxels (0.27 ** 10 = 2e-6)."""
    line = np.arange(100, dtype=np.float32) * 10 - 500
    positions = sample_positions(100, size_to)
    inner = (positions > 12) & (positions < 87)
    np.testing.assert_allclose(resample_spline(line, (size_to,))[inner], (positions * 10 - 500)[inner], atol=1e-2)


@given(SHAPES, SHAPES)
@settings(deadline=None, max_examples=40)
def test_the_way_back_brings_a_linear_score_home(shape, shape_to):
    """Interpolating a slope is exact, so there and back is too, but where the outermost values were held."""
    slopes = [np.linspace(0, 1 / len(shape), n, dtype=np.float32) for n in shape]
    scores = sum(np.meshgrid(*slopes, indexing="ij"))
    back = resample_linear(resample_linear(scores, shape_to), shape)
    reached = [max(1, int(np.ceil(1.5 * n / m))) for n, m in zip(shape, shape_to, strict=True)]
    inner = tuple(slice(r, n - r) for r, n in zip(reached, shape, strict=True))
    np.testing.assert_allclose(back[inner], scores[inner], atol=1e-5)
    assert back.shape == shape


@given(SHAPES, SHAPES, st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_scores_stay_scores_there_and_back(shape, shape_to, seed):
    scores = np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)
    back = resample_linear(resample_linear(scores, shape_to), shape)
    assert scores.min() - 1e-5 <= back.min() <= back.max() <= scores.max() + 1e-5


@given(st.tuples(*[st.floats(0.5, 4.0)] * 3), st.floats(12.0, 16.0))
@settings(deadline=None, max_examples=20)
def test_a_ball_survives_there_and_back_within_half_a_voxel(spacing_mm, radius_mm):
    """Scores that fall over 6 mm: the surface at 0.5 comes home within half of the coarser voxel."""
    before_mm, shape = (3.0, 1.0, 1.0), (16, 44, 44)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, before_mm, strict=True)]
    distance_mm = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    scores = np.clip(0.5 + (radius_mm - distance_mm) / 6, 0, 1)
    back = resample_linear(resample_linear(scores, target_shape(shape, before_mm, spacing_mm)), shape)
    moved_mm = np.abs(distance_mm - radius_mm)[(back >= 0.5) != (scores >= 0.5)]
    assert moved_mm.max(initial=0.0) <= max(*before_mm, *spacing_mm) / 2


@given(SHAPES, SHAPES, st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_mirroring_and_turning_the_axes_commute_with_both(shape, shape_to, seed):
    array = ct_like(shape, seed)
    for resample in (resample_spline, resample_linear):
        plain = resample(array, shape_to)
        np.testing.assert_allclose(resample(array[::-1, :, ::-1], shape_to)[::-1, :, ::-1], plain, atol=0.01)
        np.testing.assert_allclose(resample(array.T, shape_to[::-1]).T, plain, atol=0.01)


@given(st.tuples(*[st.integers(12, 20)] * 3), st.tuples(*[st.floats(1.0, 2.0)] * 3))
@settings(deadline=None, max_examples=20)
def test_a_smooth_image_survives_a_finer_grid_and_back(shape, finer):
    """One cosine over each axis, even about the outermost centres as the spline's border is, of 1000 HU."""
    waves = [np.cos(np.pi * np.arange(n) / (n - 1)) for n in shape]
    image = 1000 * waves[0][:, None, None] * waves[1][:, None] * waves[2]
    there = resample_spline(image, [round(n * f) for n, f in zip(shape, finer, strict=True)])
    error = np.abs(resample_spline(there, shape) - image)[3:-3, 3:-3, 3:-3]
    assert error.max() < 0.1


def test_overshoot_is_clipped_unless_asked():
    step = np.repeat(np.float32([0, 1000]), 10)
    assert resample_spline(step, (33,), clip=False).max() > 1005
    clipped = resample_spline(step, (33,))
    assert clipped.min() >= 0
    assert clipped.max() <= 1000


def test_axes_already_there_are_untouched():
    array = np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)
    assert np.array_equal(resample_spline(array, (5, 6, 7)), array)
    assert np.array_equal(resample_linear(array, (5, 6, 7)), array)
    single = resample_spline(array[:1], (3, 6, 7))
    np.testing.assert_allclose(single, np.repeat(array[:1], 3, axis=0), atol=1e-5)


def test_weights_are_shared_and_so_read_only():
    weights = spline_weights(8, 5)
    assert weights is spline_weights(8, 5)
    with pytest.raises(ValueError, match="read-only"):
        weights[0, 0] = 1


@pytest.mark.parametrize("shape_to", [(3, 3), (0, 3, 3), (3, 3, 3, 3)])
def test_wrong_shapes_are_refused(shape_to):
    with pytest.raises(ValueError, match="expected one size"):
        resample_spline(np.zeros((4, 4, 4), np.float32), shape_to)
