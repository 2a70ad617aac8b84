"""The mean and the robust rules against NumPy written out and against Flower's own, in any order and any parts."""

import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import identify, result

from common import wire
from common.layers import Layers
from server import combine
from server.combine import combined, krum_order, mean, median, num_trimmed, products, trimmed_mean
from server.spool import Spool

SENT = {"stage1.head": np.full(2, 0.25, np.float32), "stage1.body": np.zeros((3, 5), np.float32)}
CASES = {"A": 1, "B": 4, "C": 3, "D": 7, "E": 2}


@pytest.fixture
def spooled(tmp_path):
    """spooled(arrays by site) writes them as replies and returns the updates, by site."""

    def spool(arrays, cases=CASES):
        place = Spool(tmp_path, "key")
        for site, told in arrays.items():
            local = tuple(name for name in SENT if name not in told)
            place.put(site, Layers.of(told), result(cases[site], local_layers=local))
        return [place.find(site) for site in sorted(arrays)]

    return spool


def random(sites="ABCDE", seed=0):
    rng = np.random.default_rng(seed)
    return {
        site: {name: rng.normal(size=each.shape).astype(np.float32) for name, each in SENT.items()} for site in sites
    }


def by_hand(arrays, rule):
    """`rule(rows in fp64, cases)` of every layer, in fp32."""
    cases = [CASES[site] for site in sorted(arrays)]
    rows = {name: np.stack([arrays[site][name] for site in sorted(arrays)]).astype(np.float64) for name in SENT}
    return {name: rule(each, cases).astype(np.float32) for name, each in rows.items()}


def same(got, expected):
    assert list(got) == list(SENT)
    for name, array in got.items():
        assert (array.dtype, array.shape) == (np.float32, SENT[name].shape)
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-7)


def test_the_mean_is_weighted_by_cases(spooled):
    arrays = random()
    same(combined(spooled(arrays), SENT, mean), by_hand(arrays, lambda rows, n: np.average(rows, axis=0, weights=n)))
    values = {"A": 1.0, "B": 3.0, "C": -2.0}
    level = {site: {name: np.full_like(each, value) for name, each in SENT.items()} for site, value in values.items()}
    got = combined(spooled(level, {"A": 1, "B": 2, "C": 5}), SENT, mean)
    assert got["stage1.head"].tolist() == [(1 * 1 + 2 * 3 - 5 * 2) / 8] * 2


@pytest.mark.parametrize("sites", ["ABC", "ABCD"])
def test_the_median_counts_no_cases(spooled, sites):
    arrays = random(sites)
    same(combined(spooled(arrays), SENT, median), by_hand(arrays, lambda rows, _: np.median(rows, axis=0)))


@pytest.mark.parametrize(("beta", "cut"), [(0.0, 0), (0.2, 1), (0.39, 1), (0.4, 2), (0.49, 2)])
def test_the_trimmed_mean_leaves_out_both_ends(spooled, beta, cut):
    arrays = random()
    assert num_trimmed(beta, 5) == cut

    def rule(rows, _):
        return np.sort(rows, axis=0)[cut : 5 - cut].mean(axis=0)

    same(combined(spooled(arrays), SENT, trimmed_mean(beta)), by_hand(arrays, rule))


def flowers(kind, arrays, **options):
    """What Flower's own strategy makes of the same replies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = kind(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1, **options)
        replies = [
            Message(
                RecordDict(
                    {wire.ARRAYS: wire.weights_to_record(arrays[site]),
                     wire.METRICS: MetricRecord({wire.NUM_EXAMPLES: CASES[site]})}
                ),
                reply_to=Message(RecordDict(), 7, wire.TRAIN),
            )
            for site in sorted(arrays)
        ]  # fmt: skip
        made, _ = strategy.aggregate_train(1, replies)
    return wire.record_to_weights(made)


@pytest.mark.parametrize("seed", range(3))
def test_the_rules_are_flowers(spooled, monkeypatch, seed):
    identify(monkeypatch)
    arrays = random(seed=seed)
    updates = spooled(arrays)
    same(combined(updates, SENT, mean), flowers(flower.FedAvg, arrays))
    same(combined(updates, SENT, median), flowers(flower.FedMedian, arrays))
    same(combined(updates, SENT, trimmed_mean(0.2)), flowers(flower.FedTrimmedAvg, arrays, beta=0.2))
    order = krum_order(products(updates, SENT), 1)
    krum = combined([updates[order[0]]], SENT, mean)
    same(krum, flowers(flower.Krum, arrays, num_malicious_nodes=1))
    same(krum, arrays["ABCDE"[order[0]]])
    several = combined([updates[index] for index in sorted(order[:3])], SENT, mean)
    same(several, flowers(flower.MultiKrum, arrays, num_malicious_nodes=1, num_nodes_to_select=3))


def test_krum_passes_the_one_that_is_far_away(spooled):
    arrays = random(seed=4)
    arrays["B"] = {name: array + 50 for name, array in arrays["B"].items()}
    order = krum_order(products(spooled(arrays), SENT), 1)
    assert order[-1] == 1
    assert sorted(order) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_sites", [1, 2, 3])
def test_krum_of_few_sites_still_names_one(spooled, num_sites):
    order = krum_order(products(spooled(random("ABC"[:num_sites])), SENT), 1)
    assert sorted(order) == list(range(num_sites))


def test_products_are_those_of_the_updates(spooled):
    arrays = random()
    arrays["C"] = {"stage1.body": arrays["C"]["stage1.body"]}  # a layer that stays at the site has not moved
    moved = [{name: each.get(name, SENT[name]).astype(float) - SENT[name] for name in SENT} for each in arrays.values()]
    flat = np.array([np.concatenate([each.ravel() for each in update.values()]) for update in moved])
    np.testing.assert_allclose(products(spooled(arrays), SENT), flat @ flat.T, rtol=1e-6)


def test_numbers_at_the_edge_of_fp32_do_not_overflow(spooled):
    """Warnings are errors here: neither the products nor the mean may pass by infinity."""
    sent = {name: np.full_like(each, -3e38) for name, each in SENT.items()}
    arrays = {site: {name: np.full_like(each, 3e38) for name, each in SENT.items()} for site in "AB"}
    updates = spooled(arrays)
    assert np.isfinite(products(updates, sent)).all()
    assert combined(updates, sent, mean)["stage1.head"].tolist() == [float(np.float32(3e38))] * 2


@pytest.mark.parametrize("rule", [mean, median, trimmed_mean(0.2)])
def test_a_site_alone_gets_its_own_weights_back(spooled, rule):
    arrays = random("D")
    for name, array in combined(spooled(arrays), SENT, rule).items():
        assert array.tobytes() == arrays["D"][name].tobytes()


def test_replies_are_added_up_in_fp64(spooled):
    """fp32 knows no 2 ** 24 + 1: the sum of these two is no number of it, their mean is."""
    pair = {
        site: {name: np.full(each.shape, value, np.float32) for name, each in SENT.items()}
        for site, value in (("A", 2**24), ("B", 2**24 + 2), ("C", 2**24 + 4))
    }
    assert combined(spooled(pair, {"A": 1, "B": 1, "C": 1}), SENT, mean)["stage1.head"].tolist() == [2**24 + 2.0] * 2


@pytest.mark.parametrize("rule", [mean, median, trimmed_mean(0.34)])
def test_a_layer_that_a_site_keeps_is_made_of_the_others(spooled, rule):
    arrays = random()
    del arrays["B"]["stage1.head"]
    got = combined(spooled(arrays), SENT, rule)
    whole = combined(spooled(random()), SENT, rule)
    assert got["stage1.body"].tobytes() == whole["stage1.body"].tobytes()
    others = {site: arrays[site] for site in "ACDE"}
    assert got["stage1.head"].tobytes() == combined(spooled(others), SENT, rule)["stage1.head"].tobytes()


def test_a_layer_that_all_sites_keep_stays_as_it_was_sent(spooled):
    arrays = {site: {"stage1.body": each["stage1.body"]} for site, each in random().items()}
    assert combined(spooled(arrays), SENT, mean)["stage1.head"].tobytes() == SENT["stage1.head"].tobytes()


def test_what_was_sent_is_not_changed_and_may_lie_otherwise_in_memory(spooled):
    sent = {name: np.asfortranarray(each) for name, each in SENT.items()}
    before = {name: each.copy() for name, each in sent.items()}
    arrays = random()
    same(combined(spooled(arrays), sent, mean), combined(spooled(arrays), SENT, mean))
    for name, each in sent.items():
        np.testing.assert_array_equal(each, before[name])


RULES = {"mean": mean, "median": median, "trimmed": trimmed_mean(0.34)}


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_neither_order_of_arrival_nor_size_of_parts_changes_a_bit(tmp_path_factory, rule, data):
    sites = "ABCD"[: data.draw(st.integers(1, 4))]
    number = st.floats(-100, 100, width=32)
    drawn = {site: data.draw(st.lists(number, min_size=17, max_size=17)) for site in sites}
    arrays = {
        site: {"stage1.head": np.array(each[:2], np.float32),
               "stage1.body": np.array(each[2:], np.float32).reshape(3, 5)}
        for site, each in drawn.items()
    }  # fmt: skip
    results = []
    for order, part in itertools.product([sites, sites[::-1]], [3, combine.MOST]):
        spool = Spool(tmp_path_factory.mktemp("spool"), "key")
        for site in order:
            spool.put(site, Layers.of(arrays[site]), result(CASES[site]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(combine, "MOST", part)
            made = combined([spool.find(site) for site in sites], SENT, RULES[rule])
        results.append({name: array.tobytes() for name, array in made.items()})
    assert all(each == results[0] for each in results)


def peak_bytes(spooled, num_sites, work):
    sites = [f"S{number:02d}" for number in range(num_sites)]
    array = np.ones(100_000, np.float32)
    updates = spooled({site: {"stage1.head": array, "stage1.body": array} for site in sites}, dict.fromkeys(sites, 1))
    sent = {"stage1.head": array, "stage1.body": array}
    work(updates, sent)  # what is imported or set up at the first use does not count
    tracemalloc.start()
    try:
        work(updates, sent)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "work",
    [
        lambda updates, sent: combined(updates, sent, mean),
        lambda updates, sent: combined(updates, sent, median),
        lambda updates, sent: combined(updates, sent, trimmed_mean(0.2)),
        products,
    ],
    ids=["mean", "median", "trimmed-mean", "products"],
)
def test_memory_does_not_grow_with_the_number_of_sites(spooled, monkeypatch, work):
    """The model takes 0.8 MB, 30 sites' 24 MB; held are the new model and some copies of a part of 0.1 MB."""
    monkeypatch.setattr(combine, "MOST", 1 << 15)
    few, many = peak_bytes(spooled, 3, work), peak_bytes(spooled, 30, work)
    assert many < few + 200_000
    assert many < 2_500_000
