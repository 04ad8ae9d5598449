"""Tables of an evaluation, once as data and then as Markdown, CSV and LaTeX. One table a track.

Every table says which metrics and which benchmark made it: floors first, then methods, ceilings, and the paper's
printed rows with the reasons why they are not comparable. Those numbers lie in `printed_results.json`; no evaluation
can repeat them, because another number of subjects was released, and no texts. A missing value is an empty cell.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from magic_insert.core.tables import MISSING, csv_table, latex_escape, latex_table, markdown_table
from magic_insert.evaluation import statistics
from magic_insert.evaluation.metrics import Column

PRINTED_FILE = Path(__file__).with_name("printed_results.json")
CSV_HEAD = (
    "track", "metrics", "benchmark", "method", "kind", "column", "better", "unit", "mean", "low", "high", "n",
    "comparable",
)  # fmt: skip
MEANS = "Means with 95 % intervals clustered by subject and background."


@dataclass(frozen=True)
class Table:
    """One track's table: columns, lines, paired comparisons, and the `label` that says what made it."""

    track: str
    label: str
    columns: tuple[Column, ...]
    lines: tuple[statistics.Summary, ...]
    paired: tuple[statistics.Paired, ...]

    @property
    def has_printed(self) -> bool:
        """Whether rows of the paper stand in it."""
        return any(line.kind == "printed" for line in self.lines)

    def measured(self) -> Iterator[tuple[statistics.Summary, Column, statistics.Estimate]]:
        """Every cell with a value, printed rows included."""
        for line in self.lines:
            for column in self.columns:
                if (estimate := line.estimates.get(column.key)) is not None:
                    yield line, column, estimate


def metrics_label(facts: Mapping[str, Any]) -> str:
    """What must stand over every table: which metrics and which benchmark."""
    benchmark = facts.get("benchmark", {})
    name = benchmark.get("name", "unknown")
    split = f" split={benchmark['split']}" if benchmark.get("split") else ""
    label = f"metrics={facts.get('metrics', 'unknown')}, benchmark={name}{split}"
    if facts.get("metrics") == "micro":
        label += " (micro metrics: encoders trained on the Toybox, for Toybox pictures only)"
    return label


def main_table(frame: pd.DataFrame, track: str, facts: Mapping[str, Any], *, seed: int = 0) -> Table:
    """The table of `track` from its rows (`statistics.frame_of`): floors, methods, ceilings, printed references.

    Raises:
        UserError: a value that is no column of this track.
    """
    metrics = str(facts.get("metrics"))
    columns = tuple(column.judged_with(metrics) for column in statistics.present_columns(frame, track))
    found = statistics.summaries(frame, columns, seed=seed)
    best = {column.key: best_methods(found, column) for column in columns}
    lines = [replace(s, best=frozenset(key for key, led in best.items() if s.method in led)) for s in found]
    shown = {column.key for column in columns}
    for method, values in printed_rows(track):
        estimates = {
            key: statistics.Estimate(value, None, None, 0) for key, value in values.items() if key in shown
        }
        if estimates:
            lines.append(statistics.Summary(f"{method} (printed)", "printed", None, estimates))
    compared = tuple(statistics.paired_table(frame, columns, seed=seed))
    return Table(track, metrics_label(facts), columns, tuple(lines), compared)


def best_methods(found: Sequence[statistics.Summary], column: Column) -> set[str]:
    """The methods (no floor, no ceiling) that lead in `column`; none where all are equal or no way is better."""
    gains = {
        s.method: column.gain(s.estimates[column.key].mean)
        for s in found
        if s.kind == "method" and column.key in s.estimates
    }
    if column.better == "neither" or len(set(gains.values())) < 2:
        return set()
    return {method for method, gain in gains.items() if gain == max(gains.values())}


# The paper's printed numbers


@cache
def printed_results() -> Mapping[str, Any]:
    """The content of the versioned file: version, source, track, rows (Tables 1-3) and preference (Table 4)."""
    content: Mapping[str, Any] = json.loads(PRINTED_FILE.read_text(encoding="utf-8"))
    return content


def printed_rows(track: str) -> list[tuple[str, Mapping[str, float]]]:
    """Method and values of every printed row of `track`; empty for a track the paper has no table of."""
    printed = printed_results()
    return [(row["method"], row["values"]) for row in printed["rows"]] if track == printed["track"] else []


def why_not_comparable(facts: Mapping[str, Any]) -> list[str]:
    """Why the printed numbers must not be compared with those of an evaluation; never empty."""
    printed = printed_results()
    benchmark, cards = facts.get("benchmark", {}), facts.get("cards", ())
    reasons: list[str] = []
    if facts.get("metrics") != printed["metrics"]:
        reasons.append("the encoders differ")
    elif not cards or not all(card.get("verified") for card in cards):
        reasons.append("the encoders' weights are not verified")
    if not str(benchmark.get("name")).startswith(printed["benchmark"]):
        return [*reasons, "the pictures differ"]
    if benchmark["name"] != printed["benchmark"]:
        reasons.append("only a part of the pictures was used")
    reasons += benchmark.get("deviations", ["the pictures were not compared with the released ones"])
    return [*reasons, *printed["unreleased"]]


def printed_note(facts: Mapping[str, Any]) -> str:
    """The sentence under a table that holds printed rows."""
    return f"(printed): {printed_results()['source']}; not comparable: {' and '.join(why_not_comparable(facts))}."


# Text


def interval_text(column: Column, estimate: statistics.Estimate) -> str:
    """`[low, high]`, or nothing without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{column.text(estimate.low)}, {column.text(estimate.high)}]"


def text_rows(table: Table, best: str) -> list[dict[str, str | None]]:
    """The table as text; `best` is the format of a leading value, such as `**{}**`."""
    rows: list[dict[str, str | None]] = []
    for line in table.lines:
        cells: dict[str, str | None] = dict.fromkeys(["method", "n", *(c.heading for c in table.columns)])
        cells["method"], cells["n"] = line.method, None if line.num_rows is None else str(line.num_rows)
        for column in table.columns:
            if (estimate := line.estimates.get(column.key)) is not None:
                text = column.text(estimate.mean)
                text = best.format(text) if column.key in line.best else text
                cells[column.heading] = f"{text} {interval_text(column, estimate)}".strip()
        rows.append(cells)
    return rows


def paired_rows(table: Table) -> list[dict[str, str | None]]:
    """Paired differences and win rates as text."""
    by_key = {column.key: column for column in table.columns}
    rows: list[dict[str, str | None]] = []
    for result in table.paired:
        column, difference, rate = by_key[result.column], result.difference, result.win_rate
        between = None if rate is None or rate.low is None else f"[{rate.low:.0%}, {rate.high:.0%}]"
        rows.append(
            {
                "method": result.method, "column": column.heading, "pairs": str(difference.n),
                "difference": f"{difference.mean:+.{column.decimals}f}", "95 %": interval_text(column, difference),
                "win rate": None if rate is None else f"{rate.mean:.0%}", "95 % of it": between,
            }
        )  # fmt: skip
    return rows


def paired_values(table: Table) -> list[dict[str, Any]]:
    """Paired differences and win rates as numbers: method, reference, column, and each with its ends."""
    frame = pd.json_normalize([asdict(result) for result in table.paired], sep="_")
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def markdown(tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """All tables and the paired comparisons of each track as Markdown."""
    parts = []
    for table in tables:
        parts += [f"## {table.track}: {table.label}", markdown_table(text_rows(table, "**{}**"))]
        parts += [f"{MEANS} Bold: best method."]
        parts += [printed_note(facts)] if table.has_printed else []
        if table.paired:
            parts += [f"Paired differences to {table.paired[0].reference} on shared pairs ({table.label}):"]
            parts += [markdown_table(paired_rows(table), num_text=2)]
    return "\n\n".join(parts) + "\n"


def csv_text(tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """`value_rows` as CSV."""
    return csv_table(value_rows(tables, facts), CSV_HEAD)


def value_rows(tables: Sequence[Table], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a value: track, metrics, benchmark, method, kind, column, mean, low, high, n, comparable."""
    about = {
        "metrics": facts.get("metrics", "unknown"),
        "benchmark": facts.get("benchmark", {}).get("name", "unknown"),
    }
    return [
        {
            "track": table.track, **about, "method": line.method, "kind": line.kind, "column": column.key,
            "better": column.better, "unit": column.unit, "mean": estimate.mean, "low": estimate.low,
            "high": estimate.high, "n": estimate.n or None, "comparable": "no" if line.kind == "printed" else "yes",
        }
        for table in tables
        for line, column, estimate in table.measured()
    ]  # fmt: skip


def latex(tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """All tables as LaTeX `table` environments (needs the package booktabs)."""
    parts = []
    for table in tables:
        note = f" {printed_note(facts)}" if table.has_printed else ""
        rows = [
            {latex_escape(head): latex_escape(cell or MISSING) for head, cell in row.items()}
            for row in text_rows(table, "<best>{}</best>")
        ]
        text = latex_table(rows, f"Track {table.track}; {table.label}. {MEANS}{note}")
        parts.append(text.replace("<best>", r"\textbf{").replace("</best>", "}"))
    return "\n".join(parts)
