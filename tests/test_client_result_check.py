"""Flags of a result: counted on masks drawn by hand; `test_client_segment.py` follows them through the command."""

import numpy as np
import pytest

from client.result_check import piece_sizes, result_flags, touches_region
from common.preprocess import PreprocessRecord
from common.volume import Geometry, Volume

GRID = Geometry((20, 30, 40), (5.0, 2.0, 1.0))
"""A voxel is 0.01 ml."""
RECORD = PreprocessRecord(GRID, ((5, 20), (10, 25), (0, 40)), (15, 15, 40), (5.0, 2.0, 1.0))
RANGE = "expected 0.5 to 300 (gross tumours of the nasopharynx have 2 to 200)"


def mask(*boxes, geometry=GRID):
    drawn = np.zeros(geometry.size, bool)
    for z, y, x in boxes:
        drawn[slice(*z), slice(*y), slice(*x)] = True
    return Volume(drawn, geometry)


CUBE = ((8, 12), (14, 20), (10, 20))


def test_a_good_mask_has_no_flag():
    assert list(result_flags(mask(CUBE), 0.0, RECORD)) == []


@pytest.mark.parametrize(
    ("boxes", "removed_ml", "flags"),
    [
        ([], 0.0, ["nothing-found"]),
        ([], 1.5, ["outside-body: 1.50 ml were taken out", "nothing-found"]),
        ([CUBE, ((15, 16), (14, 20), (10, 20))], 0.0, ["in-pieces: 2, the largest holds 80 % of the volume"]),
        ([((5, 12), (14, 20), (10, 20))], 0.0, ["touches-region"]),
        ([((8, 12), (20, 25), (10, 20))], 0.0, ["touches-region"]),
        ([((8, 9), (14, 18), (10, 20))], 0.0, [f"implausible-volume: 0.40 ml, {RANGE}"]),
    ],
)
def test_each_flag(boxes, removed_ml, flags):
    assert list(result_flags(mask(*boxes), removed_ml, RECORD)) == flags


def test_a_very_large_volume_is_told():
    coarse = Geometry(GRID.size, (10.0, 20.0, 10.0))
    record = PreprocessRecord(coarse, RECORD.crop, RECORD.resampled_shape, coarse.spacing_mm)
    assert list(result_flags(mask(CUBE, geometry=coarse), 0.0, record)) == [f"implausible-volume: 480.00 ml, {RANGE}"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_every_side_of_the_region_counts(axis, side):
    drawn = np.zeros(GRID.size, bool)
    region = drawn[RECORD.box]
    place = [7, 7, 20]
    place[axis] = side
    region[tuple(place)] = True
    assert touches_region(drawn, RECORD)
    region[:] = False
    place[axis] = 1 if side == 0 else -2
    region[tuple(place)] = True
    assert not touches_region(drawn, RECORD)


def test_the_region_lies_on_the_scan_turned_to_the_patient():
    """Slices from head to feet: the first slice of the file is the highest."""
    direction = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
    geometry = Geometry(GRID.size, GRID.spacing_mm, direction=direction)
    record = PreprocessRecord(geometry, ((5, 20), (0, 30), (0, 40)), (15, 30, 40), (5.0, 2.0, 1.0))
    highest, lowest_kept = ((0, 4), (14, 20), (10, 20)), ((11, 15), (14, 20), (10, 20))
    inside = ((5, 9), (14, 20), (10, 20))
    told = [list(result_flags(mask(box, geometry=geometry), 0.0, record)) for box in (highest, lowest_kept, inside)]
    assert told == [["touches-region"], ["touches-region"], []]


def test_pieces_that_touch_by_a_corner_are_one():
    assert piece_sizes(mask(((0, 1), (0, 1), (0, 1)), ((1, 2), (1, 2), (1, 2))).array).tolist() == [2]
    assert piece_sizes(mask(((0, 1), (0, 1), (0, 3)), ((0, 1), (0, 1), (5, 6))).array).tolist() == [3, 1]
