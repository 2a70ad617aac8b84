"""What is refused and why; the strategies against their formulas written out here."""

import itertools
import json

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from server.aggregation import OPTIONS, STATELESS, STRATEGIES, aggregate, make_strategy, refuse

from common import wire
from common.errors import ConfigError, TaskError
from common.tasks import EpochRecord, TrainResult

SENT = {"stage1.a": np.zeros((2, 3), np.float32), "stage1.b": np.zeros(2, np.float32)}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def weights(value, dtype=np.float32):
    return {name: np.full(array.shape, value, dtype) for name, array in SENT.items()}


def result(num_examples=4, **more):
    epochs = (EpochRecord(epoch=0, lr=0.1, losses={"stage1": 0.5}),)
    return TrainResult(num_examples=num_examples, epochs=epochs, validation_dsc=None, seconds=1.0, **more)


def answer(content):
    return Message(content=content, reply_to=Message(RecordDict(), 7, "train"))


def reply(arrays, num_examples=4, transport="fp32"):
    return answer(wire.train_reply(arrays, result(num_examples), transport))


def altered(dtype=np.float32, vector=None, layout=None, **arrays):
    """A good reply in which some arrays are replaced (None takes one away), or the packed vector or its layout."""
    changed = {**weights(1.0), **{f"stage1.{name}": value for name, value in arrays.items()}}
    values = {name: value for name, value in changed.items() if value is not None}
    record = wire.pack_weights({name: np.asarray(value, np.float32) for name, value in values.items()})
    record[wire.PACKED] = vector or Array(
        np.concatenate([np.asarray(value, dtype).ravel() for value in values.values()])
    )
    if layout is not None:
        record[wire.LAYOUT] = Array(np.frombuffer(layout, np.uint8))
    message = reply(weights(1.0))
    message.content[wire.ARRAYS] = record
    return message


def plain():
    message = reply(weights(1.0))
    message.content[wire.ARRAYS] = wire.weights_to_record(weights(1.0))
    return message


def spoiled(value):
    array = np.ones((2, 3), np.float32)
    array[1, 2] = value
    return array


def lying(**stated):
    """A vector whose bytes are not what it states."""
    size = sum(value.size for value in weights(1.0).values())
    true = Array(np.ones(size, np.float64))
    return Array(**{"dtype": "float32", "shape": (size,), "stype": true.stype, "data": true.data, **stated})


def test_a_site_may_not_claim_more_cases_than_it_counted():
    assert refuse(reply(weights(1.0), num_examples=4), SENT, most_cases=4) is None
    assert refuse(reply(weights(1.0), num_examples=5), SENT, most_cases=4) == "other-count"


def test_a_good_reply_is_accepted_in_both_formats():
    assert refuse(reply(weights(1.0)), SENT) is None
    assert refuse(reply(weights(1.0), transport="fp16"), SENT) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: altered(a=spoiled(np.nan)), "not-finite stage1.a"),
        (lambda: altered(a=spoiled(np.inf)), "not-finite stage1.a"),
        (lambda: altered(a=spoiled(-np.inf)), "not-finite stage1.a"),
        (lambda: altered(dtype=np.float16, a=spoiled(np.inf)), "not-finite stage1.a"),
        (lambda: altered(b=np.ones(3)), "other-shape stage1.b"),
        (lambda: altered(b=np.ones(())), "other-shape stage1.b"),
        (lambda: altered(a=np.ones((3, 2))), "other-shape stage1.a"),
        (lambda: altered(a=None), "other-names"),
        (lambda: altered(c=np.ones(1)), "other-names"),
        (plain, "other-names"),
        (lambda: altered(dtype=np.float64), "other-dtype"),
        (lambda: altered(dtype=np.int32), "other-dtype"),
        (lambda: altered(vector=lying()), "other-dtype"),
        (lambda: altered(vector=Array(np.ones(2, np.float32))), "not-readable"),
        (lambda: altered(vector=lying(data=b"no array")), "not-readable"),
        (lambda: altered(vector=lying(data=b"")), "not-readable"),
        (lambda: altered(vector=lying(stype="torch")), "not-readable"),
        (lambda: altered(layout=b"no layout"), "not-readable"),
        (lambda: altered(layout=b'[["stage1.a", [4294967296, 4294967296]]]'), "not-readable"),
        (lambda: altered(layout=b'[["stage1.a", [-6]], ["stage1.b", [2]]]'), "not-readable"),
        (lambda: altered(layout=b'[["stage1.a", [2, 3]], ["stage1.a", [2]]]'), "not-readable"),
        (lambda: with_records(arrays=2), "other-names"),
        (lambda: with_records(arrays=0), "other-names"),
        (lambda: with_records(count=5), "other-count"),
        (lambda: with_records(count=float("nan")), "other-count"),
        (lambda: with_records(count=1e300), "other-count"),
        (lambda: with_records(count=[4]), "other-count"),
        (lambda: with_records(count=None), "other-count"),
        (lambda: with_result("{}"), "other-result"),
        (lambda: with_result(told(num_examples=0), 0), "other-result"),
        (lambda: with_result(told(num_examples=10**7), 10**7), "other-result"),
        (lambda: with_result(told(seconds=float("nan"))), "other-result"),
        (lambda: with_result(told(validation_dsc=float("inf"))), "other-result"),
        (lambda: with_result(told(patient="Secret^Name")), "other-result"),
        (lambda: answer(RecordDict()), "no-result"),
        (lambda: answer(wire.error_reply(TaskError("of another release"))), TaskError.code),
        (lambda: answer(wire.error_reply(KeyError("Secret^Name"))), "internal"),
        (lambda: Message(Error(1, "Secret^Name"), reply_to=Message(RecordDict(), 7, "train")), "flower-1"),
    ],
)
def test_a_bad_reply_is_refused_with_its_reason(message, reason):
    assert refuse(message(), SENT) == reason


def with_records(arrays=1, count=4):
    records = RecordDict({wire.RESULT: ConfigRecord({wire.JSON: result().model_dump_json()})})
    for number in range(arrays):
        records[f"{wire.ARRAYS}{number}"] = wire.pack_weights(weights(1.0))
    if count is not None:
        records[wire.METRICS] = MetricRecord({wire.NUM_EXAMPLES: count})
    return answer(records)


def told(**changes):
    return json.dumps({**json.loads(result().model_dump_json()), **changes})


def with_result(text, count=4):
    message = reply(weights(1.0))
    message.content.config_records[wire.RESULT][wire.JSON] = text
    message.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = count
    return message


def fold(name, replies, options=None, number=1):
    return aggregate(make_strategy(name, options or {}), number, replies, SENT)


def test_the_mean_is_weighted_by_cases():
    mean = fold("fedavg", {"A": reply(weights(1.0), 1), "B": reply(weights(3.0), 2), "C": reply(weights(-2.0), 5)})
    assert set(mean) == set(SENT)
    for name, array in mean.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, np.full(SENT[name].shape, (1 * 1 + 2 * 3 - 5 * 2) / 8), rtol=1e-6)


def test_a_site_alone_gets_its_own_weights_back():
    arrays = {"stage1.a": np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32), "stage1.b": SENT["stage1.b"]}
    mean = fold("fedavg", {"A": reply(arrays, 7)})
    np.testing.assert_array_equal(mean["stage1.a"], arrays["stage1.a"])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_the_order_of_arrival_changes_no_bit(name):
    rng = np.random.default_rng(2)
    sent = {site: {k: rng.normal(size=v.shape).astype(np.float32) for k, v in SENT.items()} for site in "ABC"}
    results = []
    for order in itertools.permutations("ABC"):
        strategy = make_strategy(name, {})
        begin(strategy, weights(0.5))
        results.append(aggregate(strategy, 1, {site: reply(sent[site], ord(site) % 5 + 1) for site in order}, SENT))
    for other in results[1:]:
        for key in SENT:
            np.testing.assert_array_equal(other[key], results[0][key])


def begin(strategy, arrays):
    """What a round does before the replies: stateful strategies remember what they sent."""

    class OneNode:
        def get_node_ids(self):
            return [7]

    list(strategy.configure_train(1, wire.weights_to_record(arrays), ConfigRecord(), OneNode()))


def test_fp16_replies_are_added_up_in_fp32():
    """3 x 40000 overflows fp16 (65504), and 1/3 of 2049 is rounded away by it."""
    replies = {site: reply(weights(40000.0), 1, "fp16") for site in "ABC"}
    mean = fold("fedavg", replies)
    assert all(array.dtype == np.float32 and np.allclose(array, 40000.0, rtol=1e-6) for array in mean.values())
    pair = {"A": reply(weights(2048.0), 1, "fp16"), "B": reply(weights(2050.0), 1, "fp16")}
    assert fold("fedavg", pair)["stage1.b"].tolist() == [2049.0, 2049.0]  # fp16 knows no 2049


def test_other_metrics_in_a_reply_do_no_harm():
    curious = reply(weights(1.0), 4)
    curious.content.metric_records[wire.METRICS]["loss"] = 0.3
    mean = fold("fedavg", {"A": curious, "B": reply(weights(2.0), 4)})
    np.testing.assert_allclose(mean["stage1.b"], 1.5)


def test_fedavgm_by_hand():
    """v1 = w0 - m1, w1 = w0 - lr v1; v2 = beta v1 + (w1 - m2), w2 = w1 - lr v2 (arXiv 1909.06335)."""
    strategy = make_strategy("fedavgm", {"server_learning_rate": 0.5, "server_momentum": 0.8})
    begin(strategy, weights(1.0))
    first = aggregate(strategy, 1, {"A": reply(weights(0.0))}, SENT)
    np.testing.assert_allclose(first["stage1.b"], 1.0 - 0.5 * 1.0)
    second = aggregate(strategy, 2, {"A": reply(weights(0.0))}, SENT)
    np.testing.assert_allclose(second["stage1.b"], 0.5 - 0.5 * (0.8 * 1.0 + 0.5), rtol=1e-6)


def test_fedavgm_without_momentum_is_fedavg():
    replies = {"A": weights(1.0), "B": weights(2.0)}
    strategy = make_strategy("fedavgm", {"server_learning_rate": 1.0, "server_momentum": 0.0})
    begin(strategy, weights(5.0))
    with_m = aggregate(strategy, 1, {site: reply(arrays) for site, arrays in replies.items()}, SENT)
    plain = fold("fedavg", {site: reply(arrays) for site, arrays in replies.items()})
    np.testing.assert_allclose(with_m["stage1.a"], plain["stage1.a"], rtol=1e-6)


def test_fedadam_by_hand():
    """w + eta_t m / (sqrt(v) + tau) with m = (1 - b1) d, v = (1 - b2) d^2, both bias-corrected (arXiv 2003.00295)."""
    eta, b1, b2, tau = 0.1, 0.9, 0.99, 0.01
    strategy = make_strategy("fedadam", {"eta": eta, "beta_1": b1, "beta_2": b2, "tau": tau})
    begin(strategy, weights(1.0))
    got = aggregate(strategy, 1, {"A": reply(weights(3.0))}, SENT)["stage1.b"]
    rate = eta * np.sqrt(1 - b2**2) / (1 - b1**2)  # Flower counts rounds from 1 and adds one
    moment, spread = (1 - b1) * 2.0, (1 - b2) * 2.0**2
    np.testing.assert_allclose(got, 1.0 + rate * moment / (np.sqrt(spread) + tau), rtol=1e-6)
    assert got.dtype == np.float32


def test_fedprox_tells_its_mu_and_aggregates_as_fedavg():
    strategy = make_strategy("fedprox", {"proximal_mu": 0.25})
    config = ConfigRecord()

    class OneNode:
        def get_node_ids(self):
            return [7]

    list(strategy.configure_train(1, wire.weights_to_record(SENT), config, OneNode()))
    assert config[wire.PROXIMAL_MU] == 0.25
    replies = {"A": reply(weights(1.0), 1), "B": reply(weights(2.0), 3)}
    np.testing.assert_allclose(aggregate(strategy, 1, replies, SENT)["stage1.b"], 1.75)


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(40), b"", b"\x80\x04.", b"\x93NUMPY\x01\x00\xff\xff"])
def test_bytes_that_are_no_array_are_refused_and_do_not_end_the_run(data):
    assert refuse(altered(vector=Array("float32", (8,), "numpy.ndarray", data)), SENT) == "not-readable"


def without(arrays, *local, num_examples=4):
    """The reply of a site that keeps the layers `local`."""
    told = result(num_examples, local_layers=local)
    return answer(wire.train_reply({name: each for name, each in arrays.items() if name not in local}, told, "fp32"))


def test_a_layer_that_a_site_keeps_is_the_mean_of_the_others():
    replies = {"A": reply(weights(1.0), 1), "B": without(weights(9.0), "stage1.b", num_examples=4),
               "C": reply(weights(4.0), 3)}  # fmt: skip
    assert {site: refuse(each, SENT) for site, each in replies.items()} == dict.fromkeys("ABC")
    mean = fold("fedavg", replies)
    np.testing.assert_allclose(mean["stage1.b"], (1 * 1 + 3 * 4) / 4, rtol=1e-6)
    np.testing.assert_allclose(mean["stage1.a"], (1 * 1 + 4 * 9 + 3 * 4) / 8, rtol=1e-6)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm"])
def test_a_layer_that_all_sites_keep_stays_as_it_was_sent(name):
    sent = {"stage1.b": np.full(2, 0.25, np.float32), "stage1.a": np.zeros((2, 3), np.float32)}
    strategy = make_strategy(name, {})
    begin(strategy, sent)
    replies = {site: without(weights(5.0), "stage1.b") for site in "AB"}
    mean = aggregate(strategy, 1, replies, sent)
    np.testing.assert_array_equal(mean["stage1.b"], sent["stage1.b"])
    np.testing.assert_allclose(mean["stage1.a"], 5.0)


def test_only_layers_that_are_declared_may_be_missing():
    silent = answer(wire.train_reply({"stage1.a": weights(1.0)["stage1.a"]}, result(), "fp32"))
    assert refuse(silent, SENT) == "other-names"
    assert refuse(without(weights(1.0), "stage1.z"), SENT) == "other-names"
    assert refuse(without(weights(1.0), *SENT), SENT) == "other-names"
    told = answer(wire.train_reply(weights(1.0), result(local_layers=("stage1.b",)), "fp32"))
    assert refuse(told, SENT) == "other-names"


@pytest.mark.parametrize(
    ("name", "options", "at_fault"),
    [
        ("fedavg", {"proximal_mu": 0.1}, "'proximal_mu' is no option of fedavg .expected: none."),
        ("fedprox", {"mu": 0.1}, "'mu' is no option of fedprox .expected: proximal_mu."),
        ("fedadam", {"eta": 0.1, "server_momentum": 0.1}, "'server_momentum' is no option of fedadam"),
        ("fedavg", {"fraction_train": 0.5}, "'fraction_train' is no option"),
        ("fedavgm", {"min_train_nodes": 9.0}, "'min_train_nodes' is no option"),
    ],
)
def test_an_unknown_option_is_refused(name, options, at_fault):
    with pytest.raises(ConfigError, match=at_fault):
        make_strategy(name, options)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_flower_takes_every_option(name):
    strategy = make_strategy(name, dict.fromkeys(OPTIONS[name], 0.5))
    assert {getattr(strategy, option) for option in OPTIONS[name]} <= {0.5}
    assert name in STATELESS or OPTIONS[name]
