"""What is refused and why: a reply by itself, and an update beside those of the others."""

import json

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from scripted import TASK, answer, failed, flower_error, full, good, identify, result

from common import wire
from common.errors import TaskError
from server.acceptance import accept, judge

SENT = {"stage1.a": np.zeros((2, 3), np.float32), "stage1.b": np.zeros(2, np.float32)}


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    identify(monkeypatch)


def weights(value, dtype=np.float32):
    return {name: full(array.shape, value, dtype) for name, array in SENT.items()}


def refused(message, **limits):
    told = accept(message, SENT, TASK, **limits)
    return told if isinstance(told, str) else None


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
    message = good(weights(1.0))
    message.content[wire.ARRAYS] = record
    return message


def plain():
    message = good(weights(1.0))
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
    message = good(weights(1.0))
    message.content.config_records[wire.RESULT][wire.JSON] = text
    message.content.metric_records[wire.METRICS][wire.NUM_EXAMPLES] = count
    return message


def without(arrays, *local, num_examples=4):
    """The reply of a site that keeps the layers `local`."""
    sent = {name: each for name, each in arrays.items() if name not in local}
    return good(sent, num_examples, local_layers=local)


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_a_good_reply_is_accepted_in_both_formats_and_comes_in_the_order_sent(transport):
    sent = {name: array + np.float32(0.3) for name, array in SENT.items()}
    message = good(dict(reversed(weights(1.0).items())), sent=sent if transport == "fp16" else None)
    layers, told = accept(message, sent, TASK.model_copy(update={"transport": transport}))
    arrays = layers.arrays()
    assert list(arrays) == list(SENT)
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert all(array == pytest.approx(1, abs=0 if transport == "fp32" else 0.7 / 2048) for array in arrays.values())
    assert told == result()


def test_a_site_may_not_claim_more_cases_than_it_counted():
    assert refused(good(weights(1.0), 4), most_cases=4) is None
    assert refused(good(weights(1.0), 5), most_cases=4) == "other-count"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: altered(a=spoiled(np.nan)), "not-finite stage1.a"),
        (lambda: altered(a=spoiled(np.inf)), "not-finite stage1.a"),
        (lambda: altered(a=spoiled(-np.inf)), "not-finite stage1.a"),
        (lambda: altered(dtype=np.float16), "other-dtype"),
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
        (lambda: with_result(told(num_examples=-1), -1), "other-result"),
        (lambda: with_result(told(num_examples=10**7), 10**7), "other-result"),
        (lambda: with_result(told(num_examples=10**12), 10**12), "other-result"),
        (lambda: with_result(told(seconds=float("nan"))), "other-result"),
        (lambda: with_result(told(validation_dsc=float("inf"))), "other-result"),
        (lambda: with_result(told(patient="Secret^Name")), "other-result"),
        (lambda: with_result(told(round=2)), "other-round"),
        (lambda: with_result(told(round=4)), "other-round"),
        (lambda: with_result(told(model="n")), "other-round"),
        (lambda: with_result(told(round=0)), "other-result"),
        (lambda: answer(RecordDict()), "no-result"),
        (lambda: answer(wire.error_reply(TaskError("of another release"))), TaskError.code),
        (lambda: answer(wire.error_reply(KeyError("Secret^Name"))), "internal"),
        (failed, "bad-image"),
        (lambda: flower_error(1), "flower-1"),
    ],
)
def test_a_bad_reply_is_refused_with_its_reason(message, reason):
    assert refused(message()) == reason


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(40), b"", b"\x80\x04.", b"\x93NUMPY\x01\x00\xff\xff"])
def test_bytes_that_are_no_array_are_refused_and_do_not_end_the_run(data):
    assert refused(altered(vector=Array("float32", (8,), "numpy.ndarray", data))) == "not-readable"


def test_only_layers_that_are_declared_may_be_missing():
    assert refused(good({"stage1.a": weights(1.0)["stage1.a"]})) == "other-names"
    assert refused(without(weights(1.0), "stage1.z")) == "other-names"
    assert refused(without(weights(1.0), *SENT)) == "other-names"
    assert refused(good(weights(1.0), local_layers=("stage1.b",))) == "other-names"
    layers, _ = accept(without(weights(1.0), "stage1.b"), SENT, TASK)
    assert list(layers.shapes) == ["stage1.a"]


def test_other_metrics_in_a_reply_do_no_harm():
    curious = good(weights(1.0))
    curious.content.metric_records[wire.METRICS]["loss"] = 0.3
    assert refused(curious) is None


def judged(updates, earlier=(), max_norm_ratio=10.0, min_cosine=-0.1):
    """Whom `judge` leaves out of a round with these updates by site, and why."""
    rows = np.array(list(updates.values()), float)
    return judge(list(updates), rows @ rows.T, earlier, max_norm_ratio, min_cosine)


def at_cosine(cosine):
    """Two updates of length 1 with this cosine."""
    return {"A": [1.0, 0.0], "B": [cosine, np.sqrt(1 - cosine**2)]}


def test_a_hundredfold_update_of_one_of_three_sites_is_left_out():
    assert judged({**at_cosine(0.5), "C": [70.0, 70.0]}) == {"C": "norm"}
    assert judged({**at_cosine(0.5), "C": [7.0, 7.0]}) == {}  # 9.9 times as long as the median, 10 are allowed
    assert judged({**at_cosine(0.5), "C": [70.0, 70.0]}, max_norm_ratio=None) == {}


@pytest.mark.parametrize("cosine", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("length", [0.2, 1.0, 5.0])
def test_an_update_with_its_sign_turned_is_left_out(cosine, length):
    honest = at_cosine(cosine)
    middle = np.add(*honest.values())
    turned = -length * middle / np.linalg.norm(middle)
    assert judged({"C": turned.tolist(), **honest}) == {"C": "opposed"}
    assert judged({"C": turned.tolist(), **honest}, min_cosine=None) == {}


def test_of_two_sites_nobody_knows_who_is_right_until_a_round_has_gone_well():
    assert judged({"A": [1.0, 0.0], "B": [-100.0, 0.0]}) == {}
    assert judged({"A": [1.0, 0.0], "B": [-100.0, 0.0]}, earlier=[1.1, 0.9]) == {"B": "norm"}
    assert judged({"B": [100.0, 0.0]}) == {}
    assert judged({"B": [11.0, 0.0]}, earlier=[1.0, 1.0, 1.0]) == {"B": "norm"}


def test_a_site_that_has_not_moved_does_no_harm():
    assert judged({**at_cosine(0.5), "C": [0.0, 0.0]}) == {}
    assert judged({"A": [0.0, 0.0], "B": [0.0, 0.0], "C": [0.0, 0.0]}) == {}


def test_both_faults_at_once_are_both_named():
    """Norms are judged first: who is far too long has no say about directions."""
    four = {"A": [1.0, 0.0], "B": [1.0, 0.1], "C": [-1.0, 0.0], "D": [0.0, -500.0]}
    assert judged(four) == {"C": "opposed", "D": "norm"}


@pytest.mark.parametrize("num_sites", [3, 5, 9])
def test_honest_sites_that_have_nothing_in_common_stay(num_sites):
    """Random directions in many dimensions are at right angles: cosines of 100 000 numbers are within 0.02."""
    rows = np.random.default_rng(num_sites).normal(size=(num_sites, 100_000))
    assert judged(dict(zip("ABCDEFGHI", rows.tolist(), strict=False))) == {}


@pytest.mark.parametrize("num_sites", [3, 4, 5])
def test_where_all_pull_apart_nobody_is_in_the_wrong(num_sites):
    """At the federation's optimum the updates add up to nothing, so every cosine is -1 / (n - 1)."""
    rows = np.eye(num_sites) - 1 / num_sites
    assert judged(dict(zip("ABCDE", rows.tolist(), strict=False))) == {}


def test_two_against_two_is_no_majority():
    assert judged({"A": [1.0, 0.1], "B": [1.0, -0.1], "C": [-1.0, 0.1], "D": [-1.0, -0.1]}) == {}
    five = {"A": [1.0, 0.1], "B": [1.0, -0.1], "C": [-1.0, 0.1], "D": [-1.0, -0.1], "E": [1.0, 0.0]}
    assert judged(five) == {"C": "opposed", "D": "opposed"}


@given(st.data(), st.integers(1, 6))
def test_who_is_left_out_does_not_depend_on_the_order(data, num_sites):
    number = st.integers(-50, 50).map(float)
    rows = data.draw(st.lists(st.lists(number, min_size=3, max_size=3), min_size=num_sites, max_size=num_sites))
    order = data.draw(st.permutations(range(num_sites)))
    sites = "ABCDEF"[:num_sites]
    straight = judged(dict(zip(sites, rows, strict=True)), earlier=[3.0])
    assert judged({sites[index]: rows[index] for index in order}, earlier=[3.0]) == straight
