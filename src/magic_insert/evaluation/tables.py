"""Tables of an evaluation, once as data and then as Markdown, CSV and LaTeX. One table a track.

Every table says which metrics and which benchmark made it: floors first, then methods, ceilings, and the paper's
printed rows with the reason why they are not comparable. A missing value is an empty cell, never a zero.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magic_insert.evaluation.columns import Column
from magic_insert.evaluation.compare import Row, Summary, paired_table, present_columns, summaries
from magic_insert.evaluation.intervals import Estimate
from magic_insert.evaluation.printed import printed_results, printed_rows, why_not_comparable

MISSING = "–"
CSV_HEAD = (
    "track", "metrics", "benchmark", "method", "kind", "column", "better", "unit", "mean", "low", "high", "n",
    "comparable",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One row of a table. `kind`: floor, method, ceiling or printed. `best` names the columns it leads."""

    method: str
    kind: str
    num_rows: int | None
    estimates: Mapping[str, Estimate]
    best: frozenset[str]


@dataclass(frozen=True)
class Table:
    """One track's table: columns, lines, and the `label` that says what made it."""

    track: str
    label: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def metrics_label(facts: Mapping[str, Any]) -> str:
    """What must stand over every table: which metrics, which benchmark, how intervals are made."""
    benchmark = facts.get("benchmark", {})
    name = benchmark.get("name", "unknown")
    split = f" split={benchmark['split']}" if benchmark.get("split") else ""
    label = f"metrics={facts.get('metrics', 'unknown')}, benchmark={name}{split}"
    if facts.get("metrics") == "micro":
        label += " (micro metrics: encoders trained on the Toybox, for Toybox pictures only)"
    return label


def main_table(rows: Sequence[Row], track: str, facts: Mapping[str, Any], *, seed: int = 0) -> Table:
    """The table of `track`: floors, methods, ceilings, printed references."""
    columns = tuple(present_columns(rows, track))
    found = summaries(rows, track, seed=seed)
    best = {column.key: best_methods(found, column) for column in columns}
    lines = [
        Line(
            summary.method,
            summary.kind,
            summary.num_rows,
            summary.estimates,
            frozenset(key for key, names in best.items() if summary.method in names),
        )
        for summary in found
    ]
    shown = {column.key for column in columns}
    for method, values in printed_rows(track):
        estimates = {key: Estimate(value, None, None, 0) for key, value in values.items() if key in shown}
        if estimates:
            lines.append(Line(f"{method} (printed)", "printed", None, estimates, frozenset()))
    return Table(track, metrics_label(facts), columns, tuple(lines))


def best_methods(found: Sequence[Summary], column: Column) -> set[str]:
    """The methods (no floor, no ceiling) that lead in `column`; none where all are equal or no way is better."""
    gains = {
        s.method: column.gain(s.estimates[column.key].mean)
        for s in found
        if s.kind == "method" and column.key in s.estimates
    }
    if column.better == "neither" or len(set(gains.values())) < 2:
        return set()
    return {method for method, gain in gains.items() if gain == max(gains.values())}


def printed_note(facts: Mapping[str, Any]) -> str:
    """The sentence under a table that holds printed rows."""
    return f"(printed): {printed_results()['source']}; not comparable: {' and '.join(why_not_comparable(facts))}."


def interval_text(column: Column, estimate: Estimate) -> str:
    """`[low, high]`, or nothing without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{column.text(estimate.low)}, {column.text(estimate.high)}]"


def markdown(tables: Sequence[Table], rows: Sequence[Row], facts: Mapping[str, Any], *, seed: int = 0) -> str:
    """All tables and the paired comparisons as Markdown."""
    parts = []
    for table in tables:
        parts += [f"## {table.track}: {table.label}", ""]
        parts += ["| method | n | " + " | ".join(column.heading for column in table.columns) + " |"]
        parts += ["|---|--:|" + "--:|" * len(table.columns)]
        parts += [_markdown_line(table, line) for line in table.lines]
        parts += ["", "Means with 95 % intervals clustered by subject and background. Bold: best method."]
        if any(line.kind == "printed" for line in table.lines):
            parts += ["", printed_note(facts)]
        parts += ["", *_markdown_paired(rows, table, seed)]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_line(table: Table, line: Line) -> str:
    cells = []
    for column in table.columns:
        estimate = line.estimates.get(column.key)
        if estimate is None:
            cells.append(MISSING)
            continue
        text = column.text(estimate.mean)
        text = f"**{text}**" if column.key in line.best else text
        cells.append(f"{text} {interval_text(column, estimate)}".strip())
    count = MISSING if line.num_rows is None else str(line.num_rows)
    return f"| {line.method} | {count} | " + " | ".join(cells) + " |"


def _markdown_paired(rows: Sequence[Row], table: Table, seed: int) -> list[str]:
    by_key = {column.key: column for column in table.columns}
    found = paired_table(rows, table.track, seed=seed)
    if not found:
        return []
    lines = [
        f"Paired differences to {found[0].reference} on shared pairs ({table.label}):",
        "",
        "| method | column | pairs | difference | 95 % interval | win rate | 95 % interval |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for result in found:
        column, difference, rate = by_key[result.column], result.difference, result.win_rate
        wins = MISSING if rate is None else f"{rate.mean:.0%}"
        between = "" if rate is None or rate.low is None else f"[{rate.low:.0%}, {rate.high:.0%}]"
        lines.append(
            f"| {result.method} | {column.heading} | {difference.n} | {difference.mean:+.{column.decimals}f} | "
            f"{interval_text(column, difference)} | {wins} | {between} |"
        )
    return [*lines, ""]


def csv_text(tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """One line a value: track, metrics, benchmark, method, kind, column, mean, low, high, n, comparable."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    metrics, benchmark = facts.get("metrics", "unknown"), facts.get("benchmark", {}).get("name", "unknown")
    for table in tables:
        for line in table.lines:
            for column in table.columns:
                if (estimate := line.estimates.get(column.key)) is None:
                    continue
                numbers = [
                    None if v is None else repr(v) for v in (estimate.mean, estimate.low, estimate.high)
                ]
                head = [table.track, metrics, benchmark, line.method, line.kind, column.key, column.better]
                writer.writerow(
                    [
                        *head,
                        column.unit,
                        *numbers,
                        estimate.n or None,
                        "no" if line.kind == "printed" else "yes",
                    ]
                )
    return buffer.getvalue()


LATEX_SPECIAL = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
                 "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
                 "^": r"\textasciicircum{}"}  # fmt: skip


def latex_escape(text: str) -> str:
    """`text` with every character that LaTeX would read as a command made harmless."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def latex(tables: Sequence[Table], facts: Mapping[str, Any]) -> str:
    """All tables as LaTeX `table` environments (needs the package booktabs)."""
    parts = []
    for table in tables:
        parts += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{Track {table.track}; {latex_escape(table.label)}.",
        ]
        parts += ["Means with 95\\% intervals clustered by subject and background."]
        if any(line.kind == "printed" for line in table.lines):
            parts += [latex_escape(printed_note(facts))]
        parts += ["}", rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
        parts += [" & ".join(["method", *(latex_escape(c.heading) for c in table.columns)]) + r" \\"]
        kind = None
        for line in table.lines:
            if line.kind != kind:
                parts.append(r"\midrule")
                kind = line.kind
            parts.append(_latex_line(table, line))
        parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(parts)


def _latex_line(table: Table, line: Line) -> str:
    cells = [latex_escape(line.method)]
    for column in table.columns:
        estimate = line.estimates.get(column.key)
        if estimate is None:
            cells.append("--")
            continue
        text = column.text(estimate.mean)
        text = rf"\textbf{{{text}}}" if column.key in line.best else text
        between = interval_text(column, estimate)
        cells.append(text + (rf" {{\scriptsize {between}}}" if between else ""))
    return " & ".join(cells) + r" \\"
