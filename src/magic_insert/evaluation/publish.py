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
from magic_insert.data.benchmarks import Benchmark
from magic_insert.evaluation.rows import Row
from magic_insert.tracking import open_tracker

SHEET_PAIRS = 12


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
        "cards": [{**judge.card.to_dict(), "digest": judge.card.digest} for judge in judges],
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


def log_means(cfg: EvaluateConfig, out: Path, rows: Sequence[Row]) -> None:
    """The mean of every column of every method, through the tracker: the numbers of the main tables, as tables."""
    sums: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        columns = sums.setdefault((row["track"], row["method"]), {})
        for column, value in row["values"].items():
            columns.setdefault(column, []).append(value)
    with open_tracker(out, "evaluate", cfg.logger, thaw(cfg)) as tracker:
        for step, track in enumerate(cfg.tracks):
            tables: list[dict[str, Any]] = [
                {"method": method, **{name: sum(v) / len(v) for name, v in columns.items()}}
                for (of_track, method), columns in sums.items()
                if of_track == track
            ]
            tracker.table(step, track, tables)
            named = {f"{track}/{t['method']}/{n}": v for t in tables for n, v in t.items() if n != "method"}
            tracker.log(step, named)
