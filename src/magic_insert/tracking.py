"""Where measurements of a run go: always into `metrics.jsonl` of its folder, and into W&B when asked.

The JSONL file is complete by itself. W&B gets a run id that is a function of folder and configuration, so that a
resumed run goes on in its own page; runs of one folder, or of one sweep, are a group, their stage is the job type.
Without an account it is kept offline. Of several ranks the first speaks for all. Importing this imports no wandb.
"""

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from magic_insert.config.schema.shared import LoggerConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl, parse_json
from magic_insert.core.ranks import rank

METRICS = "metrics.jsonl"
SWEEP = "MAGIC_INSERT_SWEEP"  # set for the jobs of a sweep: the name that groups them in W&B


class Tracker:
    """Takes what a stage measured; made by `open_tracker`."""

    def __init__(self, folder: Path, stage: str, wandb_run: Any | None):
        self.folder, self.stage, self._wandb_run = folder, stage, wandb_run
        self._written = written_rows(folder / METRICS, stage)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row: `{"stage": ..., "step": step, **values}`; every value is a finite number.

        A resumed run computes the steps between its checkpoint and its end again; their rows are not written twice.
        Of several ranks the first speaks for all.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        if rank() != 0:
            return
        if (row := (step, *sorted(values))) not in self._written:
            append_jsonl(self.folder / METRICS, {"stage": self.stage, "step": step, **values})
            self._written.add(row)
        self._send(step, values)

    def part(self, stage: str) -> "Tracker":
        """A tracker for another `stage` on the same page: rows and keys carry its name, W&B opens no further run."""
        if self._wandb_run is not None:
            self._wandb_run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        return Tracker(self.folder, stage, self._wandb_run)

    def pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Picture files by name, for W&B's pages; they stay where they are."""
        if self._wandb_run is not None:
            import wandb

            self._send(step, {name: wandb.Image(str(path)) for name, path in pictures.items()})

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows for a table of W&B, columns in the order of their first appearance; `Path` values become pictures."""
        if self._wandb_run is None or not rows:
            return
        import wandb

        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = wandb.Table(columns=columns, allow_mixed_types=True)
        for row in rows:
            cells = [row.get(column) for column in columns]
            table.add_data(*(wandb.Image(str(cell)) if isinstance(cell, Path) else cell for cell in cells))
        self._send(step, {name: table})

    def _send(self, step: int, values: Mapping[str, Any]) -> None:
        if self._wandb_run is not None:
            named = {f"{self.stage}/{name}": value for name, value in values.items()}
            self._wandb_run.log({f"{self.stage}/step": step, **named})


def written_rows(file: Path, stage: str) -> set[tuple[Any, ...]]:
    """Step and names of every row of `stage` in a metrics file; half a line of a killed writer is passed over."""
    rows = set()
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            row = parse_json(line, file)
        except UserError:
            continue
        if isinstance(row, dict) and row.pop("stage", None) == stage:
            rows.add((row.pop("step", None), *sorted(row)))
    return rows


@contextmanager
def open_tracker(
    folder: str | Path, stage: str, logger: LoggerConfig, config: Mapping[str, Any]
) -> Iterator[Tracker]:
    """A tracker for one `stage` of the run in `folder`; `config` is the thawed configuration of the run."""
    place = Path(folder)
    if rank() != 0 or logger.name == "jsonl":
        yield Tracker(place, stage, None)
        return
    import wandb

    place.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=logger.project,
        id=wandb_id(place, stage, config),
        group=os.environ.get(SWEEP, place.name),
        job_type=stage,
        name=f"{place.name}/{stage}",
        config=dict(config),
        dir=str(place),
        mode="online" if has_wandb_account() else "offline",
        resume="allow",
        settings=wandb.Settings(silent=True),
    )
    # A resumed run repeats rows; the step, not the order of arrival, says where a value belongs.
    run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
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
