"""What tells structure sets of one CT apart: volumes that a hand can compute, and remedies that apply."""

from pathlib import Path

import numpy as np
import pytest

from client.rivals import places, rivals_refusal, volume_ml
from common.rtstruct import RtStruct, Structure

SQUARE = np.array([[0.0, 0, 0], [20, 0, 0], [20, 10, 0], [0, 10, 0]])  # 2 cm2
HOLE = np.array([[5.0, 2, 0], [15, 2, 0], [15, 7, 0], [5, 7, 0]])  # 0.5 cm2


def stacked(*contours, num=4, step_mm=2.5, name="GTV"):
    up = np.array([0, 0, step_mm])
    return Structure(1, name, tuple(contour + number * up for number in range(num) for contour in contours))


@pytest.mark.parametrize(
    ("structure", "expected_ml"),
    [
        (stacked(SQUARE), 2.0),
        (stacked(SQUARE, HOLE), 1.5),
        (stacked(SQUARE + 700, num=2, step_mm=5.0), 2.0),
        (stacked(SQUARE, num=1), None),
        (Structure(1, "GTV", (SQUARE[:, [2, 0, 1]], SQUARE[:, [2, 0, 1]] + 1)), None),
        (stacked(SQUARE * 1e5), None),
    ],
)
def test_volumes_are_told_without_the_ct(structure, expected_ml):
    assert volume_ml(structure) == (None if expected_ml is None else pytest.approx(expected_ml))


def test_only_remedies_that_apply_are_named():
    def refusal(*sets):
        rivals = [
            (RtStruct(Path(f"p/{number}.dcm"), (each,), is_approved=is_approved), [each])
            for number, (each, is_approved) in enumerate(sets)
        ]
        return rivals_refusal(rivals)

    same = refusal((stacked(SQUARE), False), (stacked(SQUARE, HOLE), False))
    assert same == (
        "2 structure sets of this CT hold a target: p/0.dcm (GTV of about 2.0 ml, not approved), "
        "p/1.dcm (GTV of about 1.5 ml, not approved); expected one; leave out of the export what is outdated"
    )
    other = refusal((stacked(SQUARE), True), (stacked(SQUARE, name="GTV\nold"), False))
    assert "p/0.dcm (GTV of about 2.0 ml, approved), p/1.dcm (GTV?old of" in other
    assert "; leave out of the export what is outdated, or set ingest.prefer_approved: true in site.yaml to " in other
    assert other.endswith(" the approved one, or name the target exactly under ingest.structures in site.yaml")
    assert "prefer_approved" not in refusal((stacked(SQUARE), True), (stacked(SQUARE), True))


def test_files_are_told_apart_by_as_many_folders_as_it_takes():
    def named(*paths):
        return places([RtStruct(Path(path), ()) for path in paths])

    assert named("e/p1/a.dcm", "e/p1/b.dcm") == ["p1/a.dcm", "p1/b.dcm"]
    assert named("e/p1/dicom/rs.dcm", "e/p2/dicom/rs.dcm") == ["p1/dicom/rs.dcm", "p2/dicom/rs.dcm"]
    assert named("e/old/a/b/rs.dcm", "e/new/a/b/rs.dcm", "c.dcm") == ["old/a/b/rs.dcm", "new/a/b/rs.dcm", "c.dcm"]
    assert named("rs.dcm", "p/rs.dcm") == ["rs.dcm", "p/rs.dcm"]
    assert named("e/p/rs.dcm", "e/p/rs.dcm") == ["p/rs.dcm", "p/rs.dcm"]
    rivals = [(RtStruct(Path(f"e/{name}/dicom/rs.dcm"), ()), [stacked(SQUARE)]) for name in ("p1", "p2")]
    assert "target: p1/dicom/rs.dcm (GTV of about 2.0 ml, not approved), p2/dicom/rs.dcm (" in rivals_refusal(rivals)
