"""Sweeps of bootstraps over seeds as one table: what each setting changes, round by round, the seeds taken together.

Run as `python tools/seed_table.py runs/sweep ...`; prints Markdown and writes curves (`rounds.png`) and a
map of settings by rounds (`rounds_heatmap.png`; `heatmap.png` is the sweep's own) into the first folder or `--out`.
Every held-out picture's errors are averaged over the seeds, then scenes are resampled: the interval says how far the
change carries over to other scenes, the range beside it how far the seeds lie apart.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from magic_insert.bootstrap import measure as scores
from magic_insert.bootstrap.stages import read_values
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_bytes
from magic_insert.launch.results import ROUNDS, read_rounds, read_sweep
from magic_insert.pages.charts import heat_map

Row = dict[str, Any]
Values = Mapping[str, Mapping[str, float]]
SEED = "seed"
# What only some evaluations measure: its column, and digits.
EXTRA = {
    "layered_psnr": ("finished picture, seen", 2),
    "lpips": ("LPIPS, seen", 3),
    "layered_lpips": ("LPIPS of the finished picture, seen", 3),
}


@dataclass(frozen=True)
class Line:
    """One setting after one round; `change` is network -> group -> metric -> [difference, low, high] to round 0."""

    setting: str
    round: int
    seeds: int
    kept: float
    harvested: float
    change: dict[str, dict[str, dict[str, list[float]]]]
    range: tuple[float, float]  # of the inserter's change on seen styles, over seeds
    precision: float | None
    recall: float | None


def lines_of(*sweeps: Path, resamples: int = 1000, coverage: float = 0.95) -> list[Line]:
    """The lines of one or more sweeps' folders, settings in their order, rounds from 0. Of several sweeps each setting
    is told with its folder's name. A setting ends with the seed that stopped first; what this leaves out is said on
    standard error.

    Raises:
        UserError: no sweep there, or no finished bootstrap in it; two sweeps of one name.
    """
    settings = _runs_of(sweeps)
    how: dict[str, Any] = {"seed": 0, "resamples": resamples, "coverage": coverage}
    lines = []
    for name, runs in settings.items():
        shortest = min(len(rows) for rows in runs)
        if (ended := sum(len(rows) == shortest for rows in runs)) < len(runs):
            place = f"seed_table: {name}" if name else "seed_table"
            print(
                f"{place}: rounds after {shortest - 1} left out, {ended} of {len(runs)} seeds stopped there",
                file=sys.stderr,
            )
        for number in range(shortest):
            rows = [run[number] for run in runs]
            change = {
                network: scores.changes(
                    _mean_values([_values(run[0], network) for run in runs]),
                    _mean_values([_values(row, network) for row in rows]),
                    **how,
                )
                for network in ("inserter", "remover")
            }
            gains = [_seen(row) - _seen(run[0]) for row, run in zip(rows, runs, strict=True)]
            lines.append(
                Line(
                    name,
                    number,
                    len(runs),
                    fmean(row["accepted"] for row in rows),
                    fmean(row["harvested"] for row in rows),
                    change,
                    (min(gains), max(gains)),
                    _mean_known(row["filter"] and row["filter"]["precision"] for row in rows),
                    _mean_known(row["filter"] and row["filter"]["recall"] for row in rows),
                )
            )
    return lines


def _runs_of(sweeps: Sequence[Path]) -> dict[str, list[list[Row]]]:
    """The rounds of every finished run by its setting, which is all but the seed. Raises as `lines_of`."""
    named: dict[str, Path] = {}
    for sweep in sweeps:
        if sweep.name in named:
            raise UserError(
                f"expected sweeps of different names, got {named[sweep.name]} and {sweep}, whose settings would be "
                "taken for one another's seeds; rename a folder, or give each once"
            )
        named[sweep.name] = sweep
    settings: dict[str, list[list[Row]]] = {}
    for sweep in sweeps:
        found = [
            (outcome, path)
            for outcome in read_sweep(sweep).jobs
            if outcome.state == "done" and (path := Path(outcome.out) / ROUNDS).is_file()
        ]
        if not found:
            raise UserError(
                f"expected finished bootstraps in {sweep}, got none; run a sweep of bootstrap first"
            )
        for outcome, path in found:
            name = ", ".join(f"{k}={v}" for k, v in outcome.settings.items() if k != SEED)
            if len(sweeps) > 1:
                name = f"{sweep.name}: {name}" if name else sweep.name
            settings.setdefault(name, []).append(read_rounds(path))
    return settings


def markdown(lines: Sequence[Line]) -> str:
    """One row a setting and round; decibels in the effect region against round 0."""
    known = [name for name in EXTRA if all(name in line.change["inserter"]["seen"] for line in lines)]
    columns = [
        "setting", "round", "kept", "inserter, seen", "range over seeds", "inserter, unseen", "inserter, photo",
        "shadow IoU, seen", *(EXTRA[name][0] for name in known), "remover, seen", "remover, photo",
        "precision", "recall",
    ]  # fmt: skip
    rows = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for line in lines:
        if line.round == 0:
            continue
        inserter, remover = line.change["inserter"], line.change["remover"]
        cells = [
            line.setting,
            str(line.round),
            f"{line.kept:.0f} of {line.harvested:.0f}",
            _shown(inserter, "seen"),
            f"{line.range[0]:+.2f} to {line.range[1]:+.2f}",
            _shown(inserter, "unseen"),
            _shown(inserter, "photo"),
            _shown(inserter, "seen", "shadow_iou"),
            *(_shown(inserter, "seen", name, digits=EXTRA[name][1]) for name in known),
            _shown(remover, "seen"),
            _shown(remover, "photo"),
            "" if line.precision is None else f"{line.precision:.2f}",
            "" if line.recall is None else f"{line.recall:.2f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def draw(path: Path, lines: Sequence[Line]) -> None:
    """The inserter's change by round, a panel a group and a line a setting, intervals as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, group in zip(figure.subplots(1, 3, sharey=True), scores.GROUPS, strict=True):
        for offset, setting in enumerate(dict.fromkeys(line.setting for line in lines)):
            mine = [line for line in lines if line.setting == setting]
            found = [line.change["inserter"][group]["effect_psnr"] for line in mine]
            place = [line.round + 0.04 * offset for line in mine]
            below, above = ([abs(f[i] - f[0]) for f in found] for i in (1, 2))
            axes.errorbar(place, [f[0] for f in found], (below, above), marker="o", capsize=3, label=setting)
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=group, xlabel="round")
        axes.set_xticks(sorted({line.round for line in lines}))
    figure.axes[0].set_ylabel("inserter, effect region, dB against round 0")
    if any(line.setting for line in lines):
        figure.axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def grid_of(lines: Sequence[Line]) -> pd.DataFrame:
    """The inserter's change on seen styles: settings by rounds; None where there is no such round."""
    change = {(line.setting, line.round): line.change["inserter"]["seen"]["effect_psnr"][0] for line in lines}
    names = list(dict.fromkeys(line.setting for line in lines))
    rounds = sorted({line.round for line in lines if line.round > 0})
    cells = [[change.get((name, number)) for number in rounds] for name in names]
    places = pd.Index(names, name="setting"), pd.Index(map(str, rounds), name="round")
    return pd.DataFrame(cells, *places, dtype=float)


def _values(row: Row, network: str) -> Values:
    folder = Path(row["store"]) / "evaluate" / row["stages"][f"evaluate_{network}"]
    return read_values(folder, sorted(path.stem for path in (folder / "values").glob("*.json")))


def _mean_values(runs: Sequence[Values]) -> dict[str, dict[str, float]]:
    return {name: {key: fmean(run[name][key] for run in runs) for key in runs[0][name]} for name in runs[0]}


def _seen(row: Row) -> float:
    return float(row["metrics"]["inserter"]["seen"]["effect_psnr"])


def _mean_known(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _shown(
    change: Mapping[str, Mapping[str, Sequence[float]]],
    group: str,
    metric: str = "effect_psnr",
    digits: int = 2,
) -> str:
    difference, low, high = (f"{number:+.{digits}f}" for number in change[group][metric])
    return f"{difference} [{low}, {high}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table of a sweep's folder and draws its curves."""
    parser = argparse.ArgumentParser(description="Sweeps of bootstraps over seeds as one table.")
    parser.add_argument("sweep", type=Path, nargs="+", help="a sweep's folder")
    parser.add_argument(
        "--out", type=Path, help="folder for rounds.png and rounds_heatmap.png (default: the first sweep's)"
    )
    given = parser.parse_args(arguments)
    try:
        lines = lines_of(*given.sweep)
    except UserError as error:
        print(f"seed_table: {error}", file=sys.stderr)
        return 2
    out: Path = given.out or given.sweep[0]
    out.mkdir(parents=True, exist_ok=True)
    draw(out / "rounds.png", lines)
    title = "inserter on seen styles, effect region, dB against round 0"
    write_bytes(out / "rounds_heatmap.png", heat_map(title, grid_of(lines)).light)
    print(markdown(lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
