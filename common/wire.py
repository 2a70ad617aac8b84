"""Tasks and results as Flower records: every key that travels stands here.

A message carries one task as JSON under `task`; weights travel as one ArrayRecord a model, in fp32 or fp16
(aggregation is always fp32). Nothing is pickled: Flower's arrays are NumPy buffers, read with pickling off.

A model travels packed: one vector of all its numbers, and its layout (names and shapes) as JSON beside it. Flower sends
every array as an object of its own, with several requests each, and the demo's model has some 250 small arrays.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from common import objects
from common.checkpoint import Weights
from common.errors import CODES, INTERNAL, FedgtvError, ReleaseError, TaskError, WorkError
from common.layers import Layers
from common.settings import Frozen
from common.tasks import (
    OTHER_WIRE,
    CompareResult,
    CompareTask,
    EvaluateResult,
    EvaluateTask,
    Picture,
    PictureResult,
    PictureTask,
    SiteProgress,
    SiteStatistics,
    SiteTask,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
RESULT = "result"
TASK = "task"
JSON = "json"
ERROR = "error"
PICTURES = "pictures"
PICTURE_DSC = "picture-dsc"
HISTOGRAM = "histogram"
PACKED = "packed"
LAYOUT = "layout"
MODEL_PREFIX = "model."
NUM_EXAMPLES = "num-examples"
PROXIMAL_MU = "proximal-mu"
TRAIN = "train"
EVALUATE = "evaluate"
STATISTICS = "query.statistics"
COMPARE = "query.compare"
PROGRESS = "query.progress"
DRAW = "query.pictures"

Task = SiteTask
TASKS: dict[str, type[Task]] = {
    STATISTICS: StatisticsTask,
    TRAIN: TrainTask,
    EVALUATE: EvaluateTask,
    COMPARE: CompareTask,
    DRAW: PictureTask,
}
"""What a message of each type asks; `PROGRESS` asks for no work, and the node answers it itself."""
UNREADABLE = (
    AttributeError, BadZipFile, EOFError, KeyError, MemoryError, OSError, OverflowError, TypeError, ValueError
)  # fmt: skip
"""What NumPy and Flower raise over arrays that are not what they say."""

TaskModel = TypeVar("TaskModel", bound=Frozen)
Item = TypeVar("Item")
Put = Callable[[objects.Chunk], objects.Chunk]
"""What is done with a piece of a model that is made; it returns the same piece, perhaps one that lies elsewhere."""

_LAYOUT = TypeAdapter(list[tuple[str, tuple[Annotated[int, Field(ge=0)], ...]]])
DTYPES = {"fp32": np.float32, "fp16": np.float16}
"""By transport."""
_STEP_SCALE = np.float32(4096)
"""What training changed is multiplied by it for fp16, which is finest near 1: steps from 1e-8 to 16 keep 11 bits."""


def _stays(chunk: objects.Chunk) -> objects.Chunk:
    return chunk


def weights_to_record(weights: Mapping[str, NDArray[Any]], transport: str = "fp32") -> ArrayRecord:
    """Returns the weights as an ArrayRecord with an array each, as Flower's strategies want them."""
    dtype = DTYPES[transport]
    return ArrayRecord({name: Array(np.asarray(value, dtype, order="C")) for name, value in weights.items()})


def pack_weights(weights: Mapping[str, NDArray[Any]], transport: str = "fp32", put: Put = _stays) -> ArrayRecord:
    """Returns the weights as they travel: one vector in the transport's number format, and its layout.

    `put` is called with each piece of the vector.

    Raises:
        WorkError: a finite number is too large for the format.
    """
    return _packed(weights, [_rounded(name, value, transport) for name, value in weights.items()], transport, put)


def pack_trained(
    weights: Mapping[str, NDArray[Any]], received: Weights, transport: str, put: Put = _stays
) -> ArrayRecord:
    """Returns trained weights as they travel: in fp16 only what training changed, which is far smaller.

    So the error is a share of the step and not of the weights, whose last bits in fp16 are as large as a step of
    fine-tuning. `trained_layers` undoes it.

    `put` is called as by `pack_weights`.

    Raises:
        WorkError: a finite step is too large for the format.
    """
    if transport == "fp32":
        return pack_weights(weights, put=put)
    steps = [
        _rounded(name, (np.asarray(value, np.float32) - received[name]) * _STEP_SCALE, transport)
        for name, value in weights.items()
    ]
    return _packed(weights, steps, transport, put)


def trained_layers(came: Layers, start: Layers, transport: str) -> Layers:
    """Returns a trained model in fp32, from what `pack_trained` made of it and the model that was sent out.

    To `start` in fp32 is added what a site learnt from its rounded copy, so that rounding does not pile up.
    """
    if transport == "fp32":
        return came

    def moved(name: str, part: slice) -> NDArray[Any]:
        step: NDArray[Any] = came.part(name, part).astype(np.float32) / _STEP_SCALE
        step += start.part(name, part)
        return step

    return Layers(came.shapes, np.dtype(np.float32), moved)


def _rounded(name: str, value: NDArray[Any], transport: str) -> NDArray[Any]:
    """Flat, in the transport's number format."""
    with np.errstate(over="ignore"):  # told by name
        part = np.asarray(value, DTYPES[transport]).reshape(-1)
    if np.isinf(part).any() and np.isfinite(value).all():
        raise WorkError(f"weight {name}: {np.abs(value).max():.3g} is too large for {transport}; send it as fp32")
    return part


def _packed(
    weights: Mapping[str, NDArray[Any]], parts: Sequence[NDArray[Any]], transport: str, put: Put
) -> ArrayRecord:
    dtype, size = np.dtype(DTYPES[transport]), sum(part.size for part in parts)
    head = memoryview(objects.header(dtype, size))
    chunks = objects.cut((head, *(np.ascontiguousarray(part).data for part in parts)))
    shapes = {name: np.shape(value) for name, value in weights.items()}
    return _record(objects.vector(dtype, size, [put(chunk) for chunk in chunks]), shapes)


def _record(vector: Array, shapes: Mapping[str, tuple[int, ...]]) -> ArrayRecord:
    layout = json.dumps([[name, list(shape)] for name, shape in shapes.items()])
    return objects.record_of({PACKED: vector, LAYOUT: Array(np.frombuffer(layout.encode(), np.uint8))})


def packed_again(record: ArrayRecord, transport: str) -> ArrayRecord | None:
    """Returns a record made anew of the numbers, names and shapes of a packed one; nothing else that came is in it.

    The numbers are not copied. None: they did not come, to the byte, as `pack_trained` writes them in this transport.

    Raises:
        Exception: as `unpacked`.
    """
    if not is_packed(record):
        return None
    layers, vector = unpacked(record), record[PACKED]
    numbers = objects.vector_of(vector)
    if numbers is None or numbers.dtype != DTYPES[transport]:
        return None
    chunks = objects.known_chunks(vector) or list(objects.cut([memoryview(vector.data)]))
    return _record(objects.vector(numbers.dtype, numbers.size, chunks), layers.shapes)


def unpacked(record: ArrayRecord) -> Layers:
    """Returns a packed record's layers, in its number format; they lie where they came.

    Raises:
        ValueError: the layout is none, or does not fit the vector.
        Exception: one of `UNREADABLE`, where an array is not what it says.
    """
    vector, layout = record[PACKED], objects.values(record[LAYOUT])
    numbers = objects.vector_of(vector) or objects.Numbers.of(objects.values(vector))
    entries = _LAYOUT.validate_json(layout.tobytes())
    ends = list(accumulate((math.prod(shape) for _, shape in entries), initial=0))  # Python's do not overflow
    if ends[-1] != numbers.size or len(dict(entries)) != len(entries):
        raise ValueError(f"layout of {len(entries)} arrays does not fit {numbers.size} numbers")
    starts = {name: start for (name, _), start in zip(entries, ends, strict=False)}

    def part(name: str, part: slice) -> NDArray[Any]:
        return numbers.part(starts[name] + part.start, part.stop - part.start)

    return Layers(dict(entries), numbers.dtype, part)


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record is one that `pack_weights` made."""
    return set(record) == {PACKED, LAYOUT}


def record_to_weights(record: ArrayRecord) -> Weights:
    """Returns the record's arrays in fp32, packed or not; names and shapes are kept. They may not be writable.

    Raises:
        TaskError: as `record_to_layers`, or numbers that are not finite.
    """
    layers = record_to_layers(record)
    name = layers.not_finite()
    if name is not None:
        raise TaskError(
            f"weights: {name[:80]!a} holds NaN or infinity; the model is spoilt, start from an earlier round"
        )
    return layers.arrays()


def record_to_layers(record: ArrayRecord) -> Layers:
    """Returns the record's layers in fp32, packed or not, their numbers unread; names and shapes are kept.

    Raises:
        TaskError: no floating-point arrays, or a layout that does not fit.
    """
    try:
        layers = unpacked(record) if is_packed(record) else Layers.of(_arrays(record))
        if layers.dtype.kind != "f":
            raise ValueError(f"{layers.dtype}, expected floating-point")
    except UNREADABLE as error:
        raise TaskError(f"weights: cannot be read ({_line(error)}); update one side") from error
    single = np.dtype(np.float32)
    if layers.dtype == single:
        return layers
    return Layers(layers.shapes, single, lambda name, part: layers.part(name, part).astype(single))


def _arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Of a record with an array each (ValueError: one is of no floating-point numbers)."""
    arrays = {name: objects.values(each) for name, each in record.items()}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{name[:80]} is {array.dtype}, expected floating-point")
    return arrays


def _line(error: Exception) -> str:
    """What it says, printable and short: it may quote what was received."""
    return ascii(" ".join(str(error).split())[:200])[1:-1]


def records(content: RecordDict, kind: type[Item]) -> dict[str, Item]:
    """Returns the content's records of one kind.

    Flower's own views (`array_records` and so on) keep the content alive until Python next looks for cycles of
    references: several models' worth of memory.
    """
    return {key: record for key, record in content.items() if isinstance(record, kind)}


def task_config(task: Frozen) -> ConfigRecord:
    """Returns a ConfigRecord that carries `task`."""
    return ConfigRecord({TASK: task.model_dump_json()})


def read_task(message: Message, model: type[TaskModel]) -> tuple[TaskModel, ConfigRecord]:
    """Returns the message's task, validated, and the ConfigRecord it came in (strategies add keys to it).

    Raises:
        ReleaseError: one of another wire version.
        TaskError: no task, or not a `model`.
    """
    try:
        config = records(message.content, ConfigRecord)[CONFIG]
        return model.model_validate_json(str(config[TASK])), config
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        kind = ReleaseError if OTHER_WIRE in reason else TaskError
        raise kind(f"task: not a {model.__name__} of this release ({reason}); update one side") from error


def experiment_of(message: Message) -> str:
    """Returns the name of the experiment that a task of ours is of."""
    return str(json.loads(str(records(message.content, ConfigRecord)[CONFIG][TASK]))["experiment"])


def is_progress(message: Message) -> bool:
    """Whether a message asks how far the site is."""
    return message.metadata.message_type == PROGRESS


def read_any_task(message: Message) -> Task:
    """Returns the task of whichever kind the message's type announces.

    Raises:
        TaskError: a type that this release does not know, or as `read_task` and `read_train_task`.
    """
    kind = message.metadata.message_type
    if kind not in TASKS:
        raise TaskError(f"task: unknown kind {kind!r}; expected {', '.join(TASKS)}; update one side")
    return read_train_task(message) if kind == TRAIN else read_task(message, TASKS[kind])[0]


def read_train_task(message: Message) -> TrainTask:
    """Returns the message's training task, with what the strategy added to it (FedProx: its mu)."""
    task, config = read_task(message, TrainTask)
    return task.model_copy(update={"proximal_mu": float(str(config.get(PROXIMAL_MU, task.proximal_mu)))})


def task_record(task: Frozen, models: Mapping[str, ArrayRecord] | None = None) -> RecordDict:
    """Returns the content of a message with one task and any number of named models."""
    records = RecordDict({CONFIG: task_config(task)})
    for name, arrays in (models or {}).items():
        records[MODEL_PREFIX + name] = arrays
    return records


def read_models(message: Message) -> dict[str, Weights]:
    """Returns the named models that came with an evaluation or picture task."""
    return {
        key.removeprefix(MODEL_PREFIX): record_to_weights(record)
        for key, record in records(message.content, ArrayRecord).items()
        if key.startswith(MODEL_PREFIX)
    }


def train_reply(
    weights: Weights, received: Weights, result: TrainResult, transport: str, put: Put = _stays
) -> RecordDict:
    """Returns a training reply: exactly one ArrayRecord and one MetricRecord, as Flower's strategies want it.

    `received`: what `weights` were trained from; for it and `put`, see `pack_trained`.
    """
    return packed_reply(pack_trained(weights, received, transport, put), result)


def packed_reply(arrays: ArrayRecord, result: TrainResult) -> RecordDict:
    """Returns a training reply with weights by `pack_trained`."""
    return RecordDict(
        {
            ARRAYS: arrays,
            METRICS: MetricRecord({NUM_EXAMPLES: result.num_examples}),
            RESULT: ConfigRecord({JSON: result.model_dump_json()}),
        }
    )


def statistics_reply(result: SiteStatistics, histogram: NDArray[np.int64] | None) -> RecordDict:
    """Returns a statistics reply; the histogram is left out when the site's policy withholds it."""
    records = RecordDict({RESULT: ConfigRecord({JSON: result.model_dump_json()})})
    if histogram is not None:
        records[ARRAYS] = ArrayRecord({HISTOGRAM: Array(histogram)})
    return records


def progress_reply(progress: SiteProgress) -> RecordDict:
    """Returns the answer to a `ProgressTask`."""
    return RecordDict({RESULT: ConfigRecord({JSON: progress.model_dump_json()})})


def read_histogram(message: Message) -> NDArray[Any] | None:
    """Returns the histogram of a statistics reply as it came, unchecked, or None when it was withheld."""
    record = records(message.content, ArrayRecord).get(ARRAYS)
    return None if record is None else record[HISTOGRAM].numpy()


def evaluate_reply(result: EvaluateResult, pictures: Sequence[Picture]) -> RecordDict:
    """Returns an evaluation reply; a DSC travels beside each picture where every one is known."""
    content: dict[str, Any] = {JSON: result.model_dump_json()}
    if pictures:
        content[PICTURES] = [picture.png for picture in pictures]
        known = [picture.dsc for picture in pictures if picture.dsc is not None]
        content |= {PICTURE_DSC: known} if len(known) == len(pictures) else {}
    return RecordDict({RESULT: ConfigRecord(content)})


def compare_reply(result: CompareResult) -> RecordDict:
    """Returns the answer to a `CompareTask`."""
    return RecordDict({RESULT: ConfigRecord({JSON: result.model_dump_json()})})


def drawings_reply(result: PictureResult, files: Sequence[bytes]) -> RecordDict:
    """Returns the reply to a `PictureTask`; each PNG is an array of its own, which Flower sends in pieces."""
    content = RecordDict({RESULT: ConfigRecord({JSON: result.model_dump_json()})})
    if files:
        arrays = {str(number): Array(np.frombuffer(file, np.uint8)) for number, file in enumerate(files)}
        content[PICTURES] = ArrayRecord(arrays)
    return content


def read_drawings(message: Message) -> tuple[PictureResult, list[bytes]]:
    """Returns what a reply to a `PictureTask` tells and its files, their content unchecked.

    Raises:
        WorkError: as `read_result`; or there is not one file for each drawing.
    """
    result = read_result(message, PictureResult)
    record = records(message.content, ArrayRecord).get(PICTURES, ArrayRecord())
    try:
        files = [record[str(number)].numpy().tobytes() for number in range(len(record))]
    except UNREADABLE as error:
        raise WorkError("reply: pictures cannot be read; the site may run another release") from error
    if len(files) != len(result.drawings):
        told = f"{len(files)} pictures, and words on {len(result.drawings)}"
        raise WorkError(f"reply: {told}; the site may run another release")
    return result, files


def code_of(error: Exception) -> str:
    """Returns all that may be told of an error to the other side."""
    return error.code if isinstance(error, FedgtvError) else INTERNAL


def error_reply(error: Exception) -> RecordDict:
    """Returns a reply with an error's code; its text, which can hold a patient's name, stays at the site."""
    return code_reply(code_of(error))


def code_reply(code: str) -> RecordDict:
    """Returns a reply with nothing but the code of an error."""
    return RecordDict({RESULT: ConfigRecord({ERROR: code})})


def read_error(message: Message) -> str | None:
    """Returns why a reply carries no result, or None when it does; `unknown-error` for a code that is none of ours."""
    if message.has_error():
        return f"flower-{message.error.code}"
    return error_code(message.content)


def error_code(content: RecordDict) -> str | None:
    """Returns the error code that a reply's content carries, or None when it carries a result."""
    result = records(content, ConfigRecord).get(RESULT)
    if result is None:
        return "no-result"
    if ERROR not in result:
        return None
    code = result[ERROR]
    return code if isinstance(code, str) and code in CODES else "unknown-error"


def read_result(message: Message, model: type[TaskModel]) -> TaskModel:
    """Returns the result that a reply without error carries, validated.

    Raises:
        WorkError: the result is not a `model`; NaN and infinity are in none.
    """
    try:
        return model.model_validate_json(str(records(message.content, ConfigRecord)[RESULT][JSON]))
    except (KeyError, ValueError) as error:
        raise WorkError(f"reply: not a {model.__name__}; the site may run another release") from error


def read_pictures(message: Message) -> list[Picture]:
    """Returns the pictures of an evaluation reply, their content unchecked.

    Raises:
        WorkError: they are no list of files, or the numbers beside them are not one for each.
    """
    record = records(message.content, ConfigRecord)[RESULT]
    files = _list_of(bytes, record.get(PICTURES, []))
    if files is None:
        raise WorkError("reply: pictures are no list of files; the site may run another release")
    if PICTURE_DSC not in record:
        return [Picture(file, None) for file in files]
    scores = _list_of(float, record[PICTURE_DSC])
    if scores is None or len(scores) != len(files):
        raise WorkError(f"reply: {PICTURE_DSC} is not a number for each picture; the site may run another release")
    return [Picture(file, score) for file, score in zip(files, scores, strict=True)]


def _list_of(kind: type[Item], value: object) -> list[Item] | None:
    """The list, if it is one and holds nothing else; else None."""
    if not isinstance(value, list):
        return None
    kept = [each for each in value if isinstance(each, kind)]
    return kept if len(kept) == len(value) else None
