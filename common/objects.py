"""Flower's objects, put together without copies: an array's chunks keep the bytes and the ids under which they came.

Flower 1.41 copies a model four times to put it together, and twice more with a hash over it whenever somebody asks for
an id. Here it is copied once, and an id that was checked when its object came is not computed again. What is made is
Flower's own `Message` with its records.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from numpy.typing import NDArray

CHUNKS = "_chunks"
"""Where a Flower array keeps its chunks; a contract test guards it."""
NUMPY = "numpy.ndarray"
ARRAY, ARRAY_RECORD = b"Array ", b"ArrayRecord "
"""The objects of either begin so."""
DIVIDER = b"\x00"
LONGEST_HEADER = 1024
"""Bytes before an array's numbers, at most; of a vector, 128."""


class Chunk(ArrayChunk):
    """A piece of an array's bytes, whose id is computed once, and not at all where it came with it."""

    def __init__(self, data: memoryview, name: str | None = None, content: bytes | None = None) -> None:
        """`name` and `content`: id and bytes of the object that it came as; the one has been checked by the other."""
        super().__init__(data)
        self._name, self._content = name, content

    @classmethod
    def of(cls, name: str, content: bytes) -> "Chunk":
        """Returns the chunk that came as an object (ValueError: it is no chunk)."""
        head, _, _ = content[:64].partition(DIVIDER)
        data = memoryview(content)[len(head) + len(DIVIDER) :]
        if head + DIVIDER != _chunk_head(data):
            raise ValueError("expected a chunk of an array")
        return cls(data, name, content)

    def deflate(self) -> bytes:
        """Returns the object's bytes."""
        return self._content or b"".join((_chunk_head(self.data), self.data))

    @property
    def object_id(self) -> str:
        """SHA-256 of the object's bytes."""
        if self._name is None:
            digest = hashlib.sha256(_chunk_head(self.data))
            digest.update(self.data)
            self._name = digest.hexdigest()
        return self._name


def _chunk_head(data: memoryview) -> bytes:
    return b"ArrayChunk  %d\x00" % len(data)


def inflated(name: str, contents: Mapping[str, bytes], keep_chunks: bool = True) -> InflatableObject:
    """Returns the object `name`, put together from the contents of all its objects, whose ids have been checked.

    `keep_chunks`: whether what is made holds on to the contents, to be sent on.

    Raises:
        Exception: Flower's own and Python's, whatever a broken object sets off.
    """
    arrays = {
        each: _array(each, contents, keep_chunks) for each, content in contents.items() if content.startswith(ARRAY)
    }
    records = {each: _record(content, arrays) for each, content in contents.items() if content.startswith(ARRAY_RECORD)}
    made: dict[str, InflatableObject] = {**arrays, **records}
    return inflate_object_from_contents(name, dict(contents), keep_object_contents=True, objects=made)


def _record(content: bytes, arrays: Mapping[str, Array]) -> ArrayRecord:
    _, children, _ = get_object_head_values_from_object_content(content)
    told = json.loads(content.partition(DIVIDER)[2])
    if set(told.values()) != set(children):
        raise ValueError("a record's arrays are not those that it names")
    return record_of({name: arrays[each] for name, each in told.items()})


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Returns a record of these very arrays; those that Flower's constructor makes know nothing of their chunks."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def _array(name: str, contents: Mapping[str, bytes], keep_chunks: bool) -> Array:
    content = contents[name]
    _, children, _ = get_object_head_values_from_object_content(content)
    told = json.loads(content.partition(DIVIDER)[2])
    chunks = [Chunk.of(children[index], contents[children[index]]) for index in told["arraychunk_ids"]]
    if {chunk.object_id for chunk in chunks} != set(children):
        raise ValueError("an array's chunks are not those that it names")
    shape = tuple(told["shape"])
    if sum(len(each.data) for each in chunks) > LONGEST_HEADER + math.prod(shape) * _itemsize(told["dtype"]):
        raise ValueError("an array's chunks hold more than it says")  # one chunk, named many times, fills any memory
    array = Array(told["dtype"], shape, told["stype"], b"".join(each.data for each in chunks))
    return _with_chunks(array, chunks) if keep_chunks else array


def _itemsize(dtype: str) -> int:
    """Bytes of a number; 0 for what is no dtype, which whoever looks at the numbers refuses."""
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        return 0


def vector(dtype: np.dtype[Any], size: int, data: bytes, chunks: Sequence[Chunk] = ()) -> Array:
    """Returns Flower's array of a vector as NumPy saves it; `chunks`: what `data` came in, if in any."""
    return _with_chunks(Array(str(dtype), (size,), NUMPY, data), chunks or cut(data))


def cut(data: bytes) -> list[Chunk]:
    """Returns the chunks that Flower would cut `data` into."""
    size = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    return [Chunk(memoryview(data)[start : start + size]) for start in range(0, len(data), size)]


def _with_chunks(array: Array, chunks: Sequence[Chunk]) -> Array:
    vars(array)[CHUNKS] = [(each.object_id, each) for each in chunks]
    return array


def known_chunks(array: Array) -> Sequence[Chunk]:
    """Returns the chunks in which an array came; none where it was made here."""
    return [chunk for _, chunk in vars(array).get(CHUNKS, ()) if isinstance(chunk, Chunk)]


def header(dtype: np.dtype[Any], size: int) -> bytes:
    """Returns what stands before the numbers of a vector as NumPy saves it (format 1.0)."""
    buffer = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def values(array: Array) -> NDArray[Any]:
    """Returns an array's numbers; those of a vector are a view of its bytes, and cannot be written to.

    Raises:
        Exception: what NumPy and Flower raise over bytes that are not what they say.
    """
    numbers = vector_of(array)
    return array.numpy() if numbers is None else numbers


def vector_of(array: Array) -> NDArray[Any] | None:
    """Returns a view of an array's numbers; None for what is not, to the byte, a vector as NumPy saves it."""
    if array.stype != NUMPY or len(array.shape) != 1:
        return None
    dtype, size = np.dtype(array.dtype), int(array.shape[0])
    before = header(dtype, size)
    if dtype.kind not in "fiu" or not size or not array.data.startswith(before):
        return None
    if len(array.data) != len(before) + size * dtype.itemsize:
        return None
    return np.frombuffer(array.data, dtype, size, len(before))
