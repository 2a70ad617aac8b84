"""Pre-flight check of an image: orientation, spacing and HU, on bodies made by hand."""

import numpy as np
import pytest

from client.image_check import (
    ABOUT_FLAGS,
    check_grid,
    check_patient,
    check_range,
    is_planning_grid,
    obliquity_deg,
    show_mm,
)
from common.preprocess import find_patient
from common.recipe import RoiConfig
from common.volume import Geometry, Volume

ROI = RoiConfig(crop_at_neck=False)


def turned(degrees, axis="z"):
    """A direction turned about an axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return {"z": (cos, -sin, 0, sin, cos, 0, 0, 0, 1), "x": (1, 0, 0, 0, cos, -sin, 0, sin, cos)}[axis]


def body(hu=40, size=(20, 80, 80), margin=20, **geometry):
    array = np.full(size, -1000, np.int16)
    array[:, margin:-margin, margin:-margin] = hu
    return Volume(array, Geometry(size, (3.0, 1.0, 1.0), **geometry))


@pytest.mark.parametrize(("degrees", "axis"), [(0, "z"), (0.5, "z"), (12, "z"), (7, "x"), (90, "z"), (100, "x")])
def test_obliquity_is_the_angle_to_the_nearest_axes(degrees, axis):
    expected = min(abs(degrees - right) for right in (0, 90))
    geometry = Geometry((4, 5, 6), (1.0, 1.0, 1.0), direction=turned(degrees, axis))
    assert obliquity_deg(geometry) == pytest.approx(expected, abs=1e-4)
    checks = [(f.severity, f.check) for f in check_grid("A-0001", geometry)]
    assert checks == ([("warning", "orientation")] if expected > 1 else [])


@pytest.mark.parametrize(
    ("spacing_mm", "good"),
    [
        ((3.0, 0.976, 0.976), True),
        ((1.0, 0.5, 0.5), True),
        ((10.0, 1.0, 1.0), False),
        ((0.1, 1.0, 1.0), False),
        ((3.0, 3.9, 3.9), False),
        ((3.0, 1.0, 0.1), False),
    ],
)
def test_spacing_is_that_of_a_planning_ct(spacing_mm, good):
    assert is_planning_grid(spacing_mm) is good


def test_spacing_is_shown_slices_first():
    assert show_mm((3.0, 0.9765625, 0.9765625)) == "3 x 0.977 x 0.977"


def test_slices_from_head_to_feet_are_told():
    volume = body(direction=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0))
    found = list(check_patient("A-0001", find_patient(volume, ROI)))
    assert [(f.severity, f.check, "head is up" in f.remedy) for f in found] == [("warning", "orientation", True)]


def test_every_flag_that_is_told_has_check_words_and_remedy():
    assert all(len(each) == 3 and all(each) for each in ABOUT_FLAGS.values())


@pytest.mark.parametrize(("hu", "good"), [(40, True), (-90, True), (1064, False), (600, False), (-299, False)])
def test_most_of_a_body_is_soft_tissue(hu, good):
    found = list(check_patient("A-0001", find_patient(body(hu), ROI)))
    assert [(f.severity, f.check) for f in found] == ([] if good else [("error", "hu")])


def test_a_body_that_fills_the_image_is_told():
    volume = body(margin=30)
    volume.array[:, 30:50] = 40
    found = list(check_patient("A-0001", find_patient(volume, ROI)))
    assert "field-of-view" in {f.check for f in found}


def test_where_a_body_reaches_the_border_is_told_for_the_picture_need_not_show_it():
    """40 mm of the border on every slice, 50 on the thirteenth."""
    volume = body(margin=30)
    volume.array[:, 30:50] = 40
    volume.array[12, 25:50] = 40
    told = [f.what for f in check_patient("A-0001", find_patient(volume, ROI)) if "border" in f.what]
    assert told == ["the body reaches the border of the image, most on slice 13 of 20 from the feet"]


@pytest.mark.parametrize(("values", "good"), [((-1000, 1000), True), ((0, 3000), False), ((-1000, 100), False)])
def test_a_ct_has_air_and_bone(values, good):
    assert [f.severity for f in check_range("A-0001", np.array(values), 1, True)] == ([] if good else ["error"])
