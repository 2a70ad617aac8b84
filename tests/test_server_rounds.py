"""Named sites over a grid that is scripted: joining, matching replies, deadlines, quorum."""

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from server.aggregation import make_strategy

from common import wire
from common.config import Recipe, RoundConfig, SplitConfig
from common.errors import SiteError, WorkError
from common.tasks import EpochRecord, NormalisationRecord, SiteStatistics, StatisticsTask, TrainResult, TrainTask
from server.sites import Sites, conclude, read_results

SENT = {"stage1.w": np.zeros((2, 2), np.float32)}
NODES = {"A": 11, "B": 22, "C": 33}
STATISTICS = StatisticsTask(experiment="tiny", recipe=Recipe(), split=SplitConfig())


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that only the code's own waiting moves on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    return clock


class ScriptedGrid(Grid):
    """`online` gives the connected nodes at each look, the last for ever; `answer` the reply to a node's message.

    Replies come one at each pull, the last message's first, as if from node 1.
    """

    def __init__(self, online=((11, 22, 33),), answer=None):
        self.online = list(online)
        self.answer = answer or (lambda node, message: Message(RecordDict(), reply_to=message))
        self.pushed = {}

    def get_node_ids(self):
        return self.online.pop(0) if len(self.online) > 1 else self.online[0]

    def push_messages(self, messages):
        names = []
        for message in messages:
            names.append(f"id-{len(self.pushed)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self.pushed[names[-1]] = message
        return names

    def pull_messages(self, message_ids):
        for name in reversed(list(message_ids)):
            reply = self.answer(self.pushed[name].metadata.dst_node_id, self.pushed[name])
            if reply is not None:
                reply.metadata.__dict__["_src_node_id"] = 1
                return [reply]
        return []

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("it would wait for anonymous nodes")

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        return None


def sites_over(grid, **config):
    return Sites(grid, NODES, RoundConfig(**config))


def test_sites_that_are_there_are_not_waited_for(clock):
    sites_over(ScriptedGrid()).wait_until_joined("ABC")
    assert clock.now == 0


def test_a_site_may_come_late(clock):
    sites_over(ScriptedGrid([(), (11,), (11, 33), (11, 22, 33)])).wait_until_joined("ABC")
    assert clock.now == 3 * rounds.POLL_S


def test_only_the_named_sites_are_waited_for(clock):
    sites_over(ScriptedGrid([(22, 99)])).wait_until_joined("B")
    assert clock.now == 0


def test_missing_sites_are_named_after_the_join_timeout(clock):
    with pytest.raises(SiteError, match=r"site A, C did not connect within 30 s; start `fedgtv-site join`"):
        sites_over(ScriptedGrid([(22,)]), join_timeout_s=30).wait_until_joined("ABC")
    assert 30 < clock.now <= 30 + 2 * rounds.POLL_S


def test_a_site_that_nobody_enrolled_is_named_at_once(clock):
    with pytest.raises(SiteError, match=r"site 'D' is not enrolled \(enrolled: A, B, C\)"):
        sites_over(ScriptedGrid()).wait_until_joined(["A", "D"])
    with pytest.raises(SiteError, match=r"enrolled: none"):
        Sites(ScriptedGrid(), {}, RoundConfig()).wait_until_joined(["A"])
    assert clock.now == 0


def ask(sites, names="ABC"):
    return sites.ask({site: sites.message(site, wire.STATISTICS, STATISTICS) for site in names})


def echo(node, message):
    """A reply that says for which node the message was."""
    return Message(wire.statistics_reply(counts(node), None), reply_to=message)


def counts(number):
    return SiteStatistics(train=number, validation=0, test=0, seconds=0.0)


def test_replies_are_matched_by_message_not_by_sender_or_order():
    replies = ask(sites_over(ScriptedGrid(answer=echo)))
    assert {reply.metadata.src_node_id for reply in replies.values()} == {1}
    assert list(replies) == ["C", "B", "A"]  # as they came
    assert {site: told.train for site, told in read_results(replies, SiteStatistics).items()} == NODES


def test_an_error_from_node_1_is_its_sites_own():
    def answer(node, message):
        return Message(Error(3, "Secret^Name"), reply_to=message) if node == 22 else echo(node, message)

    sites = sites_over(ScriptedGrid(answer=answer))
    assert {site: wire.read_error(reply) for site, reply in ask(sites).items()} == {
        "A": None,
        "B": "flower-3",
        "C": None,
    }
    with pytest.raises(WorkError, match=r"no result from site B \(flower-3\)") as caught:
        sites.ask_all({site: sites.message(site, wire.STATISTICS, STATISTICS) for site in "ABC"})
    assert "Secret" not in str(caught.value)


def test_who_keeps_silent_is_missing_after_the_deadline(clock):
    sites = sites_over(ScriptedGrid(answer=lambda node, m: None if node == 33 else echo(node, m)), timeout_s=60)
    assert set(ask(sites)) == {"A", "B"}
    assert 60 <= clock.now <= 60 + rounds.POLL_MAX_S
    with pytest.raises(WorkError, match=r"no result from site C \(no-answer\)"):
        sites.ask_all({site: sites.message(site, wire.STATISTICS, STATISTICS) for site in "AC"})


def test_all_replies_end_the_wait_and_come_by_site(clock):
    sites = sites_over(ScriptedGrid(answer=echo), timeout_s=60)
    assert list(sites.ask_all({site: sites.message(site, wire.STATISTICS, STATISTICS) for site in "CAB"})) == list(
        "ABC"
    )
    assert clock.now < 3 * rounds.POLL_MAX_S


def test_a_result_that_cannot_be_read_names_its_site():
    replies = ask(sites_over(ScriptedGrid(answer=echo)))
    with pytest.raises(WorkError, match=r"site C: reply: not a TrainResult"):
        read_results(replies, TrainResult)


TRAIN = TrainTask(
    experiment="tiny",
    recipe=Recipe(),
    split=SplitConfig(),
    model="m",
    step=1,
    round=3,
    epochs_done=4,
    local_epochs=2,
    epochs_total=8,
    lr0=0.1,
    seed=1,
    normalisation=NormalisationRecord(mean=0, sd=1),
)


def test_a_step_trains_at_its_own_sites_alone():
    sites = sites_over(ScriptedGrid([(11, 22, 33, 44)]))
    messages = sites.train_messages(make_strategy("fedprox", {"proximal_mu": 0.5}), TRAIN, SENT, ("C", "A"))
    assert {site: message.metadata.dst_node_id for site, message in messages.items()} == {"A": 11, "C": 33}
    for message in messages.values():
        assert message.metadata.message_type == wire.TRAIN
        assert wire.read_train_task(message) == TRAIN.model_copy(update={"proximal_mu": 0.5})
        received = wire.record_to_weights(message.content.array_records[wire.ARRAYS])
        np.testing.assert_array_equal(received["stage1.w"], SENT["stage1.w"])


def test_a_site_that_has_gone_offline_is_still_asked():
    """Flower's own sampling would wait for ever; here the round's deadline or quorum decides."""
    messages = sites_over(ScriptedGrid([()])).train_messages(make_strategy("fedavg", {}), TRAIN, SENT, ("A", "B"))
    assert set(messages) == {"A", "B"}


def good(value, cases=2):
    epochs = (EpochRecord(epoch=0, lr=0.1, losses={"stage1": 0.5}),)
    told = TrainResult(num_examples=cases, epochs=epochs, validation_dsc=0.25, seconds=1.0)
    weights = {"stage1.w": np.full((2, 2), value, np.float32)}
    return Message(wire.train_reply(weights, told, "fp32"), reply_to=Message(RecordDict(), 7, "train"))


def failed(code="bad-image"):
    class BrokenError(WorkError):
        pass

    BrokenError.code = code
    return Message(wire.error_reply(BrokenError("Secret^Name")), reply_to=Message(RecordDict(), 7, "train"))


def test_all_good_replies_make_the_mean():
    outcome = conclude(make_strategy("fedavg", {}), 1, {"A": good(1.0, 1), "B": good(4.0, 2)}, SENT, 2)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 3.0)
    assert outcome.dropped == {}
    assert {site: result.num_examples for site, result in outcome.results.items()} == {"A": 1, "B": 2}


def test_a_quorum_goes_on_without_the_others_and_says_why():
    replies = {"A": good(1.0), "B": failed(), "C": None, "D": good(float("nan")), "E": good(5.0)}
    outcome = conclude(make_strategy("fedavg", {}), 1, replies, SENT, 2)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 3.0)
    assert set(outcome.results) == {"A", "E"}
    assert outcome.dropped == {"B": "bad-image", "C": "no-answer", "D": "not-finite stage1.w"}


def test_below_the_quorum_every_site_at_fault_is_named():
    replies = {"C": None, "B": failed(), "A": good(1.0)}
    with pytest.raises(
        WorkError, match=r"round 4: 1 good replies of 3, 2 needed; at fault: B \(bad-image\), C"
    ) as caught:
        conclude(make_strategy("fedavg", {}), 4, replies, SENT, 2)
    assert "Secret" not in str(caught.value)
