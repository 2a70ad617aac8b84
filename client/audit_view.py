"""The audit log as people read it: a table, from a given time on."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from client.audit import Record
from common.errors import InputError

SHOWN = ("n", "time", "event", "run", "kind", "bytes", "sha256")
HIDDEN = frozenset({*SHOWN, "prev", "message"})
SHORT = 12


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
    """Returns one row a record: number, time (UTC), what happened, size, hash, and whatever else it tells."""
    made = Table("n", "time (UTC)", "event", "run", "kind", "bytes", "hash", "details")
    for record in records:
        details = ", ".join(f"{key} {_plain(value)}" for key, value in record.items() if key not in HIDDEN)
        cells = [str(record.get(key, "")) for key in SHOWN]
        cells[1], cells[3], cells[6] = cells[1][:19].replace("T", " "), cells[3][-6:], cells[6][:SHORT]
        cells[4] = cells[4].removeprefix("query.")
        made.add_row(*(Text(cell) for cell in (*cells, details)))
    return made


def _plain(value: object) -> str:
    return " ".join(str(each) for each in value) if isinstance(value, list) else str(value)
