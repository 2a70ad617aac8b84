"""The cases folder: one import at a time, stages, and nothing left where nothing was imported."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from client.case_store import LOCK, opened
from client.ingest import import_folder
from client.removal import CasePlaces, readmit_cases, remove_cases
from common.dataset import read_index
from common.errors import InputError, WorkError
from common.site_config import IngestConfig, SiteConfig
from common.volume import Geometry, Volume, write_nifti

CONFIG = IngestConfig()
GRID = Geometry((2, 3, 4), (1.0, 1.0, 1.0))


@pytest.fixture
def write_case(tmp_path):
    def write(name, value=1):
        folder = tmp_path / "export" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_nifti(Volume(np.full(GRID.size, value + 100 * int(name[1:]), np.int16), GRID), folder / "ct.nii.gz")
        label = np.zeros(GRID.size, np.uint8)
        label[1, 1, 1] = 1
        write_nifti(Volume(label, GRID), folder / "gtv.nii.gz")

    return write


@pytest.fixture
def run(tmp_path):
    return lambda **more: import_folder(tmp_path / "export", tmp_path / "cases", CONFIG, "A", **more)


def stages(folder):
    return {entry.case_id: entry.info.get("stage") for entry in read_index(folder)}


def test_a_second_import_at_the_same_time_is_refused_and_changes_nothing(tmp_path, write_case, run):
    write_case("p1")
    run()
    write_case("p2")
    with opened(tmp_path / "cases", "A"), pytest.raises(WorkError, match="another import is at work here; wait"):
        run()
    assert sorted(os.listdir(tmp_path / "cases")) == ["A-0001", "cases.json", "pseudonyms.json"]
    assert run().imported == ("A-0002",)


def test_a_lock_that_a_killed_import_left_holds_nobody_up(tmp_path, write_case, run):
    write_case("p1")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / LOCK).touch()
    assert run().imported == ("A-0001",)
    assert not (tmp_path / "cases" / LOCK).exists()


def test_a_lock_whose_name_is_gone_is_not_taken(tmp_path, monkeypatch):
    """Between opening the lock's file and locking it, another import may have ended and taken the name away."""
    monkeypatch.setattr("client.case_store.fcntl.flock", lambda *_: (tmp_path / "cases" / LOCK).unlink())
    with pytest.raises(WorkError, match="another import"), opened(tmp_path / "cases", "A"):
        pass


def test_folders_are_left_only_with_cases_in_them(tmp_path):
    with opened(tmp_path / "new" / "cases", "A"):
        assert (tmp_path / "new" / "cases").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with opened(tmp_path / "mine", "A"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("place", ["file", "file/cases"])
def test_a_file_in_the_folder_s_place_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"{place}: is a file, or lies in one; .* correct `cases` in site\.yaml"):
        opened(tmp_path / place, "A").__enter__()


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for place, denied in {"cases": "cases", "new/cases": "new"}.items():
        with pytest.raises(InputError, match=f"^{tmp_path / denied}: this account may not read or write it; "):
            opened(tmp_path / place, "A").__enter__()


@pytest.mark.parametrize("name", ["stat", "read_bytes"])
def test_a_folder_that_may_not_be_read_is_named_in_a_dry_run_too(tmp_path, write_case, run, monkeypatch, name):
    write_case("p1")
    run()
    own, there = getattr(Path, name), tmp_path / "cases" / "pseudonyms.json"

    def refuse(path, **more):
        if path == there:
            raise PermissionError(13, "Permission denied", str(path))
        return own(path, **more)

    monkeypatch.setattr(Path, name, refuse)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=f"^{there}: this account may not read or write it; expected its own"):
            run(dry_run=dry_run)


def test_stages_are_noted_without_reading_the_cases_again_and_stay(tmp_path, write_case, run):
    write_case("p1")
    write_case("p2")
    run(stages={"p1": "T3"})
    assert stages(tmp_path / "cases") == {"A-0001": "T3", "A-0002": None}
    assert run(stages={"p2": "T1"}).skipped == ("A-0001", "A-0002")
    assert stages(tmp_path / "cases") == {"A-0001": "T3", "A-0002": "T1"}
    write_case("p1", value=2)
    assert run().imported == ("A-0001",)
    assert stages(tmp_path / "cases") == {"A-0001": "T3", "A-0002": "T1"}


def test_stages_outlast_a_removal(tmp_path, write_case, run):
    write_case("p1")
    run(stages={"p1": "T3"})
    places = CasePlaces.of(SiteConfig(site="A"), tmp_path, tmp_path / "check.html")
    remove_cases(places, ["A-0001"])
    run(stages={"p1": "T4"})
    readmit_cases(places, ["A-0001"])
    assert run().imported == ("A-0001",)
    assert stages(tmp_path / "cases") == {"A-0001": "T4"}


def test_stages_that_stand_in_an_older_index_alone_stay(tmp_path, write_case, run):
    write_case("p1")
    run(stages={"p1": "T3"})
    path = tmp_path / "cases" / "pseudonyms.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "stages"}))
    write_case("p1", value=2)
    assert run().imported == ("A-0001",)
    assert stages(tmp_path / "cases") == {"A-0001": "T3"}


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("dry_run", [False, True])
def test_pseudonyms_that_do_not_know_all_cases_stop_the_import(tmp_path, write_case, run, dry_run, is_older):
    """Another patient would be imported as A-0002, over the one who has that name, and with that one's stage."""
    path = tmp_path / "cases" / "pseudonyms.json"
    write_case("p1")
    run()
    older = path.read_bytes()
    write_case("p2")
    run(stages={"p1": "T1", "p2": "T3"})
    path.write_bytes(older) if is_older else path.unlink()
    shutil.rmtree(tmp_path / "export")
    write_case("p9", value=9)
    before = {each: each.read_bytes() for each in (tmp_path / "cases").rglob("*") if each.is_file()}
    count = "1 case" if is_older else "2 cases"
    with pytest.raises(
        InputError, match=rf"pseudonyms\.json: does not say whose {count} of .*; restore it from a backup"
    ):
        run(dry_run=dry_run)
    assert {each: each.read_bytes() for each in (tmp_path / "cases").rglob("*") if each.is_file()} == before


def test_a_damaged_index_is_moved_away_and_comes_back_by_an_import(tmp_path, write_case, run):
    for name in ("p1", "p2"):
        write_case(name)
    run(stages={"p2": "T2"})
    path = tmp_path / "cases" / "cases.json"
    path.write_text("{")
    with pytest.raises(InputError, match="or move it away and import every export again: cases keep their pseudonyms"):
        run()
    path.unlink()
    assert run().imported == ("A-0001", "A-0002")
    assert stages(tmp_path / "cases") == {"A-0001": None, "A-0002": "T2"}


def test_stages_of_nobody_are_told(write_case, run):
    write_case("p1")
    (warning,) = run(stages={"p1": "T3", "p7": "T1"}).warnings
    assert warning.startswith("stages: 1 of 2 patients, such as 'p7', are neither in this export nor imported before; ")


def test_a_full_disk_is_told_with_a_remedy(tmp_path, write_case, run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_case("p1")
    monkeypatch.setattr("client.case_store.write_nifti", full)
    with pytest.raises(WorkError, match=r"cases: cannot be written \(No space left on device\); free space, then impo"):
        run()
    assert not (tmp_path / "cases").exists()
