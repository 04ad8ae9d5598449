"""Where measurements of a run go: always into `metrics.jsonl` of its folder, and into W&B when asked.

The JSONL file is complete by itself. W&B gets a run id that is a function of folder and configuration, so that a
resumed run goes on in its own page; without an account it is kept offline. Importing this module imports no wandb.
"""

import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magic_insert.config.schema import LoggerConfig
from magic_insert.core.digest import digest
from magic_insert.core.jsonl import append_jsonl

METRICS = "metrics.jsonl"


class Tracker:
    """Takes rows of numbers; made by `open_tracker`."""

    def __init__(self, folder: Path, stage: str, wandb_run: Any | None):
        self.folder, self.stage, self._wandb_run = folder, stage, wandb_run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row: `{"stage": ..., "step": step, **values}`; every value is a finite number.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        append_jsonl(self.folder / METRICS, {"stage": self.stage, "step": step, **values})
        if self._wandb_run is not None:
            self._wandb_run.log({f"{self.stage}/{name}": value for name, value in values.items()})


@contextmanager
def open_tracker(
    folder: str | Path, stage: str, logger: LoggerConfig, config: Mapping[str, Any]
) -> Iterator[Tracker]:
    """A tracker for one `stage` of the run in `folder`; `config` is the thawed configuration of the run."""
    place = Path(folder)
    if logger.name == "jsonl":
        yield Tracker(place, stage, None)
        return
    import wandb

    place.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=logger.project,
        id=wandb_id(place, stage, config),
        group=place.name,
        job_type=stage,
        name=f"{place.name}/{stage}",
        config=dict(config),
        dir=str(place),
        mode="online" if has_wandb_account() else "offline",
        resume="allow",
        settings=wandb.Settings(silent=True),
    )
    try:
        yield Tracker(place, stage, run)
    finally:
        # Several stages of one process are several runs; an unfinished one would swallow the next.
        run.finish()


def wandb_id(folder: Path, stage: str, config: Mapping[str, Any]) -> str:
    """The run id: the same folder name, stage and configuration always give the same id."""
    return digest([folder.name, stage, dict(config)])


def has_wandb_account() -> bool:
    """Whether W&B may go online: not forbidden by WANDB_MODE, and a key in the environment or in ~/.netrc."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode == "online"
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
