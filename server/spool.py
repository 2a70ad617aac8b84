"""Replies on disk: each good one is written as it comes, so that memory holds one at a time and a crash loses none.

A round's folder holds `<site>.bin`, the site's weights in fp32, and after it `<site>.json`, what they are. A
coordinator that was killed finds there who has answered. The numbers are read part by part.
"""

import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from common.atomic import write_text_atomically
from common.checkpoint import Weights
from common.layers import Layers
from common.settings import Frozen
from common.tasks import TrainResult

SCORES = ".scores.json"
"""No site's name begins with a dot."""
CHUNK_BYTES = 1 << 24
"""Read at a time to check a file."""


@dataclass(frozen=True)
class Update:
    """What one site sent: its result, and its weights on disk."""

    site: str
    result: TrainResult
    places: Mapping[str, slice]
    """Where each array lies among the numbers; layers that the site keeps to itself are not there."""
    _path: Path

    @property
    def cases(self) -> int:
        """Training cases: the weight of the site in a mean."""
        return self.result.num_examples

    def part(self, name: str, part: slice) -> NDArray[np.float32]:
        """Returns some numbers of an array that the site sent, flat and in fp32."""
        return _read(self._path, self.places[name].start + part.start, part.stop - part.start)


class _Note(Frozen):
    """What stands beside the numbers."""

    key: str
    """Of the task and the weights that were sent out."""
    layout: tuple[tuple[str, int], ...]
    """Name and size of each array, in order."""
    crc32: int
    result: TrainResult


class _Scores(Frozen):
    """What the sites measured of the weights that were sent out."""

    key: str
    scores: dict[str, float]


class Spool:
    """The replies to one task, in `folder`."""

    def __init__(self, folder: Path, key: str) -> None:
        """`key`: of the task and the weights sent out; what was spooled under another is not taken for an answer."""
        self._folder = folder
        self._key = key

    def put(self, site: str, layers: Layers, result: TrainResult) -> Update:
        """Writes a site's layers in fp32, replacing an earlier reply of it, and returns them as read.

        Raises:
            OSError: the disk is full; no half reply is found afterwards.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        note_path, path = self._paths(site)
        note_path.unlink(missing_ok=True)
        layout = tuple((name, layers.size(name)) for name in layers.shapes)
        try:
            note = _Note(key=self._key, layout=layout, crc32=_write(path, layers), result=result)
            write_text_atomically(note_path, note.model_dump_json(), durable=False)  # the checksum tells what was lost
        except OSError:
            path.unlink(missing_ok=True)  # the ledger's last line needs room
            raise
        return _update(site, note, path)

    def find(self, site: str) -> Update | None:
        """Returns the site's reply to this very task; None where there is none, or it is not whole."""
        note_path, path = self._paths(site)
        try:
            note = _Note.model_validate_json(note_path.read_bytes())
            if note.key != self._key or _crc32(path) != note.crc32:
                return None
        except (OSError, ValidationError):
            return None
        return _update(site, note, path)

    def put_scores(self, scores: Mapping[str, float]) -> None:
        """Keeps the validation DSC, by site, of the weights that were sent out."""
        self._folder.mkdir(parents=True, exist_ok=True)
        told = _Scores(key=self._key, scores=dict(scores))
        write_text_atomically(self._folder / SCORES, told.model_dump_json(), durable=False)

    def scores(self) -> Mapping[str, float] | None:
        """Returns what `put_scores` kept for this very task; None where it did not, or it is not whole."""
        try:
            told = _Scores.model_validate_json((self._folder / SCORES).read_bytes())
        except (OSError, ValidationError):
            return None
        return told.scores if told.key == self._key else None

    def remove(self, site: str) -> None:
        """Removes a site's reply: it is asked anew then."""
        for path in self._paths(site):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes all replies."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self, site: str) -> tuple[Path, Path]:
        return self._folder / f"{site}.json", self._folder / f"{site}.bin"


def _write(path: Path, layers: Layers) -> int:
    """Returns the checksum of all the numbers that it wrote."""
    crc32 = 0
    with path.open("wb") as file:
        for name in layers.shapes:
            for part in layers.parts(name):
                flat = np.ascontiguousarray(layers.part(name, part), np.float32)
                file.write(flat.data)
                crc32 = zlib.crc32(flat.data, crc32)
    return crc32


def _update(site: str, note: _Note, path: Path) -> Update:
    ends = list(accumulate(size for _, size in note.layout))
    places = {name: slice(end - size, end) for (name, size), end in zip(note.layout, ends, strict=True)}
    return Update(site, note.result, places, path)


def _read(path: Path, first: int, count: int) -> NDArray[np.float32]:
    """Plain reads: the pages of a map would count as this process's memory, and grow with the number of sites."""
    return np.fromfile(path, np.float32, count, offset=first * np.dtype(np.float32).itemsize)


def _crc32(path: Path) -> int:
    crc32 = 0
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            crc32 = zlib.crc32(data, crc32)
    return crc32


def weights_key(weights: Weights) -> int:
    """Returns a checksum of the names and numbers of a model, in whatever order a file has them."""
    crc32 = 0
    for name, array in sorted(weights.items()):
        crc32 = zlib.crc32(np.ascontiguousarray(array).reshape(-1).data, zlib.crc32(name.encode(), crc32))
    return crc32
