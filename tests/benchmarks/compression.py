"""Whether lossless compression of models pays on a line: seconds of the line that it saves, and of processors it costs.

The last two rounds of a model that was trained with this project stand for what travels: the model to the sites, and
what a site's training changed on its way back. Compressors are Python's own; "apart" has all bytes of one place of a
number together (signs and exponents, that is, which repeat).

Run by hand: PYTHONPATH=. .venv-bench/bin/python tests/benchmarks/compression.py runs/NAME/rounds/MODEL
"""

import argparse
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import wire
from common.checkpoint import load_weights

FULL_MIB = 910
"""The default cascade in fp32."""
LINES = (4e6, 20e6, 100e6)
PART_BYTES = 5 << 20
"""Flower sends a model in such parts, each of which would be compressed by itself."""


@dataclass(frozen=True)
class Measured:
    """What compressing a model takes, a byte of it."""

    left: float
    """Share that is left."""
    deflate_s: float
    inflate_s: float


def apart(part: bytes, width: int) -> bytes:
    """The bytes of numbers of `width` bytes, all first ones first."""
    return np.frombuffer(part, np.uint8).reshape(-1, width).T.tobytes()


def together(planes: bytes, width: int) -> bytes:
    """Undoes `apart`."""
    return np.frombuffer(planes, np.uint8).reshape(width, -1).T.tobytes()


def measure(sent: NDArray[np.generic], level: int, split: bool) -> Measured:
    """Compresses what is sent part by part and back, by processor time."""
    whole, width = sent.tobytes(), sent.dtype.itemsize
    left, deflate_s, inflate_s = 0, 0.0, 0.0
    for start in range(0, len(whole), PART_BYTES):
        part = whole[start : start + PART_BYTES]
        packed, seconds = timed(lambda part=part: zlib.compress(apart(part, width) if split else part, level))
        deflate_s += seconds
        unpacked, seconds = timed(lambda packed=packed: _inflated(packed, width, split))
        inflate_s += seconds
        assert unpacked == part
        left += len(packed)
    return Measured(left / len(whole), deflate_s / len(whole), inflate_s / len(whole))


def _inflated(packed: bytes, width: int, split: bool) -> bytes:
    unpacked = zlib.decompress(packed)
    return together(unpacked, width) if split else unpacked


def timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    """What `work` returns, and its processor seconds."""
    began = time.thread_time()
    done = work()
    return done, time.thread_time() - began


def row(name: str, codec: str, found: Measured, num_bytes: float) -> str:
    """A line of the table for a model of so many bytes."""
    saved = (f"{(1 - found.left) * num_bytes * 8 / line:.0f}" for line in LINES)
    costs = " | ".join(f"{each * num_bytes:.0f}" for each in (found.deflate_s, found.inflate_s))
    return f"| {name} | {codec} | {100 * found.left:.0f} % | {' | '.join(saved)} | {costs} |"


def main() -> None:
    """Prints a row for what is sent and each compressor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=Path, help="runs/NAME/rounds/MODEL, with two rounds at least")
    before, after = (
        load_weights(path)[0] for path in sorted(parser.parse_args().rounds.glob("round-????.safetensors"))[-2:]
    )
    change = {name: after[name] - before[name] for name in after}
    forms = {
        "weights, fp32": wire.pack_weights(after),
        "weights, fp16": wire.pack_weights(after, "fp16"),
        "change, fp32": wire.pack_weights(change),
        "change, fp16": wire.pack_trained(after, before, "fp16"),
    }
    saved = " | ".join(f"saved at {line / 1e6:g} Mbit/s, s" for line in LINES)
    print(f"| what | zlib | left | {saved} | to deflate, s | to inflate, s |\n|---|---|---:|---:|---:|---:|---:|---:|")
    for name, record in forms.items():
        sent = record[wire.PACKED].numpy()
        num_bytes = FULL_MIB * 2**20 * sent.dtype.itemsize / 4
        for split in (False, True):
            for level in (1, 6):
                found = measure(sent, level, split)
                print(row(name, f"{level}{', apart' if split else ''}", found, num_bytes), flush=True)


if __name__ == "__main__":
    main()
