"""One round: replies taken in as they come, who counts, who is left out and why, stragglers, a coordinator's death."""

import math

import numpy as np
import pytest
from scripted import TASK, Clock, failed, full, good, identify

from common.errors import WorkError
from common.experiment import RoundConfig
from server.rounds import Late, Round
from server.spool import Spool
from server.strategy import Strategy
from server.watch import Watch

SENT = {"stage1.w": np.zeros((2, 2), np.float32), "stage1.b": np.zeros(3, np.float32)}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    identify(monkeypatch)
    return Clock(monkeypatch)


@pytest.fixture
def told():
    return []


@pytest.fixture
def open_round(tmp_path, told):
    """open_round(sites, quorum, ...) begins a round, or goes on with the one before it in this test."""

    def begin(sites="ABC", quorum=None, config=None, key="key", **more):
        spool = Spool(tmp_path / "spool", key)
        watch = Watch(record=told.append)
        return Round(
            TASK, SENT, sites, quorum or len(sites), config or RoundConfig(min_cosine=-0.2), spool, watch, **more
        )

    return begin


def reply(value, cases=2, **more):
    return good({name: full(array.shape, value) for name, array in SENT.items()}, cases, **more)


def moved(w, b, cases=2, **more):
    return good({"stage1.w": full((2, 2), w), "stage1.b": np.array(b, np.float32)}, cases, **more)


def close(under_way, name="fedavg"):
    return under_way.close(Strategy(name))


def test_all_good_replies_make_the_mean(open_round, clock):
    under_way = open_round("AB")
    clock.now = 5.0
    under_way.take("B", reply(4.0, 2))
    clock.now = 9.0
    under_way.take("A", reply(1.0, 1))
    clock.now = 12.0
    assert under_way.open_sites == []
    outcome = close(under_way)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 3.0)
    assert outcome.dropped == {}
    assert {site: result.num_examples for site, result in outcome.results.items()} == {"A": 1, "B": 2}
    assert outcome.norms == pytest.approx({"A": math.sqrt(7), "B": 4 * math.sqrt(7)})
    assert outcome.answered_s == 9.0


def test_a_quorum_goes_on_without_the_others_and_says_why(open_round):
    under_way = open_round("ABCDE", 2)
    for site, message in {"A": reply(1.0), "B": failed(), "D": reply(float("nan")), "E": reply(5.0)}.items():
        under_way.take(site, message)
    assert under_way.open_sites == ["C"]
    outcome = close(under_way)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 3.0)
    assert set(outcome.results) == {"A", "E"}
    assert outcome.dropped == {"B": "bad-image", "C": "no-answer", "D": "not-finite stage1.w"}


def test_below_the_quorum_every_site_at_fault_is_named(open_round):
    under_way = open_round("ABC", 2)
    under_way.take("B", failed())
    under_way.take("A", reply(1.0))
    expected = r"round 3: 1 good replies of 3, 2 needed; at fault: B \(bad-image\), C \(no-answer\)"
    with pytest.raises(WorkError, match=expected) as caught:
        close(under_way)
    assert "Secret" not in str(caught.value)


def test_a_round_that_cannot_reach_its_quorum_ends_at_once(open_round, clock):
    under_way = open_round("ABC", 2)
    under_way.take("A", failed())
    assert under_way.deadline == RoundConfig().timeout_s
    under_way.take("B", failed())
    assert under_way.deadline == -math.inf
    with pytest.raises(WorkError, match=r"at fault: A \(bad-image\), B \(bad-image\);"):  # C had no time to answer
        close(under_way)


def test_with_the_quorum_in_the_others_have_as_long_as_rounds_take(open_round, clock):
    under_way = open_round("ABC", 2, earlier_s=[100.0])
    clock.now = 50.0
    under_way.take("A", reply(1.0))
    under_way.take("B", reply(1.0))
    assert under_way.deadline == 300.0


def test_a_wait_in_vain_does_not_make_the_next_longer(open_round, clock):
    """C is dead; A and B take 100 s in every round, so each round is given up after 300 s."""
    earlier_s = []
    for _ in range(8):
        clock.now = 0.0
        under_way = open_round("ABC", 2, earlier_s=earlier_s)
        clock.now = 100.0
        under_way.take("A", reply(1.0))
        under_way.take("B", reply(1.0))
        assert under_way.deadline == 300.0
        clock.now = 300.0
        earlier_s.append(close(under_way).answered_s)
        under_way.spool.clear()


def test_replies_that_a_killed_coordinator_had_in_are_not_asked_for_again(open_round):
    first = open_round()
    first.take("A", reply(1.0, 1))
    first.take("C", reply(4.0, 2))
    second = open_round()
    assert second.open_sites == ["B"]
    second.take("B", reply(2.0, 3))
    whole = open_round(key="other")
    for site, message in {"A": reply(1.0, 1), "B": reply(2.0, 3), "C": reply(4.0, 2)}.items():
        whole.take(site, message)
    assert close(second).weights["stage1.w"].tobytes() == close(whole).weights["stage1.w"].tobytes()


def test_a_quorum_that_was_in_before_the_coordinator_died_counts(open_round):
    first = open_round(quorum=2)
    first.take("A", reply(1.0))
    first.take("C", reply(4.0))
    assert open_round(quorum=2).deadline == RoundConfig().grace_s


def test_after_a_death_in_the_first_round_the_others_have_as_long_as_who_has_answered_took(open_round):
    """A and C took an hour; B has three from then on, less the one that they took."""
    first = open_round(quorum=2)
    first.take("A", reply(1.0, seconds=1800.0))
    first.take("C", reply(4.0, seconds=3600.0))
    assert open_round(quorum=2).deadline == 2 * 3600.0


def test_who_was_left_out_beside_the_others_is_asked_anew_where_the_round_failed(open_round):
    under_way = open_round("ABC")
    for site, value in {"A": 1.0, "B": 1.0, "C": 1000.0}.items():
        under_way.take(site, reply(value))
    with pytest.raises(WorkError, match=r"at fault: C \(norm\)"):
        close(under_way)
    again = open_round("ABC")
    assert again.open_sites == ["C"]
    again.take("C", reply(1.0))
    assert set(close(again).results) == {"A", "B", "C"}


def test_a_lie_does_not_begin_the_deadline_of_the_honest(open_round, clock):
    """Three of four are needed: A, B and the liar are in, and D is waited for as if there were no quorum yet."""
    under_way = open_round("ABCD", 3)
    for site, value in {"A": 1.0, "B": 1.0, "C": 1000.0}.items():
        under_way.take(site, reply(value))
    assert under_way.deadline == RoundConfig().timeout_s
    clock.now = 500.0
    under_way.take("D", reply(1.0))
    outcome = close(under_way)
    assert (set(outcome.results), outcome.dropped) == ({"A", "B", "D"}, {"C": "norm"})


def test_a_site_that_was_away_when_cases_were_counted_weighs_no_more_than_all_others(open_round):
    under_way = open_round("ABC", 1, most_cases={"A": 3, "B": 5})
    under_way.take("A", reply(1.0, 3))
    under_way.take("B", reply(1.0, 5))
    under_way.take("C", reply(1.0, 9))
    assert close(under_way).dropped == {"C": "other-count"}
    again = open_round("ABC", 1, key="again", most_cases={"A": 3, "B": 5})
    again.take("C", reply(1.0, 8))
    assert set(close(again).results) == {"C"}


def test_replies_to_another_task_are_asked_for_again(open_round):
    open_round().take("A", reply(1.0))
    assert open_round(key="other").open_sites == ["A", "B", "C"]


@pytest.mark.parametrize(("update", "reason"), [((100.0, [100, 100, 100]), "norm"), ((-1.0, [-1, -1, -1]), "opposed")])
def test_an_offender_among_three_is_left_out_and_the_honest_two_make_the_model(open_round, told, update, reason):
    under_way = open_round("ABC", 2)
    under_way.take("A", moved(1.0, [1, 1, 0], 1))
    under_way.take("B", moved(1.0, [0, 1, 1], 3))
    under_way.take("C", moved(*update, 4))
    outcome = close(under_way)
    assert outcome.dropped == {"C": reason}
    assert set(outcome.results) == set(outcome.norms) == {"A", "B"}
    np.testing.assert_allclose(outcome.weights["stage1.b"], [0.25, 1.0, 0.75])
    assert told == []  # the round's own line says so


def test_directions_are_not_compared_unless_asked_for(open_round):
    """Honest sites that differ end a training pulling against each other."""
    under_way = open_round("ABC", config=RoundConfig())
    for site, value in {"A": 1.0, "B": 1.0, "C": -1.0}.items():
        under_way.take(site, reply(value))
    assert close(under_way).dropped == {}


def test_an_offender_is_no_reply_of_the_quorum(open_round):
    under_way = open_round("ABC")
    for site, value in {"A": 1.0, "B": 1.0, "C": -1.0}.items():
        under_way.take(site, reply(value))
    with pytest.raises(WorkError, match=r"2 good replies of 3, 3 needed; at fault: C \(opposed\)"):
        close(under_way)


def test_norms_are_compared_with_the_round_before_too(open_round):
    under_way = open_round("AB", 1, earlier_norms=[2.0, 3.0])
    under_way.take("A", reply(1.0))
    under_way.take("B", reply(100.0))
    assert close(under_way).dropped == {"B": "norm"}


def test_a_site_may_not_claim_more_cases_than_it_counted(open_round):
    under_way = open_round("AB", 1, most_cases={"A": 2, "B": 5})
    under_way.take("A", reply(1.0, 3))
    under_way.take("B", reply(1.0, 5))
    assert close(under_way).dropped == {"A": "other-count"}


def test_a_reply_to_another_round_is_left_out(open_round):
    under_way = open_round("AB", 1)
    under_way.take("A", reply(1.0, round=2))
    under_way.take("B", reply(1.0))
    assert close(under_way).dropped == {"A": "other-round"}


THEN = {"stage1.w": full((2, 2), 10.0), "stage1.b": full(3, 20.0)}
LATE = {"C": Late("id-1", TASK.model_copy(update={"round": 2}), THEN)}


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_what_a_straggler_learnt_is_added_to_the_present_model(open_round, told, transport):
    """It was sent 10 and 20 in round 2 and answers 11 and 22: one and two more than the present 0 and 0."""
    task = LATE["C"].task.model_copy(update={"transport": transport})
    under_way = open_round("ABC", late={"C": Late("id-1", task, THEN)})
    under_way.take("A", moved(1.0, [2, 2, 2]))
    under_way.take("B", moved(1.0, [2, 2, 2]))
    under_way.take("C", moved(11.0, [22, 22, 22], round=2, sent=THEN if transport == "fp16" else None))
    outcome = close(under_way)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 1.0)
    np.testing.assert_allclose(outcome.weights["stage1.b"], 2.0)
    assert outcome.norms["C"] == pytest.approx(outcome.norms["A"])
    assert [(line["site"], line["event"], line["why"]) for line in told] == [("C", "late", "round-2")]


def test_a_straggler_must_answer_what_it_was_asked(open_round):
    under_way = open_round("ABC", 2, late=LATE)
    under_way.take("A", reply(1.0))
    under_way.take("B", reply(1.0))
    under_way.take("C", reply(11.0, round=3))
    assert close(under_way).dropped == {"C": "other-round"}


def test_a_straggler_that_keeps_a_layer_keeps_it(open_round):
    under_way = open_round("AC", late=LATE)
    under_way.take("A", moved(1.0, [4, 4, 4]))
    under_way.take("C", good({"stage1.w": full((2, 2), 13.0)}, 2, round=2, local_layers=("stage1.b",)))
    outcome = close(under_way)
    np.testing.assert_allclose(outcome.weights["stage1.w"], 2.0)
    np.testing.assert_allclose(outcome.weights["stage1.b"], 4.0)


def test_a_full_disk_is_no_fault_of_the_site(open_round, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    under_way = open_round("AB")
    monkeypatch.setattr("server.spool.write_text_atomically", full_disk)
    with pytest.raises(OSError, match="No space"):
        under_way.take("A", reply(1.0))
    assert under_way.dropped == {}
    assert under_way.open_sites == ["A", "B"]
