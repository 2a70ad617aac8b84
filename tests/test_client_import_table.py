"""The plan as people read it: every case, what was found and chosen, and why something is refused."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from client.import_report import CaseLine, ImportReport
from client.import_table import plan_table, summary
from client.target import Found

LONG = f"RS.1.2.826.{'7' * 50}.dcm"
REPORT = ImportReport(
    (
        CaseLine("stray.dcm", "refused", "fits no CT; export it"),
        CaseLine(
            "p1", "new", "", "", "130 slices + 130", (LONG, "b.dcm"), "series reference",
            Found(("GTV [bold]", "Cord (empty)"), "GTV [bold]", "^gtv", "b.dcm"),
        ),
        CaseLine("p2", "unchanged", "", "A-0002", "80 slices", ("c.dcm",), "folder", Found(("GTV",), "GTV", "v")),
        CaseLine("p3", "changed", "", "A-0003"),
    ),
    dry_run=True,
)  # fmt: skip


def rows(report):
    """Cells of the table's rows."""
    output = StringIO()
    Console(file=output, width=400).print(plan_table(report))
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines() if "│" in line]


def test_every_case_has_a_row_and_file_texts_are_no_markup():
    assert rows(REPORT) == [
        ["stray.dcm", "", "", "none", "", "refused: fits no CT; export it"],
        [
            "p1",
            "130 slices + 130",
            "RS.1.2.826.7…7777777.dcm, b.dcm, by series reference",
            "GTV [bold] (^gtv) in b.dcm",
            "GTV [bold], Cord (empty)",
            "new",
        ],
        ["p2", "80 slices", "c.dcm, by folder", "GTV (v)", "GTV", "unchanged A-0002"],
        ["p3", "", "", "none", "", "changed A-0003"],
    ]


def test_no_control_character_of_a_file_reaches_the_terminal():
    """ESC ]0;...BEL renames a window, ESC [2J clears it; a newline would fake a line of ours."""
    evil = "a\x1b]0;b\x07\n\x9b2J"
    line = CaseLine(evil, "new", evil, evil, evil, (evil, "b.dcm"), evil, Found((evil,), evil, evil, evil))
    shown = ImportReport((line, replace(line, action="refused")), (evil,)).for_terminal()
    text = "a?]0;b???2J"
    assert shown.warnings == (text,)
    assert shown.refused == ((text, text),)
    assert shown.cases[0] == CaseLine(text, "new", text, text, text, (text, "b.dcm"), text, Found((text,), *[text] * 3))
    assert not {"\x1b", "\x07", "\x9b"} & set("".join("".join(row) for row in rows(shown)))


def test_counts_of_a_dry_run_and_of_an_import():
    assert summary(REPORT) == "dry run: 1 new, 1 changed, 1 unchanged, 1 refused; nothing was written"
    done = ImportReport(REPORT.cases[2:])
    assert summary(done) == "1 imported, 1 unchanged, 0 refused"
    assert (done.imported, done.skipped, done.refused, REPORT.imported) == (("A-0003",), ("A-0002",), (), ())
