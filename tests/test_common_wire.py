"""The wire: every record there and back through Flower's own serialisation, and nothing else in it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hostile.weights import HOSTILE
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from common import WIRE_VERSION, errors, wire
from common.checkpoint import Weights
from common.errors import ConfigError, FedgtvError, TaskError, WorkError
from common.layers import Layers
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import (
    EpochRecord,
    EvaluateResult,
    EvaluateTask,
    MetricSummary,
    ModelSummary,
    NormalisationRecord,
    Picture,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

COMMON: dict[str, Any] = {"experiment": "demo", "recipe": Recipe(), "split": SplitConfig()}
NORMALISATION = NormalisationRecord(mean=-12.5, sd=198.0)
TASK = TrainTask(
    **COMMON,
    model="federated",
    step=1,
    round=2,
    epochs_done=4,
    local_epochs=4,
    epochs_total=12,
    lr0=0.01,
    seed=3,
    normalisation=NORMALISATION,
    proximal_mu=0.25,
)
RESULT = TrainResult(
    model="m",
    round=2,
    num_examples=7,
    epochs=(EpochRecord(epoch=4, lr=0.005, losses={"stage1": 0.75, "stage2": 1.25}),),
    validation_dsc=None,
    seconds=12.5,
)
SECRET = "Mustermann^Erika"

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
shapes = array_shapes(min_dims=0, max_dims=5, min_side=1, max_side=3)
floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights = st.dictionaries(names, arrays(np.float32, shapes, elements=floats32), max_size=4)
floats16 = st.floats(width=16, allow_nan=False, allow_infinity=False)
halves = st.dictionaries(names, arrays(np.float32, shapes, elements=floats16), max_size=4)


@pytest.fixture(autouse=True, scope="module")
def identity() -> Iterator[None]:
    """Messages name the task that makes them; Flower sets it in its own processes."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def travel(content: RecordDict, kind: str = wire.TRAIN) -> Message:
    """The message as it arrives."""
    return message_from_proto(message_to_proto(Message(content, 100, kind)))


def same(one: Weights, two: Weights) -> bool:
    return list(one) == list(two) and all(
        one[name].shape == two[name].shape and np.array_equal(one[name], two[name]) for name in one
    )


@settings(deadline=None, max_examples=50)
@given(weights)
def test_fp32_weights_there_and_back_are_exact(given: Weights) -> None:
    message = travel(RecordDict({wire.ARRAYS: wire.weights_to_record(given)}))
    back = wire.record_to_weights(message.content.array_records[wire.ARRAYS])
    assert same(given, back)
    assert {value.dtype for value in back.values()} <= {np.dtype(np.float32)}


@settings(deadline=None, max_examples=50)
@given(halves)
def test_fp16_weights_there_and_back_lose_nothing_that_fp16_can_hold(given: Weights) -> None:
    record = wire.weights_to_record(given, "fp16")
    assert {array.dtype for array in record.values()} <= {"float16"}
    back = wire.record_to_weights(travel(RecordDict({wire.ARRAYS: record})).content.array_records[wire.ARRAYS])
    assert same(given, back)
    assert {value.dtype for value in back.values()} <= {np.dtype(np.float32)}


@settings(deadline=None)
@given(arrays(np.float32, 8, elements=st.floats(-6e4, 6e4, width=32)))
def test_fp16_rounds_to_11_bits(given: np.ndarray) -> None:
    """Relative error at most 2 ** -11 for normal numbers; absolute 2 ** -25 below 2 ** -14."""
    back = wire.record_to_weights(wire.weights_to_record({"a": given}, "fp16"))["a"]
    assert np.all(np.abs(back - given) <= np.maximum(np.abs(given) * 2.0**-11, 2.0**-25))


def test_fp16_halves_the_message() -> None:
    many = {"a": np.zeros(10_000, np.float32)}
    sizes = [
        len(
            message_to_proto(
                Message(RecordDict({"x": wire.weights_to_record(many, t)}), 1, "train")
            ).SerializeToString()
        )
        for t in ("fp32", "fp16")
    ]
    assert sizes[0] - sizes[1] == pytest.approx(20_000, abs=50)


def test_views_travel_as_what_they_show() -> None:
    base = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    back = wire.record_to_weights(wire.weights_to_record({"a": base.transpose(2, 0, 1)[::2]}))
    assert np.array_equal(back["a"], base.transpose(2, 0, 1)[::2])


def test_a_task_with_models_there_and_back() -> None:
    task = EvaluateTask(**COMMON, models=("a", "b"), part="test", normalisation=NORMALISATION, pictures=2)
    sent = {"a": {"stage1.w": np.ones(3, np.float32)}, "b": {"stage1.w": np.zeros(3, np.float32)}}
    records = {name: wire.weights_to_record(value) for name, value in sent.items()}
    message = travel(wire.task_record(task, records), wire.EVALUATE)
    assert wire.read_task(message, EvaluateTask)[0] == task
    back = wire.read_models(message)
    assert list(back) == ["a", "b"]
    assert all(same(sent[name], back[name]) for name in sent)
    assert wire.read_models(travel(wire.task_record(task))) == {}


def test_a_strategy_may_add_its_mu() -> None:
    content = wire.task_record(TASK)
    assert wire.read_train_task(travel(content)) == TASK
    content.config_records[wire.CONFIG][wire.PROXIMAL_MU] = 0.5
    content.config_records[wire.CONFIG]["server-round"] = 2
    assert wire.read_train_task(travel(content)) == TASK.model_copy(update={"proximal_mu": 0.5})


@pytest.mark.parametrize("version", [WIRE_VERSION + 1, 0])
def test_another_wire_version_is_told_with_both_numbers(version: int) -> None:
    task = json.loads(TASK.model_dump_json()) | {"wire_version": version, "added_in_a_later_release": 1}
    message = travel(RecordDict({wire.CONFIG: ConfigRecord({wire.TASK: json.dumps(task)})}))
    with pytest.raises(TaskError, match=f"wire version {version}; this release {WIRE_VERSION}") as caught:
        wire.read_task(message, TrainTask)
    assert "\n" not in str(caught.value)
    assert wire.read_error(travel(wire.error_reply(caught.value))) == "other-release"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({wire.CONFIG: ConfigRecord({})}),
        RecordDict({wire.CONFIG: ConfigRecord({wire.TASK: "no json"})}),
        RecordDict({wire.CONFIG: ConfigRecord({wire.TASK: 3})}),
        wire.task_record(StatisticsTask(**COMMON)),
    ],
)
def test_what_is_no_task(content: RecordDict) -> None:
    with pytest.raises(TaskError, match="task: not a TrainTask of this release"):
        wire.read_task(travel(content), TrainTask)


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_a_training_reply_there_and_back(transport: str) -> None:
    sent = {"stage1.w": np.array([[1.5, -2.0]], np.float32)}
    start = {"stage1.w": np.array([[1.25, -3.0]], np.float32)}
    message = travel(wire.train_reply(sent, start, RESULT, transport))
    assert wire.read_error(message) is None
    assert wire.read_result(message, TrainResult) == RESULT
    told = wire.unpacked(message.content.array_records[wire.ARRAYS])
    assert same(wire.trained_layers(told, Layers.of(start), transport).arrays(), sent)


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, 20, elements=st.floats(2**-26, 15, width=32)),
    arrays(np.float32, 20, elements=st.floats(-100, 100, width=32)),
)
def test_in_fp16_a_step_keeps_11_bits_whatever_the_weights_are(step: np.ndarray, start: np.ndarray) -> None:
    told = wire.unpacked(wire.pack_trained({"w": start + step}, {"w": start}, "fp16"))
    taken = (start + step) - start  # what fp32 has of the step
    travelled = wire.trained_layers(told, Layers.of({"w": np.zeros_like(start)}), "fp16").array("w")
    assert (np.abs(travelled - taken) <= np.abs(taken) / 2048 + 2**-37).all()


def test_a_step_beyond_fp16_is_named() -> None:
    start, trained = np.zeros(2, np.float32), np.array([0, 17], np.float32)
    with pytest.raises(WorkError, match=r"^weight stage1.w: 6.96e\+04 is too large for fp16; send it as fp32$"):
        wire.pack_trained({"stage1.w": trained}, {"stage1.w": start}, "fp16")


def test_a_training_reply_is_what_flowers_strategies_take() -> None:
    """One ArrayRecord and one MetricRecord, whose only number weighs the site by its cases."""
    reply = wire.train_reply({"w": np.zeros(1, np.float32)}, {}, RESULT, "fp32")
    assert [type(record) for record in reply.values()] == [ArrayRecord, MetricRecord, ConfigRecord]
    assert dict(reply.metric_records[wire.METRICS]) == {wire.NUM_EXAMPLES: 7}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 2**53), min_size=1, max_size=20))
def test_a_statistics_reply_there_and_back(counts: list[int]) -> None:
    result = SiteStatistics(train=4, validation=1, test=2, refused=1, seconds=0.5)
    message = travel(wire.statistics_reply(result, np.array(counts, np.int64)), wire.STATISTICS)
    assert wire.read_result(message, SiteStatistics) == result
    back = wire.read_histogram(message)
    assert back is not None
    assert back.tolist() == counts
    assert wire.read_histogram(travel(wire.statistics_reply(result, None))) is None


def test_an_evaluation_reply_there_and_back() -> None:
    metrics = {"dsc": MetricSummary(mean=0.7, sd=None)}
    result = EvaluateResult(summaries={"m": ModelSummary(n=3, num_undefined=1, metrics=metrics)}, seconds=1.0)
    pictures = [Picture(b"\x89PNG\r\n\x1a\n\x00\xff", 0.25), Picture(b"", 1.0)]
    message = travel(wire.evaluate_reply(result, pictures), wire.EVALUATE)
    assert wire.read_result(message, EvaluateResult) == result
    assert wire.read_pictures(message) == pictures
    assert wire.read_pictures(travel(wire.evaluate_reply(result, []))) == []


def test_words_of_a_site_reach_the_coordinator_printable_and_short() -> None:
    reason = "2 cases, fewer than the site's min_cases 5"
    said = EvaluateResult(summaries={}, withheld=reason, seconds=1.0).model_dump_json()
    for words, heard in ((reason, reason), ("ü\x1b[2J\n", "ü?[2J?"), ("x" * 10_000, "x" * 200)):
        sent = json.dumps(json.loads(said) | {"withheld": words})
        message = travel(RecordDict({wire.RESULT: ConfigRecord({wire.JSON: sent})}))
        assert wire.read_result(message, EvaluateResult).withheld == heard


def test_pictures_of_a_site_that_tells_no_dsc() -> None:
    pictures = [Picture(b"1", None), Picture(b"2", 0.5)]
    message = travel(wire.evaluate_reply(EvaluateResult(summaries={}, seconds=1.0), pictures))
    assert wire.read_pictures(message) == [Picture(b"1", None), Picture(b"2", None)]


def error_classes(base: type[FedgtvError] = FedgtvError) -> list[type[FedgtvError]]:
    return [base, *(each for child in base.__subclasses__() for each in error_classes(child))]


@pytest.mark.parametrize(
    "error", [*[kind(SECRET) for kind in error_classes()], ValueError(SECRET), KeyError(SECRET), Exception(SECRET)]
)
def test_an_error_travels_as_its_code_alone(error: Exception) -> None:
    error.__cause__ = RuntimeError(SECRET)
    error.add_note(SECRET)
    message = Message(wire.error_reply(error), 100, wire.TRAIN)
    assert SECRET.encode() not in message_to_proto(message).SerializeToString()
    assert wire.read_error(message) == getattr(error, "code", "internal")


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in error_classes() if kind.__module__ == errors.__name__]
    assert len({kind.code for kind in kinds}) == len(kinds)
    several = errors.ApprovalError.codes | errors.PolicyError.codes
    assert {kind.code for kind in kinds} | several | {"internal", "crashed"} == errors.CODES
    assert {ConfigError.code, TaskError.code, WorkError.code} == {"bad-config", "bad-task", "work-failed"}


@pytest.mark.parametrize("code", ["\x1b[2J", SECRET, "", "bad-config ", "x" * 10_000, 3, ["bad-config"], b"internal"])
def test_a_code_that_is_none_of_ours_is_not_repeated(code: Any) -> None:
    assert wire.read_error(travel(RecordDict({wire.RESULT: ConfigRecord({wire.ERROR: code})}))) == "unknown-error"


def test_errors_that_flower_makes_and_replies_without_a_result() -> None:
    request = Message(RecordDict(), 100, wire.TRAIN)
    assert wire.read_error(Message(Error(3, SECRET), reply_to=request)) == "flower-3"
    assert wire.read_error(travel(RecordDict())) == "no-result"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({wire.RESULT: ConfigRecord({})}),
        RecordDict({wire.RESULT: ConfigRecord({wire.JSON: "{}"})}),
        RecordDict({wire.RESULT: ConfigRecord({wire.JSON: "no json"})}),
        wire.evaluate_reply(EvaluateResult(summaries={}, seconds=1.0), []),
        RecordDict(),
    ],
)
def test_a_result_of_another_kind_is_refused(content: RecordDict) -> None:
    with pytest.raises(WorkError, match="reply: not a TrainResult; the site may run another release"):
        wire.read_result(travel(content), TrainResult)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_no_number_of_a_result_is_infinite_or_none_at_all(number: str) -> None:
    metrics = {"assd_mm": MetricSummary(mean=0.25, sd=None)}
    result = EvaluateResult(summaries={"m": ModelSummary(n=3, num_undefined=0, metrics=metrics)}, seconds=1.0)
    text = result.model_dump_json().replace("0.25", number)
    with pytest.raises(WorkError, match="not a EvaluateResult"):
        wire.read_result(travel(RecordDict({wire.RESULT: ConfigRecord({wire.JSON: text})})), EvaluateResult)


@pytest.mark.parametrize("pictures", ["text", 3, [1, 2], ["text"], b"bytes"])
def test_pictures_of_another_kind_are_refused(pictures: Any) -> None:
    message = travel(RecordDict({wire.RESULT: ConfigRecord({wire.JSON: "{}", wire.PICTURES: pictures})}))
    with pytest.raises(WorkError, match="pictures are no list of files; the site may run another release"):
        wire.read_pictures(message)


@pytest.mark.parametrize("scores", ["text", 0.5, [0.5, 0.5], [1], [True], ["0.5"], []])
def test_a_picture_has_one_number_beside_it(scores: Any) -> None:
    content = {wire.JSON: "{}", wire.PICTURES: [b"one"], wire.PICTURE_DSC: scores}
    with pytest.raises(WorkError, match="picture-dsc is not a number for each picture"):
        wire.read_pictures(travel(RecordDict({wire.RESULT: ConfigRecord(content)})))


def test_arrays_that_hold_objects_are_never_unpickled() -> None:
    record = wire.weights_to_record({"a": np.zeros(1, np.float32)})
    pickled = np.array([{"a": 1}], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, pickled, allow_pickle=True)
    record["a"].data = buffer.getvalue()
    message = travel(RecordDict({wire.ARRAYS: record}))
    with pytest.raises(ValueError, match="allow_pickle"):
        wire.record_to_weights(message.content.array_records[wire.ARRAYS])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_weights_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as refused:
        wire.record_to_weights(HOSTILE[name]())
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500
    assert list(tmp_path.iterdir()) == []


def test_there_are_at_least_twenty_hostile_weights() -> None:
    assert len(HOSTILE) >= 20
