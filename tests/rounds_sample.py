"""Rows as a bootstrap writes them, for tests of what reads them: round after round better on drawings."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from magic_insert.core.images import save_png
from magic_insert.core.jsonl import append_jsonl, write_json
from magic_insert.launch.run import RunRecord

BASE = {"photo": 27.9, "seen": 19.8, "unseen": 18.0}
GAIN = {"photo": -0.05, "seen": 1.3, "unseen": 0.8}


def sample_row(number: int, threshold: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Round `number` of a run with the filter at `threshold`."""
    psnr = {group: BASE[group] + GAIN[group] * number * threshold for group in BASE}
    metrics = {
        network: {
            group: {"effect_psnr": value - less, "shadow_iou": value / 40} for group, value in psnr.items()
        }
        for network, less in (("inserter", 0.0), ("remover", 2.0))
    }
    intervals = {
        network: {
            group: {name: [value * 0.97, value * 1.03] for name, value in values.items()}
            for group, values in groups.items()
        }
        for network, groups in metrics.items()
    }
    return {
        "round": number,
        "seed": seed,
        "threshold": threshold,
        "retrain": "both",
        "init_from": "base",
        "harvested": 50 if number else 0,
        "accepted": round(50 * (1 - threshold)) if number else 0,
        "rejected": round(50 * threshold) if number else 0,
        "rejected_by": {"residue": 7, "drift": 3} if number else {},
        "acceptance": {"cartoon": 0.6, "pencil": 0.3 + 0.1 * number, "<oil & ink>": 0.9} if number else {},
        "metrics": metrics,
        "intervals": intervals,
        "changes": {},
        "filter": {"precision": 0.8, "recall": 0.5 + 0.1 * number, "base_rate": 0.6} if number else None,
        "bias": None,
        "stages": {},
        "minutes": {},
    }


def write_run(
    folder: Path, rounds: int = 3, threshold: float = 0.5, record: Mapping[str, Any] | None = None
) -> None:
    """A run folder as a finished bootstrap leaves it, with sheets of plain colour."""
    for number in range(rounds + 1):
        append_jsonl(folder / "rounds.jsonl", sample_row(number, threshold))
        if number:
            for kind, shade in (("accepted", 0.8), ("rejected", 0.2)):
                picture = torch.zeros(3, 32, 64)
                picture[0] = shade
                save_png(folder / "sheets" / f"round-{number}-{kind}.png", picture)
    target = "magic_insert.bootstrap.job:run_bootstrap"
    ran = RunRecord("bootstrap", target, "done", "2030-01-01T00:00:00+00:00", None, "here", 1)
    write_json(folder / "run.json", {**asdict(ran), **(record or {})})
