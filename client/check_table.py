"""The check's findings on a terminal: a row each, the gravest next to the prompt."""

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from client.finding import Finding, Severity

COLOURS: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "ok": "green", "info": "dim"}
ARROW = "→ "


def check_table(findings: Iterable[Finding], stacked: bool) -> Table:
    """Returns a row a finding, texts without markup.

    Args:
        findings: in the order of their rows.
        stacked: a remedy begins a line of its own: two columns of sentences side by side are too narrow on 80 to 120
            columns. Otherwise it follows what was found, and where there is room a finding is one line.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("", "subject", "check"):
        table.add_column(title, no_wrap=True)
    table.add_column("finding and remedy", overflow="fold")
    for finding in findings:
        remedy = ("\n" if stacked else " ") + ARROW + finding.remedy if finding.remedy else ""
        mark = Text(finding.severity, COLOURS[finding.severity])
        table.add_row(mark, Text(finding.subject), Text(finding.check), Text(finding.what + remedy))
    return table
