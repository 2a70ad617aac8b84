"""Import in several processes, and what is left when it is killed, interrupted, or loses a process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.case_jobs import Job, run_job, run_jobs, suitable_processes
from client.exports import find_cases
from client.ingest import import_folder
from common.site_config import IngestConfig
from common.volume import Geometry, Volume, write_nifti

CONFIG = IngestConfig()
KILLED_AT = """
import os, signal, sys
from pathlib import Path
import client.case_store, client.cli, client.pseudonyms

def stop_at(owner, name, call, number):
    function, calls = getattr(owner, name), []
    def stopping(*arguments):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number) if number == signal.SIGKILL else os.killpg(0, number)
        return function(*arguments)
    setattr(owner, name, stopping)

if __name__ == "__main__":
    where, number, *sys.argv[1:] = sys.argv[1:]
    owner, name = {
        "folder": (client.case_store.CaseStore, "_put"),
        "rename": (Path, "rename"),
        "pseudonyms": (client.pseudonyms.Pseudonyms, "save"),
        "index": (client.case_store, "write_index"),
    }[where]
    stop_at(owner, name, 2, int(number))
    client.cli.main()
"""
DEADLY_CASE = """
import os, signal
from pathlib import Path
from client.case_jobs import Job, run_jobs
from common.site_config import IngestConfig

class Deadly:
    files = ()
    def load(self, config, tell):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    try:
        list(run_jobs([Job(Deadly(), IngestConfig(), "read", Path())] * 2, 2))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def export(tmp_path, write_ct, write_structures):
    """Four DICOM patients; the first is far larger than the others, so that it is finished last."""
    for name, num_slices in {"p1": 40, "p2": 3, "p3": 3, "p4": 3}.items():
        hu = np.arange(num_slices * 64 * 64).reshape(num_slices, 64, 64) % 800 - 100
        slices = write_ct(tmp_path / "export" / name, hu, PatientID=f"id-{name}")
        corner = np.array([[-8.5, -18.5, 33], [-5.5, -18.5, 33], [-5.5, -16.5, 33], [-8.5, -16.5, 33]])
        write_structures(tmp_path / "export" / name / "rt.dcm", slices, {"GTV": [corner]})
    (tmp_path / "site.yaml").write_text("site: A")
    return tmp_path / "export"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def script(folder, text, *arguments):
    """Runs a script as a terminal would; it returns only when no process that it started holds its output any more."""
    (folder / "script.py").write_text(text)
    command = [sys.executable, str(folder / "script.py"), *map(str, arguments)]
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=folder, start_new_session=True
    )


def test_cases_come_in_the_order_of_the_export_whoever_is_first(tmp_path, export):
    import_folder(export, tmp_path / "one", CONFIG, "A")
    report = import_folder(export, tmp_path / "three", CONFIG, "A", num_processes=3)
    assert [(line.name, line.case_id) for line in report.cases] == [(f"p{n}", f"A-000{n}") for n in range(1, 5)]
    assert tree(tmp_path / "one") == tree(tmp_path / "three")


@pytest.mark.parametrize(("where", "jobs"), [("folder", 2), ("rename", 1), ("pseudonyms", 1), ("index", 1)])
def test_a_killed_import_goes_on_and_ends_like_an_unbroken_one(tmp_path, export, where, jobs):
    """Killed for good while it takes over the second of four cases; what was there stays, and nothing is half there."""
    ended = script(tmp_path, KILLED_AT, where, int(signal.SIGKILL), "import", export, "--jobs", jobs)
    assert ended.returncode == -signal.SIGKILL
    assert {entry["case_id"] for entry in json.loads((tmp_path / "cases" / "cases.json").read_text())["cases"]} == {
        "A-0001"
    }
    report = import_folder(export, tmp_path / "cases", CONFIG, "A")
    assert "A-0001" in report.skipped
    assert len(report.imported) + len(report.skipped) == 4
    import_folder(export, tmp_path / "unbroken", CONFIG, "A")
    assert tree(tmp_path / "cases") == tree(tmp_path / "unbroken")


def test_a_case_that_is_being_replaced_is_never_lost(tmp_path, export):
    """Killed after the earlier folder was set aside and before the new one has its name; then the source is gone."""
    import_folder(export, tmp_path / "cases", CONFIG, "A")
    before = tree(tmp_path / "cases")
    for path in (export / "p1").iterdir():
        os.utime(path, (1, 1))
    ended = script(tmp_path, KILLED_AT, "rename", int(signal.SIGKILL), "import", export, "--jobs", 1)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "cases" / "A-0001").exists()
    (export / "p1" / "rt.dcm").unlink()
    report = import_folder(export, tmp_path / "cases", CONFIG, "A")
    assert [name for name, _ in report.refused] == ["p1"]
    assert tree(tmp_path / "cases") == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_in_one_line_and_leaves_whole_cases(tmp_path, export, jobs):
    ended = script(tmp_path, KILLED_AT, "folder", int(signal.SIGINT), "import", export, "--jobs", jobs)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "stopped; the same command goes on where it was\n"
    assert sorted(os.listdir(tmp_path / "cases")) == ["A-0001", "cases.json", "pseudonyms.json"]


def test_a_process_that_the_system_ended_is_told_with_a_remedy(tmp_path):
    ended = script(tmp_path, DEADLY_CASE)
    assert ended.stdout.startswith("WorkError: one of 2 import processes was ended by the system, most likely for want")
    assert "fewer --jobs" in ended.stdout


def test_an_unexpected_error_refuses_its_case_alone(export, monkeypatch):
    case, *_ = find_cases(export, CONFIG).cases

    def broken(*_):
        raise IndexError("far\nout")

    monkeypatch.setattr("client.dicom_case.read_ct_series", broken)
    outcome = run_job(Job(case, CONFIG, "read", Path()))
    assert outcome.refusal.startswith("cannot be read (IndexError: far out); expected files that can; ")
    assert outcome.found.chosen == "GTV"


def test_reading_writes_nothing_and_listing_reads_no_image(tmp_path, export, monkeypatch):
    case, *_ = find_cases(export, CONFIG).cases
    outcomes = list(run_jobs([Job(case, CONFIG, task, tmp_path / "new") for task in ("read", "nothing")], 1))
    assert [outcome.num_images for outcome in outcomes] == [1, 0]
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("client.dicom_case.read_ct_series", None)
    assert run_job(Job(case, CONFIG, "list", tmp_path)).found.chosen == "GTV"


def test_little_work_is_done_in_one_process(tmp_path):
    image = Volume(np.zeros((2, 3, 4), np.int16), Geometry((2, 3, 4), (1.0, 1.0, 1.0)))
    (tmp_path / "p1").mkdir()
    write_nifti(image, tmp_path / "p1" / "ct.nii.gz")
    jobs = [Job(case, CONFIG, "read", Path()) for case in find_cases(tmp_path, CONFIG).cases]
    assert suitable_processes(jobs) == 1


def test_much_work_gets_what_cores_and_memory_allow(tmp_path, monkeypatch):
    (tmp_path / "p1").mkdir()
    with (tmp_path / "p1" / "ct.nii.gz").open("wb") as file:
        file.truncate(200_000_000)
    jobs = [Job(case, CONFIG, "read", Path()) for case in find_cases(tmp_path, CONFIG).cases]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    for free_gib, expected in {0.2: 1, 3.9: 3, 64.0: 6}.items():
        monkeypatch.setattr("client.worker_pool.available_bytes", lambda free_gib=free_gib: int(free_gib * 2**30))
        assert suitable_processes(jobs) == expected
