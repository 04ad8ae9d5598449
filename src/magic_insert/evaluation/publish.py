"""What a finished evaluation shows beside the report: contact sheets, facts, and numbers for the tracker."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.freeze import thaw
from magic_insert.config.schema import EvaluateConfig
from magic_insert.core.digest import digest
from magic_insert.core.images import contact_sheet, load_rgb
from magic_insert.core.jsonl import write_json
from magic_insert.data.benchmarks import Benchmark
from magic_insert.evaluation.rows import Row
from magic_insert.evaluation.statistics import Estimate, Paired, paired_table
from magic_insert.evaluation.tables import Table, main_table
from magic_insert.tracking import open_tracker

SHEET_PAIRS = 12
RESULT_FILE = "result.json"  # where a sweep looks for numbers


def sheet(rows: Sequence[Row], out: Path) -> Float[Tensor, "3 h w"]:
    """Pairs down, methods across, beside subject, background and truth; the first draw of each."""
    made = {"stylize": "stylised", "insert": "composite"}
    pairs = sorted({row["pair_id"] for row in rows})
    step = max(1, len(pairs) / SHEET_PAIRS)
    chosen = [pairs[int(i * step)] for i in range(min(len(pairs), SHEET_PAIRS))]
    methods = list(dict.fromkeys(row["method"] for row in rows if ":" not in row["method"]))
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        first.setdefault((row["pair_id"], row["method"]), row)
    lines = []
    context = [name for name in ("subject", "background", "truth") if name in rows[0]["images"]]
    for pair in chosen:
        of_pair = {method: first[pair, method] for method in methods if (pair, method) in first}
        any_row = next(row for (name, _), row in first.items() if name == pair)
        paths = [any_row["images"][name] for name in context]
        paths += [row["images"][made[row["track"]]] for row in of_pair.values()]
        lines.append([load_rgb(out / path) for path in paths])
    return contact_sheet(lines, chosen, [*context, *map(_folded, methods)])


def _folded(method: str) -> str:
    """A method's name in lines that fit over a picture."""
    return "\n".join(wrap(method.replace("+", " + ").replace("_", " "), 16))


def facts_of(
    cfg: EvaluateConfig, bench: Benchmark, encoders: Mapping[str, Any], lpips: Any
) -> dict[str, Any]:
    """What the report says beside the numbers."""
    judges = list({e.card.digest: e for e in [*encoders.values(), lpips] if e is not None}.values())
    return {
        "benchmark": {"digest": bench.digest, **bench.described},
        "cards": [
            {**judge.card.to_dict(), "digest": judge.card.digest, "verified": judge.card.verified}
            for judge in judges
        ],
        "metrics": cfg.metrics,
        "command": command_of(cfg),
        "config_digest": digest(thaw(cfg)),
        "has_truth": bench.has_truth,
    }


def command_of(cfg: EvaluateConfig) -> str:
    """The command that chooses the same methods and pairs; every value is in the run's config.yaml."""
    words = [f"benchmark={cfg.benchmark.name}"]
    for name, value in thaw(cfg.benchmark).items():
        if name not in ("name", "size") and value not in (None, [], "auto"):
            text = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
            words.append(f"benchmark.{name}={text}")
    words += [f"stylizer={','.join(cfg.stylizers)}"] if cfg.stylizers else []
    words += [f"inserter={','.join(cfg.inserters)}"] if cfg.inserters else []
    words += [f"track={cfg.track}", f"metrics={cfg.metrics}", f"model={cfg.model.name}", f"seed={cfg.seed}"]
    return shlex.join(["magic-insert", "evaluate", *words, f"out={cfg.out}"])


def log_tables(cfg: EvaluateConfig, out: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """The tables of `table.md` through the tracker, main and paired of each track; their means in `result.json`.

    A mean is called `track.method.column` there, such as `insert.personalized+real_only.truth_effect_psnr`.
    """
    means: dict[str, float] = {}
    with open_tracker(out, "evaluate", cfg.logger, thaw(cfg)) as tracker:
        for step, track in enumerate(cfg.tracks):
            table = main_table(rows, track, facts)
            tracker.table(step, track, main_cells(table))
            tracker.table(step, f"{track}_paired", paired_cells(paired_table(rows, track)))
            measured = [line for line in table.lines if line.kind != "printed"]
            tracker.log(
                step,
                {
                    f"{track}/{line.method}/{key}": estimate.mean
                    for line in measured
                    for key, estimate in line.estimates.items()
                },
            )
            means |= {
                f"{track}.{line.method}.{key}": estimate.mean
                for line in measured
                for key, estimate in line.estimates.items()
            }
    write_json(out / RESULT_FILE, means)


def main_cells(table: Table) -> list[dict[str, Any]]:
    """A main table as rows of cells: what it is, n, and each column's mean with its interval."""
    return [
        {"method": line.method, "kind": line.kind, "n": line.num_rows}
        | {
            name: value
            for column in table.columns
            for name, value in _estimate_cells(column.key, line.estimates.get(column.key)).items()
        }
        for line in table.lines
    ]


def paired_cells(found: Sequence[Paired]) -> list[dict[str, Any]]:
    """Paired differences and win rates as rows of cells."""
    return [
        {"method": row.method, "reference": row.reference, "column": row.column, "pairs": row.difference.n}
        | _estimate_cells("difference", row.difference)
        | _estimate_cells("win rate", row.win_rate)
        for row in found
    ]


def _estimate_cells(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {name: None, f"{name} low": None, f"{name} high": None}
    return {name: estimate.mean, f"{name} low": estimate.low, f"{name} high": estimate.high}
