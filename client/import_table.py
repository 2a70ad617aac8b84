"""An import's report on the terminal: what stands in every case, what was chosen, what is done."""

from rich.table import Table
from rich.text import Text

from client.import_report import Action, CaseLine, ImportReport

COLOURS: dict[Action, str] = {
    "new": "green",
    "changed": "yellow",
    "unchanged": "dim",
    "removed": "dim",
    "refused": "red",
}
SHARES = {"case": 3, "CT": 2, "structures from": 4, "target (pattern)": 4, "found": 5, "action": 6}
"""Columns, and how they share the terminal's width."""
LONGEST_NAME = 24


def plan_table(report: ImportReport) -> Table:
    """Returns a row a case; texts from files stand as they are, without markup."""
    table = Table(show_lines=True, expand=True)
    for title, share in SHARES.items():
        table.add_column(title, ratio=share, overflow="fold")
    for line in report.cases:
        table.add_row(
            Text(line.name),
            Text(line.images),
            Text(_structures(line)),
            _target(line),
            Text(", ".join(line.found.structures)),
            _action(line),
        )
    return table


def summary(report: ImportReport) -> str:
    """Returns how many cases were, or would be, imported."""
    if report.dry_run:
        counted = {action: report.count(action) for action in COLOURS if action != "removed" or report.removed}
        counted["refused"] -= len(report.unread)
        counts = ", ".join(f"{count} {action}" for action, count in counted.items())
        return f"dry run: {counts}{_unread(report)}; nothing was written"
    counts = f"{len(report.imported)} imported, {len(report.skipped)} unchanged"
    removed = f"{len(report.removed)} removed on purpose, " if report.removed else ""
    return f"{counts}, {removed}{len(report.refused) - len(report.unread)} refused{_unread(report)}"


def _unread(report: ImportReport) -> str:
    return f", {len(report.unread)} not readable" if report.unread else ""


def _structures(line: CaseLine) -> str:
    names = ", ".join(_short(name) for name in line.structure_sets)
    return f"{names}, by {line.pairing}" if names else ""


def _short(name: str) -> str:
    """Returns a file name that may hold a UID, without its middle."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 + 1 :]}"


def _target(line: CaseLine) -> Text:
    if not line.found.chosen:
        return Text("none", "red")
    within = f" in {_short(line.found.structure_set)}" if len(line.structure_sets) > 1 else ""
    return Text.assemble((line.found.chosen, "bold"), f" ({line.found.pattern}){within}")


def _action(line: CaseLine) -> Text:
    text = Text.assemble((line.action, COLOURS[line.action]), f" {line.case_id}" if line.case_id else "")
    return text.append(f": {line.reason}" if line.reason else "")
