"""Figures of experiments 001 to 003 again, from the tables in their folders: their rows were not kept.

    python experiments/earlier.py

001/pareto.png is drawn from table.md, 002/rounds.png and 003/thresholds.png from the tables of the READMEs. The sheets
of pictures of 001, 002, 004 and 005 need their runs again: no table holds a picture.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import figure

HERE = Path(__file__).resolve().parent
NUMBER = r"[+-]?\d+(?:\.\d+)?"
KINDS = {"floor:": ("0.5", "v"), "ceiling:": ("0.5", "^")}  # of a reference: its colour and marker
GROUPS = ("photo", "seen", "unseen")


def tables_of(path: Path) -> list[pd.DataFrame]:
    """The Markdown tables of a file, cells as words."""
    found: list[list[list[str]]] = [[]]
    for line in path.read_text().splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip(" *") for cell in line.strip().strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [pd.DataFrame(rows[2:], columns=rows[0]) for rows in found if rows]


def table_with(path: Path, *columns: str) -> pd.DataFrame:
    """The first table of a file that has these columns."""
    return next(table for table in tables_of(path) if set(columns) <= set(table.columns))


def numbers_of(cell: str) -> list[float]:
    """Value, low and high of "value [low, high]"; the value alone where no interval stands."""
    return [float(number) for number in re.findall(NUMBER, cell)]


def reach_of(found: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their values."""
    return [value - low for value, low, _ in found], [high - value for value, _, high in found]


def pareto(path: Path, table: pd.DataFrame, across: str, up: str) -> None:
    """Subject against style: methods, floors and ceilings with their intervals."""
    with figure(path, 9.6, 5.0) as made:
        axes = made.subplots()
        for name, x, y in zip(
            table.method, table[across].map(numbers_of), table[up].map(numbers_of), strict=True
        ):
            if len(x) < 3 or len(y) < 3:  # printed by the paper: other encoders, no interval
                continue
            kind = next((kind for kind in KINDS if name.startswith(kind)), "")
            look: dict[str, Any] = {"label": name, "markersize": 8}
            if kind:
                colour, marker = KINDS[kind]
                look = {"color": colour, "marker": marker, "markersize": 5}
                axes.annotate(
                    name.removeprefix(kind), (x[0], y[0]), (5, 5), textcoords="offset points", color=colour
                )
            (low, high), (under, over) = reach_of([x]), reach_of([y])
            axes.errorbar(
                x[0], y[0], (under, over), (low, high), **({"fmt": "o"} if not kind else {}), **look
            )
        axes.set(xlabel=across, ylabel=up)
        made.legend(loc="outside right upper")


def changes(path: Path, settings: dict[str, pd.DataFrame]) -> None:
    """The inserter's change by round, a panel a group and a line a setting."""
    with figure(path, 12.0, 4.0) as made:
        for axes, group in zip(made.subplots(1, 3, sharey=True), GROUPS, strict=True):
            for number, (name, table) in enumerate(settings.items()):
                found = [[0.0, 0.0, 0.0], *table[f"inserter, {group}"].map(numbers_of)]
                place = [n + 0.04 * number for n in (0, *table["round"].astype(int))]
                axes.errorbar(
                    place, [f[0] for f in found], reach_of(found), marker="o", capsize=3, label=name
                )
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.set(title=group, xlabel="round")
            axes.set_xticks(range(len(found)))
        made.axes[0].set_ylabel("inserter, effect region, dB against round 0")
        made.axes[-1].legend(fontsize=8.5)


def main() -> None:
    table = table_with(HERE / "001-stylizers" / "table.md", "subject mean ↑", "style mean ↑")
    pareto(HERE / "001-stylizers" / "pareto.png", table, "subject mean ↑", "style mean ↑")
    for folder, picture in (("002-bootstrap-rounds", "rounds"), ("003-filter-threshold", "thresholds")):
        table = table_with(
            HERE / folder / "README.md", "setting", *(f"inserter, {group}" for group in GROUPS)
        )
        settings = {str(name): part for name, part in table.groupby("setting", sort=False)}
        changes(HERE / folder / f"{picture}.png", settings)


if __name__ == "__main__":
    main()
