"""What `up` does about runs that nobody watches; going on with one is a stand-in here."""

import pytest

from common.errors import WorkError
from server.takeover import Takeover
from server.wanted import TakenOverError, forget, want


@pytest.fixture
def folder(tmp_path):
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    want(tmp_path / "runs" / "first", None)
    return tmp_path


@pytest.fixture
def takeover(folder, monkeypatch):
    """A function that lets `up` look once, with what going on with a run does; returns what is reported."""
    said = []
    monkeypatch.setattr("server.report.write_report", lambda run_folder: run_folder / "report.html")
    watch = Takeover(None, folder, said.append)

    def look(go_on):
        monkeypatch.setattr("server.launch.go_on", go_on)
        said.clear()
        watch.look()
        for thread in watch._threads.values():
            thread.join(10.0)
        return list(said)

    look.close = watch.close
    return look


def test_a_wanted_run_goes_on_and_is_reported(folder, takeover):
    def go_on(_control, where, name, tell, waiting):
        tell({"kind": "step", "step": 0, "what": "statistics", "model": None})
        tell({"kind": "done", "step": 0})
        waiting()
        forget(where / "runs" / name)
        return where / "runs" / name

    assert takeover(go_on) == [
        "run first: goes on, watched from here",
        "run first: step 1: statistics",
        f"run first: finished; report: {folder / 'runs' / 'first' / 'report.html'}",
    ]
    assert takeover(go_on) == []  # it is wanted no more


def test_why_a_run_failed_is_told(takeover):
    def go_on(*_):
        raise WorkError("no result from site A")

    assert takeover(go_on)[1:] == ["run first: no result from site A"]


def test_who_takes_over_is_let(takeover):
    def go_on(*_):
        raise TakenOverError("elsewhere")

    assert takeover(go_on)[1:] == []
    assert takeover(go_on) != []  # once nobody watches it any more, it is looked after again


def test_a_fault_of_ours_is_not_tried_again_and_again(takeover, caplog):
    def go_on(*_):
        raise KeyError("bug")

    takeover(go_on)
    assert "run first: not watched any more" in caplog.text
    assert takeover(go_on) == []


def test_an_up_that_ends_leaves_its_runs_wanted(folder, takeover):
    def go_on(_control, where, name, tell, waiting):
        waiting()
        raise AssertionError("it was to end")

    takeover.close()
    assert takeover(go_on)[1:] == []
    assert (folder / "runs" / "first" / "wanted.json").exists()
