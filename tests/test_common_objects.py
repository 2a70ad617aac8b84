"""Objects of Flower's put together without copies: what is made is what Flower makes, and what is broken is refused."""

import hashlib
import json
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer's use of click, not ours
    from flwr.app.message.arraychunk import ArrayChunk
    from flwr.supercore.inflatable import inflatable_object
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from common import objects

KINDS = (np.float32, np.float16, np.float64, np.int64, np.uint8)
numbers = st.sampled_from(KINDS).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=3, min_side=0)))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 100 bytes, for Flower and for us."""
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 100)
    monkeypatch.setattr(objects, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 100)


def content(*given_arrays: np.ndarray) -> RecordDict:
    record = ArrayRecord({str(number): Array(array) for number, array in enumerate(given_arrays)})
    return RecordDict({"arrays": record, "told": ConfigRecord({"a": 1}), "metrics": MetricRecord({"n": 2.0})})


def deflated(whole: Any) -> dict[str, bytes]:
    return {name: each.deflate() for name, each in get_all_nested_objects(whole).items()}


def vector(array: np.ndarray) -> Array:
    pieces = (memoryview(objects.header(array.dtype, array.size)), array.data)
    return objects.vector(array.dtype, array.size, list(objects.cut(pieces)))


@given(st.lists(numbers, max_size=3))
def test_what_is_put_together_is_what_flower_puts_together(given_arrays) -> None:
    sent = content(*given_arrays)
    contents = deflated(sent)
    made, theirs = objects.inflated(sent.object_id, contents), inflate_object_from_contents(sent.object_id, contents)
    assert made == theirs == sent
    assert made.object_id == sent.object_id
    assert deflated(made) == deflated(sent)


@given(arrays(np.float32, st.integers(0, 200)))
def test_a_vector_s_objects_are_those_that_flower_makes_of_it(array) -> None:
    assert deflated(vector(array)) == deflated(Array(array))


def test_ids_that_came_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = content(np.arange(1000, dtype=np.float32))
    contents = deflated(sent)
    hashed: list[bytes] = []
    compute = inflatable_object.get_object_id
    monkeypatch.setattr(inflatable_object, "get_object_id", lambda data: hashed.append(data) or compute(data))
    made = objects.inflated(sent.object_id, contents)
    assert deflated(made) == contents
    assert {data.split()[0] for data in hashed} == {
        b"Array", b"ArrayRecord", b"ConfigRecord", b"MetricRecord", b"RecordDict"
    }  # fmt: skip


def test_bytes_that_came_are_sent_on_as_they_are() -> None:
    sent = content(np.arange(60, dtype=np.float32))
    contents = deflated(sent)
    made = objects.inflated(sent.object_id, contents)
    array = made["arrays"]["0"]
    assert all(chunk.deflate() is contents[chunk.object_id] for chunk in objects.known_chunks(array))
    assert len(objects.known_chunks(array)) == 4
    let_go = objects.inflated(sent.object_id, contents, keep_chunks=False)["arrays"]["0"]
    assert list(objects.known_chunks(let_go)) == []


def test_numbers_of_a_vector_are_a_view_that_cannot_be_written_to() -> None:
    array = vector(np.arange(5, dtype=np.float32))
    seen = objects.values(array)
    assert seen.tolist() == [0, 1, 2, 3, 4]
    assert not seen.flags.writeable
    assert np.shares_memory(seen, np.frombuffer(objects.known_chunks(array)[1].data, np.uint8))


@given(arrays(np.float16, st.integers(1, 200)), st.data())
def test_a_part_of_a_vector_is_the_same_in_whatever_pieces_it_came(array, data) -> None:
    sent = Array(array).data
    ends = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    pieces = [memoryview(sent)[start:end] for start, end in pairwise([0, *ends, len(sent)])]
    skipped = len(sent) - array.nbytes
    found = objects.Numbers(array.dtype, array.size, list(map(len, pieces)), pieces.__getitem__, skipped)
    assert found.before() == sent[:skipped]
    first = data.draw(st.integers(0, array.size))
    count = data.draw(st.integers(0, array.size - first))
    part = found.part(first, count)
    assert part.tobytes() == array[first : first + count].tobytes()
    assert not count or not part.flags.writeable


def test_an_array_is_put_together_once_somebody_asks_for_its_bytes() -> None:
    sent = content(np.arange(60, dtype=np.float32))
    array = objects.inflated(sent.object_id, deflated(sent))["arrays"]["0"]
    assert vars(array)["_joined"] is None
    assert array.data == sent["arrays"]["0"].data
    assert array.data is array.data
    array.data = b"other"
    assert (array.data, list(objects.known_chunks(array))) == (b"other", [])


@given(numbers)
def test_numbers_are_those_that_flower_reads(array) -> None:
    np.testing.assert_array_equal(objects.values(Array(array)), Array(array).numpy())
    assert objects.values(Array(array)).dtype == array.dtype


def test_what_numpy_would_read_otherwise_is_no_vector_to_us() -> None:
    good = Array(np.arange(5, dtype=np.float32))
    for data in (good.data + b"hidden", good.data[:-1], good.data.replace(b", }", b",} ")):
        assert objects.vector_of(Array(good.dtype, good.shape, good.stype, data)) is None
    assert objects.vector_of(Array("float64", good.shape, good.stype, good.data)) is None
    assert objects.vector_of(Array(good.dtype, (4,), good.stype, good.data)) is None
    assert objects.vector_of(Array(np.zeros((2, 2), np.float32))) is None
    assert objects.vector_of(good) is not None


def broken(name: bytes, change: Any) -> tuple[str, dict[str, bytes]]:
    """A message's objects, of which those that begin with `name` were changed, with the ids of before."""
    sent = content(np.arange(60, dtype=np.float32))
    contents = deflated(sent)
    return sent.object_id, {each: change(data) if data.startswith(name) else data for each, data in contents.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (b"ArrayChunk", lambda data: b""),
        (b"ArrayChunk", lambda data: data + b"more"),
        (b"ArrayChunk", lambda data: b"ArrayChunk aa 5\x00hello"),
        (b"Array ", lambda data: data.replace(b"[0, 1", b"[1, 1")),
        (b"Array ", lambda data: data.replace(b"[0, 1", b"[9, 1")),
        (b"ArrayRecord", lambda data: data.replace(b'"0"', b'"0": "", "1"')),
    ],
    ids=["no chunk", "a chunk of other length", "a chunk with children", "a chunk left out", "no such chunk",
         "a record of other arrays"],
)  # fmt: skip
def test_broken_objects_are_refused(name: bytes, change: Any) -> None:
    with pytest.raises((ValueError, KeyError, IndexError)):
        objects.inflated(*broken(name, change))


def test_a_chunk_that_is_named_a_million_times_fills_no_memory() -> None:
    def many(data: bytes) -> bytes:
        head, _, body = data.partition(b"\x00")
        told = json.loads(body)
        body = json.dumps(told | {"arraychunk_ids": [0] * 10**6 + told["arraychunk_ids"]}).encode()
        return head.rpartition(b" ")[0] + b" %d\x00" % len(body) + body

    with pytest.raises(ValueError, match="hold more than it says"):
        objects.inflated(*broken(b"Array ", many))


def test_a_chunk_s_id_is_that_of_its_bytes() -> None:
    chunk = objects.Chunk.of([memoryview(b"hel"), memoryview(b"lo")])
    assert chunk.deflate() == b"ArrayChunk  5\x00hello" == ArrayChunk(memoryview(b"hello")).deflate()
    assert chunk.object_id == hashlib.sha256(chunk.deflate()).hexdigest()


def test_a_message_keeps_its_records_and_what_they_came_in() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    with pytest.MonkeyPatch.context() as patch:
        for name in ("task_id", "run_id", "node_id"):
            patch.setattr(TaskIdentity, f"_{name}", 1)
        message = Message(content(np.arange(60, dtype=np.float32)), 1, "train")
        made = objects.inflated(message.object_id, deflated(message))
    assert isinstance(made, Message)
    assert made.content == message.content
    assert len(objects.known_chunks(made.content["arrays"]["0"])) == 4


def test_an_array_of_no_known_dtype_is_put_together_and_refused_by_who_looks_at_its_numbers() -> None:
    """Else one site's reply would end the coordinator's run."""
    odd = content(np.zeros(2, np.float32))
    odd["arrays"] = ArrayRecord({"0": Array("[('a', '<f4')]", (2,), "numpy.ndarray", b"bytes")})
    made = objects.inflated(odd.object_id, deflated(odd))
    assert made == odd
    with pytest.raises(TypeError):
        objects.values(made["arrays"]["0"])
