"""The audit log as people read it: a table, from a given time on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

from rich.table import Table
from rich.text import Text

from client.audit import OUTGOING, Record
from common.errors import InputError

HIDDEN = frozenset({"n", "time", "event", "kind", "prev", "message"})
SHORT, RUN_SHORT = 12, 6


def records_since(records: Sequence[Record], since: str | None) -> list[Record]:
    """Returns the records from a time on, all for None (InputError: it is no time)."""
    if since is None:
        return list(records)
    try:
        start = datetime.fromisoformat(since)
    except ValueError as error:
        raise InputError(f"--since: {since!r} is no time; expected 2026-11-30 or 2026-11-30T12:00") from error
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return [record for record in records if datetime.fromisoformat(str(record.get("time"))) >= start]


def table(records: Sequence[Record]) -> Table:
    """Returns one row a record: number, time (UTC), what happened of which kind, and whatever else it tells.

    Answers on how far the work is, one after another, share a row that tells the last of them and how many there were.
    It is made for terminals of 80 columns: only the last column wraps.
    """
    made = Table()
    for name in ("n", "time (UTC)", "event"):
        made.add_column(name, no_wrap=True)
    made.add_column("details")
    for answers, each in groupby(records, _tells_progress):
        shared = list(each)
        for record in shared[-1:] if answers else shared:
            _add_row(made, record, len(shared) if answers else 1)
    return made


def _tells_progress(record: Record) -> bool:
    return record.get("event") == OUTGOING and "state" in record


def _add_row(made: Table, record: Record, count: int) -> None:
    event = f"{record.get('event', '')} {str(record.get('kind', '')).removeprefix('query.')}".rstrip()
    told = ", ".join(f"{key} {_plain(key, value)}" for key, value in record.items() if key not in HIDDEN)
    told = f"the last of {count} answers: {told}" if count > 1 else told
    cells = (str(record.get("n", "")), str(record.get("time", ""))[:19].replace("T", " "), event, told)
    made.add_row(*(Text(cell) for cell in cells))


def _plain(key: str, value: object) -> str:
    if key == "run":
        return str(value)[-RUN_SHORT:]
    if key == "sha256":
        return str(value)[:SHORT]
    return " ".join(str(each) for each in value) if isinstance(value, list) else str(value)
