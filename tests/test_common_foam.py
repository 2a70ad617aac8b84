"""Walls of a foam-filled box under a body, 2 mm a pixel."""

import numpy as np

from common.foam import clear_holder

SPACING_MM = (3.0, 2.0, 2.0)


def scan(filling_hu):
    """A body of 40 x 60 pixels on a box with a shell of one pixel, and the mask of body and shell below it."""
    hu = np.full((5, 100, 100), -1000, np.int16)
    hu[:, 60:90, 10:90] = -90
    hu[:, 61:89, 11:89] = filling_hu
    hu[:, 20:60, 20:80] = 40
    mask = np.zeros(hu.shape, np.bool_)
    mask[:, 20:61, 20:80] = True
    return hu, mask


def test_wall_before_foam_is_the_holders():
    hu, mask = scan(-945)
    clear_holder(hu, mask, -300.0, SPACING_MM)
    assert not mask[:, 60].any()
    assert mask[:, 20:57, 23:77].all()  # two pixels deep; at its sides, where air beside the box counts as hollow, too


def test_wall_before_air_stays():
    hu, mask = scan(-1000)
    before = mask.copy()
    clear_holder(hu, mask, -300.0, SPACING_MM)
    assert np.array_equal(mask, before)


def test_a_post_between_foam_goes_whole():
    """Where two walls meet there is no foam below, but foam on both sides."""
    hu, mask = scan(-945)
    hu[:, 61:90, 46:53] = -90
    mask[:, 61:66, 46:53] = True
    clear_holder(hu, mask, -300.0, SPACING_MM)
    assert not mask[:, 60:].any()
