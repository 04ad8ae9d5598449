"""Rows and their columns: one judged picture a row, as JSON lines; what each number of it means and how it prints.

A row is keyed by what was judged (track, method, pair, seed), so shards of many processes merge without duplicates. It
names the benchmark and the encoders (digests), the values and where the pictures lie; two values may be compared only
when benchmark and cards agree. A value outside the columns is refused by name: a misspelt column must not vanish from a
table.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from magic_insert.config.registry import METRICS
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_records, write_text

ROWS_FILE = "rows.jsonl"
MADE = {"stylize": "stylised", "insert": "composite"}  # what a method made, among the images of a row
Key = tuple[str, str, str, int]
ENCODERS = ("DINO", "CLIP", "CSD")  # whose names the paper gave its columns
BY_ENCODER = ("subject", "style", "inside", "likeness")  # groups of columns that encoders fill
COSINE, SHARE, ANY = (-1.0, 1.0), (0.0, 1.0), (-math.inf, math.inf)
NOT_NEGATIVE = (0.0, math.inf)
Better = Literal["higher", "lower", "neither"]


class Row(TypedDict):
    """`images` are paths relative to the folder of the rows file; `style` is None where nobody named one."""

    track: Literal["stylize", "insert"]
    method: str
    benchmark: str
    subject: str
    background: str
    pair_id: str
    style: str | None
    seed: int
    values: dict[str, float]
    cards: dict[str, str]
    images: dict[str, str]


def row_key(row: Row) -> Key:
    """What a row is about; no two rows of a file share it."""
    return row["track"], row["method"], row["pair_id"], row["seed"]


def merge(*groups: Iterable[Row]) -> list[Row]:
    """All rows in the order of their keys, each once.

    Raises:
        UserError: two rows of one key differ, or the groups belong to different benchmarks or encoders.
    """
    rows: dict[Key, Row] = {}
    for row in (row for group in groups for row in group):
        if rows.setdefault(row_key(row), row) != row:
            raise UserError(
                f"expected one row for {' '.join(map(str, row_key(row)))}, got two that differ; "
                "score both folders with the same metrics"
            )
    merged = [rows[key] for key in sorted(rows)]
    require_comparable(merged)
    return merged


def require_comparable(rows: Sequence[Row], benchmark: str | None = None) -> None:
    """That all rows speak of one benchmark (`benchmark`, when given), and every role of a track of one encoder.

    Raises:
        UserError: they do not; names the digests.
    """
    others = sorted(
        {row["benchmark"] for row in rows} - {benchmark or (rows[0]["benchmark"] if rows else "")}
    )
    if others:
        expected = benchmark or rows[0]["benchmark"]
        raise UserError(
            f"expected rows of one benchmark ({expected}), got rows of {', '.join(others)}; leave the other file out "
            "or set out=FOLDER"
        )
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        for role, card in row["cards"].items():
            found.setdefault((row["track"], role), {}).setdefault(card, row["method"])
    for (track, role), cards in found.items():
        if len(cards) > 1:
            names = " and ".join(f"{card} ({method})" for card, method in sorted(cards.items()))
            raise UserError(
                f"expected one encoder for {role} in the track {track}, got the cards {names}; "
                "score all methods with the same metrics and encoders"
            )


def read_rows(path: str | Path, benchmark: str | None = None) -> list[Row]:
    """The rows of a file, checked; `benchmark` is the digest they must carry.

    Raises:
        UserError: the file is missing or damaged, a row lacks a field or has a value that is no finite number, two rows
            share a key or were judged by different encoders, or belong to another benchmark.
    """
    rows = read_records(path, Row)
    require_comparable(rows, benchmark)
    seen: set[Key] = set()
    for row in rows:
        if row_key(row) in seen:
            raise UserError(f"expected each row once in {path}, got {' '.join(map(str, row_key(row)))} twice")
        seen.add(row_key(row))
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Puts the rows at `path`, one JSON object a line, atomically.

    Raises:
        UserError: the place cannot be written.
        ValueError: a value is not finite.
    """
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False, sort_keys=True) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def rows_digest(rows: Sequence[Row]) -> str:
    """One fingerprint of all rows, whatever order they come in."""
    return digest(sorted(rows, key=row_key))


@dataclass(frozen=True)
class Column:
    """`key` in the rows, `label` in tables, which way is `better`, `unit` ("" for plain numbers), printed `decimals`.

    No value can lie outside `bounds`.

    `group` is what the column speaks of: subject, style, image, background, inside, effect, likeness or truth.
    `primary` columns stand in the paired comparisons and in the breakdowns. `of_texts`: no value for what nobody put
    into words.
    """

    key: str
    label: str
    group: str
    better: Better = "higher"
    unit: str = ""
    decimals: int = 3
    primary: bool = False
    bounds: tuple[float, float] = COSINE
    of_texts: bool = False

    def judged_with(self, metrics: str) -> "Column":
        """The column as a set of encoders fills it: micro encoders play the roles of others, and the label says so."""
        if metrics != "micro" or self.group not in BY_ENCODER:
            return self
        role = " role" if any(name in self.label for name in ENCODERS) else ""
        return replace(self, label=f"{self.label}{role} (micro)")

    @property
    def arrow(self) -> str:
        """The direction as a sign for a table head."""
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    def gain(self, value: float) -> float:
        """`value` turned so that more is better."""
        return -value if self.better == "lower" else value

    @property
    def heading(self) -> str:
        """Label, direction and unit, as a table's head shows them."""
        return " ".join(
            part for part in (self.label, self.arrow, f"[{self.unit}]" if self.unit else "") if part
        )

    def text(self, value: float) -> str:
        """The value as tables print it."""
        return f"{value:.{self.decimals}f}"


# The two axes of the subject-style plot: for each, the first of these that has values.
AXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stylize": (
        ("subject_mean", "subject_dino", "subject_clip_i"),
        ("style_mean", "style_csd", "style_clip_i"),
    ),
    "insert": (("inside_identity",), ("inside_style",)),
}


def columns_of(track: str) -> tuple[Column, ...]:
    """The columns of `track` that are always measured, in the order of the tables."""
    return _columns(track, METRICS.own)


def columns_in(track: str, keys: Iterable[str]) -> list[Column]:
    """The columns of `track` among `keys`, in the order of the tables; further metrics only where a key asks for them.

    Raises:
        UserError: a key is no column of this track.
    """
    wanted, known = set(keys), columns_of(track)
    if wanted - {found.key for found in known}:
        known = (*known, *_columns(track, [name for name in METRICS.names() if name not in METRICS.own]))
    if strange := sorted(wanted - {found.key for found in known}):
        names = ", ".join(found.key for found in known)
        raise UserError(
            f"expected a column of the track {track} ({names}), got {strange[0]!r}; correct the rows, or install the "
            "package that measures it"
        )
    return [found for found in known if found.key in wanted]


def column(track: str, key: str) -> Column:
    """The column `key` of `track`.

    Raises:
        UserError: no such column.
    """
    return columns_in(track, [key])[0]


def _columns(track: str, metrics: Iterable[str]) -> tuple[Column, ...]:
    return tuple(found for name in metrics for found in METRICS.get(name).columns.get(track, ()))


def primary_columns(columns: Sequence[Column]) -> list[Column]:
    """Those of `columns` that stand for their group: the primary ones; all of a group that has no primary one here."""
    covered = {found.group for found in columns if found.primary}
    return [
        found
        for found in columns
        if found.primary or (found.group not in covered and found.better != "neither")
    ]


def axes_of(track: str, columns: Sequence[Column]) -> tuple[Column, Column] | None:
    """The columns of the subject-style plot among `columns`; None if a side has none."""
    by_key = {found.key: found for found in columns}
    sides = [next((by_key[key] for key in side if key in by_key), None) for side in AXES[track]]
    return (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None
