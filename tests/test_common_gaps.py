import numpy as np
import pytest

from common.gaps import interpolate_gaps, num_empty_slices
from common.volume import Geometry

GRID = Geometry((9, 40, 40), (3.0, 1.0, 1.0))


def cylinder(radii, geometry=GRID):
    """Discs of the given radii round voxel (20, 20) of the slices that are given."""
    mask = np.zeros(geometry.size, bool)
    _, y, x = np.indices(geometry.size)
    distance = np.hypot((y - 20) * geometry.spacing_mm[1], (x - 20) * geometry.spacing_mm[2])
    for index, radius in radii.items():
        mask[index] = distance[index] <= radius
    return mask


def test_empty_slices_are_counted_between_the_first_and_the_last():
    assert num_empty_slices(cylinder({2: 5, 4: 5, 7: 5})) == 3
    assert num_empty_slices(cylinder({2: 5, 3: 5})) == 0
    assert num_empty_slices(np.zeros(GRID.size, bool)) == 0


def test_equal_outlines_give_their_like_between_and_drawn_slices_stay():
    drawn = cylinder({2: 8, 4: 8, 6: 8})
    np.testing.assert_array_equal(interpolate_gaps(drawn, GRID), cylinder(dict.fromkeys(range(2, 7), 8)))


def test_a_cone_is_filled_to_within_half_a_voxel():
    every_third = interpolate_gaps(cylinder({1: 4, 4: 10, 7: 16}), GRID)
    for index, radius in {2: 6, 3: 8, 5: 12, 6: 14}.items():
        assert not (cylinder({index: radius - 0.6})[index] & ~every_third[index]).any()
        assert not (every_third[index] & ~cylinder({index: radius + 0.6})[index]).any()


def test_distances_are_millimetres_in_plane():
    oblong = Geometry((5, 40, 40), (3.0, 1.0, 0.5))
    filled = interpolate_gaps(cylinder({1: 4, 3: 8}, oblong), oblong)[2]
    rows, columns = filled.any(axis=1).sum(), filled.any(axis=0).sum()
    assert rows * 1.0 == pytest.approx(12, abs=1.5)
    assert columns * 0.5 == pytest.approx(12, abs=1.5)


def test_what_lies_apart_is_not_joined():
    two = np.zeros(GRID.size, bool)
    two[2, 2:8, 2:8] = two[4, 30:36, 30:36] = True
    np.testing.assert_array_equal(interpolate_gaps(two, GRID), two)
    wide = cylinder({0: 8, 5: 8})
    np.testing.assert_array_equal(interpolate_gaps(wide, GRID), wide)
    assert num_empty_slices(interpolate_gaps(cylinder({0: 8, 4: 8}), GRID)) == 0
