"""Flower's objects, put together without copies: an array's chunks keep the bytes and the ids under which they came.

Flower 1.41 copies a model four times to put it together, and twice more with a hash over it whenever somebody asks for
an id. Here it stays in the chunks that it came in, unless somebody asks for it whole, and an id that was checked when
its object came is not computed again. What is made is Flower's own `Message` with its records.
"""

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from numpy.typing import NDArray

CHUNKS, JOINED = "_chunks", "_joined"
"""Where a Flower array keeps its chunks (a contract test guards it); and ours, its bytes."""
NUMPY = "numpy.ndarray"
ARRAY, ARRAY_RECORD, CHUNK = b"Array ", b"ArrayRecord ", b"ArrayChunk "
"""The objects of each begin so."""
DIVIDER = b"\x00"
LONGEST_HEAD = 64
"""Bytes before those of a chunk, at most."""
LARGEST_CHUNK = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + LONGEST_HEAD
"""Bytes of a chunk's object, at most."""
LONGEST_HEADER = 1024
"""Bytes before an array's numbers, at most; of a vector, 128."""


class Chunk(ArrayChunk):
    """A piece of an array's bytes, whose id is computed once, and not at all where it came with it."""

    def __init__(self, content: bytes, name: str | None = None) -> None:
        """`content`: of the object; `name`: the id that it came under and was checked by (ValueError: no chunk)."""
        head, _, _ = content[:LONGEST_HEAD].partition(DIVIDER)
        data = memoryview(content)[len(head) + len(DIVIDER) :]
        if head + DIVIDER != _chunk_head(len(data)):
            raise ValueError("expected a chunk of an array")
        super().__init__(data)
        self._name, self._content = name, content

    @classmethod
    def of(cls, pieces: Sequence[memoryview]) -> "Chunk":
        """Returns a chunk of these bytes, one after another."""
        return Chunk(b"".join((_chunk_head(sum(map(len, pieces))), *pieces)))

    @property
    def size(self) -> int:
        """Bytes of the array in it."""
        return len(self.data)

    @property
    def num_bytes(self) -> int:
        """Bytes of the object."""
        return len(_chunk_head(self.size)) + self.size

    def deflate(self) -> bytes:
        """Returns the object's bytes."""
        return self._content

    @property
    def object_id(self) -> str:
        """SHA-256 of the object's bytes."""
        if self._name is None:
            self._name = hashlib.sha256(self._content).hexdigest()
        return self._name


class RemoteChunk(Chunk):
    """A chunk whose bytes lie elsewhere, and are looked at anew whenever they are needed."""

    def __init__(self, name: str, num_bytes: int, read: Callable[[str], bytes]) -> None:
        """`name`, `num_bytes`: id and length of its object; `read` returns the object's bytes by the id.

        Raises:
            ValueError: no chunk is so long.
        """
        self._name, self._read = name, read
        self._size = _size_in(num_bytes)

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        """The array's bytes in it (ValueError: it is no chunk of its size)."""
        data = Chunk(self.deflate()).data
        if len(data) != self._size:
            raise ValueError("expected a chunk of another size")
        return data

    @property
    def size(self) -> int:
        """Bytes of the array in it, by the length of its object."""
        return self._size

    def deflate(self) -> bytes:
        """Returns the object's bytes."""
        return self._read(self.object_id)


def _chunk_head(size: int) -> bytes:
    return b"ArrayChunk  %d\x00" % size


def _size_in(num_bytes: int) -> int:
    """The bytes of an array in an object of so many."""
    for digits in range(1, len(str(num_bytes)) + 1):
        size = num_bytes - len(_chunk_head(0)) + 1 - digits
        if size >= 0 and len(str(size)) == digits:
            return size
    raise ValueError(f"expected a chunk of an array, not {num_bytes} bytes")


class Parted(Array):
    """An array whose bytes stay in its chunks until somebody asks for them."""

    def __init__(self, dtype: str, shape: tuple[int, ...], stype: str, chunks: Sequence[Chunk]) -> None:
        super().__init__(dtype, shape, stype, b"")
        vars(self)[CHUNKS] = [(each.object_id, each) for each in chunks]
        vars(self)[JOINED] = None

    @property
    def data(self) -> bytes:
        """All of them, put together at the first time."""
        joined: bytes | None = vars(self)[JOINED]
        if joined is None:
            joined = vars(self)[JOINED] = b"".join(each.data for each in known_chunks(self))
        return joined

    @data.setter
    def data(self, data: bytes) -> None:
        vars(self)[JOINED] = data

    def __eq__(self, other: object) -> bool:
        """Whether it is an array with the same bytes, parted or not."""
        if not isinstance(other, Array):
            return NotImplemented
        mine, others = ((each.dtype, each.shape, each.stype, each.data) for each in (self, other))
        return mine == others

    __hash__ = None  # type: ignore[assignment]  # as Flower's


Parted.__qualname__ = Array.__qualname__  # Flower writes it into the object, and so knows what it is


def inflated(
    name: str, contents: Mapping[str, bytes], chunks: Mapping[str, Chunk] | None = None, keep_chunks: bool = True
) -> InflatableObject:
    """Returns the object `name`, put together from all its objects, whose ids have been checked.

    `contents`: the objects, by id, but for `chunks` of arrays that are elsewhere.
    `keep_chunks`: whether arrays stay in the contents, and hold on to them; else each is put together and lets go.

    Raises:
        Exception: Flower's own and Python's, whatever a broken object sets off.
    """
    arrays = {
        each: _array(each, contents, chunks or {}, keep_chunks)
        for each, content in contents.items()
        if content.startswith(ARRAY)
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


def _array(name: str, contents: Mapping[str, bytes], elsewhere: Mapping[str, Chunk], keep_chunks: bool) -> Array:
    content = contents[name]
    _, children, _ = get_object_head_values_from_object_content(content)
    told = json.loads(content.partition(DIVIDER)[2])
    named = [children[index] for index in told["arraychunk_ids"]]
    chunks = [elsewhere.get(each) or Chunk(contents[each], each) for each in named]
    if {chunk.object_id for chunk in chunks} != set(children):
        raise ValueError("an array's chunks are not those that it names")
    shape = tuple(told["shape"])
    if sum(each.size for each in chunks) > LONGEST_HEADER + math.prod(shape) * _itemsize(told["dtype"]):
        raise ValueError("an array's chunks hold more than it says")  # one chunk, named many times, fills any memory
    if keep_chunks:
        return Parted(told["dtype"], shape, told["stype"], chunks)
    return _whole(Array(told["dtype"], shape, told["stype"], b""), chunks)


def _whole(array: Array, chunks: Sequence[Chunk]) -> Array:
    """Puts the bytes of the chunks into an array; into memory of NumPy's, which asks for large pages."""
    data = np.empty(sum(each.size for each in chunks), np.uint8)
    start = 0
    for each in chunks:
        data[start : start + each.size] = each.data
        start += each.size
    array.data = data.data.toreadonly()  # type: ignore[assignment]  # as good as bytes to who reads them
    return array


def _itemsize(dtype: str) -> int:
    """Bytes of a number; 0 for what is no dtype, which whoever looks at the numbers refuses."""
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        return 0


def vector(dtype: np.dtype[Any], size: int, chunks: Sequence[Chunk]) -> Array:
    """Returns Flower's array of a vector whose bytes, as NumPy saves them, are those of the chunks."""
    return Parted(str(dtype), (size,), NUMPY, chunks)


def cut(pieces: Iterable[memoryview]) -> Iterator[Chunk]:
    """Gives the chunks that Flower would cut these bytes into, one piece after another; they are copied once."""
    waiting: list[memoryview] = []
    room = FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    for piece in pieces:
        rest = piece.cast("B") if piece.nbytes else memoryview(b"")
        while rest:
            waiting.append(rest[:room])
            rest = rest[room:]
            room -= len(waiting[-1])
            if not room:
                yield Chunk.of(waiting)
                waiting, room = [], FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    if waiting:
        yield Chunk.of(waiting)


def known_chunks(array: Array) -> Sequence[Chunk]:
    """Returns the chunks that an array lies in; none where it is in one piece."""
    return [chunk for _, chunk in vars(array).get(CHUNKS, ()) if isinstance(chunk, Chunk)]


def header(dtype: np.dtype[Any], size: int) -> bytes:
    """Returns what stands before the numbers of a vector as NumPy saves it (format 1.0)."""
    buffer = BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def num_bytes(array: Array) -> int:
    """Returns the bytes of an array, wherever they lie."""
    return sum(each.size for each in known_chunks(array)) or len(array.data)


class Numbers:
    """A vector's numbers, in the pieces that they came in."""

    def __init__(
        self, dtype: np.dtype[Any], size: int, sizes: Sequence[int], piece: Callable[[int], memoryview], skipped: int
    ) -> None:
        """The pieces hold `size` numbers, and nothing after them.

        Args:
            dtype: of the numbers.
            size: how many there are.
            sizes: of the pieces, in bytes.
            piece: returns one by its number; those that follow each other are asked for once.
            skipped: bytes before the first number.
        """
        self.dtype, self.size = dtype, size
        self._starts = list(accumulate(sizes, initial=-skipped))
        self._piece = lru_cache(1)(piece)

    @classmethod
    def of(cls, vector: NDArray[Any]) -> "Numbers":
        """Returns those of an array (ValueError: it is no vector)."""
        if vector.ndim != 1:
            raise ValueError(f"expected a vector, not {vector.ndim} axes")
        data = memoryview(vector.tobytes())
        return cls(vector.dtype, vector.size, [len(data)], lambda _: data, 0)

    def before(self) -> bytes:
        """Returns the bytes that are skipped."""
        found = b""
        for index, start in enumerate(self._starts):
            if start >= 0:
                break
            found += self._piece(index)[:-start]
        return found

    def part(self, first: int, count: int) -> NDArray[Any]:
        """Returns `count` numbers from the one with index `first` on: a view of a piece, where they lie in one.

        They cannot be written to.
        """
        if not count:
            return np.empty(0, self.dtype)
        start, end = first * self.dtype.itemsize, (first + count) * self.dtype.itemsize
        index, last = bisect_right(self._starts, start) - 1, bisect_right(self._starts, end - 1) - 1
        if index == last:
            return np.frombuffer(self._piece(index), self.dtype, count, start - self._starts[index])
        found = np.empty(end - start, np.uint8)
        while index <= last:
            here, until = max(start, self._starts[index]), min(end, self._starts[index + 1])
            begin = here - self._starts[index]
            found[here - start : until - start] = self._piece(index)[begin : begin + until - here]
            index += 1
        found.flags.writeable = False
        return found.view(self.dtype)


def values(array: Array) -> NDArray[Any]:
    """Returns an array's numbers; those of a vector are a view of its bytes, and cannot be written to.

    Raises:
        Exception: what NumPy and Flower raise over bytes that are not what they say.
    """
    numbers = vector_of(array)
    return array.numpy() if numbers is None else numbers.part(0, numbers.size)


def vector_of(array: Array) -> Numbers | None:
    """Returns an array's numbers; None for what is not, to the byte, a vector as NumPy saves it."""
    if array.stype != NUMPY or len(array.shape) != 1:
        return None
    dtype, size = np.dtype(array.dtype), int(array.shape[0])
    before, chunks = header(dtype, size), known_chunks(array)
    sizes = [each.size for each in chunks] or [len(array.data)]

    def piece(index: int) -> memoryview:
        return chunks[index].data if chunks else memoryview(array.data)

    if dtype.kind not in "fiu" or not size or sum(sizes) != len(before) + size * dtype.itemsize:
        return None
    numbers = Numbers(dtype, size, sizes, piece, len(before))
    return numbers if numbers.before() == before else None
