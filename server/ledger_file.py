"""The ledger's file: whole lines of JSON, one a record, written through to the disk and read by who needs no more.

The last line may be cut short, by a crash or because it is being written: it does not count, and its writer drops it.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.atomic import write_bytes_atomically
from common.errors import InputError
from common.shortage import is_disk_full

Record = dict[str, Any]
LEDGER = "ledger.jsonl"
RESERVE = "reserve"
"""A file beside it that is given up for the line that tells of a full disk."""


def decode(line: bytes, origin: str) -> Record:
    """Returns the record of a line (InputError: it is broken; `origin` names file and line)."""
    try:
        record = dict(json.loads(line, parse_constant=lambda _: None))  # NaN, of an earlier release
        if not isinstance(record.get("kind"), str):
            raise ValueError("no kind")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: broken; remove the line and run the experiment again") from error
    return record


def read_lines(path: Path) -> list[Record]:
    """Returns the whole lines; none where there is no file (InputError: one is broken)."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    lines = enumerate(whole.split(b"\n"), 1)
    return [decode(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def drop_half_line(path: Path) -> None:
    """Takes away a last line that a crash cut short; the caller holds the run's lock."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        write_bytes_atomically(path, whole)


def append_line(path: Path, record: Record) -> Record:
    """Writes one line, with the time of day, through to the disk, and returns it; a full disk gives the reserve's room.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    record = {**record, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    try:
        _write(path, line)
    except OSError as error:
        if not is_disk_full(error):
            raise
        (path.parent / RESERVE).unlink(missing_ok=True)
        _write(path, line)
    return record


def _write(path: Path, line: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # no buffer that is written later
    end = os.fstat(handle).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(handle, line[written:])
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, end)
        raise
    finally:
        os.close(handle)


class LedgerTail:
    """Whole new lines of a ledger that another process appends to, from its present end on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        self._offset = len(whole[0]) + len(whole[1])
        self._num_lines = whole[0].count(b"\n") + len(whole[1])

    def new(self) -> Iterator[Record]:
        """Yields the lines that have come since (InputError: one is broken)."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._num_lines += 1
                if line.strip():
                    yield decode(line, f"{self._path}, line {self._num_lines}")
