"""Pre-flight check of a target: every fault drawn by hand into a body of 1 mm voxels."""

import numpy as np
import pytest

from client.label_check import check_label, target_ml
from common.preprocess import find_patient
from common.recipe import RoiConfig
from common.volume import Geometry, Volume

SHAPE = (40, 80, 80)
"""The body fills rows and columns 20 to 59."""


@pytest.fixture(scope="module")
def patient():
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 20:60, 20:60] = 40
    return find_patient(Volume(hu, Geometry(SHAPE, (1.0, 1.0, 1.0))), RoiConfig(crop_at_neck=False))


def mask(*boxes):
    drawn = np.zeros(SHAPE, bool)
    for z, y, x in boxes:
        drawn[slice(*z), slice(*y), slice(*x)] = True
    return drawn


def told(drawn, patient):
    return [(f.severity, f.check) for f in check_label("A-0001", drawn, patient)]


CUBE = ((10, 20), (30, 40), (30, 40))


def test_a_good_target_has_no_finding(patient):
    assert told(mask(CUBE), patient) == []
    assert target_ml(mask(CUBE), patient.lps.geometry) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], [("error", "label-empty")]),
        ([((10, 14), (30, 40), (30, 40))], [("warning", "label-size")]),
        ([((10, 20), (30, 40), (0, 10))], [("error", "label-outside")]),
        ([((10, 20), (30, 40), (11, 21))], [("error", "label-outside")]),
        ([((10, 20), (30, 40), (19, 29))], [("warning", "label-outside")]),
        ([CUBE, ((10, 20), (30, 40), (45, 50))], [("warning", "label-parts")]),
        ([((z, z + 1), (30, 40), (30, 40)) for z in range(10, 30, 2)], [("warning", "label-gaps")]),
        ([((10, 15), (30, 40), (30, 40)), ((17, 25), (30, 40), (30, 40))], [("warning", "label-gaps")]),
        ([CUBE, ((23, 30), (30, 40), (30, 40))], [("warning", "label-gaps")]),
        ([CUBE, ((20, 21), (40, 41), (40, 41))], []),
    ],
)
def test_each_fault_is_named(patient, boxes, expected):
    assert told(mask(*boxes), patient) == expected


def test_what_is_told_can_be_counted(patient):
    (every_second,) = check_label("c", mask(*(((z, z + 1), (30, 40), (30, 40)) for z in range(10, 30, 2))), patient)
    assert "contours on every second slice only (10 of 19)" in every_second.what
    (gap,) = check_label("c", mask(((10, 15), (30, 40), (30, 40)), ((17, 25), (30, 40), (30, 40))), patient)
    assert gap.what.startswith("2 of the 15 slices")
    (parts,) = check_label("c", mask(CUBE, ((10, 20), (30, 40), (45, 50))), patient)
    assert parts.what == "target in 2 parts; 0.50 of its 1.5 ml lie beside the largest"
    (outside,) = check_label("c", mask(((10, 20), (30, 40), (19, 29))), patient)
    assert outside.what == "10 % of the target lies outside the patient"


def test_a_target_below_the_neck_is_cut_and_inside_the_patient():
    """Head, neck and shoulders as boxes of 2 mm: the region starts above the shoulders."""
    hu = np.full((100, 120, 120), -1000, np.int16)
    hu[:30, 30:90, 2:118] = 40
    hu[30:60, 45:75, 45:75] = 40
    hu[60:, 25:95, 25:95] = 40
    patient = find_patient(Volume(hu, Geometry(hu.shape, (2.0, 2.0, 2.0))), RoiConfig())
    drawn = np.zeros(hu.shape, bool)
    drawn[5:10, 50:60, 50:60] = True
    (finding,) = check_label("A-0001", drawn, patient)
    assert (finding.severity, finding.check) == ("error", "label-cut")
    assert "500 of 500 voxels (4.00 of 4.00 ml) lie outside the region of interest, below" in finding.what
    assert "coordinator" in finding.remedy


def test_a_body_outline_is_no_tumour(patient):
    large = find_patient(Volume(patient.lps.array, Geometry(SHAPE, (3.0, 3.0, 3.0))), RoiConfig(crop_at_neck=False))
    huge = mask(((5, 35), (25, 55), (25, 55)))
    assert told(huge, large) == [("warning", "label-size")]
    (finding,) = check_label("A-0001", huge, large)
    assert "ml, expected 0.5 to 500 (limits for gross tumours of head and neck)" in finding.what
