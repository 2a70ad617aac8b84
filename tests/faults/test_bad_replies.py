"""One of three sites sends what is no honest reply: the round is the mean of the other two, and the site is named.

The sites are real, in one process; the third's replies are changed on their way.
"""

from contextlib import closing

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from client.app import app as client_app
from common import wire
from common.experiment import Experiment, RoundConfig
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from common.tasks import TrainResult
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server.experiment import run_experiment
from server.ledger import Ledger
from server.run_record import read_run
from server.sites import Sites
from server.watch import Watch

LIAR = "C"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.02)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def changed(weights, result, num_examples=None, vector=None):
    """A reply of these weights, with another count in its metrics, or another vector."""
    content = wire.train_reply(weights, {}, result, "fp32")
    if num_examples is not None:
        content[wire.METRICS] = MetricRecord({wire.NUM_EXAMPLES: num_examples})
        text = result.model_dump_json().replace(
            f'"num_examples":{result.num_examples}', f'"num_examples":{num_examples}'
        )
        content[wire.RESULT] = ConfigRecord({wire.JSON: text})
    if vector is not None:
        content[wire.ARRAYS][wire.PACKED] = Array(vector)
    return content


def filled(value):
    def lie(weights, sent, result):
        name = next(iter(weights))
        return changed(weights | {name: np.full_like(weights[name], value)}, result)

    return lie


def counting(number):
    return lambda weights, sent, result: changed(weights, result, num_examples=number)


def moved(factor):
    """The update, that many times as long; 100 times the weights is as far away as it can get."""

    def lie(weights, sent, result):
        return changed({name: sent[name] + factor * (weights[name] - sent[name]) for name in sent}, result)

    return lie


LIES = {
    "NaN": (filled(np.nan), "not-finite"),
    "infinity": (filled(np.inf), "not-finite"),
    "another shape": (lambda w, s, r: changed({n: a[..., None] for n, a in w.items()}, r), "other-shape"),
    "a key missing": (lambda w, s, r: changed(dict(list(w.items())[1:]), r), "other-names"),
    "a key too many": (lambda w, s, r: changed(w | {"stage1.more": np.zeros(1, np.float32)}, r), "other-names"),
    "another dtype": (
        lambda w, s, r: changed(w, r, vector=np.concatenate([a.ravel() for a in w.values()]).astype(np.float64)),
        "other-dtype",
    ),
    "no cases": (counting(0), "other-result"),
    "cases below zero": (counting(-1), "other-result"),
    "a million million cases": (counting(10**12), "other-result"),
    "more cases than it counted": (counting(10**5), "other-count"),
    "weights times 100": (lambda w, s, r: changed({n: 100 * a for n, a in w.items()}, r), "norm"),
    "an update times 100": (moved(100), "norm"),
    "weights with their sign turned": (lambda w, s, r: changed({n: -a for n, a in w.items()}, r), "norm"),
    "an update with its sign turned": (moved(-1), "opposed"),
    "another round's": (lambda w, s, r: changed(w, r.model_copy(update={"round": 7})), "other-round"),
    "another model's": (lambda w, s, r: changed(w, r.model_copy(update={"model": "other"})), "other-round"),
}


class Between:
    """The sites' ClientApp; what the liar answers to training is changed, what the others answer is kept."""

    def __init__(self, configs, lie):
        self.sites = {config: site for site, config in configs.items()}
        self.lie = lie
        self.honest = {}

    def __call__(self, message, context):
        reply = client_app(message, context)
        site = context.node_config["site"]
        if message.metadata.message_type != wire.TRAIN:
            return reply
        weights = wire.record_to_weights(wire.records(reply.content, ArrayRecord)[wire.ARRAYS])
        result = wire.read_result(reply, TrainResult)
        if site != LIAR or self.lie is None:
            self.honest[site] = weights, result.num_examples
            return reply
        sent = wire.record_to_weights(wire.records(message.content, ArrayRecord)[wire.ARRAYS])
        return Message(self.lie(weights, sent, result), reply_to=message)

    def mean(self):
        """Of the honest replies, written out."""
        total = sum(cases for _, cases in self.honest.values())
        names = next(iter(self.honest.values()))[0]
        return {
            name: sum(cases * w[name].astype(np.float64) for w, cases in self.honest.values()) / total for name in names
        }


def run(folder, configs, recipe, app, grid_class=InProcessGrid, quorum=2, **step):
    config = Experiment(
        name="lies", sites=("A", "B", "C"), recipe=recipe,
        split=SplitConfig(test_fraction=0.3, validation_fraction=0.2),
        rounds=RoundConfig(quorum=quorum, grace_s=60.0, min_cosine=-0.2),
        steps=(StatisticsStep(kind="statistics"), TrainStep(kind="train", model="m", local_epochs=2, **step)),
    )  # fmt: skip
    ledger = Ledger(folder, config)
    with closing(grid_class(app, configs)) as grid:
        run_experiment(config, ledger, Sites(grid, grid.node_ids, config.rounds, Watch(folder, ledger.append)))
    return ledger


@pytest.fixture
def configs(tmp_path, make_site):
    return {site: make_site(tmp_path / site, site, num_cases=5) for site in "ABC"}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_left_out_and_its_site_named(tmp_path, configs, tiny_recipe, what, caplog):
    lie, reason = LIES[what]
    app = Between(configs, lie)
    ledger = run(tmp_path / "run", configs, tiny_recipe, app)
    (line,) = ledger.find("round")
    assert set(app.honest) == {"A", "B"} == set(line["sites"])
    assert line["dropped"][LIAR].split()[0] == reason
    for name, array in app.mean().items():
        np.testing.assert_allclose(ledger.load_model("m")[name], array, rtol=1e-6, atol=1e-9)
    assert f"site {LIAR}: left-out ({line['dropped'][LIAR]})" in caplog.text
    assert read_run(ledger.folder).rounds[0].dropped == line["dropped"]  # the report's own reading


def test_with_all_sites_required_a_lie_ends_the_round_at_once_and_is_named(tmp_path, configs, tiny_recipe):
    with pytest.raises(Exception, match=r"round 1: . good replies of 3, 3 needed; at fault: .*C \(not-finite stage1"):
        run(tmp_path / "run", configs, tiny_recipe, Between(configs, filled(np.nan)), quorum=0)


class Twice(InProcessGrid):
    """Delivers every reply twice: a second time when the sender's next one is fetched."""

    def pull_messages(self, message_ids):
        replies = list(super().pull_messages(message_ids))
        return [each for reply in replies for each in (reply, reply)]


def test_a_reply_that_comes_twice_counts_once(tmp_path, configs, tiny_recipe):
    app = Between(configs, None)
    ledger = run(tmp_path / "run", configs, tiny_recipe, app, Twice)
    assert sorted(ledger.find("round")[0]["sites"]) == ["A", "B", "C"]
    for name, array in app.mean().items():
        np.testing.assert_allclose(ledger.load_model("m")[name], array, rtol=1e-6, atol=1e-9)
    (event,) = {line["event"] for line in ledger.find("site")}
    assert event == "duplicate"
    assert {line["site"] for line in ledger.find("site")} <= {"A", "B", "C"}


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean"])
def test_a_robust_rule_stays_between_the_honest_sites_where_no_check_sees_the_lie(
    tmp_path, configs, tiny_recipe, strategy
):
    """A lie that is within what the checks allow: three times the update, at one number in all."""
    options = {"beta": 0.34} if strategy == "trimmed-mean" else {}
    app = Between(configs, moved(3))
    ledger = run(tmp_path / "run", configs, tiny_recipe, app, strategy=strategy, strategy_options=options)
    assert ledger.find("round")[0]["dropped"] == {}
    (a, _), (b, _) = app.honest["A"], app.honest["B"]
    for name, array in ledger.load_model("m").items():
        low, high = np.minimum(a[name], b[name]), np.maximum(a[name], b[name])
        slack = 1e-6 + 1e-6 * np.abs(high)
        assert (array >= low - slack).all()
        assert (array <= high + slack).all()
