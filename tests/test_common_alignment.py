"""A further channel on the first one's grid, against SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)

from common.alignment import channel_onto, label_on, what_is_cut
from common.errors import ImageError, LabelError
from common.volume import Geometry, Volume, lps_geometry, to_sitk

COS, SIN = np.cos(0.1), np.sin(0.1)
DIRECTIONS = {
    "the same": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
    "feet first": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0),
    "sagittal": (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0),
    "oblique": (1.0, 0, 0, 0, COS, -SIN, 0, SIN, COS),
}
AXIAL = Geometry((12, 30, 28), (3.0, 0.976, 0.976), (-11.0, -9.0, 4.0))


def by_simpleitk(image, geometry):
    reference = sitk.Image(geometry.size[::-1], sitk.sitkUInt8)
    reference.SetSpacing(geometry.spacing_mm[::-1])
    reference.SetOrigin(geometry.origin_mm)
    reference.SetDirection(geometry.direction)
    moved = sitk.Resample(to_sitk(image), reference, sitk.Transform(), sitk.sitkBSpline, np.nan, sitk.sitkFloat32)
    return np.clip(sitk.GetArrayFromImage(moved), image.array.min(), image.array.max())


def scan(direction):
    """Independent HU in every voxel."""
    array = np.random.default_rng(0).uniform(-1000, 2000, (21, 25, 23)).astype(np.float32)
    return Volume(array, Geometry(array.shape, (1.7, 1.3, 1.1), (-7.0, -6.0, 9.0), DIRECTIONS[direction]))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_channel_agrees_with_simpleitk_and_is_nan_where_it_does_not_reach(direction):
    moved, expected = channel_onto(scan(direction), AXIAL, 1), by_simpleitk(scan(direction), AXIAL)
    assert 0 < np.isnan(expected).mean() < 1
    np.testing.assert_allclose(moved, expected, atol=0.01)


def test_a_channel_turned_as_the_region_is_agrees_with_simpleitk():
    oblique = lps_geometry(Geometry(AXIAL.size, AXIAL.spacing_mm, AXIAL.origin_mm, DIRECTIONS["oblique"]))
    np.testing.assert_allclose(
        channel_onto(scan("oblique"), oblique, 1), by_simpleitk(scan("oblique"), oblique), atol=0.01
    )


def test_a_channel_of_the_same_grid_stays_as_it_is():
    image = scan("the same")
    np.testing.assert_allclose(channel_onto(image, image.geometry, 1), image.array, atol=0.001)


@pytest.mark.parametrize("direction", ["the same", "oblique"])
def test_a_channel_elsewhere_is_refused(direction):
    far = Geometry(AXIAL.size, AXIAL.spacing_mm, (900.0, 0.0, 0.0))
    with pytest.raises(ImageError, match=r"image 2 .* does not overlap"):
        channel_onto(scan(direction), far, 1)


def test_what_is_cut_is_counted_and_placed():
    mask = np.zeros(AXIAL.size, bool)
    mask[2:6, 10:20, 10:20] = True
    whole = (slice(2, 6), slice(10, 20), slice(10, 20))
    assert what_is_cut(mask, AXIAL, whole) == ""
    voxel_ml = 3.0 * 0.976**2 / 1000
    assert what_is_cut(mask, AXIAL, (slice(3, 9), slice(0, 30), slice(0, 15))) == (
        f"250 of 400 voxels ({250 * voxel_ml:.2f} of {400 * voxel_ml:.2f} ml) lie outside the region of interest, "
        "below and to the left"
    )


def test_a_label_of_another_grid_is_refused_before_it_is_looked_at():
    label = Volume(np.ones(AXIAL.size, np.uint8), AXIAL)
    assert label_on(label, AXIAL).all()
    with pytest.raises(LabelError, match="is not its image's"):
        label_on(label, Geometry(AXIAL.size, AXIAL.spacing_mm))
