"""What `status` asks and shows, with a stand-in for Flower."""

import pytest

from common.errors import WorkError
from server import status as status_module
from server.federation import Federation
from server.status import Status
from server.wanted import want


@pytest.fixture
def federation(tmp_path):
    return Federation.create(tmp_path / "fed", "example.org:8443")


@pytest.fixture
def asked(monkeypatch):
    """How often Flower was asked who is connected."""
    times = []
    monkeypatch.setattr(Federation, "connections", lambda _: times.append(1) or {"A": "online"})
    return times


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0
        turns = 20

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now, self.turns = self.now + seconds, self.turns - 1
            if self.turns == 0:
                raise KeyboardInterrupt

    clock = Clock()
    monkeypatch.setattr(status_module, "time", clock)
    return clock


def test_a_run_that_is_wanted_is_shown_before_its_first_line(federation, asked):
    folder = federation.superlink().runs_folder / "first"
    folder.mkdir(parents=True)
    want(folder, None)
    told = Status(federation)
    told.ask()
    assert list(told.lines()) == [
        "site A: online",
        "run first: nothing yet",
        "  its ServerApp is not up, and nobody watches over it; start `fedgtv-coordinator up`",
    ]
    assert told.as_json()["live"] == {"first": {"state": "left"}}
    assert told.as_json()["runs"] == {"first": "nothing yet"}


def test_the_watch_shows_anew_and_asks_flower_rarely_until_ctrl_c(federation, asked, clock):
    shown = []
    Status(federation).watch(shown.append)
    assert shown == ["site A: online"] * 20
    assert len(asked) == 2  # in 40 s


def test_the_watch_goes_on_while_the_coordinator_is_down(federation, monkeypatch, clock):
    def down(_):
        raise WorkError("the coordinator does not answer")

    monkeypatch.setattr(Federation, "connections", down)
    shown = []
    Status(federation).watch(shown.append)
    assert set(shown) == {"the coordinator does not answer"}
