"""The audit log as people see it: `fedgtv-site audit` as a table and as JSON, from a time on, of a tampered log."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from client.audit import AuditLog
from client.audit_view import records_since, table
from client.cli import main
from common.errors import InputError

RECORDS = [
    {"n": 1, "time": "2026-11-29T23:59:59.000+00:00", "event": "task", "run": "14834225711278758768", "kind": "train",
     "sha256": "ab" * 32, "bytes": 15776, "prev": "0" * 64},
    {"n": 2, "time": "2026-11-30T00:00:00.000+00:00", "event": "outgoing", "run": "14834225711278758768", "cases": 5,
     "withheld": ["2 pictures", "[red]x[/]"], "prev": "1" * 64},
]  # fmt: skip


def test_records_from_a_time_on() -> None:
    assert records_since(RECORDS, None) == RECORDS
    assert records_since(RECORDS, "2026-11-30") == RECORDS[1:]
    assert records_since(RECORDS, "2026-11-29T23:59:59") == RECORDS
    assert records_since(RECORDS, "2026-11-30T01:00+01:00") == RECORDS[1:]
    with pytest.raises(InputError, match="'yesterday' is no time; expected 2026-11-30"):
        records_since(RECORDS, "yesterday")


def test_the_table_shows_what_happened_and_takes_no_orders_from_it() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(RECORDS))
    shown = captured.get()
    assert "2026-11-29 23:59:59" in shown
    assert "task train" in shown
    assert "run 758768, sha256 abababababab, bytes 15776" in shown
    assert "cases 5, withheld 2 pictures [red]x[/]" in shown


def test_the_table_keeps_times_and_events_whole_at_80_columns() -> None:
    longest = {**RECORDS[0], "n": 12345, "event": "decision", "kind": "query.evaluate-split"}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table([longest]))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(
        "12345" in line and "2026-11-29 23:59:59" in line and "decision evaluate-split" in line for line in lines
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text("site: A\n")
    log = AuditLog(tmp_path / "state")
    log.append("task", run="1", kind="train")
    log.append("outgoing", run="1", kind="train", cases=5)
    return tmp_path / "site.yaml"


def test_audit_shows_and_verifies(config, command) -> None:
    shown = command(main, "audit", "--config", config)
    assert (shown.code, shown.err) == (0, "")
    head = AuditLog(config.parent / "state").read().head
    assert f"2 lines; the last one's hash is {head}" in shown.out
    told = json.loads(command(main, "audit", "--config", config, "--json").out)
    assert [record["event"] for record in told["records"]] == ["task", "outgoing"]
    assert (told["head"], told["faults"], told["notes"]) == (head, [], [])
    later = json.loads(command(main, "audit", "--config", config, "--json", "--since", "2999-01-01").out)
    assert later["records"] == []
    assert command(main, "audit", "--config", config, "--since", "soon").code == 2


def test_audit_tells_of_tampering_with_exit_code_1(config, command) -> None:
    path = config.parent / "state" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"kind":"train"', b'"kind":"trick"', 1))
    shown = command(main, "audit", "--config", config)
    assert shown.code == 1
    assert "TAMPERED: line 2 (number 2) does not follow line 1" in shown.err
    assert json.loads(command(main, "audit", "--config", config, "--json").out)["faults"]


def test_audit_of_a_site_that_has_done_nothing(tmp_path, command) -> None:
    (tmp_path / "site.yaml").write_text("site: A\n")
    shown = command(main, "audit", "--config", tmp_path / "site.yaml")
    assert (shown.code, "0 lines" in shown.out) == (0, True)
    assert not (tmp_path / "state").exists()


def test_answers_on_progress_share_a_row() -> None:
    answer = {"time": RECORDS[1]["time"], "event": "outgoing", "kind": "query.progress", "state": "training"}
    records = [RECORDS[0], *[{"n": n, **answer, "epoch": n} for n in (2, 3, 4)], {**RECORDS[1], "n": 5}]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table([*records, {"n": 6, **answer, "epoch": 9}]))
    shown = captured.get()
    assert "the last of 3 answers: state training, epoch 4" in shown
    assert "epoch 3" not in shown
    assert "│ state training, epoch 9" in shown
