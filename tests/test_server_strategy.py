"""The strategies by their formulas written out here; what they keep between rounds; options and cautions."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from scripted import NODES, TASK, ScriptedGrid, full, identify, result

from common import wire
from common.checkpoint import load_weights, save_weights
from common.errors import ConfigError
from common.experiment import RoundConfig
from common.layers import Layers
from common.steps import TrainStep
from server.combine import products
from server.sites import Sites
from server.spool import Spool
from server.strategy import OPTIONS, STRATEGIES, Strategy

SENT = {"stage1.b": np.zeros(2, np.float32), "stage1.a": np.zeros((2, 3), np.float32)}
KEEP_STATE = {
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "fedadam": {"eta": 0.5},
    "fedyogi": {"eta": 0.5},
}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    identify(monkeypatch)


def weights(value):
    return {name: full(array.shape, value) for name, array in SENT.items()}


def random(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=array.shape).astype(np.float32) for name, array in SENT.items()}


@pytest.fixture
def fold(tmp_path):
    """fold(strategy, weights by site, what was sent, number, cases) is the model that a round makes."""

    def fold(strategy, arrays, sent, number=1, cases=None):
        spool = Spool(tmp_path / "spool", "key")
        spool.clear()
        strategy.begin(sent)
        for site, told in arrays.items():
            local = tuple(name for name in SENT if name not in told)
            spool.put(site, Layers.of(told), result((cases or {}).get(site, 4), local_layers=local))
        updates = [spool.find(site) for site in sorted(arrays)]
        return strategy.combine(number, updates, sent, lambda: products(updates, sent))

    return fold


def bits(arrays):
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_fedavg_and_fedprox_are_the_mean_by_cases(fold, name):
    made = fold(Strategy(name), {"A": weights(1.0), "B": weights(2.0)}, SENT, cases={"A": 1, "B": 3})
    assert list(made) == list(SENT)
    assert made["stage1.b"].tolist() == [1.75, 1.75]


def test_fedavgm_by_hand(fold):
    """v1 = w0 - m1, w1 = w0 - lr v1; v2 = beta v1 + (w1 - m2), w2 = w1 - lr v2 (arXiv 1909.06335)."""
    strategy = Strategy("fedavgm", {"server_learning_rate": 0.5, "server_momentum": 0.8})
    first = fold(strategy, {"A": weights(0.0)}, weights(1.0))
    np.testing.assert_allclose(first["stage1.b"], 1.0 - 0.5 * 1.0)
    second = fold(strategy, {"A": weights(0.0)}, first, 2)
    np.testing.assert_allclose(second["stage1.b"], 0.5 - 0.5 * (0.8 * 1.0 + 0.5), rtol=1e-6)


def test_fedavgm_without_momentum_is_fedavg(fold):
    arrays = {"A": weights(1.0), "B": weights(2.0)}
    with_m = fold(Strategy("fedavgm", {"server_learning_rate": 1.0, "server_momentum": 0.0}), arrays, weights(5.0))
    assert bits(with_m) == bits(fold(Strategy("fedavg"), arrays, weights(5.0)))


def adaptive_by_hand(name, sent, mean, number, moments, eta, b1, b2, tau):
    """w + eta_t m / (sqrt(v) + tau), bias-corrected (arXiv 2003.00295); Flower counts from 1 and adds one."""
    moment, spread = moments
    delta = mean - sent
    moment = b1 * moment + (1 - b1) * delta
    if name == "fedadam":
        spread = b2 * spread + (1 - b2) * delta**2
        rate = eta * np.sqrt(1 - b2 ** (number + 1)) / (1 - b1 ** (number + 1))
    else:
        spread = spread - (1 - b2) * delta**2 * np.sign(spread - delta**2)
        rate = eta
    return sent + rate * moment / (np.sqrt(spread) + tau), (moment, spread)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_fedadam_and_fedyogi_by_hand(fold, name):
    options = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.01}
    strategy, sent, by_hand, moments = Strategy(name, options), weights(1.0), 1.0, (0.0, 0.0)
    for number, value in ((1, 3.0), (2, 2.5), (3, -1.0)):
        sent = fold(strategy, {"A": weights(value)}, sent, number)
        by_hand, moments = adaptive_by_hand(name, by_hand, value, number, moments, *options.values())
        np.testing.assert_allclose(sent["stage1.b"], by_hand, rtol=1e-5)
        assert {array.dtype for array in sent.values()} == {np.dtype(np.float32)}
        assert list(sent) == list(SENT)


def test_fedprox_tells_its_mu():
    sites = Sites(ScriptedGrid(), NODES, RoundConfig())
    strategy = Strategy("fedprox", {"proximal_mu": 0.25})
    (message,) = sites.train_messages(strategy.flower, TASK, SENT, ["A"]).values()
    assert message.content.config_records[wire.CONFIG][wire.PROXIMAL_MU] == 0.25


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_site_alone_has_its_own_way_but_for_a_server_optimiser(fold, name):
    made = fold(Strategy(name), {"A": random(1)}, random(2))
    assert (bits(made) == bits(random(1))) == (name not in ("fedadam", "fedyogi"))


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "median", "trimmed-mean"])
def test_a_layer_that_all_sites_keep_stays_as_it_was_sent(fold, name):
    sent = {"stage1.b": np.full(2, 0.25, np.float32), "stage1.a": np.zeros((2, 3), np.float32)}
    made = fold(Strategy(name), {site: {"stage1.a": weights(5.0)["stage1.a"]} for site in "AB"}, sent)
    assert made["stage1.b"].tolist() == [0.25, 0.25]
    np.testing.assert_allclose(made["stage1.a"], 5.0)


SITES = "ABCDE"
LEVELS = {site: weights(value) for site, value in zip(SITES, (1.0, 2.0, 3.0, 4.0, 100.0), strict=True)}
NUM_CASES = {"A": 1, "B": 2, "C": 3, "D": 4, "E": 50}


@pytest.mark.parametrize(
    ("name", "options", "value"),
    [
        ("median", {}, 3.0),
        ("trimmed-mean", {}, 3.0),  # a fifth of five sites at either end
        ("trimmed-mean", {"beta": 0.1}, 22.0),
        ("trimmed-mean", {"beta": 0.4}, 3.0),
        ("krum", {}, 2.0),  # 2 and 3 have each 1 + 1 to their nearest two, and the first of equals is taken
        ("multikrum", {"num_selected": 2}, (2 * 2 + 3 * 3) / 5),
        ("multikrum", {}, (1 * 1 + 2 * 2 + 3 * 3 + 4 * 4) / 10),  # all but the one that may be malicious
        ("multikrum", {"num_malicious": 0}, (1 * 1 + 2 * 2 + 3 * 3 + 4 * 4 + 50 * 100) / 60),
    ],
)
def test_the_robust_rules_by_hand(fold, name, options, value):
    made = fold(Strategy(name, options), LEVELS, SENT, cases=NUM_CASES)
    np.testing.assert_allclose(made["stage1.a"], value, rtol=1e-6)


def reread(tmp_path, arrays):
    """As a file gives them back, in the file's order."""
    save_weights(tmp_path / "weights.safetensors", arrays, {})
    return load_weights(tmp_path / "weights.safetensors")[0]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_strategy_that_is_taken_up_again_goes_on_bit_for_bit(fold, tmp_path, name):
    unbroken, sent = Strategy(name, KEEP_STATE.get(name, {})), random(0)
    for number in (1, 2):
        sent = fold(unbroken, {site: random(10 * number + ord(site)) for site in "AB"}, sent, number)
    again, reread_sent = Strategy(name, KEEP_STATE.get(name, {})), reread(tmp_path, sent)
    state = unbroken.state()
    assert bool(state) == again.keeps_state == (name in KEEP_STATE)
    if state:
        again.restore(reread(tmp_path, state))
    for number in (3, 4):
        arrays = {site: random(10 * number + ord(site)) for site in "AB"}
        sent, reread_sent = fold(unbroken, arrays, sent, number), fold(again, arrays, reread_sent, number)
        assert bits(reread_sent) == bits(sent)
        assert bits(again.state()) == bits(unbroken.state())


def test_fedavgm_without_momentum_keeps_nothing(fold):
    strategy = Strategy("fedavgm", {"server_learning_rate": 0.5})
    first = fold(strategy, {"A": weights(0.0)}, weights(1.0))
    assert first["stage1.b"].tolist() == [0.5, 0.5]
    assert not strategy.keeps_state
    assert strategy.state() == {}


@pytest.mark.parametrize(
    ("name", "options", "at_fault"),
    [
        ("fedavg", {"proximal_mu": 0.1}, "'proximal_mu' is no option of fedavg .expected: none."),
        ("fedprox", {"mu": 0.1}, "'mu' is no option of fedprox .expected: proximal_mu."),
        ("fedadam", {"eta": 0.1, "server_momentum": 0.1}, "'server_momentum' is no option of fedadam"),
        ("fedavg", {"fraction_train": 0.5}, "'fraction_train' is no option"),
        ("fedavgm", {"min_train_nodes": 9.0}, "'min_train_nodes' is no option"),
        ("median", {"beta": 0.1}, "'beta' is no option of median .expected: none."),
        ("trimmed-mean", {"beta": 0.5}, "beta 0.5; expected from 0 to less than 0.5"),
        ("trimmed-mean", {"beta": -0.1}, "beta -0.1; expected from 0"),
        ("krum", {"num_malicious": -1}, "num_malicious -1; expected a whole number from 0 on"),
        ("krum", {"num_malicious": 1.5}, "num_malicious 1.5; expected a whole number"),
        ("krum", {"num_selected": 1}, "'num_selected' is no option of krum"),
        ("multikrum", {"num_selected": 0}, "num_selected 0; expected a whole number from 1 on"),
    ],
)
def test_an_option_that_cannot_be_is_refused(name, options, at_fault):
    with pytest.raises(ConfigError, match=at_fault):
        Strategy(name, options)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_flower_takes_every_option(name):
    strategy = Strategy(name, dict.fromkeys(OPTIONS[name], 0.5)).flower
    assert {getattr(strategy, option) for option in OPTIONS[name]} <= {0.5}


def test_every_strategy_of_the_configuration_is_there():
    """And the other way round."""
    named = TrainStep.model_fields["strategy"].annotation.__args__
    assert set(named) == set(OPTIONS)
    for name in named:
        Strategy(name)


@pytest.mark.parametrize(
    ("name", "options", "num_sites", "told"),
    [
        ("median", {}, 2, "median: of 2 sites it is the mean; 3 are needed"),
        ("median", {}, 3, None),
        ("trimmed-mean", {}, 4, "beta 0.2 leaves out none of 4 sites"),
        ("trimmed-mean", {}, 5, None),
        ("trimmed-mean", {"beta": 0.33}, 3, "beta 0.33 leaves out none of 3 sites"),
        ("trimmed-mean", {"beta": 0.34}, 3, None),
        ("krum", {}, 4, "with num_malicious 1 it means something from 5 sites on"),
        ("krum", {}, 5, None),
        ("multikrum", {"num_malicious": 2}, 6, "multikrum: with num_malicious 2 it means something from 7 sites on"),
        ("multikrum", {"num_malicious": 2}, 7, None),
        ("multikrum", {"num_selected": 9}, 5, "num_selected 9 of 5 sites, with num_malicious 1 among them, lets bad"),
        ("multikrum", {"num_selected": 5}, 5, "4 at most"),
        ("multikrum", {"num_selected": 4}, 5, None),
        ("multikrum", {"num_malicious": 0, "num_selected": 5}, 5, None),
        ("fedavg", {}, 1, None),
        ("fedadam", {}, 1, None),
    ],
)
def test_a_rule_that_means_nothing_over_so_few_sites_says_so_in_a_sentence(name, options, num_sites, told):
    sentences = Strategy(name, options).cautions(num_sites)
    assert len(sentences) == (0 if told is None else 1)
    assert all(told in sentence and "\n" not in sentence for sentence in sentences)


def test_of_two_reasons_both_are_told():
    first, second = Strategy("multikrum", {"num_selected": 4}).cautions(4)
    assert "means something from 5 sites on" in first
    assert "num_selected 4 of 4 sites" in second


def test_the_strategies_that_keep_a_state_are_those_that_flower_says():
    assert {name for name in OPTIONS if Strategy(name, KEEP_STATE.get(name, {})).keeps_state} == set(KEEP_STATE)


def test_what_a_site_is_told_is_what_flower_tells_it():
    for name in OPTIONS:
        config = ConfigRecord()
        sites = Sites(ScriptedGrid(), NODES, RoundConfig())
        messages = sites.train_messages(Strategy(name).flower, TASK, SENT, ["A", "C"])
        config = next(iter(messages.values())).content.config_records[wire.CONFIG]
        told = {key for key in config if key != wire.TASK}
        assert told == {"server-round"} | ({wire.PROXIMAL_MU} if name == "fedprox" else set())
