"""Tables as text: Markdown, CSV and LaTeX, written by pandas from rows of cells.

A row is a mapping from column heading to cell, the same headings in every row; a cell is text, a number, or None where
there is nothing to show.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

Rows = Sequence[Mapping[str, Any]]
MISSING = "–"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins like this
LATEX = str.maketrans(
    {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "↑": r"$\uparrow$",
     "↓": r"$\downarrow$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
     MISSING: "--"}
)  # fmt: skip


def latex_escape(text: str) -> str:
    """`text` without a character that LaTeX would read as a command."""
    return text.translate(LATEX)


def markdown_table(rows: Rows, *, num_text: int = 1) -> str:
    """A Markdown table; the first `num_text` columns are words and stand left, the others right."""
    frame = pd.DataFrame(rows, dtype=object)
    align = ["left" if number < num_text else "right" for number in range(len(frame.columns))]
    frame = frame.map(lambda cell: MISSING if cell is None else str(cell).replace("|", r"\|"))
    return str(frame.to_markdown(index=False, colalign=align, disable_numparse=True))


def csv_table(rows: Rows, head: Sequence[str] | None = None) -> str:
    """A CSV file with exact numbers; text that a spreadsheet would compute begins with an apostrophe.

    Args:
        head: the columns, where rows may lack cells or there may be no row.
    """
    frame = pd.DataFrame(rows, columns=None if head is None else list(head), dtype=object)
    frame = frame.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def latex_table(rows: Rows, caption: str) -> str:
    """A LaTeX `table` environment (needs the package booktabs); cells and headings are LaTeX, `caption` is not."""
    frame = pd.DataFrame(rows, dtype=object)
    form = "l" + "r" * (len(frame.columns) - 1)
    return str(frame.to_latex(index=False, escape=False, caption=latex_escape(caption), column_format=form))
