"""What headers tell of a series: whose it is, its name in messages, and the box that its voxels fill."""

import numpy as np
import pytest

from client.series import list_series
from common.dicom import read_ct_series, scan_folder
from common.volume import index_to_patient

HU = np.zeros((4, 5, 6))
TURNED = [0.8, 0.6, 0.0, -0.6, 0.8, 0.0]


@pytest.fixture
def listed(tmp_path):
    def run():
        found = scan_folder(tmp_path)
        return list(list_series(tmp_path, found.ct_series, found.headers).values())

    return run


def test_a_series_is_named_by_its_folder_and_by_its_uid_where_that_holds_two(tmp_path, listed, write_ct):
    write_ct(tmp_path / "b", HU, SeriesInstanceUID="1.2.3", SeriesDescription=" CE ")
    for name, uid in {"one": "1.2.4", "two": "1.2.5"}.items():
        write_ct(tmp_path / name, HU, SeriesInstanceUID=uid)
        for path in (tmp_path / name).iterdir():
            (tmp_path / "a").mkdir(exist_ok=True)
            path.rename(tmp_path / "a" / f"{name}-{path.name}")
    series = listed()
    assert [each.name for each in series] == ["a (series 1.2.4)", "a (series 1.2.5)", "b"]
    assert [each.description for each in series] == ["", "", "CE"]
    assert [len(each.sop_uids) for each in series] == [4, 4, 4]


def test_the_patient_is_the_patient_id_or_else_the_study(tmp_path, listed, write_ct):
    write_ct(tmp_path / "a", HU, PatientID=" 007 ")
    write_ct(tmp_path / "b", HU, PatientID="", StudyInstanceUID="1.2.9")
    assert [(each.patient_id, each.patient_key) for each in listed()] == [("007", "007"), ("", "1.2.9")]


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0, 1, 0], TURNED])
def test_the_extent_is_the_faces_of_the_outer_voxels(tmp_path, listed, write_ct, orientation):
    """Against the grid that reading the series gives: its outer voxels' faces are inside, a hair beyond is not."""

    def turn(dataset, _):
        dataset.ImageOrientationPatient = orientation

    write_ct(tmp_path / "a", HU, (3.0, 1.5, 0.5), change=turn)
    (series,) = listed()
    geometry = read_ct_series(series.files).volume.geometry
    low, high = np.full(3, -0.5), np.array(geometry.size) - 0.5
    for corner in np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, 3):
        assert series.extent.holds(index_to_patient(geometry, corner[None]))
        beyond = corner + 0.05 * np.sign(corner)
        assert not series.extent.holds(index_to_patient(geometry, beyond[None]))
    assert series.extent.holds(np.empty((0, 3)))


def test_a_series_without_positions_has_no_extent(tmp_path, listed, write_ct):
    def without(dataset, index):
        if index == 2:
            del dataset.ImagePositionPatient

    write_ct(tmp_path / "a", HU, change=without)
    assert listed()[0].extent is None
