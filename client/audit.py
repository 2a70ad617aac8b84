"""The audit log: one JSON line for whatever a site took in, decided and let out, each chained to the line before.

A line holds the SHA-256 of the line before it under `prev`, so none can be changed, removed, moved or put in without
breaking the chain. The hash and number of the last line stand in a second file, so that a log which was cut off is
found too. Lines are appended under a lock and are on disk before anybody acts on them. A crash can leave half a line:
it stays where it is, and the next line, `torn`, seals its hash.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.atomic import OWNERS, write_text_atomically
from common.errors import AuditError
from common.private import private_folder

LOG, HEAD, LOCK = "audit.jsonl", "audit.head", "audit.lock"
FIRST = "0" * 64
"""What the first line holds in place of a hash."""
OUTGOING = "outgoing"
"""The event of a reply that is about to go out."""
TORN = "torn"
TORN_LINE = "a crash cut a line short; it stays in the log, and what came after it is whole"

Record = dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """What a log holds and whether it is as it was written."""

    records: tuple[Record, ...]
    head: str
    """SHA-256 of the last whole line: who notes it elsewhere can later prove that nothing up to it was changed."""
    faults: tuple[str, ...]
    """What shows that the log was tampered with; empty: nothing does."""
    notes: tuple[str, ...] = ()
    """What a crash left behind; no fault."""

    @property
    def noises(self) -> tuple[float, ...]:
        """The noise multiplier of every noised update that ever left."""
        return tuple(each["noise"] for each in self.records if each.get("event") == OUTGOING and "noise" in each)


class AuditLog:
    """The log in a site's state folder; any number of processes and threads may append to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self._head = folder / HEAD
        self._lock = folder / LOCK

    def append(self, event: str, **fields: Any) -> Record:
        """Writes one line, flushes it to disk, and returns it.

        Raises:
            AuditError: it cannot be written, or the log's end is not as the last writer left it.
        """
        try:
            private_folder(self.path.parent)
            with self._locked(fcntl.LOCK_EX):
                return self._append(event, fields)
        except OSError as error:
            raise AuditError(
                f"{self.path}: cannot be written ({error.strerror}); free space, or mend its modes"
            ) from error

    def read(self) -> Audit:
        """Returns all records and what is wrong with them; a log that was never begun has none of either."""
        if not self.path.exists() and not self._head.exists():
            return Audit((), FIRST, ())
        with self._locked(fcntl.LOCK_SH):
            data = self.path.read_bytes() if self.path.exists() else b""
            head = self._read_head()
        return _Check(data, head).audit()

    def checked(self) -> Audit:
        """As `read`, for work that rests on the log.

        Raises:
            AuditError: it was tampered with.
        """
        audit = self.read()
        if audit.faults:
            raise AuditError(
                f"{self.path}: has been changed ({audit.faults[0]}); find out by whom; to go on, move it and "
                f"{self._head.name} away together: a new log begins"
            )
        return audit

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, OWNERS)
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)

    def _read_head(self) -> tuple[int, str] | None:
        """Number and hash of the last line as its writer noted them; None where there is no note or none that reads."""
        try:
            noted = json.loads(self._head.read_text(encoding="utf-8"))
            return int(noted["lines"]), str(noted["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _append(self, event: str, fields: Record) -> Record:
        if not self.path.exists() and not self._head.exists():
            self._note(0, FIRST)
        end = _end(self.path)
        number, prev = self._agree(self._read_head(), end)
        with open(self.path, "ab", opener=_owners) as log:
            if end.torn:
                number, prev, _ = self._write(log, number, prev, TORN, {"sha256": _sha256(end.torn)}, b"\n")
            number, prev, record = self._write(log, number, prev, event, fields)
        return record

    def _write(
        self, log: Any, number: int, prev: str, event: str, fields: Record, before: bytes = b""
    ) -> tuple[int, str, Record]:
        """Appends a line, then notes it in the head."""
        record = {"n": number + 1, "time": _now(), "event": event, **fields, "prev": prev}
        line = json.dumps(record, sort_keys=False, separators=(",", ":")).encode()
        log.write(before + line + b"\n")
        log.flush()
        os.fsync(log.fileno())
        self._note(number + 1, _sha256(line))
        return number + 1, _sha256(line), record

    def _note(self, number: int, digest: str) -> None:
        write_text_atomically(self._head, json.dumps({"lines": number, "sha256": digest}) + "\n", OWNERS)

    def _agree(self, noted: tuple[int, str] | None, end: "_End") -> tuple[int, str]:
        """Number and hash of the last line; it may be one newer than its note, if a crash came between."""
        if noted and (end.number, end.sha256) == noted:
            return noted
        if noted and end.number == noted[0] + 1 and end.prev == noted[1]:
            return end.number, end.sha256
        raise AuditError(
            f"{self.path}: ends with line {end.number}, but {self._head.name} tells another end; it has been changed: "
            "see fedgtv-site audit; to go on, move both away together: a new log begins"
        )


@dataclass(frozen=True)
class _End:
    """The last whole line of a log, and what a crash left after it."""

    number: int
    sha256: str
    prev: str
    torn: bytes


def _end(path: Path) -> _End:
    """Reads backwards, for a log grows and its end is asked for at every line."""
    if not path.exists():
        return _End(0, FIRST, "", b"")
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        tail, span = b"", 4096
        while True:
            start = max(0, size - span)
            log.seek(start)
            tail = log.read()
            whole, _, torn = tail.rpartition(b"\n")
            if start == 0 or b"\n" in whole:
                break
            span *= 4
    line = whole.rpartition(b"\n")[2]
    if not line:
        return _End(0, FIRST, "", torn)
    record = _parse(line) or {}
    return _End(int(record.get("n", -1)), _sha256(line), str(record.get("prev")), torn)


class _Check:
    """Follows the chain from the first line on."""

    def __init__(self, data: bytes, head: tuple[int, str] | None) -> None:
        *self._lines, self._torn = data.split(b"\n")
        self._head = head
        self._records: list[Record] = []
        self._faults: list[str] = []
        self._notes: list[str] = []
        self._prev, self._count = FIRST, 0

    def audit(self) -> Audit:
        for place, line in enumerate(self._lines):
            self._follow(place, line)
        if self._torn:
            self._notes.append(f"after line {self._count}: {TORN_LINE}")
        self._compare_head()
        return Audit(tuple(self._records), self._prev, tuple(self._faults), tuple(self._notes))

    def _follow(self, place: int, line: bytes) -> None:
        if self._is_sealed(place, line):
            self._notes.append(f"after line {self._count}: {TORN_LINE}")
            return
        record = _parse(line)
        if record is None:
            self._faults.append(f"line {place + 1} is no record")
            return
        if record.get("prev") != self._prev or record.get("n") != self._count + 1:
            self._faults.append(
                f"line {place + 1} (number {record.get('n')}) does not follow line {place}: one was changed, or a "
                "line was removed, moved or put in between"
            )
        self._count = record["n"] if isinstance(record.get("n"), int) else self._count + 1
        self._prev = _sha256(line)
        self._records.append(record)

    def _is_sealed(self, place: int, line: bytes) -> bool:
        """Whether the next line tells that a crash cut this one short; it may lack no more than its end of line."""
        after = self._lines[place + 1] if place + 1 < len(self._lines) else b""
        record = (_parse(after) or {}) if TORN.encode() in after else {}
        return record.get("event") == TORN and record.get("sha256") == _sha256(line)

    def _compare_head(self) -> None:
        last = self._records[-1] if self._records else {"n": 0, "prev": ""}
        if self._head is None:
            self._faults.append(f"{HEAD} is missing or damaged: whether the log's end was cut off cannot be told")
        elif self._head == (self._count, self._prev):
            return
        elif self._count == self._head[0] + 1 and last["prev"] == self._head[1]:
            self._notes.append(f"line {self._count} was written, then the process died before noting it; it is whole")
        else:
            self._faults.append(f"{HEAD} tells of {self._head[0]} lines and another end; the log has {self._count}")


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _owners(path: str, flags: int) -> int:
    return os.open(path, flags, OWNERS)
