"""A table of the report as data: the one source of its HTML, CSV, LaTeX and Markdown."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.atomic import write_text_atomically

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$",
    "°": r"$^\circ$", "–": "--", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
"""What LaTeX does not take as it stands; `\\textquotedbl` needs the encoding T1."""
_LINE_BREAK = r" \\ "


@dataclass(frozen=True)
class Cell:
    """One cell, ready to show."""

    text: str = ""
    note: str = ""
    """What the number leaves unsaid, such as a withheld result."""
    detail: str = ""
    """More about the number, such as its interval."""
    shade: str = ""
    """Its background, as #rrggbb."""
    best: bool = False
    own: bool = False
    reference: bool = False
    """Whether it is the paper's figure, not ours."""

    @property
    def one_line(self) -> str:
        """`text (detail; note)`."""
        more = "; ".join(filter(None, (self.detail, self.note)))
        return f"{self.text} ({more})" if more else self.text


@dataclass(frozen=True)
class Table:
    """A titled table; the first `num_labels` columns name the row and stand at the left."""

    name: str
    """Of its files."""
    title: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_labels: int = 1
    notes: tuple[str, ...] = ()
    """Sentences that belong below it wherever it goes."""


def to_csv(table: Table) -> str:
    """Returns header and rows; each cell as it is shown, its details in brackets behind it."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        [cell.one_line for cell in row] for row in (table.header, *table.rows)
    )
    return stream.getvalue()


def to_markdown(table: Table) -> str:
    """Returns a titled table in GitHub's Markdown, with its notes below it."""
    header, *rows = [[_plain(cell.one_line) for cell in row] for row in (table.header, *table.rows)]
    rule = ["---" if number < table.num_labels else "---:" for number in range(len(header))]
    body = "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n{notes}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\N{NO-BREAK SPACE}", " ")


def to_latex(table: Table) -> str:
    r"""Returns a `table` with booktabs' rules; it needs `\usepackage{booktabs}` and `\usepackage[T1]{fontenc}`."""
    columns = "l" * table.num_labels + "r" * (len(table.header) - table.num_labels)
    rows = [" & ".join(map(_latex_cell, row)) + r" \\" for row in (table.header, *table.rows)]
    notes = [rf"\par\smallskip\footnotesize {escape_latex(note)}" for note in table.notes]
    caption = rf"\caption{{{escape_latex(table.title)}}}"
    lines = [
        r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Returns `text` so that LaTeX prints it as it stands."""
    return "".join(LATEX.get(character, character) for character in text)


def _latex_cell(cell: Cell) -> str:
    """The number above, its details small below it."""
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    below = [rf"\footnotesize {escape_latex(line)}" for line in (cell.detail, cell.note) if line]
    return rf"\shortstack{{{_LINE_BREAK.join([text, *below])}}}" if below else text


def write_tables(folder: Path, tables: Iterable[Table]) -> None:
    """Writes NAME.csv, NAME.tex and NAME.md of every table into `folder`, each atomically."""
    folder.mkdir(exist_ok=True)
    for table in tables:
        write_text_atomically(folder / f"{table.name}.csv", to_csv(table))
        write_text_atomically(folder / f"{table.name}.tex", to_latex(table))
        write_text_atomically(folder / f"{table.name}.md", to_markdown(table))
