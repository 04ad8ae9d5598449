"""What a finished run measured, as one flat set of numbers by name, read from the files in its folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.tracking import METRICS

ROUNDS = "rounds.jsonl"
RESULT = "result.json"
CARD = "card.json"
# Of the many numbers of a bootstrap's round, those that a table of runs shows.
SHOWN_OF_ROUNDS = (
    "round",
    *(f"metrics.inserter.{group}.effect_psnr" for group in ("photo", "seen", "unseen")),
    "accepted",
    "rejected",
    "filter.precision",
    "filter.recall",
)


def read_numbers(folder: Path) -> dict[str, float]:
    """Every number that the run in `folder` ended with, by dotted name.

    Its `result.json` where it wrote one; else the round that a bootstrap kept, or its last without a card; else
    the last row of each stage's log.
    """
    if (folder / RESULT).is_file():
        return flat_numbers(read_json(folder / RESULT))
    if (folder / ROUNDS).is_file():
        rows = read_jsonl(folder / ROUNDS)
        # What the run returns and publishes is the kept round's, and numbers of two rounds make no row.
        kept = read_json(folder / CARD)["round"] if (folder / CARD).is_file() else -1
        return flat_numbers(rows[kept if kept < len(rows) else -1]) if rows else {}
    if not (folder / METRICS).is_file():
        return {}
    rows = read_jsonl(folder / METRICS)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    found: dict[str, float] = {}
    for row in rows:
        prefix = "" if len(stages) == 1 else f"{row['stage']}."
        numbers = {name: value for name, value in row.items() if name not in ("stage", "step")}
        found |= {prefix + name: value for name, value in flat_numbers(numbers).items()}
    return found


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The rows of a bootstrap's `rounds.jsonl`, at least one.

    Raises:
        UserError: the file is missing, damaged or empty.
    """
    rows = read_jsonl(path)
    if not rows:
        raise UserError(
            f"expected rounds in {path}, got an empty file; run the bootstrap again, or delete the file"
        )
    return rows


def shown(numbers: Mapping[str, float]) -> dict[str, float]:
    """Those of `numbers` that a table of runs has columns for."""
    rounds = {name: numbers[name] for name in SHOWN_OF_ROUNDS if name in numbers}
    return rounds if rounds else dict(numbers)


def flat_numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of nested mappings, by dotted name; anything else is left out."""
    found: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found
