"""One source of rows for Markdown, CSV and LaTeX."""

import csv
import io
import re
from pathlib import Path

from server.table import Cell, Table, escape_latex, to_csv, to_latex, to_markdown, write_tables

TABLE = Table(
    name="one",
    title="DSC, % of a_b",
    header=(Cell("model"), Cell("A", note="n = 4"), Cell("B & C")),
    rows=(
        (Cell("m|1"), Cell("71.2 ± 8.0", detail="median 74.2; 70.1 to 74.2", note="2 empty"), Cell("–")),
        (Cell("k"), Cell("−0.5", best=True), Cell("50\\%")),
    ),
    notes=("Costs $5 & more.",),
)


def test_csv_has_the_cells_as_they_are_shown():
    assert list(csv.reader(io.StringIO(to_csv(TABLE)))) == [
        ["model", "A (n = 4)", "B & C"],
        ["m|1", "71.2 ± 8.0 (median 74.2; 70.1 to 74.2; 2 empty)", "–"],
        ["k", "−0.5", "50\\%"],
    ]


def test_markdown_escapes_its_own_bars():
    assert to_markdown(TABLE).splitlines()[2:5] == [
        "| model | A (n = 4) | B & C |",
        "| --- | ---: | ---: |",
        "| m\\|1 | 71.2 ± 8.0 (median 74.2; 70.1 to 74.2; 2 empty) | – |",
    ]
    assert to_markdown(TABLE).endswith("\nCosts $5 & more.\n")


def test_latex_row_by_hand():
    rows = to_latex(TABLE).splitlines()
    assert rows[3] == r"\begin{tabular}{lrr}"
    assert r"k & \textbf{$-$0.5} & 50\textbackslash{}\% \\" in rows
    assert r"\caption{DSC, \% of a\_b}" in rows


def test_latex_is_balanced_and_every_row_has_as_many_columns_as_told():
    """Escaped characters aside: braces close, dollars pair, an & between columns and nowhere else."""
    text = to_latex(TABLE)
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))
    body = bare.partition("\\toprule")[2].partition("\\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.strip() and "rule" not in line]
    assert [line.count("&") for line in rows] == [2, 2, 2]
    assert bare.isascii()


def test_every_special_character_of_latex_is_escaped():
    assert escape_latex("&%$#_{}") == r"\&\%\$\#\_\{\}"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"


def test_files_of_three_kinds(tmp_path: Path):
    write_tables(tmp_path / "tables", [TABLE])
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["one.csv", "one.md", "one.tex"]
