"""Rows: one judged picture each, as JSON lines. Keyed, so that shards of many processes merge without duplicates.

A row says what was judged (track, method, pair, seed), on which benchmark and with which encoders (digests), the values
and where the pictures lie. Two values may be compared only when benchmark and cards agree.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_jsonl, write_text

ROWS_FILE = "rows.jsonl"
TRACKS = ("stylize", "insert")
Key = tuple[str, str, str, int]


class Row(TypedDict):
    """`images` are paths relative to the folder of the rows file; `style` is None where nobody named one."""

    track: str
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
        key = row_key(row)
        if key in rows and rows[key] != row:
            raise UserError(
                f"expected one row for {' '.join(map(str, key))}, got two that differ; "
                "score both folders with the same metrics"
            )
        rows[key] = row
    merged = [rows[key] for key in sorted(rows)]
    require_one_benchmark(merged)
    require_one_card(merged)
    return merged


def require_one_benchmark(rows: Sequence[Row], expected: str | None = None) -> None:
    """That all rows speak of one benchmark (`expected`, when given).

    Raises:
        UserError: they do not; names the digests.
    """
    found = sorted({row["benchmark"] for row in rows} | ({expected} if expected is not None else set()))
    if len(found) > 1:
        raise UserError(
            f"expected rows of one benchmark{f' ({expected})' if expected else ''}, got rows of "
            f"{', '.join(name for name in found if name != expected)}; leave the other file out or set out=FOLDER"
        )


def require_one_card(rows: Sequence[Row]) -> None:
    """That every role of a track was played by one encoder: values of two can neither be averaged nor compared.

    Raises:
        UserError: it was not; names the role and the digests of the cards.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        for role, card in row["cards"].items():
            found.setdefault((row["track"], role), {}).setdefault(card, row["method"])
    for (track, role), cards in found.items():
        if len(cards) > 1:
            told = " and ".join(f"{card} ({method})" for card, method in sorted(cards.items()))
            raise UserError(
                f"expected one encoder for {role} in the track {track}, got the cards {told}; "
                "score all methods with the same metrics and encoders"
            )


def read_rows(path: str | Path, benchmark: str | None = None) -> list[Row]:
    """The rows of a file, checked; `benchmark` is the digest they must carry.

    Raises:
        UserError: the file is missing or damaged, a row lacks a field, has one too many or a value that is no finite
            number, two rows share a key or were judged by different encoders, or belong to another benchmark.
    """
    rows = [check_row(row, f"row {number} of {path}") for number, row in enumerate(read_jsonl(path), start=1)]
    require_one_benchmark(rows, benchmark)
    require_one_card(rows)
    seen: set[Key] = set()
    for row in rows:
        if row_key(row) in seen:
            raise UserError(f"expected each row once in {path}, got {' '.join(map(str, row_key(row)))} twice")
        seen.add(row_key(row))
    return rows


def check_row(row: Any, where: str) -> Row:
    """`row` itself when it has exactly the fields of `Row`; `where` names it in the error.

    Raises:
        UserError: it has not.
    """
    wanted = set(Row.__annotations__)
    if not isinstance(row, dict) or set(row) != wanted:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"expected the fields {sorted(wanted)} in {where}, got {got}")
    if row["track"] not in TRACKS:
        raise UserError(f"expected a track out of {', '.join(TRACKS)} in {where}, got {row['track']!r}")
    for name, value in row["values"].items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise UserError(f"expected a finite number for {name} in {where}, got {value!r}")
    return cast(Row, row)


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
