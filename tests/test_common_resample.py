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
    spline_weights,
    target_shape,
)

SHAPES = st.tuples(*[st.integers(4, 14)] * 3)


def by_simpleitk(array, shape_to, interpolator):
    """The same grid by SimpleITK: unit spacing in, origin moved by half the difference of the spacings."""
    image = sitk.GetImageFromArray(array.astype(np.float32))
    spacing = np.array(array.shape) / np.array(shape_to)
    origin = (spacing - 1) / 2
    size = [int(n) for n in shape_to[::-1]]
    return sitk.GetArrayFromImage(
        sitk.Resample(
            image, size, sitk.Transform(), interpolator, origin[::-1].tolist(), spacing[::-1].tolist(),
            image.GetDirection(), -1000.0, sitk.sitkFloat32,
        )
    )  # fmt: skip


@pytest.mark.parametrize("shape_to", [(9, 40, 33), (20, 24, 20), (31, 60, 61), (13, 41, 30)])
def test_spline_agrees_with_simpleitk_border_included(shape_to):
    array = np.random.default_rng(0).uniform(-1000, 2000, (13, 41, 37)).astype(np.float32)
    expected = by_simpleitk(array, shape_to, sitk.sitkBSpline)
    np.testing.assert_allclose(resample_spline(array, shape_to, clip=False), expected, atol=0.01)


def test_linear_agrees_with_simpleitk():
    array = np.random.default_rng(0).uniform(size=(9, 12, 10)).astype(np.float32)
    shape_to = (6, 15, 17)
    expected = by_simpleitk(array, shape_to, sitk.sitkLinear)
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


def test_smooth_image_survives_there_and_back():
    z, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in (20, 30, 30)), indexing="ij")
    image = 100 * (np.sin(z) + np.cos(y) * np.sin(x)).astype(np.float32)
    back = resample_spline(resample_spline(image, (20, 45, 41)), image.shape)
    assert np.abs(back - image)[3:-3, 3:-3, 3:-3].max() < 0.05


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
