"""Feature maps as a picture: which channels, in how many panels, with the contour where the mask is."""

import numpy as np
import pytest

from common.feature_pictures import MapRow, features_figure, strongest


def row(num_channels=7, size=(20, 16), title="m"):
    truth = np.zeros(size, bool)
    truth[5:9, 4:8] = True
    maps = np.random.default_rng(0).normal(size=(num_channels, *size)).astype(np.float32)
    return MapRow(title, np.zeros(size), truth, maps)


def test_the_channels_that_vary_most_come_first():
    maps = np.zeros((3, 2, 2), np.float32)
    maps[1, 0, 0], maps[2, 0, 0] = 1, 5
    assert strongest(maps, 2) == [2, 1]


def test_a_row_is_the_image_and_five_channels_each_with_the_contour_round_the_mask():
    figure = features_figure([row(), row(title="n")], (3.0, 2.0, 2.0), "A, test case 1")
    panels = [axis for axis in figure.axes if axis.collections]
    assert len(panels) == 2 * 6
    (path,) = panels[3].collections[0].get_paths()
    assert path.vertices.min(axis=0) == pytest.approx((8, 10))  # columns from 4, rows from 5, of 2 mm
    assert path.vertices.max(axis=0) == pytest.approx((16, 18))
    words = [text.get_text() for text in figure.texts]
    assert {"m", "n", "A, test case 1"} <= set(words)


def test_fewer_channels_make_fewer_panels():
    figure = features_figure([row(num_channels=2)], (3.0, 2.0, 2.0), "")
    assert len([axis for axis in figure.axes if axis.collections]) == 3
