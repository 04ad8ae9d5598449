"""Jobs small enough to run inside a test, put in place of a real one by their dotted name; also run by its children."""

import os
import time
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl


def finish(cfg: Any) -> None:
    (Path(cfg.out) / "result").write_text(str(cfg.seed))


def refuse(cfg: Any) -> None:
    raise UserError("expected a toy,\n  got none")


def break_down(cfg: Any) -> None:
    raise RuntimeError("a fault of ours")


def wait(cfg: Any) -> None:
    (Path(cfg.out) / "started").touch()
    try:
        time.sleep(60)
    finally:
        (Path(cfg.out) / "tidied").touch()


def ran(cfg: Any) -> None:
    """Says in `ran.jsonl` that a job of a sweep ran."""
    row = {
        "seed": cfg.seed,
        "samples": getattr(cfg, "num_samples", 0),
        "group": os.environ["MAGIC_INSERT_SWEEP"],
    }
    append_jsonl("ran.jsonl", row)


def climb(cfg: Any) -> float:
    ran(cfg)
    if cfg.seed == 2 and not Path("mended").exists():
        raise RuntimeError("the second is broken")
    append_jsonl(Path(cfg.out) / "metrics.jsonl", {"stage": "toy", "step": 1, "height": 10 * cfg.seed})
    return float(cfg.seed + cfg.num_samples / 100)


def draw(cfg: Any) -> None:
    ran(cfg)
    Path(cfg.out).write_bytes(b"a picture")


def lose(cfg: Any) -> float:
    ran(cfg)
    return float("nan")


def wait_for_mending(cfg: Any) -> None:
    ran(cfg)
    if cfg.seed == 2 and not Path("mended").exists():
        time.sleep(300)


def check_luck(cfg: Any) -> None:
    """The look at a toy's input."""
    if getattr(cfg, "num_samples", 0) == 13:
        raise UserError("expected num_samples without bad luck, got 13")
