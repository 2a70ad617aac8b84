"""Hostile weights, by what is wrong with each, as records that travel."""

import io
import json
import os
import pickle
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from common import wire


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class Evil:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("unpickled",)


def array_of(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array("float32", (2,), stype, data)


def packed(vector: Array | None = None, layout: object = None) -> ArrayRecord:
    record = wire.pack_weights({"stage1.a": np.zeros(2, np.float32)})
    if vector is not None:
        record[wire.PACKED] = vector
    if layout is not None:
        text = layout if isinstance(layout, bytes) else json.dumps(layout).encode()
        record[wire.LAYOUT] = Array(np.frombuffer(text, np.uint8))
    return record


PAIR = npy(np.zeros(2, np.float32))
HOSTILE = {
    "pickled object": lambda: packed(array_of(npy(np.array([Evil()], object)))),
    "pickle alone": lambda: packed(array_of(pickle.dumps(Evil()))),
    "another serialisation": lambda: packed(array_of(PAIR, stype="pickle")),
    "zip of arrays": lambda: packed(array_of(b"PK\x03\x04" + bytes(40))),
    "archive of arrays": lambda: packed(array_of(npz(a=np.zeros(2, np.float32)))),
    "nothing": lambda: packed(array_of(b"")),
    "rubbish": lambda: packed(array_of(b"x" * 100)),
    "cut short": lambda: packed(array_of(PAIR[:-3])),
    "more numbers than bytes": lambda: packed(array_of(PAIR.replace(b"(2,)", b"(9,)"))),
    "terabytes out of nothing": lambda: packed(array_of(PAIR.replace(b"(2,), }          ", b"(99999999999,), }"))),
    "NaN": lambda: packed(Array(np.array([0, np.nan], np.float32))),
    "infinity": lambda: packed(Array(np.array([-np.inf, 0], np.float32))),
    "integers": lambda: packed(Array(np.zeros(2, np.int32))),
    "complex numbers": lambda: packed(Array(np.zeros(2, np.complex64))),
    "text": lambda: packed(Array(np.array(["a", "b"]))),
    "times": lambda: packed(Array(np.zeros(2, "datetime64[s]"))),
    "records": lambda: packed(Array(np.zeros(2, [("a", "f4")]))),
    "a matrix": lambda: packed(Array(np.zeros((1, 2), np.float32))),
    "layout that is no JSON": lambda: packed(layout=b"\xff{"),
    "layout nested too deep": lambda: packed(layout=b"[" * 100_000),
    "layout of too few": lambda: packed(layout=[["stage1.a", [1]]]),
    "layout of too many": lambda: packed(layout=[["stage1.a", [3]]]),
    "negative shape": lambda: packed(layout=[["stage1.a", [-1, -2]]]),
    "shape that overflows": lambda: packed(layout=[["stage1.a", [2**62, 2**62, 2]]]),
    "fractional shape": lambda: packed(layout=[["stage1.a", [1.5]]]),
    "the same name twice": lambda: packed(layout=[["stage1.a", [1]], ["stage1.a", [1]]]),
    "name that is no text": lambda: packed(layout=[[7, [2]]]),
    "layout that is a number": lambda: packed(layout=7),
    "layout as floats": lambda: ArrayRecord(
        {wire.PACKED: Array(np.zeros(2, np.float32)), wire.LAYOUT: Array(np.zeros(9))}
    ),
    "unpacked pickle": lambda: ArrayRecord({"stage1.a": array_of(npy(np.array([Evil()], object)))}),
    "unpacked NaN": lambda: ArrayRecord({"\x1b[2J" * 50: Array(np.array([np.nan], np.float32))}),
}
