"""The couch's line on projections drawn by hand, 2 mm a pixel."""

import numpy as np
import pytest

from common.couch import couch_row

SPACING_MM = (2.0, 2.0)


def projection(*boxes, shape=(140, 220)):
    """Ones in (row start, row stop, column start, column stop)."""
    image = np.zeros(shape, np.uint8)
    for top, bottom, left, right in boxes:
        image[top:bottom, left:right] = 1
    return image


HEAD = (30, 110, 70, 150)


def test_no_couch_and_nothing():
    assert couch_row(projection(HEAD), SPACING_MM) is None
    assert couch_row(projection(), SPACING_MM) is None


@pytest.mark.parametrize("gap", [0, 1, 10])
def test_couch_under_the_head(gap):
    """The edge detector may put the line a row before the couch."""
    row = couch_row(projection(HEAD, (110 + gap, 116 + gap, 10, 210)), SPACING_MM)
    assert row in (109 + gap, 110 + gap)


def test_couch_that_a_head_rest_interrupts():
    row = couch_row(projection(HEAD, (110, 120, 75, 145), (120, 124, 10, 210)), SPACING_MM)
    assert row in (119, 120)


def test_slightly_tilted_couch():
    image = projection(HEAD)
    for column in range(10, 210):
        top = 115 + round(column * 0.02)
        image[top : top + 4, column] = 1
    assert couch_row(image, SPACING_MM) in (114, 115, 116, 117)


def test_steep_line_in_front_and_short_line_are_no_couch():
    image = projection(HEAD, (5, 8, 10, 210), (120, 124, 90, 140))
    for column in range(10, 110):
        image[110 + column // 4 : 114 + column // 4, column] = 1
    assert couch_row(image, SPACING_MM) is None


def test_back_of_a_broad_body_is_no_couch():
    """As straight as a couch and 360 mm wide, but tissue lies on all of it."""
    assert couch_row(projection((30, 100, 20, 200)), SPACING_MM) is None


def test_wings_of_a_head_rest_are_no_couch():
    """60 mm at either side, with the head reaching behind them."""
    assert couch_row(projection(HEAD, (100, 103, 40, 70), (100, 103, 150, 180)), SPACING_MM) is None
