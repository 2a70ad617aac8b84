"""Which runs are wanted, which start may work, and how a watch changes hands."""

import threading

import pytest

from common.errors import WorkError
from common.file_lock import is_held
from server import wanted as wanted_module
from server.run_lock import HeldError, hold
from server.wanted import (
    StoppedError,
    TakenOverError,
    admit,
    forget,
    last_attempt,
    new_attempt,
    unwatched,
    want,
    wanted,
    watching,
)


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    return folder


def test_a_lock_is_seen_and_let_go(run_folder):
    lock = run_folder / "lock"
    assert not is_held(lock)
    with hold(lock):
        assert is_held(lock)
        with pytest.raises(HeldError), hold(lock):
            pass
    assert not is_held(lock)


def test_who_only_looks_keeps_nobody_with_patience_from_a_lock(run_folder):
    lock, ended = run_folder / "lock", threading.Event()
    lock.touch()

    def look():
        while not ended.is_set():
            is_held(lock)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(50):
            with hold(lock, 10.0):
                pass
    finally:
        ended.set()
        looker.join()


def test_only_the_last_start_of_a_wanted_run_may_work(run_folder):
    with pytest.raises(StoppedError):
        new_attempt(run_folder)
    want(run_folder, "example.org:1")
    first, second = new_attempt(run_folder), new_attempt(run_folder)
    with pytest.raises(StoppedError, match="run 'first': stopped, or started again"):
        admit(run_folder, first, 1)
    assert last_attempt(run_folder).run_id is None
    admit(run_folder, second, 2)
    assert last_attempt(run_folder).run_id == 2
    forget(run_folder)
    with pytest.raises(StoppedError):
        admit(run_folder, second, 2)


def test_without_a_token_nothing_is_asked_nor_written(run_folder):
    admit(run_folder, None, 1)
    assert list(run_folder.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"of": "another release"}'])
def test_a_damaged_note_wants_nothing(run_folder, content):
    (run_folder / "wanted.json").write_text(content)
    assert wanted(run_folder) is None


def test_a_run_is_unwatched_while_it_is_wanted_and_nobody_holds_it(run_folder):
    runs = run_folder.parent
    assert unwatched(runs) == []
    want(run_folder, None)
    assert unwatched(runs) == ["first"]
    with watching(run_folder):
        assert unwatched(runs) == []
    assert unwatched(runs) == ["first"]


def test_a_watch_is_handed_over_once_its_holder_sees_that_another_waits(run_folder):
    taken, done = threading.Event(), threading.Event()

    def second():
        with watching(run_folder) as still_mine:
            still_mine()
            taken.set()
            done.wait(10.0)

    def first():
        with watching(run_folder) as still_mine:
            still_mine()
            other.start()
            while True:
                still_mine()

    other = threading.Thread(target=second)
    with pytest.raises(TakenOverError, match="watched from elsewhere now; it goes on"):
        first()
    assert taken.wait(10.0)
    with pytest.raises(TakenOverError), watching(run_folder, take_over=False):
        pass
    done.set()
    other.join()


def test_a_watcher_that_does_not_let_go_is_named(run_folder, monkeypatch):
    monkeypatch.setattr(wanted_module, "WATCHER_LETS_GO_S", 0.0)
    with watching(run_folder):
        with pytest.raises(WorkError, match="does not let go; end the other"), watching(run_folder):
            pass
        assert not is_held(run_folder / "watched.next")
