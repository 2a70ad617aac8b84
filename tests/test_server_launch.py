"""Beginning a run, attaching to it, going on with it: a scripted SuperLink, the run's real locks and ledger."""

import json
from contextlib import ExitStack

import pytest

from common.bundle import RUN_KEY
from common.errors import ConfigError, InputError, SiteError, WorkError
from common.experiment import Experiment
from common.file_lock import is_held
from server import launch as launch_module
from server import supervision
from server.control import Run
from server.launch import go_on, launch
from server.ledger import Ledger
from server.run_lock import hold
from server.wanted import StoppedError, TakenOverError, admit, forget, last_attempt, want, wanted, watching

EXPERIMENT = Experiment(name="tiny", sites=("A", "B"), steps=({"kind": "statistics"},))
STEP, STATISTICS, END = {"kind": "step", "step": 0}, {"kind": "statistics"}, {"kind": "end"}
DIES = "dies"


class ScriptedSuperlink:
    """A SuperLink that does one deed a second of the script of each start, as the ServerApp would do it.

    A deed is a ledger line to be written, `DIES`, or something to be called; a ServerApp whose script is at its end has
    left. None in a script's place: the SuperLink takes the run, but its ServerApp never comes.
    """

    def __init__(self, run_folder, *scripts):
        self.run_folder, self.scripts = run_folder, list(scripts)
        self.started_with, self.stopped, self.calls = [], [], []
        self.up, self.start, self.at_work = True, 1, None
        self.refusals, self.status_of = [], {}

    def run(self, bundle, config):
        assert self.at_work is None, "two at work"
        if self.refusals and (refusal := self.refusals.pop(0)):
            raise refusal
        flower_id = len(self.started_with) + 1
        run = json.loads(config[RUN_KEY])
        self.started_with.append((bundle, run))
        script = self.scripts.pop(0) if self.scripts else None
        self.at_work = None if script is None else self._serve(flower_id, run["attempt"], list(script))
        return flower_id

    def _serve(self, flower_id, attempt, script):
        yield  # the process starts
        with hold(self.run_folder / "lock"):
            admit(self.run_folder, attempt, flower_id)
            for deed in script:
                if deed == DIES:
                    return
                if callable(deed):
                    deed()
                else:
                    Ledger(self.run_folder, EXPERIMENT).append(deed)
                yield

    def second(self):
        if self.at_work is not None and next(self.at_work, "gone") == "gone":
            self.at_work = None

    def crash(self, seconds_down=3):
        """The SuperLink dies, its ServerApp with it, and is up again after some seconds."""
        self.at_work.close()
        self.at_work, self.up = None, False

        def recover(left=seconds_down):
            while left > 0:
                left -= 1
                yield
            self.up, self.start = True, self.start + 1

        self.at_work = recover()

    def status(self, flower_id):
        return Run(flower_id, self.status_of.get(flower_id, "running"), "", 1.0)

    def stop(self, flower_id):
        assert self.up
        self.stopped.append(flower_id)

    def is_up(self):
        return self.up

    def check_up(self):
        if not self.up:
            raise WorkError("is down")

    def started(self):
        return self.start


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
    monkeypatch.setattr(supervision, "time", clock)
    return clock


@pytest.fixture
def pauses(monkeypatch, clock):
    """The pauses between crashes, each over in a blink."""
    taken = []

    def rest(supervisor, fault, rest_s, rest=supervision.Supervisor._rest):
        if rest_s:
            taken.append(rest_s)
            clock.now += rest_s - 2.0
            rest(supervisor, fault, 2.0)

    monkeypatch.setattr(supervision.Supervisor, "_rest", rest)
    return taken


@pytest.fixture
def folder(tmp_path):
    sites = [
        {"site": site, "public_key": f"key-{site}", "fingerprint": f"SHA256:{site}", "node_id": node}
        for site, node in {"A": 11, "B": 22, "C": 33}.items()
    ]
    (tmp_path / "sites.json").write_text(json.dumps({"sites": sites}))
    return tmp_path


@pytest.fixture
def run_folder(folder):
    return folder / "runs" / "first"


@pytest.fixture
def ledger(run_folder):
    return Ledger(run_folder, EXPERIMENT)


def told_by(superlink, folder, experiment=EXPERIMENT, name="first", begin=launch):
    """The kinds of all lines that a watcher hears; then what `launch` raised, or the run's folder."""
    heard = []

    def tell(record):
        heard.append(record["kind"])

    try:
        if begin is launch:
            last = launch(superlink, folder, experiment, name, tell, superlink.second)
        else:
            last = go_on(superlink, folder, name, tell, superlink.second)
    except (InputError, WorkError) as error:
        last = error
    return heard, last


def test_a_run_is_handed_over_watched_and_ends_well(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, [STEP, STATISTICS, END])
    assert told_by(superlink, folder) == (["step", "statistics", "end"], run_folder)
    ((bundle, run),) = superlink.started_with
    assert (bundle / "pyproject.toml").exists()
    assert run["name"] == "first"
    assert run["node_ids"] == {"A": 11, "B": 22}
    assert Experiment.model_validate(run["experiment"]) == EXPERIMENT
    assert superlink.stopped == []
    assert wanted(run_folder) is None
    assert not is_held(run_folder / "watched")


def test_a_pooled_step_is_refused_before_anything_is_asked(folder, run_folder):
    experiment = Experiment(name="tiny", sites=("A", "B"), steps=(STATISTICS, {"kind": "pooled", "model": "together"}))
    superlink = ScriptedSuperlink(run_folder)
    superlink.up = False  # which would be told, if it came so far
    heard, error = told_by(superlink, folder, experiment)
    assert isinstance(error, ConfigError)
    assert str(error).startswith("step 2 is `pooled` and needs all sites' cases on one machine")
    assert heard == []
    assert not run_folder.exists()


def test_it_is_wanted_and_watched_while_it_is_under_way(folder, run_folder):
    seen = []

    def look():
        seen.append((wanted(run_folder) is not None, is_held(run_folder / "watched"), last_attempt(run_folder).run_id))

    told_by(ScriptedSuperlink(run_folder, [look, END]), folder)
    assert seen == [(True, True, 1)]


def test_only_lines_of_this_launch_are_told(folder, ledger, run_folder):
    """An earlier attempt's failure is not this one's."""
    ledger.append({"kind": "failed", "code": "work-failed", "why": "yesterday"})
    assert told_by(ScriptedSuperlink(run_folder, [END]), folder) == (["end"], run_folder)


def test_a_finished_run_is_returned_at_once(folder, ledger, run_folder, clock):
    """Nobody need be enrolled, nor the SuperLink up."""
    ledger.append(STEP)
    ledger.append(END)
    (folder / "sites.json").unlink()
    superlink = ScriptedSuperlink(run_folder)
    superlink.up = False
    assert told_by(superlink, folder) == (["end"], run_folder)
    assert (superlink.started_with, clock.now) == ([], 0.0)
    assert Ledger(run_folder, EXPERIMENT).records == ledger.records


def test_a_line_that_a_crash_cut_short_does_not_confuse_the_watcher(folder, ledger, run_folder):
    ledger.append(STEP)
    path = run_folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "round", "model": "cut ' + b"x" * 500)
    assert told_by(ScriptedSuperlink(run_folder, [STATISTICS, END]), folder)[0] == ["statistics", "end"]


def test_half_a_line_waits_for_its_other_half(folder, run_folder):
    def write(data):
        with (run_folder / "ledger.jsonl").open("ab") as file:
            file.write(data)

    script = [lambda: write(b'{"kind": "st'), lambda: None, lambda: write(b'ep"}\n{"kind": "end"}\n')]
    assert told_by(ScriptedSuperlink(run_folder, script), folder)[0] == ["step", "end"]


@pytest.mark.parametrize("broken", [b"\0" * 40, b"\xff\xfe"])
@pytest.mark.parametrize("begin", [launch, go_on])
def test_a_line_that_the_disk_broke_ends_the_run_in_one_sentence(folder, run_folder, ledger, begin, broken):
    """Nobody is to work on behind it: no ledger that holds such a line can be opened again."""

    def spoil():
        with (run_folder / "ledger.jsonl").open("ab") as file:
            file.write(broken + b"\n")

    want(run_folder, None)
    superlink = ScriptedSuperlink(run_folder, [STEP, spoil, lambda: None], [END])
    heard, error = told_by(superlink, folder, begin=begin)
    assert heard == ["step"]
    assert str(error).endswith("ledger.jsonl, line 2: broken; remove the line and run the experiment again")
    assert superlink.stopped == [1]
    assert wanted(run_folder) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad-site", SiteError),
        ("bad-config", ConfigError),
        ("work-failed", WorkError),
        ("of later", WorkError),
    ],
)
def test_a_failure_is_told_in_its_own_words_and_ends_the_run(folder, run_folder, code, kind):
    failed = {"kind": "failed", "code": code, "why": "site B did not connect"}
    superlink = ScriptedSuperlink(run_folder, [STEP, failed], [END])
    heard, error = told_by(superlink, folder)
    assert heard == ["step"]  # the reason is told once: by the error
    assert type(error) is kind
    assert str(error) == "site B did not connect"
    assert len(superlink.started_with) == 1
    assert wanted(run_folder) is None


def test_a_disk_that_is_full_for_the_watcher_too_ends_the_run_in_one_line(folder, run_folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    superlink = ScriptedSuperlink(run_folder, [STEP, lambda: monkeypatch.setattr(Ledger, "append", full), DIES])
    _, error = told_by(superlink, folder)
    assert str(error) == f"{run_folder}: the disk is full; make room, then run again to go on"


def test_a_serverapp_that_dies_is_started_again_at_once(folder, run_folder, clock):
    superlink = ScriptedSuperlink(run_folder, [STEP, STATISTICS, DIES], [STEP, END])
    assert told_by(superlink, folder) == (["step", "statistics", "restart", "step", "end"], run_folder)
    assert superlink.stopped == [1]  # sites are not to work on for the dead one
    (line,) = Ledger(run_folder, EXPERIMENT).find("restart")
    assert (line["why"], line["crashes"]) == ("serverapp-died", 1)
    assert clock.now <= 12


def test_a_superlink_that_dies_is_waited_for_and_the_run_started_again(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder)
    superlink.scripts = [[STEP, lambda: None, lambda: None], [END]]
    turns = []

    def waiting():
        turns.append(1)
        if len(turns) == 3:
            superlink.crash()
        else:
            superlink.second()

    heard = []
    launch(superlink, folder, EXPERIMENT, "first", heard.append, waiting)
    assert [record["kind"] for record in heard] == ["step", "restart", "end"]
    assert heard[1]["why"] == "superlink-died"
    assert len(superlink.started_with) == 2


def test_a_superlink_that_dies_before_the_serverapp_is_up_loses_nothing(folder, run_folder):
    """Nothing holds the lock yet; that the SuperLink was started again shows that the ServerApp will not come."""
    superlink = ScriptedSuperlink(run_folder, [END], [END])
    turns = []

    def waiting():
        turns.append(1)
        superlink.crash() if len(turns) == 1 else superlink.second()

    heard = []
    launch(superlink, folder, EXPERIMENT, "first", lambda record: heard.append(record["kind"]), waiting)
    assert heard == ["restart", "end"]


def test_a_coordinator_that_stays_down_is_told_once(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, [STEP, lambda: None], [END])
    turns = []

    def waiting():
        turns.append(1)
        superlink.crash(60) if len(turns) == 3 else superlink.second()

    heard = []
    launch(superlink, folder, EXPERIMENT, "first", heard.append, waiting)
    assert [record["text"] for record in heard if record["kind"] == "note"] == [
        "the SuperLink does not answer; the run goes on when `fedgtv-coordinator up` has it up again"
    ]


def test_an_answer_of_flowers_that_was_lost_makes_no_second_run(folder, run_folder):
    """The SuperLink took the run, and died before it said so; what it starts later finds that it was replaced."""
    late = ScriptedSuperlink(run_folder)
    superlink = ScriptedSuperlink(run_folder, [STEP, END])
    tokens = []

    def run(bundle, config, run=superlink.run):
        tokens.append(json.loads(config[RUN_KEY])["attempt"])
        if len(tokens) == 1:
            raise WorkError("flwr run: no answer")
        return run(bundle, config)

    superlink.run = run
    assert told_by(superlink, folder)[0] == ["restart", "step", "end"]
    assert len(set(tokens)) == 2
    late.at_work = late._serve(9, tokens[0], [STATISTICS])
    late.second()
    with pytest.raises(StoppedError, match="stopped, or started again"):
        late.second()
    assert not Ledger(run_folder, EXPERIMENT).find("statistics")


def test_a_run_whose_start_was_taken_without_an_answer_is_joined(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, [STEP, END])

    def run(bundle, config, run=superlink.run):
        run(bundle, config)
        superlink.second()
        superlink.second()  # it holds the lock
        raise WorkError("flwr run: no answer")

    superlink.run = run
    assert told_by(superlink, folder)[0] == ["step", "end"]
    assert len(superlink.started_with) == 1


def test_flower_is_asked_about_a_serverapp_that_does_not_come(folder, run_folder, clock):
    superlink = ScriptedSuperlink(run_folder, None, [END])
    superlink.status_of = {1: "finished:failed"}
    assert told_by(superlink, folder)[0] == ["restart", "end"]
    assert supervision.TAKEN_UP_S < clock.now < supervision.TAKEN_UP_S + 15


def test_a_busy_machine_has_time_to_start_a_serverapp(folder, run_folder, clock):
    superlink = ScriptedSuperlink(run_folder, [END])
    slow = iter(range(100))

    def waiting():
        if next(slow) >= 60:
            superlink.second()

    heard = []
    launch(superlink, folder, EXPERIMENT, "first", lambda record: heard.append(record["kind"]), waiting)
    assert heard == ["end"]
    assert clock.now >= 60


def test_after_many_crashes_in_a_row_over_an_hour_it_is_given_up(folder, run_folder, clock, pauses):
    superlink = ScriptedSuperlink(run_folder, *[[STEP, DIES]] * 9)
    heard, error = told_by(superlink, folder)
    assert pauses == [15, 60, 240, 960, 1800, 1800]
    assert clock.now > 3600
    assert len(superlink.started_with) == supervision.CRASHES
    assert "ended 8 times in a row without getting anything done; the ServerApp had ended" in str(error)
    assert heard.count("restart") == supervision.CRASHES - 1
    assert heard.count("note") == len(pauses)
    assert wanted(run_folder) is None


def test_a_fault_that_passes_within_the_hour_ends_no_run(folder, run_folder, pauses):
    superlink = ScriptedSuperlink(run_folder, *[[STEP, DIES]] * 5, [STATISTICS, DIES], [END])
    assert told_by(superlink, folder)[1] == run_folder
    assert [line["crashes"] for line in Ledger(run_folder, EXPERIMENT).find("restart")] == [1, 2, 3, 4, 5, 1]


def test_a_run_that_pauses_can_be_stopped_and_says_why_it_pauses(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, *[[STEP, DIES]] * 9)
    notes = []

    def tell(record):
        if record["kind"] == "note":
            notes.append(record["text"])
            forget(run_folder)

    with pytest.raises(StoppedError):
        launch(superlink, folder, EXPERIMENT, "first", tell, superlink.second)
    assert notes == ["the ServerApp had ended without a word; the run is started again in 15 s"]
    assert len(superlink.started_with) == 2


def test_a_serverapp_that_comes_in_a_pause_is_joined(folder, run_folder, clock):
    """The SuperLink had taken its start, but the answer was lost, and the machine is slow."""
    superlink = ScriptedSuperlink(run_folder, [STEP, DIES], [STEP, DIES])
    tokens = []

    def run(bundle, config, run=superlink.run):
        tokens.append(json.loads(config[RUN_KEY])["attempt"])
        if len(tokens) < 3:
            return run(bundle, config)
        raise WorkError("flwr run: no answer")

    def tell(record):
        if record["kind"] == "note" and "no answer" in record["text"]:
            superlink.at_work = superlink._serve(9, tokens[-1], [END])

    superlink.run = run
    assert launch(superlink, folder, EXPERIMENT, "first", tell, superlink.second) == run_folder
    assert len(tokens) == 3
    assert clock.now < 60  # not all of the pause


def test_a_reply_that_came_to_disk_counts_as_having_got_on(folder, run_folder, pauses):
    """A round may take all day, and there are as many replies in it as sites."""

    def reply(site):
        def come():
            (run_folder / "spool" / "m").mkdir(parents=True, exist_ok=True)
            (run_folder / "spool" / "m" / f"{site}.json").write_text("{}")

        return come

    superlink = ScriptedSuperlink(run_folder, *[[STEP, reply(site), DIES] for site in "ABCDEFGHIJ"], [END])
    assert told_by(superlink, folder)[1] == run_folder
    assert {line["crashes"] for line in Ledger(run_folder, EXPERIMENT).find("restart")} == {1}
    assert pauses == []


def test_a_reply_that_lay_there_before_does_not(folder, run_folder, ledger, pauses):
    (run_folder / "spool" / "m").mkdir(parents=True)
    (run_folder / "spool" / "m" / "A.json").write_text("{}")
    superlink = ScriptedSuperlink(run_folder, *[[STEP, DIES]] * 9)
    assert isinstance(told_by(superlink, folder)[1], WorkError)
    assert len(superlink.started_with) == supervision.CRASHES


def test_crashes_between_which_something_got_done_go_on_for_ever(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, *[[STATISTICS, DIES]] * 9, [END])
    assert told_by(superlink, folder)[1] == run_folder
    assert {line["crashes"] for line in Ledger(run_folder, EXPERIMENT).find("restart")} == {1}


def test_what_flower_refuses_again_and_again_is_told_in_its_words(folder, run_folder, pauses):
    superlink = ScriptedSuperlink(run_folder)
    superlink.refusals = [WorkError("flwr run: the bundle is too large")] * 9
    _, error = told_by(superlink, folder)
    assert "flwr run: the bundle is too large" in str(error)
    assert len(superlink.refusals) == 9 - supervision.CRASHES


def test_ctrl_c_stops_the_run(folder, run_folder):
    def interrupt():
        raise KeyboardInterrupt

    superlink = ScriptedSuperlink(run_folder, [STEP, interrupt])
    with pytest.raises(KeyboardInterrupt):
        told_by(superlink, folder)
    assert superlink.stopped == [1]
    assert wanted(run_folder) is None
    assert not is_held(run_folder / "watched")


def test_a_stop_from_elsewhere_ends_the_watch(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, [STEP, lambda: forget(run_folder), DIES], [END])
    heard, error = told_by(superlink, folder)
    assert heard == ["step"]
    assert isinstance(error, StoppedError)
    assert "was stopped; the same command" in str(error)
    assert len(superlink.started_with) == 1


def test_a_stop_before_the_serverapp_is_up_keeps_it_from_working(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder, None)

    def waiting():
        forget(run_folder)

    with pytest.raises(StoppedError):
        launch(superlink, folder, EXPERIMENT, "first", lambda _: None, waiting)
    assert superlink.stopped == [1]
    with pytest.raises(StoppedError):
        admit(run_folder, superlink.started_with[0][1]["attempt"], 1)


def test_a_coordinator_that_is_down_begins_nothing(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder)
    superlink.up = False
    assert str(told_by(superlink, folder)[1]) == "is down"
    assert wanted(run_folder) is None


def test_a_watch_that_is_killed_leaves_the_run_wanted_and_another_goes_on_with_it(folder, run_folder):
    class KilledError(Exception):
        pass

    def die():
        raise KilledError

    superlink = ScriptedSuperlink(run_folder, [STEP, STATISTICS, STEP, END])
    turns = iter([superlink.second] * 3 + [die])

    def waiting():
        next(turns)()

    with pytest.raises(KilledError):
        launch(superlink, folder, EXPERIMENT, "first", lambda _: None, waiting, "example.org:1")
    assert wanted(run_folder).coordinator == "example.org:1"
    assert superlink.stopped == []
    assert told_by(superlink, folder, begin=go_on) == (["step", "end"], run_folder)
    assert len(superlink.started_with) == 1  # the very ServerApp was joined
    assert wanted(run_folder) is None


def test_a_run_goes_on_after_the_machine_was_started_again(folder, run_folder, ledger):
    """Nothing is at work, Flower still believes that it is, and the coordinator is on its way up."""
    ledger.append(STATISTICS)
    superlink = ScriptedSuperlink(run_folder, [STEP, lambda: None], [END])
    turns = iter([superlink.second] * 3)

    def waiting():
        next(turns)()

    with pytest.raises(StopIteration):
        launch(superlink, folder, EXPERIMENT, "first", lambda _: None, waiting)
    superlink.at_work.close()
    superlink.at_work = None
    assert told_by(superlink, folder, begin=go_on) == (["end"], run_folder)
    assert superlink.stopped == [1]
    assert superlink.started_with[1][1]["node_ids"] == {"A": 11, "B": 22}


def test_who_runs_it_again_takes_over_the_watch(folder, run_folder, ledger):
    with ExitStack() as claim:

        def take_over():
            claim.enter_context(hold(run_folder / "watched.next"))

        superlink = ScriptedSuperlink(run_folder, [STEP, take_over, STATISTICS, END])
        _, error = told_by(superlink, folder)
        assert isinstance(error, TakenOverError)
        assert wanted(run_folder) is not None
    assert told_by(superlink, folder) == (["statistics", "end"], run_folder)
    assert len(superlink.started_with) == 1


def test_what_somebody_watches_is_not_gone_on_with(folder, run_folder, ledger):
    want(run_folder, None)
    superlink = ScriptedSuperlink(run_folder, [END])
    with watching(run_folder):
        assert isinstance(told_by(superlink, folder, begin=go_on)[1], TakenOverError)
    assert superlink.started_with == []
    assert wanted(run_folder) is not None


def test_what_was_stopped_meanwhile_is_not_gone_on_with(folder, run_folder, ledger):
    superlink = ScriptedSuperlink(run_folder, [END])
    assert isinstance(told_by(superlink, folder, begin=go_on)[1], StoppedError)
    assert superlink.started_with == []


def test_what_ended_unseen_is_told_and_wanted_no_more(folder, run_folder, ledger):
    want(run_folder, None)
    ledger.append(END)
    superlink = ScriptedSuperlink(run_folder)
    assert told_by(superlink, folder, begin=go_on) == (["end"], run_folder)
    assert wanted(run_folder) is None


def test_a_site_that_was_shut_out_meanwhile_ends_the_run(folder, run_folder, ledger):
    want(run_folder, None)
    (folder / "sites.json").write_text('{"sites": []}')
    assert isinstance(told_by(ScriptedSuperlink(run_folder), folder, begin=go_on)[1], SiteError)
    assert wanted(run_folder) is None


def test_a_site_that_nobody_enrolled_starts_nothing(folder, run_folder):
    superlink = ScriptedSuperlink(run_folder)
    _, error = told_by(superlink, folder, EXPERIMENT.model_copy(update={"sites": ("A", "D")}))
    assert "site 'D' is not enrolled (enrolled: A, B, C)" in str(error)
    assert superlink.started_with == []
    assert wanted(run_folder) is None


def test_another_experiment_under_the_same_name_starts_nothing(folder, run_folder, ledger):
    ledger.append(STATISTICS)
    superlink = ScriptedSuperlink(run_folder)
    _, error = told_by(superlink, folder, EXPERIMENT.model_copy(update={"seed": 9}))
    assert isinstance(error, ConfigError)
    assert "another experiment" in str(error)
    assert superlink.started_with == []


def test_another_experiment_does_not_join_one_that_is_under_way(folder, run_folder, ledger):
    superlink = ScriptedSuperlink(run_folder)
    with ledger.hold():
        _, error = told_by(superlink, folder, EXPERIMENT.model_copy(update={"seed": 9}))
    assert "is under way" in str(error)
    assert launch_module.wanted(run_folder) is None
