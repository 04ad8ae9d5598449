"""Methods against each other: means with intervals, paired differences and win rates, breakdowns by style and subject.

A row is a mapping with track, method, pair_id, subject, background, style, seed and values. Rows of floors and
ceilings (methods called "floor:..." and "ceiling:...") are judged like any other but never compared as methods.
All intervals are those of `evaluation.intervals`: 95 %, clustered by subject and background.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magic_insert.evaluation.columns import Column, columns_in, primary_columns
from magic_insert.evaluation.intervals import Estimate, mean_interval

Row = Mapping[str, Any]
FLOOR, CEILING = "floor:", "ceiling:"
OURS = "personalized"


@dataclass(frozen=True)
class Summary:
    """One method: its `kind` (floor, method or ceiling), the number of its rows, and an estimate per column."""

    method: str
    kind: str
    num_rows: int
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class Paired:
    """`method` against `reference` on the pairs and seeds that both have.

    `difference` is the mean of method - reference in the column's own unit. `win_rate` is the share in which the method
    is the better one, a tie counting half; its interval is the wider of the clustered and the exact binomial one. None
    where the column has no better side.
    """

    method: str
    reference: str
    column: str
    difference: Estimate
    win_rate: Estimate | None


def kind_of(method: str) -> str:
    """`floor`, `ceiling` or `method`, by the name."""
    for prefix in (FLOOR, CEILING):
        if method.startswith(prefix):
            return prefix[:-1]
    return "method"


def tracks_of(rows: Iterable[Row]) -> list[str]:
    """The tracks among `rows`, stylize first."""
    return sorted({row["track"] for row in rows}, reverse=True)


def methods_of(rows: Iterable[Row]) -> list[str]:
    """Method names: floors, then methods in the order of their first row, then ceilings."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(names, key=lambda name: ("floor", "method", "ceiling").index(kind_of(name)))


def present_columns(rows: Sequence[Row], track: str) -> list[Column]:
    """The columns for which any row of `track` has a value, in the order of the tables.

    A column of texts only where every pair has one: its mean would be that of other pairs than those beside it.
    """
    pairs_with: dict[str, set[str]] = defaultdict(set)
    chosen = [row for row in rows if row["track"] == track]
    for row in chosen:
        for key in row["values"]:
            pairs_with[key].add(row["pair_id"])
    pairs = {row["pair_id"] for row in chosen}
    return [c for c in columns_in(track, pairs_with) if not c.of_texts or pairs_with[c.key] == pairs]


def estimate_of(rows: Sequence[Row], column: Column, *, seed: int = 0) -> Estimate | None:
    """The mean of `column` over `rows` that have it; None if none has."""
    found = [row for row in rows if column.key in row["values"]]
    if not found:
        return None
    estimate = mean_interval(
        [row["values"][column.key] for row in found],
        [row["subject"] for row in found],
        [row["background"] for row in found],
        seed=seed,
    )
    return estimate.within(column.bounds)


def estimates_of(rows: Sequence[Row], columns: Iterable[Column], *, seed: int = 0) -> dict[str, Estimate]:
    """`estimate_of` for every column that has a value."""
    found = {column.key: estimate_of(rows, column, seed=seed) for column in columns}
    return {key: estimate for key, estimate in found.items() if estimate is not None}


def summaries(rows: Sequence[Row], track: str, *, seed: int = 0) -> list[Summary]:
    """One summary per method of `track`: floors, methods, ceilings."""
    chosen = [row for row in rows if row["track"] == track]
    columns = present_columns(rows, track)
    by_method = grouped(chosen, "method")
    return [
        Summary(name, kind_of(name), len(by_method[name]), estimates_of(by_method[name], columns, seed=seed))
        for name in methods_of(chosen)
    ]


def grouped(rows: Iterable[Row], key: str) -> dict[str, list[Row]]:
    """Rows by the value of `key`, in the order of appearance; a missing value is called "unknown"."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row[key]) if row.get(key) is not None else "unknown"].append(row)
    return dict(groups)


def breakdown(
    rows: Sequence[Row], track: str, by: str, *, seed: int = 0
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Estimates of the primary columns by method and by the value of `by` ("style", "subject" or "background")."""
    chosen = [row for row in rows if row["track"] == track]
    columns = primary_columns(present_columns(rows, track))
    return {
        method: {
            value: estimates_of(part, columns, seed=seed)
            for value, part in sorted(grouped(grouped(chosen, "method")[method], by).items())
        }
        for method in methods_of(chosen)
    }


def reference_method(rows: Sequence[Row], track: str) -> str | None:
    """The method that others are compared with: our own if it is there, else the first; None if only floors are."""
    names = [name for name in methods_of(r for r in rows if r["track"] == track) if kind_of(name) == "method"]
    ours = [name for name in names if name == OURS or name.startswith(OURS + "+")]
    # Pasting is an inserter only by name: whoever inserts goes before it.
    ours.sort(key=lambda name: name.endswith("+copy_paste"))
    return next(iter(ours + names), None)


def paired(
    rows: Sequence[Row], track: str, column: Column, method: str, reference: str, *, seed: int = 0
) -> Paired | None:
    """`method` against `reference` in one column; None if they share no pair."""
    sides: dict[str, dict[tuple[str, int], Row]] = {method: {}, reference: {}}
    for row in rows:
        if row["track"] == track and row["method"] in sides and column.key in row["values"]:
            sides[row["method"]][row["pair_id"], row["seed"]] = row
    shared = [key for key in sides[method] if key in sides[reference]]
    if not shared:
        return None
    mine = [sides[method][key]["values"][column.key] for key in shared]
    theirs = [sides[reference][key]["values"][column.key] for key in shared]
    subjects = [sides[method][key]["subject"] for key in shared]
    backgrounds = [sides[method][key]["background"] for key in shared]
    differences = [a - b for a, b in zip(mine, theirs, strict=True)]
    return Paired(
        method,
        reference,
        column.key,
        mean_interval(differences, subjects, backgrounds, seed=seed),
        None if column.better == "neither" else _win_rate(column, mine, theirs, subjects, backgrounds, seed),
    )


def _win_rate(
    column: Column,
    mine: Sequence[float],
    theirs: Sequence[float],
    subjects: Sequence[str],
    backgrounds: Sequence[str],
    seed: int,
) -> Estimate:
    gains = [(column.gain(a), column.gain(b)) for a, b in zip(mine, theirs, strict=True)]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in gains]
    return mean_interval(wins, subjects, backgrounds, seed=seed).no_narrower_than_exact(len(wins))


def paired_table(rows: Sequence[Row], track: str, *, seed: int = 0) -> list[Paired]:
    """Every method against the reference method in every primary column."""
    reference = reference_method(rows, track)
    if reference is None:
        return []
    names = [name for name in methods_of(r for r in rows if r["track"] == track) if kind_of(name) == "method"]
    found = [
        paired(rows, track, column, name, reference, seed=seed)
        for name in names
        if name != reference
        for column in primary_columns(present_columns(rows, track))
    ]
    return [result for result in found if result is not None]
