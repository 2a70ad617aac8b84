"""Named sites over a scripted grid: joining, matching replies, deadlines, the quorum of an `ask`."""

import numpy as np
import pytest
from flwr.app import RecordDict
from scripted import NODES, TASK, Clock, ScriptedGrid, answer, flower_error, identify

from common import wire
from common.errors import SiteError, WorkError
from common.experiment import RoundConfig
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import SiteStatistics, StatisticsTask, TrainResult
from server.sites import POLL_MAX_S, Sites, read_result
from server.strategy import Strategy
from server.watch import Watch

SENT = {"stage1.w": np.zeros((2, 2), np.float32)}
STATISTICS = StatisticsTask(experiment="tiny", recipe=Recipe(), split=SplitConfig())


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    identify(monkeypatch)
    return Clock(monkeypatch)


def sites_over(grid, watch=None, **config):
    return Sites(grid, NODES, RoundConfig(**config), watch)


def join(grid, sites="ABC", quorum=3, timeout_s=30.0, quorum_timeout_s=30.0, watch=None):
    sites_over(grid, watch).wait_until_joined(sites, quorum, timeout_s, quorum_timeout_s)


def at_each_look(*online):
    """The connected nodes at each look, the last for ever."""
    looks = list(online)
    return ScriptedGrid(lambda: looks.pop(0) if len(looks) > 1 else looks[0])


def test_sites_that_are_there_are_not_waited_for(clock):
    join(ScriptedGrid())
    assert clock.now == 0


def test_a_site_may_come_late(clock):
    join(at_each_look((), (11,), (11, 33), (11, 22, 33)))
    assert clock.now == pytest.approx(3 * POLL_MAX_S / 10)


def test_only_the_named_sites_are_waited_for(clock):
    join(ScriptedGrid((22, 99)), "B", 1)
    assert clock.now == 0


def test_missing_sites_are_named_after_the_join_timeout(clock):
    with pytest.raises(SiteError, match=r"site A, C did not connect within 3[0-2] s; start `fedgtv-site join`"):
        join(ScriptedGrid((22,)))
    assert 30 < clock.now <= 30 + POLL_MAX_S


def test_the_quorum_begins_without_the_others_after_the_join_timeout_and_names_them(clock):
    told = []
    join(ScriptedGrid((22, 33)), quorum=2, watch=Watch(record=told.append))
    assert 30 < clock.now <= 30 + POLL_MAX_S
    assert [(line["site"], line["event"], line["why"]) for line in told] == [("A", "lost", "not-joined")]


def test_a_run_that_goes_on_waits_for_the_quorum_longer_but_no_longer_for_the_others(clock):
    grid = ScriptedGrid(lambda: (22,) if clock.now < 500 else (22, 33))
    join(grid, quorum=2, quorum_timeout_s=3600.0)
    assert 500 <= clock.now <= 500 + POLL_MAX_S
    with pytest.raises(SiteError, match=r"site A, C did not connect within 100[0-2] s"):
        join(ScriptedGrid((22,)), quorum=2, quorum_timeout_s=1000.0)


def test_a_site_that_nobody_enrolled_is_named_at_once(clock):
    with pytest.raises(SiteError, match=r"site 'D' is not enrolled \(enrolled: A, B, C\)"):
        join(ScriptedGrid(), ["A", "D"])
    with pytest.raises(SiteError, match=r"enrolled: none"):
        Sites(ScriptedGrid(), {}, RoundConfig()).wait_until_joined(["A"], 1, 30.0, 30.0)
    assert clock.now == 0


def ask(sites, names="ABC", read=lambda site, reply: reply):
    return sites.ask({site: sites.message(site, wire.STATISTICS, STATISTICS) for site in names}, read)


def echo(node, message):
    """A reply that says for which node the message was."""
    counts = SiteStatistics(train=node, validation=0, test=0, seconds=0.0)
    return answer(wire.statistics_reply(counts, None), message)


def all_but(silent, instead=lambda message: None):
    return ScriptedGrid(answer=lambda node, message: instead(message) if node == silent else echo(node, message))


def test_replies_are_matched_by_message_not_by_sender_or_order():
    replies = ask(sites_over(ScriptedGrid(answer=echo)))
    assert {reply.metadata.src_node_id for reply in replies.values()} == {1}
    assert list(replies) == ["A", "B", "C"]  # by site, though they came the other way round
    told = {site: read_result(site, reply, SiteStatistics) for site, reply in replies.items()}
    assert {site: each.train for site, each in told.items()} == NODES


def test_an_error_from_node_1_is_its_sites_own():
    with pytest.raises(WorkError, match=r"no result from site B \(flower-1\)") as caught:
        ask(sites_over(all_but(22, lambda message: flower_error(1, message))))
    assert "Secret" not in str(caught.value)


def test_who_keeps_silent_is_missing_after_the_deadline(clock):
    with pytest.raises(WorkError, match=r"no result from site C \(no-answer\)"):
        ask(sites_over(all_but(33), timeout_s=60))
    assert 60 <= clock.now <= 60 + POLL_MAX_S


def test_what_can_no_longer_be_enough_ends_the_wait_at_once(clock):
    with pytest.raises(WorkError, match=r"no result from site C \(flower-1\);"):
        ask(sites_over(ScriptedGrid(answer=lambda node, m: flower_error(1, m) if node == 33 else None)), "AC")
    assert clock.now < 3 * POLL_MAX_S


def test_all_replies_end_the_wait_and_come_by_site(clock):
    assert list(ask(sites_over(ScriptedGrid(answer=echo), timeout_s=60), "CAB")) == list("ABC")
    assert clock.now < 3 * POLL_MAX_S


@pytest.mark.parametrize("why", ["no-answer", "flower-1"])
def test_a_site_beyond_the_quorum_may_be_lost_and_is_named(clock, tmp_path, why):
    instead = (lambda message: None) if why == "no-answer" else (lambda message: flower_error(1, message))
    watch = Watch(tmp_path)
    assert set(ask(sites_over(all_but(33, instead), watch, quorum=2))) == {"A", "B"}
    assert f'"code": "{why}"' in (tmp_path / "live.json").read_text()
    assert clock.now <= 60 + POLL_MAX_S  # grace_s


def test_a_result_that_cannot_be_read_names_its_site():
    with pytest.raises(WorkError, match=r"site [ABC]: reply: not a TrainResult"):
        ask(sites_over(ScriptedGrid(answer=echo)), read=lambda site, reply: read_result(site, reply, TrainResult))


def test_a_result_that_cannot_be_read_is_left_out_where_the_quorum_does_without(tmp_path):
    def read(site, reply):
        return read_result(site, reply, TrainResult if site == "B" else SiteStatistics)

    watch = Watch(tmp_path)
    assert set(ask(sites_over(ScriptedGrid(answer=echo), watch, quorum=2), read=read)) == {"A", "C"}
    assert '"code": "other-result"' in (tmp_path / "live.json").read_text()


def test_who_is_long_in_joining_is_named_and_told_of_when_there(clock):
    told = []
    join(ScriptedGrid(lambda: (11, 33) if clock.now < 100 else (11, 22, 33)), timeout_s=900.0, quorum_timeout_s=900.0,
         watch=Watch(record=told.append))  # fmt: skip
    assert [(line["site"], line["event"], line["why"]) for line in told] == [
        ("B", "lost", "not-joined"),
        ("B", "back", "connected"),
    ]
    assert 100 <= clock.now <= 100 + POLL_MAX_S


def test_a_reply_that_comes_in_the_last_pause_counts(clock):
    """The next look would be past the deadline."""
    grid = ScriptedGrid(answer=lambda node, message: echo(node, message) if clock.now > 59.9 else None)
    assert set(ask(sites_over(grid, timeout_s=60), "A")) == {"A"}


def test_a_reply_to_a_round_that_is_over_is_fetched_and_told_of_but_not_given(clock):
    told = []
    sites = sites_over(all_but(33), Watch(record=told.append), quorum=2)
    assert set(ask(sites)) == {"A", "B"}
    sites._grid.answer = lambda node, message: echo(node, message) if clock.now > 80 or node == 33 else None
    assert set(ask(sites)) == {"A", "B", "C"}
    assert ("C", "late", "not-counted") in [(line["site"], line["event"], line["why"]) for line in told]


def test_a_step_trains_at_its_own_sites_alone():
    sites = sites_over(ScriptedGrid((11, 22, 33, 44)))
    strategy = Strategy("fedprox", {"proximal_mu": 0.5})
    messages = sites.train_messages(strategy.flower, TASK, SENT, ("C", "A"))
    assert {site: message.metadata.dst_node_id for site, message in messages.items()} == {"A": 11, "C": 33}
    for message in messages.values():
        assert message.metadata.message_type == wire.TRAIN
        assert wire.read_train_task(message) == TASK.model_copy(update={"proximal_mu": 0.5})
        received = wire.record_to_weights(message.content.array_records[wire.ARRAYS])
        np.testing.assert_array_equal(received["stage1.w"], SENT["stage1.w"])


def test_a_site_that_has_gone_offline_is_still_asked():
    """Flower's own sampling would wait for ever; here the round's deadline or quorum decides."""
    messages = sites_over(ScriptedGrid(())).train_messages(Strategy("fedavg").flower, TASK, SENT, ("A", "B"))
    assert set(messages) == {"A", "B"}


def test_a_message_leaves_no_trace_in_the_next():
    """The grid gives each its id; the sites' messages stay as they were made, to be sent again."""
    sites = sites_over(ScriptedGrid(answer=lambda node, message: answer(RecordDict(), message)))
    messages = {"A": sites.message("A", wire.STATISTICS, STATISTICS)}
    first = sites.send(messages).outstanding()
    second = sites.send(messages).outstanding()
    assert set(first) != set(second)
