"""Rows: one judged picture a row, as JSON lines.

A row is keyed by what was judged (track, method, pair, seed), so shards of many processes merge without duplicates. It
names the benchmark and the encoders (digests), the values and where the pictures lie; two values may be compared only
when benchmark and cards agree.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_records, write_text

ROWS_FILE = "rows.jsonl"
MADE = {"stylize": "stylised", "insert": "composite"}  # what a method made, among the images of a row
Key = tuple[str, str, str, int]


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
    expected = benchmark or next((row["benchmark"] for row in rows), "")
    if others := sorted({row["benchmark"] for row in rows} - {expected}):
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
    for key, count in Counter(map(row_key, rows)).items():
        if count > 1:
            raise UserError(f"expected each row once in {path}, got {' '.join(map(str, key))} twice")
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
