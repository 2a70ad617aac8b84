"""What is told of a run under way: of its sites, and of how old that is."""

import json
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from server.live_view import read_live, run_json, run_lines, run_state
from server.run_lock import hold
from server.wanted import forget, want

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    """The coordinator's local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run_folder(tmp_path):
    return tmp_path


def site(**changes):
    told = {"connected": True, "state": "waiting", "epoch": None, "epochs": None, "last_seen": None}
    return told | {"expected_end": None, "error": None} | changes


def write(folder, seconds_old=4.0, **sites):
    moment = (NOW - timedelta(seconds=seconds_old)).isoformat()
    told = {"time": moment, "step": 1, "what": "train", "model": "m", "round": 2, "rounds": 6, "started": moment}
    (folder / "live.json").write_text(json.dumps({**told, "sites": sites}))


@contextmanager
def at_work(folder):
    with hold(folder / "lock"):
        yield


TRAINS = site(
    state="training", epoch=3, epochs=8, last_seen="2026-03-04T11:59:55+00:00", expected_end="2026-03-04T12:41:10+00:00"
)
IS_LOST = site(
    connected=False,
    state="lost",
    last_seen="2026-03-04T11:30:00+00:00",
    error={"code": "flower-5", "time": "2026-03-03T23:31:02+00:00"},
)


def test_every_site_has_its_line(run_folder):
    write(run_folder, B=IS_LOST, A=TRAINS, C=site(state="left-out"))
    with at_work(run_folder):
        assert run_lines(run_folder, NOW) == [
            "train m, round 2 of 6",
            "  A: connected, training (epoch 3 of 8 done), last seen 5 s ago, expected to end at 12:41",
            "  B: not connected, lost, last seen 30 min ago; last error at 2026-03-03 23:31: flower-5: the site's node "
            "is not connected; ask whether `fedgtv-site join` runs there and its network works",
            "  C: connected, left out",
        ]


def test_a_script_reads_all_of_it_with_the_remedy(run_folder):
    write(run_folder, A=TRAINS, B=IS_LOST)
    with at_work(run_folder):
        told = run_json(run_folder, NOW)
    assert (told["state"], told["model"], told["round"], told["rounds"]) == ("working", "m", 2, 6)
    assert told["sites"]["A"]["epoch"] == 3
    assert told["sites"]["B"]["error"]["remedy"].startswith("the site's node is not connected")
    json.dumps(told)


def test_an_old_file_is_said_to_be_one(run_folder):
    write(run_folder, 600.0, A=TRAINS)
    with at_work(run_folder):
        assert run_lines(run_folder, NOW)[0] == "train m, round 2 of 6; this is as it was 10 min ago"
        assert run_json(run_folder, NOW)["state"] == "stale"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"time": "yesterday"}'])
def test_a_missing_or_damaged_file_is_said_so(run_folder, content):
    if content is not None:
        (run_folder / "live.json").write_text(content)
    with at_work(run_folder):
        assert read_live(run_folder) is None
        assert run_lines(run_folder, NOW) == ["at work; nothing is known of its sites yet"]
        assert run_json(run_folder, NOW) == {"state": "silent"}


def test_a_dead_serverapps_file_is_not_taken_for_the_present(run_folder):
    write(run_folder, A=TRAINS)
    want(run_folder, None)
    (told,) = run_lines(run_folder, NOW)
    assert told == "its ServerApp is not up, and nobody watches over it; start `fedgtv-coordinator up`"
    with hold(run_folder / "watched"):
        assert run_lines(run_folder, NOW) == ["its ServerApp is not up; it is being started"]
        assert run_state(run_folder, NOW) == "restarting"


def test_of_a_run_that_ended_or_was_stopped_nothing_is_told(run_folder):
    write(run_folder, A=TRAINS)
    want(run_folder, None)
    forget(run_folder)
    assert run_lines(run_folder, NOW) == []
    assert run_json(run_folder, NOW) == {"state": "idle"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (89, "89 s"), (90, "1 min"), (5399, "89 min"), (5400, "1 h"), (172_799, "47 h"), (172_800, "2 days")],
)
def test_ages_in_words(run_folder, seconds, words):
    write(run_folder, A=site(last_seen=(NOW - timedelta(seconds=seconds)).isoformat()))
    with at_work(run_folder):
        assert run_lines(run_folder, NOW)[1].endswith(f"last seen {words} ago")


def test_a_newer_coordinators_file_is_read_too(run_folder):
    write(run_folder, A=site(state="of-later", more=1))
    assert os.environ["TZ"] == "UTC"
    with at_work(run_folder):
        assert run_lines(run_folder, NOW)[1] == "  A: connected, of later"
