"""Launching a run and watching it: a scripted SuperLink, a real ledger in the run's folder."""

import json

import pytest

from common.bundle import RUN_KEY
from common.config import Experiment
from common.errors import ConfigError, SiteError, WorkError
from server import launch as launch_module
from server.control import Run
from server.launch import launch
from server.ledger import Ledger

EXPERIMENT = Experiment(name="tiny", sites=("A", "B"), steps=({"kind": "statistics"},))
STEP, END = {"kind": "step", "step": 0}, {"kind": "end"}


class ScriptedControl:
    """A SuperLink whose run does one of `deeds` a second, then has the status `ends_as`."""

    def __init__(self, deeds, ends_as="finished:completed"):
        self.deeds, self.ends_as = list(deeds), ends_as
        self.started, self.stopped = [], []

    def run(self, bundle, config):
        self.started.append((bundle, json.loads(config[RUN_KEY])))
        return 42

    def status(self, run_id):
        assert run_id == 42
        return Run(42, "running" if self.deeds else self.ends_as, "", 1.0)

    def stop(self, run_id):
        self.stopped.append(run_id)

    def second(self):
        if self.deeds:
            self.deeds.pop(0)()


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that only the watcher's own waiting moves on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(launch_module, "time", clock)
    return clock


@pytest.fixture
def folder(tmp_path):
    sites = [
        {"site": site, "public_key": f"key-{site}", "fingerprint": f"SHA256:{site}", "node_id": node}
        for site, node in {"A": 11, "B": 22, "C": 33}.items()
    ]
    (tmp_path / "sites.json").write_text(json.dumps({"sites": sites}))
    return tmp_path


@pytest.fixture
def ledger(folder):
    return Ledger(folder / "runs" / "first", EXPERIMENT)


def deeds(ledger, *records):
    return [lambda record=record: ledger.append(record) for record in records]


def told_by(control, folder, experiment=EXPERIMENT, name="first"):
    """The kinds of all lines that a watcher hears; then what `launch` raised, or the run's folder."""
    heard = []
    try:
        last = launch(control, folder, experiment, name, lambda record: heard.append(record["kind"]), control.second)
    except (SiteError, ConfigError, WorkError) as error:
        last = error
    return heard, last


def test_a_run_is_handed_over_watched_and_ends_well(folder, ledger):
    control = ScriptedControl(deeds(ledger, STEP, {"kind": "statistics"}, END))
    assert told_by(control, folder) == (["step", "statistics", "end"], folder / "runs" / "first")
    ((bundle, run),) = control.started
    assert (bundle / "pyproject.toml").exists()
    assert run["name"] == "first"
    assert run["node_ids"] == {"A": 11, "B": 22}
    assert Experiment.model_validate(run["experiment"]) == EXPERIMENT
    assert control.stopped == []


def test_a_new_run_need_not_have_a_folder_yet(folder):
    control = ScriptedControl([])
    control.deeds = [lambda: Ledger(folder / "runs" / "new", EXPERIMENT).append(END)]
    assert told_by(control, folder, name="new")[0] == ["end"]


def test_only_lines_of_this_launch_are_told(folder, ledger):
    """An earlier attempt's failure is not this one's."""
    ledger.append({"kind": "failed", "code": "work-failed", "why": "yesterday"})
    heard, last = told_by(ScriptedControl(deeds(ledger, END)), folder)
    assert heard == ["end"]
    assert last == folder / "runs" / "first"


def test_a_finished_run_is_returned_at_once(folder, ledger, clock):
    """Nobody need be enrolled, nor the SuperLink up."""
    ledger.append(STEP)
    ledger.append(END)
    (folder / "sites.json").unlink()
    control = ScriptedControl([])
    assert told_by(control, folder) == (["end"], folder / "runs" / "first")
    assert (control.started, clock.now) == ([], 0.0)
    assert Ledger(folder / "runs" / "first", EXPERIMENT).records == ledger.records


def test_a_line_that_a_crash_cut_short_does_not_confuse_the_watcher(folder, ledger):
    ledger.append(STEP)
    path = folder / "runs" / "first" / "ledger.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "round", "model": "cut ' + b"x" * 500)
    control = ScriptedControl([])
    control.deeds = [lambda: Ledger(folder / "runs" / "first", EXPERIMENT).append({"kind": "statistics"})]
    control.deeds += deeds(ledger, END)
    assert told_by(control, folder)[0] == ["statistics", "end"]


def test_half_a_line_waits_for_its_other_half(folder, ledger):
    path = folder / "runs" / "first" / "ledger.jsonl"

    def write(data):
        with path.open("ab") as file:
            file.write(data)

    control = ScriptedControl([lambda: write(b'{"kind": "st'), lambda: None, lambda: write(b'ep"}\n{"kind": "end"}\n')])
    assert told_by(control, folder)[0] == ["step", "end"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad-site", SiteError),
        ("bad-config", ConfigError),
        ("work-failed", WorkError),
        ("of later", WorkError),
    ],
)
def test_a_failure_is_told_in_its_own_words(folder, ledger, code, kind):
    failed = {"kind": "failed", "code": code, "why": "site B did not connect"}
    heard, error = told_by(ScriptedControl(deeds(ledger, STEP, failed), "finished:failed"), folder)
    assert heard == ["step"]  # the reason is told once: by the error
    assert type(error) is kind
    assert str(error) == "site B did not connect"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("finished:failed", "ended as finished:failed; run it again"),
        ("finished:stopped", "was stopped; the same command"),
    ],
)
def test_a_run_that_ends_without_a_word_is_noticed(folder, ledger, status, words, clock):
    heard, error = told_by(ScriptedControl(deeds(ledger, STEP), status), folder)
    assert heard == ["step"]
    assert isinstance(error, WorkError)
    assert words in str(error)
    assert clock.now <= 2 * launch_module.STATUS_EVERY_S


def test_what_the_run_wrote_last_is_told_before_its_end(folder, ledger):
    """The status is asked first and the ledger read after it: no line falls between."""
    control = ScriptedControl([])
    control.status = lambda run_id: ledger.append(STEP) or Run(42, "finished:failed", "", 1.0)
    assert told_by(control, folder)[0] == ["step"]


def test_ctrl_c_stops_the_run(folder, ledger):
    def interrupt():
        raise KeyboardInterrupt

    control = ScriptedControl([*deeds(ledger, STEP), interrupt])
    with pytest.raises(KeyboardInterrupt):
        told_by(control, folder)
    assert control.stopped == [42]


def test_a_site_that_nobody_enrolled_starts_nothing(folder):
    control = ScriptedControl([])
    experiment = EXPERIMENT.model_copy(update={"sites": ("A", "D")})
    _, error = told_by(control, folder, experiment)
    assert "site 'D' is not enrolled (enrolled: A, B, C)" in str(error)
    assert control.started == []


def test_another_experiment_under_the_same_name_starts_nothing(folder, ledger):
    ledger.append({"kind": "statistics"})
    control = ScriptedControl([])
    _, error = told_by(control, folder, EXPERIMENT.model_copy(update={"seed": 9}))
    assert isinstance(error, ConfigError)
    assert "another experiment" in str(error)
    assert control.started == []
