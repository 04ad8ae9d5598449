"""What runs measured: the numbers of one run by dotted name, and the results of a sweep as files.

A sweep leaves `sweep.json` for programs, from its first job on, and at its end `sweep.md`, `sweep.csv` and
`heatmap.png` for people.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_jsonl, read_object, read_record, write_bytes, write_json, write_text
from magic_insert.core.tables import csv_table, markdown_table
from magic_insert.launch.run import RECORD, RunRecord
from magic_insert.pages.charts import Grid, heat_map
from magic_insert.tracking import METRICS

ROUNDS, RESULT, CARD, SWEEP_FILE = "rounds.jsonl", "result.json", "card.json", "sweep.json"
# Of the many numbers of a bootstrap's round, those that a table of runs shows.
SHOWN_OF_ROUNDS = (
    "round",
    *(f"metrics.inserter.{group}.effect_psnr" for group in ("photo", "seen", "unseen")),
    "accepted",
    "rejected",
    "filter.precision",
    "filter.recall",
)


@dataclass(frozen=True)
class Outcome:
    """One job of a sweep: `value` is what ranks it, `numbers` everything it measured, `error` why it failed."""

    name: str
    settings: dict[str, str]
    state: Literal["waiting", "running", "done", "failed"]
    value: float | None
    numbers: dict[str, float]
    out: str
    log: str
    seconds: float
    error: str

    @property
    def shown(self) -> dict[str, float]:
        """Those of its numbers that a table of runs has columns for."""
        rounds = {name: self.numbers[name] for name in SHOWN_OF_ROUNDS if name in self.numbers}
        return rounds or self.numbers

    @property
    def verdict(self) -> str:
        """Its state in a table: a failed job with its reason."""
        return f"failed: {self.error}" if self.state == "failed" else self.state


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep over `keys`; `metric` (null: what jobs return) is best at its `direction`."""

    job: str
    keys: list[str]
    metric: str | None
    direction: Literal["max", "min"]
    jobs: list[Outcome]

    @property
    def best(self) -> Outcome | None:
        """The job of the best value, the first of equals; none where nothing was measured."""
        measured = [(row.value, row) for row in self.jobs if row.value is not None]
        sign = 1 if self.direction == "max" else -1
        return max(measured, key=lambda pair: sign * pair[0])[1] if measured else None

    def rows(self, *, links: bool = True) -> list[dict[str, str]]:
        """A table of its jobs; `links` says where each one lies."""
        columns = list(dict.fromkeys(name for row in self.jobs for name in row.shown))
        return [
            {
                **{key: row.settings.get(key, "") for key in self.keys},
                "state": row.verdict,
                self.metric or "value": _number(row.value),
                **{name.removeprefix("metrics."): _number(row.numbers.get(name)) for name in columns},
                "seconds": f"{row.seconds:.0f}",
                **({"where": row.log if row.state == "failed" else row.out} if links else {}),
            }
            for row in self.jobs
        ]

    def grid(self) -> Grid | None:
        """The values over the first two swept keys, the mean over any other; None for fewer keys or no value."""
        if len(self.keys) < 2 or self.best is None:
            return None
        row_key, column_key = self.keys[:2]
        found: dict[tuple[str, str], list[float]] = {}
        for job in self.jobs:
            if row_key in job.settings and column_key in job.settings:
                here = found.setdefault((job.settings[row_key], job.settings[column_key]), [])
                here += [] if job.value is None else [job.value]
        rows, columns = (list(dict.fromkeys(pair[i] for pair in found)) for i in (0, 1))
        cells = [
            [fmean(values) if (values := found.get((row, column), [])) else None for column in columns]
            for row in rows
        ]
        return Grid(row_key, column_key, rows, columns, cells)


def write_sweep(folder: Path, sweep: Sweep) -> str:
    """Writes the four files; returns what to tell the user: the page to make, where the table is, and the best job."""
    write_json(folder / SWEEP_FILE, asdict(sweep))
    best = sweep.best
    rows = sweep.rows()
    if best is not None:
        place = sweep.jobs.index(best)
        key = sweep.metric or "value"
        rows[place] = {**rows[place], key: f"**{rows[place][key]}**"}
    write_text(
        folder / "sweep.md",
        f"# {sweep.job}: {', '.join(sweep.keys)}\n\n{markdown_table(rows, num_text=len(sweep.keys) + 1)}\n",
    )
    exact = [
        {**row.settings, "state": row.state, "value": row.value, **row.numbers, "seconds": row.seconds,
         "out": row.out, "log": row.log, "error": row.error}
        for row in sweep.jobs
    ]  # fmt: skip
    write_text(
        folder / "sweep.csv", csv_table(exact, list(dict.fromkeys(name for row in exact for name in row)))
    )
    if (grid := sweep.grid()) is not None:
        write_bytes(folder / "heatmap.png", heat_map(sweep.metric or "value", grid).light)
    told = f"table: {folder / 'sweep.md'}"
    return f"{told}; best: {best.name} ({best.value:.4g}) in {best.out}" if best else told


def read_sweep(folder: Path) -> Sweep:
    """The sweep whose files are in `folder`; a job that was left running when the sweep ended is shown as it is now.

    Raises:
        UserError: there is none, or its file is damaged.
    """
    sweep = read_record(folder / SWEEP_FILE, Sweep)
    return replace(sweep, jobs=[_as_it_is_now(row) if row.state == "running" else row for row in sweep.jobs])


def _as_it_is_now(row: Outcome) -> Outcome:
    """A running job with what it has measured so far, or as failed where its process is gone."""
    record = Path(row.out) / RECORD
    if not record.is_file():
        return row
    state = read_record(record, RunRecord).state_now
    found = replace(row, numbers=read_numbers(Path(row.out)))
    if state in ("running", "done"):
        return replace(found, state=state)  # type: ignore[arg-type]
    return replace(found, state="failed", error=f"{state} before the sweep ended")


def read_numbers(folder: Path) -> dict[str, float]:
    """Every number that the run in `folder` ended with, by dotted name.

    Its `result.json` where it wrote one; else the round that a bootstrap kept, or its last without a card; else
    the last row of each stage's log.
    """
    if (folder / RESULT).is_file():
        return flat_numbers(read_object(folder / RESULT))
    if (folder / ROUNDS).is_file():
        rows = read_jsonl(folder / ROUNDS)
        # What the run returns and publishes is the kept round's, and numbers of two rounds make no row.
        kept = read_object(folder / CARD).get("round", -1) if (folder / CARD).is_file() else -1
        return flat_numbers(rows[kept if kept < len(rows) else -1]) if rows else {}
    rows = read_jsonl(folder / METRICS) if (folder / METRICS).is_file() else []
    stages = {row.get("stage") for row in rows}
    found: dict[str, float] = {}
    for row in rows:
        prefix = "" if len(stages) == 1 else f"{row.get('stage')}."
        numbers = {name: value for name, value in row.items() if name not in ("stage", "step")}
        found |= {prefix + name: value for name, value in flat_numbers(numbers).items()}
    return found


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rows of a bootstrap's `rounds.jsonl`, at least one.

    Raises:
        UserError: the file is missing, damaged or empty.
    """
    if not (rows := read_jsonl(path)):
        raise UserError(
            f"expected rounds in {path}, got an empty file; run the bootstrap again, or delete the file"
        )
    return rows


def flat_numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested mappings, by dotted name; anything else is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
