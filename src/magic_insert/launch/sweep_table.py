"""The results of a sweep on disk: `sweep.json` for programs, `sweep.md`, `sweep.csv` and `heatmap.png` for people."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json, write_text
from magic_insert.launch.results import shown

SWEEP_FILE = "sweep.json"


@dataclass(frozen=True)
class Outcome:
    """One job of a sweep that ended: `value` is what ranks it, `numbers` everything it measured."""

    name: str
    settings: dict[str, str]
    state: str  # done or failed
    value: float | None
    numbers: dict[str, float]
    out: str
    log: str
    seconds: float
    error: str


@dataclass(frozen=True)
class Sweep:
    """All jobs of a sweep over `keys`; `metric` (null: what jobs return) is best at its `direction`, max or min."""

    job: str
    keys: list[str]
    metric: str | None
    direction: str
    outcomes: Sequence[Outcome]

    @property
    def best(self) -> Outcome | None:
        """The job of the best value, the first of equals; none where nothing was measured."""
        measured = [(row.value, row) for row in self.outcomes if row.value is not None]
        if not measured:
            return None
        sign = 1 if self.direction == "max" else -1
        return max(measured, key=lambda pair: sign * pair[0])[1]


@dataclass(frozen=True)
class Grid:
    """Values over two swept keys, the mean over everything else that was swept; None where no job measured."""

    row_key: str
    column_key: str
    rows: list[str]
    columns: list[str]
    cells: list[list[float | None]]


def write_sweep(folder: Path, sweep: Sweep) -> str:
    """Writes the four files; returns what to tell the user: where the table is, and the best job."""
    best = sweep.best
    content = {
        "job": sweep.job,
        "keys": sweep.keys,
        "metric": sweep.metric,
        "direction": sweep.direction,
        "best": best.name if best else None,
        "jobs": [asdict(row) for row in sweep.outcomes],
    }
    write_json(folder / SWEEP_FILE, content)
    write_text(folder / "sweep.md", markdown(sweep))
    write_text(folder / "sweep.csv", table_csv(sweep))
    if (found := grid(sweep)) is not None:
        from magic_insert.launch.heatmap import draw_heatmap

        draw_heatmap(folder / "heatmap.png", found, sweep.metric or "value")
    told = f"table: {folder / 'sweep.md'}"
    return f"{told}; best: {best.name} ({best.value:.4g}) in {best.out}" if best else told


def read_sweep(folder: Path) -> Sweep:
    """The sweep whose files are in `folder`.

    Raises:
        UserError: there is none, or its file has other fields than `write_sweep` gives it.
    """
    content = read_json(folder / SWEEP_FILE)
    try:
        rows = [Outcome(**row) for row in content["jobs"]]
        return Sweep(content["job"], content["keys"], content["metric"], content["direction"], rows)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"expected the record of a sweep in {folder / SWEEP_FILE}, got other fields ({error}); run the same sweep "
            "again, which skips finished jobs and writes it anew"
        ) from error


def columns_of(sweep: Sweep) -> list[str]:
    """The measured numbers that the table shows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in sweep.outcomes for name in shown(row.numbers)))


def markdown(sweep: Sweep) -> str:
    """One line a job; the best in bold."""
    numbers = columns_of(sweep)
    head = [*sweep.keys, "state", sweep.metric or "value", *numbers, "seconds", "where"]
    lines = [_line(head), _line(["---"] * len(head))]
    best = sweep.best
    for row in sweep.outcomes:
        value = _number(row.value)
        cells = [
            *(row.settings.get(key, "") for key in sweep.keys),
            row.state if row.state == "done" else f"failed: {row.error}",
            f"**{value}**" if best is not None and row.name == best.name else value,
            *(_number(row.numbers.get(name)) for name in numbers),
            f"{row.seconds:.0f}",
            row.out if row.state == "done" else row.log,
        ]
        lines.append(_line(cells))
    return f"# {sweep.job}: {', '.join(sweep.keys)}\n\n" + "\n".join(lines) + "\n"


def table_csv(sweep: Sweep) -> str:
    """Every job with every number it measured."""
    numbers = list(dict.fromkeys(name for row in sweep.outcomes for name in row.numbers))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*sweep.keys, "state", "value", *numbers, "seconds", "out", "log", "error"])
    for row in sweep.outcomes:
        keys = [row.settings.get(key, "") for key in sweep.keys]
        found = [row.numbers.get(name, "") for name in numbers]
        value = "" if row.value is None else row.value
        writer.writerow([*keys, row.state, value, *found, row.seconds, row.out, row.log, row.error])
    return text.getvalue()


def grid(sweep: Sweep) -> Grid | None:
    """The values over the first two swept keys; None for fewer keys or nothing measured."""
    if len(sweep.keys) < 2 or sweep.best is None:
        return None
    row_key, column_key = sweep.keys[:2]
    rows = _distinct(sweep, row_key)
    columns = _distinct(sweep, column_key)
    cells: list[list[float | None]] = []
    for row in rows:
        cells.append([])
        for column in columns:
            here = [
                outcome.value
                for outcome in sweep.outcomes
                if outcome.value is not None
                and (outcome.settings.get(row_key), outcome.settings.get(column_key)) == (row, column)
            ]
            cells[-1].append(fmean(here) if here else None)
    return Grid(row_key, column_key, rows, columns, cells)


def _distinct(sweep: Sweep, key: str) -> list[str]:
    return list(dict.fromkeys(row.settings[key] for row in sweep.outcomes if key in row.settings))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
