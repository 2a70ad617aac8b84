"""The ServerApp's border: the lock before the ledger, and every failure that can be told is told."""

import json
import threading
from types import SimpleNamespace

import pytest

from common.bundle import RUN_KEY
from common.errors import ConfigError, InputError, SiteError, WorkError
from common.experiment import Experiment
from common.file_lock import is_held
from server import OBJECTS_VARIABLE, RUNS_VARIABLE, run_lock
from server import app as module
from server.app import run_config, run_folder
from server.ledger import Ledger
from server.ledger_file import decode
from server.run_lock import hold
from server.wanted import StoppedError, last_attempt, new_attempt, want

EXPERIMENT = Experiment(name="tiny", sites=("A", "B"), steps=({"kind": "statistics"},))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    return tmp_path / "first"


@pytest.fixture
def serve(folder, monkeypatch):
    """A function that is the ServerApp, with what its experiment does."""
    monkeypatch.setattr(module, "log_to_output", lambda: None)

    def serve(experiment, attempt=None):
        monkeypatch.setattr(module, "run_experiment", experiment)
        config = run_config("first", EXPERIMENT, {"A": 1, "B": 2}, attempt=attempt)
        module.main(None, SimpleNamespace(run_config=config, run_id=7))

    return serve


def last_line(folder):
    lines = (folder / "ledger.jsonl").read_bytes().splitlines()
    return decode(lines[-1], "the last")


def test_the_shortcut_is_taken_where_the_superlink_names_its_folder(folder, serve, monkeypatch):
    taken = []
    monkeypatch.setattr(module, "take_shortcut", lambda _grid, files: taken.append(files))
    monkeypatch.delenv(OBJECTS_VARIABLE, raising=False)
    serve(lambda *_: None)
    assert taken == []
    monkeypatch.setenv(OBJECTS_VARIABLE, str(folder.parent / "objects"))
    serve(lambda *_: None)
    (files,) = taken
    files.write("a" * 64, b"a  1\x00b")
    assert (folder.parent / "objects" / ("a" * 64)).exists()


def never(*_):
    raise AssertionError("it was not to begin")


def test_the_experiment_is_run_with_the_lock_held(folder, serve):
    def experiment(told, ledger, sites, coordinator, runs):
        assert (told, ledger.folder, coordinator, runs) == (EXPERIMENT, folder, None, folder.parent)
        assert is_held(folder / "lock")
        ledger.append({"kind": "end"})

    serve(experiment)
    assert last_line(folder)["kind"] == "end"
    assert not is_held(folder / "lock")


def test_the_ledger_is_read_only_once_the_earlier_serverapp_has_let_go(folder, serve, monkeypatch):
    """It writes while it ends: half its line was there when the next one came."""
    earlier = Ledger(folder, EXPERIMENT)
    earlier.append({"kind": "step", "step": 0})
    path, seen = folder / "ledger.jsonl", []
    line = b'{"kind": "round", "round": 1}\n'
    waits = threading.Event()
    sleep = run_lock.time.sleep
    monkeypatch.setattr(run_lock.time, "sleep", lambda seconds: (waits.set(), sleep(seconds)))

    def experiment(_, ledger, *rest):
        seen.extend(record["kind"] for record in ledger.records)

    with earlier.hold():
        with path.open("ab") as file:
            file.write(line[:9])
        late = threading.Thread(target=serve, args=(experiment,))
        late.start()
        assert waits.wait(60.0)
        assert path.read_bytes().endswith(line[:9])
        with path.open("ab") as file:
            file.write(line[9:])
    late.join(60.0)
    assert seen == ["step", "round"]


@pytest.mark.parametrize("half", [b"", b'{"kind": "rou'])
def test_a_ledger_that_cannot_be_opened_is_told_in_it(folder, serve, half):
    Ledger(folder, EXPERIMENT).append({"kind": "statistics"})
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b"\0\0\n" + half)
    with pytest.raises(InputError, match="line 2: broken"):
        serve(never)
    line = last_line(folder)
    assert (line["kind"], line["code"], line["exit_code"]) == ("failed", "bad-input", 2)
    assert "line 2: broken; remove the line" in line["why"]
    assert line["time"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SiteError("site B did not connect"), "bad-site"),
        (WorkError("no reply"), "work-failed"),
        (OSError(28, "No space left on device"), "disk-full"),
    ],
)
def test_a_failure_that_can_be_told_is_the_ledgers_last_line(folder, serve, error, code):
    def experiment(*_):
        raise error

    with pytest.raises((SiteError, WorkError)):
        serve(experiment)
    assert last_line(folder)["code"] == code


def test_a_fault_of_ours_is_not_told_so_that_the_run_is_started_again(folder, serve):
    def experiment(_, ledger, *rest):
        ledger.append({"kind": "step", "step": 0})
        raise KeyError("bug")

    with pytest.raises(KeyError):
        serve(experiment)
    assert last_line(folder)["kind"] == "step"


def test_a_start_that_was_replaced_leaves_all_as_it_is(folder, serve):
    Ledger(folder, EXPERIMENT)
    want(folder, None)
    with hold(folder / "lock"):
        token = new_attempt(folder)
    with pytest.raises(StoppedError):
        serve(never, "another")
    assert not (folder / "ledger.jsonl").exists()
    serve(lambda *_: None, token)
    assert last_attempt(folder).run_id == 7


def test_runs_lie_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    assert run_folder("x") == tmp_path / "x"
    monkeypatch.delenv(RUNS_VARIABLE)
    with pytest.raises(ConfigError, match="fedgtv-coordinator up"):
        run_folder("x")


def test_the_run_configuration_is_one_text():
    (text,) = run_config("first", EXPERIMENT, {"A": 1}, "example.org:1", "token").values()
    run = json.loads(text)
    assert Experiment.model_validate(run["experiment"]) == EXPERIMENT
    assert (run["node_ids"], run["coordinator"], run["attempt"]) == ({"A": 1}, "example.org:1", "token")
    assert RUN_KEY in run_config("first", EXPERIMENT, {"A": 1})
