import cv2
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as MplPath

from common.contours import fill_areas, fill_even_odd, outline

SQUARE = np.array([[1, 1], [1, 4], [4, 4], [4, 1]], float)


def with_holes(shape, *holes):
    mask = np.ones(shape, bool)
    for hole in holes:
        mask[hole] = False
    return mask


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_an_outline_filled_is_the_mask_again(mask):
    np.testing.assert_array_equal(fill_even_odd(outline(mask), mask.shape), mask)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
@example(with_holes((8, 8), (4, 4), (6, 6)))
@example(with_holes((9, 3), (5, 1), (7, 1)))
def test_readers_that_round_vertices_and_fill_with_the_outline_find_the_mask_too(mask):
    filled = np.zeros(mask.shape, np.uint8)
    rounded = [np.around(polygon[:, ::-1]).astype(np.int32) for polygon in outline(mask)]
    cv2.fillPoly(filled, rounded, 1)
    np.testing.assert_array_equal(filled, mask)


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=9))
def test_fill_agrees_with_winding_parity_of_rays_counted_one_by_one(vertices):
    polygon = np.round(np.array(vertices), 3) + 1e-4  # off the pixel centres
    filled = fill_even_odd([polygon], (12, 12))
    for row in range(0, 12, 3):
        for column in range(0, 12, 5):
            crossings = 0
            for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                if (r0 <= row) != (r1 <= row):
                    crossings += c0 + (row - r0) * (c1 - c0) / (r1 - r0) <= column
            assert filled[row, column] == crossings % 2


def test_a_circle_agrees_with_matplotlib():
    angles = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    circle = np.column_stack([10.3 + 7.7 * np.sin(angles), 9.6 + 7.7 * np.cos(angles)])
    centres = np.argwhere(np.ones((20, 20)))
    expected = MplPath(circle).contains_points(centres).reshape(20, 20)
    np.testing.assert_array_equal(fill_even_odd([circle], (20, 20)), expected)


@pytest.mark.parametrize("order", [1, -1])
def test_centres_on_upper_and_left_edges_belong_whichever_way_round(order):
    mask = fill_even_odd([SQUARE[::order]], (6, 6))
    assert np.argwhere(mask).min(axis=0).tolist() == [1, 1]
    assert np.argwhere(mask).max(axis=0).tolist() == [3, 3]
    assert mask.sum() == 9


def test_a_hole_is_the_same_as_inner_contour_and_as_keyhole():
    outer = np.array([[0.5, 0.5], [0.5, 6.5], [6.5, 6.5], [6.5, 0.5]])
    inner = np.array([[2.5, 2.5], [2.5, 4.5], [4.5, 4.5], [4.5, 2.5]])
    keyhole = np.concatenate([outer[:1], inner, inner[:1], outer])
    two = fill_even_odd([outer, inner], (8, 8))
    assert two.sum() == 36 - 4
    np.testing.assert_array_equal(fill_even_odd([keyhole], (8, 8)), two)


def test_parts_outside_are_cut_and_nothing_gives_nothing():
    assert fill_even_odd([SQUARE - 100], (6, 6)).sum() == 0
    assert fill_even_odd([SQUARE * 100 - 200], (6, 6)).sum() == 36
    assert not fill_even_odd([], (2, 3)).any()
    assert outline(np.zeros((3, 3), bool)) == []


def test_islands_with_holes_give_one_keyhole_polygon_each_with_few_points():
    mask = np.zeros((12, 30), bool)
    mask[1:11, 1:11] = mask[1:11, 15:29] = True
    mask[4:6, 4:6] = mask[3:5, 18:20] = mask[7:9, 24:26] = False
    polygons = outline(mask)
    assert len(polygons) == 2
    assert sum(map(len, polygons)) < 70
    np.testing.assert_array_equal(fill_even_odd(polygons, mask.shape), mask)


def square(low, high):
    return np.array([[low, low], [low, high], [high, high], [high, low]]) - 0.5


def test_areas_that_overlap_in_part_are_joined_and_told():
    mask, joined = fill_areas([square(1, 5), square(3, 8)], (9, 9))
    assert joined
    assert mask.sum() == 16 + 25 - 4
    assert fill_even_odd([square(1, 5), square(3, 8)], (9, 9)).sum() == 16 + 25 - 2 * 4


def test_areas_within_areas_are_holes_and_islands_in_any_order():
    outer, hole, island = square(0, 9), square(2, 7), square(4, 5)
    for order in ([outer, hole, island], [island, hole, outer], [hole, outer, island]):
        mask, joined = fill_areas(order, (9, 9))
        assert (mask.sum(), joined) == (81 - 25 + 1, False)


def test_a_hole_that_touches_the_rim_or_pokes_through_it_a_little_stays_a_hole():
    outer = np.array([[0, 0], [0, 10], [10, 10], [10, 0]]) - 0.5
    touching = np.array([[0, 2], [0, 8], [6, 8], [6, 2]]) - 0.5
    poking = np.array([[-0.6, 2], [-0.6, 8], [6, 8], [6, 2]]) - 0.5
    for hole in (touching, poking):
        mask, joined = fill_areas([outer, hole], (12, 12))
        assert (mask.sum(), joined) == (100 - 36, False)


def test_an_area_given_twice_another_way_round_counts_once():
    ring = square(1, 5)
    mask, joined = fill_areas([ring, np.roll(ring[::-1], 1, axis=0)], (9, 9))
    assert (mask.sum(), joined) == (16, False)


@pytest.mark.parametrize("moved", [0.3, 0.6, 1.5])
def test_a_circle_drawn_twice_a_little_apart_is_one_area(moved):
    """Its lens shares at least 1257 - 2 * 20 * 1.5 of 1257 pixels; by exclusive or, two slivers would be left."""
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.column_stack([30 + 20 * np.sin(angles), 30 + 20 * np.cos(angles)])
    mask, joined = fill_areas([circle, circle + np.array([0, moved])], (60, 60))
    assert joined
    assert mask.sum() == pytest.approx(np.pi * 20**2 + 2 * 20 * moved, abs=15)


@pytest.mark.parametrize(
    ("hole", "num_pixels"),
    [(square(1, 9), 100 - 64), (square(0, 9), 100), (square(1, 10), 100)],  # 64, 81 and 81 of 100 pixels shared
)
def test_a_hole_is_clearly_smaller_than_what_it_lies_in(hole, num_pixels):
    for order in ([square(0, 10), hole], [hole, square(0, 10)]):
        mask, joined = fill_areas(order, (12, 12))
        assert (mask.sum(), joined) == (num_pixels, num_pixels == 100)


def test_parts_that_make_up_another_area_are_joined_with_it():
    left, right = np.array([[0, 0], [0, 6], [9, 6], [9, 0]]) - 0.5, np.array([[0, 3], [0, 9], [9, 9], [9, 3]]) - 0.5
    for order in ([square(0, 9), left, right], [left, square(0, 9), right], [left, right, square(0, 9)]):
        mask, joined = fill_areas(order, (9, 9))
        assert (mask.sum(), joined) == (81, True)


def test_two_that_cross_like_a_plus_are_joined_with_the_hole_of_one():
    lying, standing = np.array([[3, 0], [3, 9], [6, 9], [6, 0]]) - 0.5, np.array([[0, 3], [0, 6], [9, 6], [9, 3]]) - 0.5
    mask, joined = fill_areas([lying, standing, square(4, 5)], (9, 9))
    assert (mask.sum(), joined) == (27 + 27 - 9 - 1, True)


@pytest.mark.parametrize(
    ("polygon", "num_pixels"),
    [
        ([[1, 1], [1, 4]], 0),  # a line there and back
        ([[1, 1]], 0),
        ([[1, 1], [1, 1], [1, 1]], 0),
        ([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 4.5], [4.5, 4.5], [4.5, 2.5], [2.5, 2.5], [2.5, 0.5]], 8),
        ([[0.5, 0.5], [4.5, 4.5], [4.5, 0.5], [0.5, 4.5]], 8),  # a figure of eight: two triangles
        ([[0.5, 0.5], [0.5, 0.5], [0.5, 3.5], [3.5, 3.5], [3.5, 3.5], [3.5, 0.5]], 9),  # points given twice
        ([[0.5, 0.5], [0.5, 3.5], [0.5, 5.5], [0.5, 3.5], [3.5, 3.5], [3.5, 0.5]], 9),  # a spike of no width
    ],
)
def test_degenerate_and_self_touching_polygons(polygon, num_pixels):
    assert fill_even_odd([np.array(polygon, float)], (6, 6)).sum() == num_pixels


@given(arrays(bool, (9, 9)), arrays(bool, (9, 9)))
def test_disjoint_or_nested_areas_fill_as_even_odd_does(one, other):
    """Random masks' outlines, one within the other: what the planning systems' holes are."""
    inner = one & other
    assume(inner.sum() <= 64)  # of 81: what nearly coincides is joined
    polygons = [*outline(np.pad(np.ones((9, 9), bool), 1)), *outline(np.pad(inner, 1))]
    filled, joined = fill_areas(polygons, (11, 11))
    np.testing.assert_array_equal(filled, fill_even_odd(polygons, (11, 11)))
    assert not joined
