"""One wait over a scripted grid and a clock: who is lost, who is asked again, and what counts once."""

import itertools
import json
from datetime import datetime

import pytest
from flwr.app import Message, RecordDict
from scripted import NODES, TASK, Clock, ScriptedGrid, answer, failed, flower_error, identify, progress

from common import wire
from common.tasks import ProgressTask, SiteStatistics
from server import waiting as module
from server.sites import POLL_MAX_S, arrivals
from server.waiting import LOOK_S, MAX_CRASHES, MAX_IDLE, PROGRESS_S, PROGRESS_SITE_S, RETRY_S, Waiting
from server.watch import Watch

COUNTS = SiteStatistics(train=1, validation=0, test=0, seconds=0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    identify(monkeypatch)
    return Clock(monkeypatch)


class Told(Watch):
    """A watch whose events are kept: (site, event, why)."""

    def __init__(self, folder=None):
        self.lines = []
        super().__init__(folder, self.lines.append)
        self.begin(model="m", round=3)

    @property
    def events(self):
        return [(line["site"], line["event"], line["why"]) for line in self.lines]

    def of(self, site):
        return [event for name, event, _ in self.events if name == site]


@pytest.fixture
def watch(tmp_path):
    return Told(tmp_path)


def live(tmp_path):
    return json.loads((tmp_path / "live.json").read_text())["sites"]


def wait(grid, watch, sites="ABC", earlier=None, until=10_000.0):
    """Waits for all, until a time, and returns (what came by site, the wait)."""
    messages = {site: Message(wire.task_record(TASK), NODES[site], wire.TRAIN) for site in sites}
    waiting = Waiting(grid, NODES, messages, watch, earlier)
    return list(arrivals(waiting, lambda: until)), waiting


def is_progress(message):
    return message.metadata.message_type == wire.PROGRESS


def test_every_site_answers_once_and_is_told_by_its_message(watch):
    grid = ScriptedGrid(answer=lambda node, message: answer(RecordDict(), message))
    came, waiting = wait(grid, watch)
    assert sorted(site for site, _ in came) == ["A", "B", "C"]
    assert waiting.owed == frozenset()
    assert waiting.outstanding() == {}
    assert watch.events == []
    for site, reply in came:
        sent = grid.pushed[reply.metadata.reply_to_message_id]
        assert sent.metadata.dst_node_id == NODES[site]


def test_a_sites_own_error_is_its_answer(watch):
    grid = ScriptedGrid(answer=lambda node, message: failed(to=message))
    came, _ = wait(grid, watch, "A")
    assert [(site, wire.read_error(reply)) for site, reply in came] == [("A", "bad-image")]
    assert grid.asked() == [11]


def test_a_lost_node_is_named_once_and_asked_again_when_it_is_back(watch, clock, tmp_path):
    """B's node goes at 20 s; Flower says so at 80 s; it is back at 200 s and then answers."""
    online = [11, 22, 33]
    clock.at(20, lambda: online.remove(22))
    clock.at(200, lambda: online.append(22))

    def reply(node, message):
        if is_progress(message):
            return None
        if node != 22:
            return answer(RecordDict(), message)
        if clock.now >= 80 and grid.asked().count(22) == 1:
            return flower_error(5, message)
        return answer(RecordDict(), message) if clock.now >= 230 else None

    grid = ScriptedGrid(lambda: online, reply)
    seen = []
    clock.at(100, lambda: seen.append(live(tmp_path)["B"]))
    came, _ = wait(grid, watch)
    assert [site for site, _ in came][-1] == "B"
    assert [wire.read_error(reply) for _, reply in came] == ["no-result"] * 3  # none is Flower's error
    assert watch.events == [("B", "lost", "flower-5"), ("B", "back", "connected")]
    assert grid.asked() == [11, 22, 33, 22]
    (lost,) = seen
    assert (lost["connected"], lost["state"], lost["error"]["code"]) == (False, "lost", "flower-5")
    assert 230 <= clock.now < 240
    assert live(tmp_path)["B"]["state"] == "answered"


def test_a_lost_node_is_named_within_a_look(watch, clock):
    online = [11, 22, 33]
    clock.at(20, lambda: online.remove(22))
    when = []
    watch.event = lambda site, event, why: when.append((site, event, clock.now))
    grid = ScriptedGrid(lambda: online, lambda node, message: None)
    wait(grid, watch, until=60.0)
    assert [told[:2] for told in when] == [("B", "lost")]
    assert 20 <= when[0][2] <= 20 + LOOK_S + 2


def test_a_site_that_was_only_out_of_sight_keeps_its_task(watch, clock):
    """Its message is still with it: it is not asked twice."""
    online = [11]
    clock.at(20, lambda: online.remove(11))
    clock.at(60, lambda: online.append(11))
    grid = ScriptedGrid(lambda: online, lambda node, message: answer(RecordDict(), message) if clock.now > 90 else None)
    came, _ = wait(grid, watch, "A")
    assert len(came) == 1
    assert grid.asked() == [11]
    assert watch.of("A") == ["lost", "back"]


def test_a_node_that_flower_does_not_know_now_is_sent_its_task_later(watch, clock):
    grid = ScriptedGrid(lambda: [11, 33] if clock.now < 50 else [11, 22, 33])
    grid.answer = lambda node, message: None if is_progress(message) else answer(RecordDict(), message)
    grid.unknown = {22}
    clock.at(50, grid.unknown.clear)
    came, _ = wait(grid, watch)
    assert sorted(site for site, _ in came) == ["A", "B", "C"]
    assert watch.events == [("B", "lost", "flower-5"), ("B", "back", "connected")]
    assert grid.asked() == [11, 33, 22]


@pytest.mark.parametrize("code", [3, 4, 8])
def test_a_lost_message_or_process_is_asked_for_again_and_then_believed(watch, clock, code):
    times = []

    def reply(node, message):
        if is_progress(message):
            return None
        times.append(clock.now)
        return flower_error(code, message)

    grid = ScriptedGrid(answer=reply)
    came, _ = wait(grid, watch, "A")
    assert [(site, wire.read_error(reply)) for site, reply in came] == [("A", f"flower-{code}")]
    assert grid.asked() == [11] * (1 + MAX_CRASHES)
    assert watch.of("A") == ["lost", "back"] * MAX_CRASHES
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    pauses = [RETRY_S * 2**number for number in range(MAX_CRASHES)]
    assert all(pause <= gap <= pause + LOOK_S + 2 * POLL_MAX_S for pause, gap in zip(pauses, gaps, strict=True))


def test_a_site_that_dies_twice_and_then_answers_has_answered(watch):
    def reply(node, message):
        if is_progress(message):
            return None
        again = grid.asked().count(11)
        return failed("worker-lost", message) if again <= 2 else answer(RecordDict(), message)

    grid = ScriptedGrid(answer=reply)
    came, _ = wait(grid, watch, "A")
    assert [wire.read_error(reply) for _, reply in came] == ["no-result"]
    assert [why for _, event, why in watch.events if event == "lost"] == ["worker-lost"] * 2


def test_the_reply_to_the_first_of_two_messages_counts_and_the_second_does_not(watch, clock, monkeypatch):
    """A says that it has nothing to do and is asked again; both answers come, one after the other; B is slow."""
    monkeypatch.setattr(module, "MAX_IDLE", 1)

    def reply(node, message):
        if is_progress(message):
            return progress(message) if node == 11 else None
        due = {22: 300.0, 11: 100.0 if message.metadata.message_id == "id-0" else 120.0}[node]
        return answer(RecordDict(), message) if clock.now >= due else None

    grid = ScriptedGrid(answer=reply)
    came, waiting = wait(grid, watch, "AB")
    assert [site for site, _ in came] == ["A", "B"]
    assert came[0][1].metadata.reply_to_message_id == "id-0"
    assert grid.asked().count(11) >= 2
    assert ("A", "duplicate", "answered-before") in watch.events
    assert {site for site, _, _ in watch.events} == {"A"}
    assert waiting.owed == frozenset()


def test_a_site_with_nothing_to_do_is_asked_again_after_so_many_such_answers(watch, clock):
    """Its task was lost with a node that died between two looks."""

    def reply(node, message):
        if is_progress(message):
            return progress(message)
        return answer(RecordDict(), message) if grid.asked().count(11) > 1 else None

    grid = ScriptedGrid(answer=reply)
    came, _ = wait(grid, watch, "A")
    assert len(came) == 1
    assert watch.events == [("A", "asked-again", "idle")]
    assert grid.asked(wire.PROGRESS) == [11] * MAX_IDLE
    assert MAX_IDLE * PROGRESS_S <= clock.now <= (MAX_IDLE + 1) * (PROGRESS_S + LOOK_S + 2)


@pytest.mark.parametrize(("num_sites", "every_s"), [(1, PROGRESS_S), (100, 100 * PROGRESS_SITE_S)])
def test_many_sites_are_asked_less_often(watch, clock, num_sites, every_s):
    nodes = {f"S{number}": number + 2 for number in range(num_sites)}
    grid = ScriptedGrid(
        tuple(nodes.values()), lambda node, message: progress(message) if is_progress(message) else None
    )
    messages = {site: Message(wire.task_record(TASK), node, wire.TRAIN) for site, node in nodes.items()}
    waiting = Waiting(grid, nodes, messages, watch)
    list(arrivals(waiting, lambda: every_s + LOOK_S + POLL_MAX_S))
    assert len(grid.asked(wire.PROGRESS)) == num_sites


def test_work_between_idle_answers_begins_the_count_anew(watch, clock):
    states = iter(["idle", "idle", "training", "idle", "idle", "training"] * 9)

    def reply(node, message):
        if is_progress(message):
            return progress(message, state=next(states))
        return answer(RecordDict(), message) if clock.now > 400 else None

    grid = ScriptedGrid(answer=reply)
    wait(grid, watch, "A")
    assert grid.asked() == [11]


def test_progress_is_asked_of_silent_sites_and_told(watch, clock, tmp_path):
    seen = {}

    def reply(node, message):
        if is_progress(message):
            assert wire.read_task(message, ProgressTask)[0].experiment == TASK.experiment
            done = int(clock.now // 20)  # an epoch takes 20 s, but for 5 that were done before
            told = {"state": "training", "epoch": 5 + done, "epochs": 10, "seconds": clock.now}
            return progress(message, model="m", round=3, **told) if node == 22 else None
        return answer(RecordDict(), message) if node == 11 or clock.now > 100 else None

    grid = ScriptedGrid(answer=reply)
    clock.at(90, lambda: seen.update(live(tmp_path)))
    wait(grid, watch)
    assert 11 not in grid.asked(wire.PROGRESS)
    assert grid.asked(wire.PROGRESS).count(33) == 2  # the first question was forgotten after a minute
    assert grid.asked(wire.PROGRESS).count(22) in (4, 5, 6)
    told = seen["B"]
    assert (told["state"], told["epoch"], told["epochs"]) == ("training", 8, 10)
    left_s = datetime.fromisoformat(told["expected_end"]) - datetime.fromisoformat(told["last_seen"])
    assert 30 <= left_s.total_seconds() <= 60  # of two epochs, by when they were asked after
    assert seen["A"]["state"] == "answered"
    assert (seen["C"]["state"], seen["C"]["epoch"], seen["C"]["expected_end"]) == ("waiting", None, None)


def test_an_error_that_a_site_tells_of_is_told_once(watch, clock):
    def reply(node, message):
        if is_progress(message):
            return progress(message, state="training", error="out-of-memory")
        return answer(RecordDict(), message) if clock.now > 100 else None

    wait(ScriptedGrid(answer=reply), watch, "A")
    assert watch.events == [("A", "error", "out-of-memory")]


@pytest.mark.parametrize(
    "broken",
    [
        lambda message: flower_error(1, message),
        lambda message: failed("policy-task", message),
        lambda message: answer(RecordDict(), message),
        lambda message: answer(wire.statistics_reply(COUNTS, None), message),
    ],
)
def test_progress_that_is_none_harms_no_run(watch, clock, broken):
    def reply(node, message):
        if is_progress(message):
            return broken(message)
        return answer(RecordDict(), message) if clock.now > 60 else None

    came, _ = wait(ScriptedGrid(answer=reply), watch, "A")
    assert len(came) == 1
    assert watch.events == []


def test_a_straggler_of_an_earlier_round_is_waited_for_by_its_old_message(watch, clock):
    grid = ScriptedGrid(answer=lambda node, message: None if is_progress(message) or node == 33
                        else answer(RecordDict(), message))  # fmt: skip
    came, first = wait(grid, watch, until=50.0)
    assert sorted(site for site, _ in came) == ["A", "B"]
    assert first.outstanding() == {"id-2": "C"}
    grid.answer = lambda node, message: None if is_progress(message) else answer(RecordDict(), message)
    came, second = wait(grid, watch, "AB", earlier={"id-2": "C"})
    assert sorted(site for site, _ in came) == ["A", "B", "C"]
    assert grid.asked() == [11, 22, 33, 11, 22]
    assert second.outstanding() == {}


def test_a_stragglers_own_error_ends_its_wait(watch):
    grid = ScriptedGrid(answer=lambda node, message: None)
    _, first = wait(grid, watch, "C", until=5.0)
    grid.answer = lambda node, message: flower_error(5, message)
    came, _ = wait(grid, watch, "", earlier=first.outstanding())
    assert [(site, wire.read_error(reply)) for site, reply in came] == [("C", "flower-5")]


def test_nothing_is_waited_for_where_nobody_is_asked(watch, clock):
    came, _ = wait(ScriptedGrid(), watch, "")
    assert came == []
    assert clock.now == 0


def test_a_process_that_raises_is_believed_at_once(watch):
    """Asked again it would raise again; only one that was killed may do better."""
    grid = ScriptedGrid(answer=lambda node, message: None if is_progress(message) else failed("crashed", message))
    came, _ = wait(grid, watch, "A")
    assert [(site, wire.read_error(reply)) for site, reply in came] == [("A", "crashed")]
    assert grid.asked() == [11]
