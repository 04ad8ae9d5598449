"""The bootstrap as a job: its plan runs here, each stage in a process group of its own, as `exec` says."""

import math
import sys
from pathlib import Path
from typing import Any

from magic_insert.bootstrap.driver import run_plan
from magic_insert.bootstrap.scores import GROUPS, Row, best_round, seen
from magic_insert.bootstrap.stages import WITH, WITHOUT, picture_file
from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.core.errors import UserError
from magic_insert.core.ranks import world_size
from magic_insert.launch.executor import execute
from magic_insert.tracking import Tracker, open_tracker


def run_bootstrap(cfg: BootstrapConfig) -> float:
    """Runs `cfg`; the last line on standard output says what changed. Returns what a sweep maximises: the kept round's
    effect-region PSNR of the inserter on seen styles, in decibel.

    Raises:
        UserError: several processes were started to run it; the plan belongs to one.
    """
    if world_size() > 1:
        raise UserError(
            f"expected one process for the plan of a bootstrap, got WORLD_SIZE={world_size()}; start it once, without "
            "torchrun or srun, and set exec=torchrun or exec=slurm with exec.devices=N: it starts each stage's ranks"
        )

    def announce(line: str) -> None:
        print(line, file=sys.stderr if ": reused" in line else sys.stdout, flush=True)

    with open_tracker(Path(cfg.out), "bootstrap", cfg.logger, thaw(cfg)) as tracker:
        rows = run_plan(
            cfg,
            lambda target, payload: execute(target, payload, cfg.exec),
            announce=announce,
            on_round=lambda row: tell(tracker, cfg, row),
            on_losses=lambda name, rows: tell_losses(tracker.part(name), rows),
        )
    return seen(rows[best_round(rows, cfg.bootstrap.max_photo_loss)])


def tell(tracker: Tracker, cfg: BootstrapConfig, row: Row) -> None:
    """One round for the logger: its numbers, its contact sheets, and for W&B a table of what was rejected."""
    number, out = row["round"], Path(cfg.out)
    tracker.log(number, flat(row))
    if cfg.logger.name != "wandb" or number == 0:
        return
    sheets = {kind: out / "sheets" / f"round-{number}-{kind}.png" for kind in ("accepted", "rejected")}
    tracker.pictures(number, {kind: path for kind, path in sheets.items() if path.is_file()})
    tracker.table(number, "rejected samples", rejected_samples(out, number))


def tell_losses(tracker: Tracker, rows: list[dict[str, float]]) -> None:
    """The losses of one fit for the logger."""
    for row in rows:
        tracker.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})


def rejected_samples(out: Path, number: int) -> list[dict[str, Any]]:
    """The removals of a round that were refused, the nearest miss first: pictures, score, measurements."""
    from magic_insert.bootstrap.review import open_round  # brings torch

    found = open_round(out, number)
    names = sorted(set(found.ids) - found.accepted, key=lambda name: (-found.scores[name], name))
    return [
        {
            "round": number,
            "id": name,
            "score": found.scores[name],
            WITH: picture_file(found.pool, WITH, name),
            WITHOUT: picture_file(found.harvest, WITHOUT, name),
            **found.values[name]["measures"],
        }
        for name in names
    ]


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
