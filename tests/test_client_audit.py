"""The audit log: the chain by an independent hash, every way of tampering with it, crashes, many writers at once."""

import hashlib
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from client.audit import FIRST, AuditLog
from common.errors import AuditError

NUM_LINES = 6


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def write(folder: Path, number: int = NUM_LINES) -> AuditLog:
    log = AuditLog(folder)
    for each in range(number):
        log.append("task", run="7", value=each, text="Müller\nSchmidt")
    return log


def lines(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines()


def put(log: AuditLog, changed: list[bytes]) -> None:
    log.path.write_bytes(b"".join(line + b"\n" for line in changed))


def test_each_line_holds_the_hash_of_the_line_before(tmp_path: Path) -> None:
    log = write(tmp_path)
    written = lines(log)
    assert len(written) == NUM_LINES
    before = FIRST
    for number, line in enumerate(written, 1):
        record = json.loads(line)
        assert (record["n"], record["prev"], record["value"]) == (number, before, number - 1)
        before = hashlib.sha256(line).hexdigest()
    audit = log.read()
    assert (audit.head, audit.faults, audit.notes) == (before, (), ())
    assert json.loads((tmp_path / "audit.head").read_text()) == {"lines": NUM_LINES, "sha256": before}
    assert log.path.stat().st_mode & 0o077 == 0


def test_a_log_that_was_never_begun_is_whole(tmp_path: Path) -> None:
    assert AuditLog(tmp_path).read().records == ()
    assert AuditLog(tmp_path).checked().faults == ()


def edited(line: bytes) -> bytes:
    return line.replace(b'"task"', b'"tusk"')


TAMPERINGS = {
    **{f"change line {n}": lambda all_, n=n: [*all_[: n - 1], edited(all_[n - 1]), *all_[n:]] for n in range(1, 7)},
    **{f"remove line {n}": lambda all_, n=n: [*all_[: n - 1], *all_[n:]] for n in range(1, 7)},
    **{
        f"swap lines {n} and {n + 1}": lambda all_, n=n: [*all_[: n - 1], all_[n], all_[n - 1], *all_[n + 1 :]]
        for n in range(1, 6)
    },
    "repeat a line": lambda all_: [*all_[:3], all_[2], *all_[3:]],
    "put a line in": lambda all_: [*all_[:3], b'{"n":4,"event":"task","prev":"0"}', *all_[3:]],
    "put no record in": lambda all_: [*all_[:3], b"rubbish", *all_[3:]],
    "an empty line": lambda all_: [*all_[:3], b"", *all_[3:]],
    "cut off the last two": lambda all_: all_[:-2],
    "cut off all": lambda all_: [],
    "reverse": lambda all_: all_[::-1],
    "number as text": lambda all_: [*all_[:2], all_[2].replace(b'"n":3', b'"n":"3"'), *all_[3:]],
    "nest too deep": lambda all_: [*all_[:2], b"[" * 100_000, *all_[3:]],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found(tmp_path: Path, name: str) -> None:
    log = write(tmp_path)
    put(log, TAMPERINGS[name](lines(log)))
    assert log.read().faults, name
    with pytest.raises(AuditError, match="has been changed"):
        log.checked()


def test_a_tail_rewritten_with_a_true_chain_is_found_by_the_head(tmp_path: Path) -> None:
    log = write(tmp_path)
    forged = lines(log)[:-1]
    last = json.loads(lines(log)[-1]) | {"value": 99}
    put(log, [*forged, json.dumps(last).encode()])
    (fault,) = log.read().faults
    assert "another end" in fault


def test_a_log_or_a_head_that_is_gone_is_found(tmp_path: Path) -> None:
    log = write(tmp_path / "a")
    log.path.unlink()
    assert log.read().faults
    with pytest.raises(AuditError, match="to go on, move both away"):
        log.append("task")
    other = write(tmp_path / "b")
    (tmp_path / "b" / "audit.head").unlink()
    assert "missing or damaged" in other.read().faults[0]
    with pytest.raises(AuditError):
        other.append("task")
    (tmp_path / "b" / "audit.head").write_text("{")
    assert "missing or damaged" in other.read().faults[0]


def test_nothing_is_added_to_a_log_whose_end_was_changed(tmp_path: Path) -> None:
    log = write(tmp_path)
    put(log, lines(log)[:-1])
    with pytest.raises(AuditError, match="ends with line 5"):
        log.append("task")
    assert len(lines(log)) == NUM_LINES - 1


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_half_a_line_is_told_sealed_and_not_fatal(tmp_path: Path, kept: int) -> None:
    """A crash can cut the line anywhere; `kept` = -1: all but its end of line is there."""
    log = write(tmp_path)
    half = json.dumps({"n": NUM_LINES + 1, "event": "task", "prev": log.read().head}).encode()[
        : kept if kept > 0 else None
    ]
    with log.path.open("ab") as file:
        file.write(half)
    audit = log.read()
    assert (audit.faults, len(audit.records)) == ((), NUM_LINES)
    assert "a crash cut a line short" in audit.notes[0]
    log.append("task", value="after")
    audit = log.read()
    assert audit.faults == ()
    assert [record["event"] for record in audit.records[-2:]] == ["torn", "task"]
    assert audit.records[-2]["sha256"] == hashlib.sha256(half).hexdigest()
    changed = log.path.read_bytes().replace(b"\n" + half + b"\n", b"\n" + half + b"!\n")
    log.path.write_bytes(changed)
    assert log.read().faults


def test_a_line_written_but_not_noted_is_whole(tmp_path: Path) -> None:
    """The process died between the log and its head."""
    log = write(tmp_path)
    shutil.copy(tmp_path / "audit.head", tmp_path / "old")
    log.append("task", value="last")
    shutil.copy(tmp_path / "old", tmp_path / "audit.head")
    audit = log.read()
    assert audit.faults == ()
    assert "before noting it" in audit.notes[0]
    log.append("task", value="next")
    assert (log.read().faults, log.read().notes, len(lines(log))) == ((), (), NUM_LINES + 2)


def test_the_end_is_found_behind_long_lines(tmp_path: Path) -> None:
    log = write(tmp_path, 2)
    log.append("task", text="x" * 100_000)
    log.append("task", text="y" * 5_000)
    log.append("task")
    assert (log.read().faults, len(lines(log))) == ((), 5)


def append_many(folder: Path, mark: int) -> None:
    log = AuditLog(folder)
    for number in range(25):
        log.append("task", mark=mark, number=number)


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=append_many, args=(tmp_path, mark)) for mark in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    audit = AuditLog(tmp_path).read()
    assert (audit.faults, audit.notes, len(audit.records)) == ((), (), 100)
    for mark in range(4):
        assert [record["number"] for record in audit.records if record["mark"] == mark] == list(range(25))


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AuditError, match="cannot be written"):
        AuditLog(tmp_path / "file").append("task")
