"""The bootstrap as a job: its plan runs here, each stage in a process group of its own, as `exec` says."""

import math
import sys
from pathlib import Path

from magic_insert.bootstrap.driver import Row, run_plan, seen
from magic_insert.bootstrap.scores import GROUPS
from magic_insert.config.freeze import thaw
from magic_insert.config.schema.bootstrap import BootstrapConfig
from magic_insert.launch.executor import execute
from magic_insert.tracking import open_tracker


def run_bootstrap(cfg: BootstrapConfig) -> float:
    """Runs `cfg`; the last line on standard output says what changed. Returns what a sweep maximises: the best round's
    effect-region PSNR of the inserter on seen styles, in decibel."""

    def say(line: str) -> None:
        print(line, file=sys.stderr if ": reused" in line else sys.stdout, flush=True)

    with open_tracker(Path(cfg.out), "bootstrap", cfg.logger, thaw(cfg)) as tracker:
        rows = run_plan(
            cfg,
            lambda target, payload: execute(target, payload, cfg.exec),
            say=say,
            on_round=lambda row: tracker.log(row["round"], flat(row)),
        )
    return max(map(seen, rows))


def flat(row: Row) -> dict[str, float]:
    """The numbers of a row by dotted name, for a logger that knows no trees."""
    values = {name: float(row[name]) for name in ("harvested", "accepted", "rejected")}
    for network, groups in row["metrics"].items():
        for group in GROUPS:
            values |= {f"{network}/{group}/{name}": value for name, value in groups.get(group, {}).items()}
    for style, share in row["acceptance"].items():
        values[f"acceptance/{style}"] = share
    for name, value in (row["filter"] or {}).items():
        if value is not None:
            values[f"filter/{name}"] = value
    assert all(math.isfinite(value) for value in values.values())
    return values
