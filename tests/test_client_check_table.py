"""The check on a terminal: every finding with its check's name, whole, at the widths that terminals have."""

import io

import pytest
from rich.console import Console

from client.check_table import check_table
from client.finding import Finding

FINDINGS = (
    Finding("info", "A-0001", "case", "target of 4.1 ml on 4 slices; image of 16 slices of 3 x 0.977 x 0.977 mm"),
    Finding("ok", "memory", "memory", "22.2 GiB available; preparing the largest case takes about 0.6"),
    Finding("error", "A-0001", "label-outside", "60 % of the target lies [red]outside[/]", "export [both] anew"),
)


def lines(width, stacked):
    console = Console(file=io.StringIO(), width=width)
    console.print(check_table(FINDINGS, stacked))
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_it_fits_and_loses_no_word(width):
    told = lines(width, stacked=True)
    assert max(map(len, told)) <= width
    text = " ".join(" ".join(told).split())
    for finding in FINDINGS:
        for words in (finding.severity, finding.subject, finding.check, *finding.what.split(), *finding.remedy.split()):
            assert words in text
    assert told[-1].strip() == "→ export [both] anew"


def test_in_a_file_a_finding_is_a_line():
    """For grep: severity, subject, check, what was found and what to do."""
    title, *_, last = lines(200, stacked=False)
    assert title.split() == ["subject", "check", "finding", "and", "remedy"]
    words = "error A-0001 label-outside 60 % of the target lies [red]outside[/] → export [both] anew"
    assert last.split() == words.split()
