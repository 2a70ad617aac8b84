"""Which of the messages that wait at a node stay, and in what order they are done; Flower's link is a list here."""

from itertools import permutations
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

from client.node_queue import Kept, Link, Queue
from common import wire
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import NormalisationRecord, ProgressTask, StatisticsTask, TrainTask

RUN = 4711
TRAIN = TrainTask(
    experiment="e", recipe=Recipe(), split=SplitConfig(), model="m", step=1, round=3, epochs_done=0, local_epochs=1,
    epochs_total=9, lr0=0.1, seed=1, normalisation=NormalisationRecord(mean=0, sd=1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("task_id", 1), ("run_id", RUN), ("node_id", 1)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)


class Site:
    """A queue, the link before it, and what became of each message."""

    def __init__(self) -> None:
        self.coming: list[tuple[Message, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.confirmed: list[str] = []
        self.passed_over: list[Kept] = []
        self.queue = Queue(self.passed_over.append)
        self.link = Link(lambda: self.coming.pop(0) if self.coming else None, self.pull, self.confirm, Run.create_empty)

    def pull(self, _run_id: int, name: str) -> bytes:
        return self.objects[name]

    def confirm(self, _run_id: int, name: str) -> None:
        self.confirmed.append(name)

    def send(self, kind: str, content: RecordDict, sent: float, run_id: int = RUN) -> Message:
        message = Message(content, 1, kind)
        message.metadata.created_at = sent
        message.metadata.__dict__["_run_id"] = run_id
        message.metadata.__dict__["_message_id"] = message.object_id
        self.objects |= {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
        bare = Message(RecordDict(), 1, kind)
        bare.__dict__.update(_metadata=message.metadata, _content=None)
        self.coming.append((bare, get_object_tree(message)))
        return bare

    def ask(self, round_number: int, sent: float = 0.0, run_id: int = RUN, **fields: Any) -> Message:
        task = TRAIN.model_copy(update={"round": round_number, **fields})
        return self.send(wire.TRAIN, wire.task_record(task), sent or float(round_number), run_id)

    def take(self) -> Message | None:
        kept = self.queue.next(self.link)
        return None if kept is None else kept.message

    def take_all(self) -> list[Message]:
        return [taken for _ in range(9) if (taken := self.take()) is not None]

    def look(self) -> None:
        """What the gate does while a round is worked on."""
        for kept in self.link.received():
            self.queue.add(kept)
        self.queue.settle(self.link)

    def models_held(self) -> int:
        return sum(kept.contents is not None for kept in self.queue._kept)


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("order", [*permutations((3, 4, 5))])
def test_of_rounds_that_wait_the_latest_alone_is_done(site: Site, order: tuple[int, ...]) -> None:
    asked = {number: site.ask(number) for number in order}
    assert site.take_all() == [asked[5]]
    assert {kept.message.metadata.message_id for kept in site.passed_over} == {
        asked[number].metadata.message_id for number in (3, 4)
    }
    assert len(site.confirmed) == 3


def test_one_model_is_held_however_many_rounds_come_while_at_work(site: Site) -> None:
    site.ask(1)
    assert site.take() is not None
    held = []
    for number in range(2, 30):
        latest = site.ask(number)
        site.look()
        held.append(site.models_held())
        assert site.queue.is_past_taken
    assert set(held) == {1}
    assert site.take_all() == [latest]


def test_one_model_after_another_is_received_where_many_wait(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 20):
        site.ask(number)
    most, confirm = [0], site.confirm

    def note(run_id: int, name: str) -> None:
        most.append(site.models_held())
        confirm(run_id, name)

    site.link = Link(site.link.receive, site.pull, note, Run.create_empty)
    site.look()
    assert max(most) == 1
    assert site.models_held() == 1


def test_a_round_asked_for_again_is_done_once_and_as_it_was_asked_last(site: Site) -> None:
    last, _first = site.ask(3, sent=20.0), site.ask(3, sent=10.0)
    assert site.take_all() == [last]


def test_a_round_under_way_that_is_asked_for_again_is_not_left_off(site: Site) -> None:
    first = site.ask(3, sent=10.0)
    assert site.take() is first
    again = site.ask(3, sent=20.0)
    site.look()
    assert not site.queue.is_past_taken
    assert site.take_all() == [again]


def test_a_round_that_comes_after_a_later_one_is_not_done(site: Site) -> None:
    """Flower delivers in no order."""
    later = site.ask(4)
    assert site.take() is later
    site.ask(3)
    site.look()
    assert not site.queue.is_past_taken
    assert site.take() is None
    assert len(site.passed_over) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_where_number_and_time_differ_both_are_done(site: Site, order: tuple[int, int]) -> None:
    """A coordinator that lost round 4 asks for it again after 5; or its clock was set back between 4 and 5."""
    pairs = [(5, 50.0), (4, 60.0)]
    asked = [site.ask(*pairs[each]) for each in order]
    assert site.take_all() == asked
    assert site.passed_over == []


def test_the_work_is_left_off_for_an_earlier_round_that_was_sent_later(site: Site) -> None:
    site.ask(5, sent=50.0)
    site.take()
    site.ask(4, sent=60.0)
    site.look()
    assert site.queue.is_past_taken


@pytest.mark.parametrize("other", [{"model": "n"}, {"run_id": RUN + 1}])
def test_rounds_of_another_model_or_run_stay(site: Site, other: dict[str, Any]) -> None:
    asked = [site.ask(3), site.ask(4, **other)]
    assert site.take() is asked[0]
    site.look()
    assert not site.queue.is_past_taken
    assert site.take_all() == asked[1:]


def test_a_later_step_s_first_round_takes_the_place_of_an_earlier_step_s(site: Site) -> None:
    site.ask(7, sent=1.0)
    later = site.ask(1, sent=2.0, step=2)
    assert site.take_all() == [later]


def test_who_asks_how_far_it_is_comes_first_and_the_rest_in_its_order(site: Site) -> None:
    statistics = wire.task_record(StatisticsTask(experiment="e", recipe=Recipe(), split=SplitConfig()))
    training, counting = site.ask(1), site.send(wire.STATISTICS, statistics, 2.0)
    asking = site.send(wire.PROGRESS, wire.task_record(ProgressTask(experiment="e")), 3.0)
    assert site.take_all() == [asking, training, counting]


@pytest.mark.parametrize("error", [ObjectPullError("a" * 64, "gone"), RunNotRunningException()])
def test_a_round_that_cannot_be_had_holds_nothing_up(site: Site, error: Exception) -> None:
    site.ask(1)
    good, pull = site.ask(2, run_id=RUN + 1), site.pull

    def broken(run_id: int, name: str) -> bytes:
        if run_id == RUN:
            raise error
        return pull(run_id, name)

    site.link = Link(site.link.receive, broken, site.confirm, Run.create_empty)
    assert site.take_all() == [good]
    assert site.passed_over == []


def test_a_round_is_not_lost_to_a_network_that_is_away(site: Site) -> None:
    asked = site.ask(1)

    def away(_run_id: int, _name: str) -> bytes:
        raise OSError("network is unreachable")

    link = site.link
    site.link = Link(link.receive, away, site.confirm, Run.create_empty)
    with pytest.raises(OSError, match="unreachable"):
        site.take()
    site.link = link
    assert site.take() is asked


def test_a_broken_round_is_told_in_its_turn(site: Site) -> None:
    asked = [site.send(wire.TRAIN, RecordDict({wire.CONFIG: ConfigRecord({wire.TASK: "{"})}), 1.0), site.ask(2)]
    assert site.take_all() == asked
