"""A sweep of any job: composed here, once for all; then each job a process of its own, a few at a time.

The same command after a kill or a failure goes on: finished jobs are skipped, the others run again and resume from
their own checkpoints and from the store they share. A failed job never stops the rest. For a job with `out=DIR` the
runs are `DIR/<name>`, and `DIR` gets `sweep.json`, `sweep.md`, `sweep.csv`, `heatmap.png` and `jobs/<name>.log`.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict, read_write

from magic_insert.config.fields import OneOf, Range
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError
from magic_insert.launch.launcher import is_picture, named_output
from magic_insert.launch.results import SHOWN_OF_ROUNDS, shown
from magic_insert.launch.sweep_names import job_name, settings_of, swept_keys
from magic_insert.launch.sweep_table import Outcome, Sweep, write_sweep
from magic_insert.launch.sweep_workers import Job, run_jobs

# What an optimizer is told about a job that failed or measured nothing: finite, and worse than any measurement.
WORST = 1e9
MOST_NAMED = 12  # numbers in a message
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True)
class JobPlan:
    """A job of the command line: its name, the function that does it, and the look at its input files."""

    job: str
    target: str
    check: Callable[[Any], Any]


@dataclass(frozen=True)
class SweepSettings:
    """See config.schema.launch.JobLauncherConfig."""

    workers: Annotated[int, Range(1)]
    metric: str | None
    direction: Annotated[str, OneOf("max", "min")]


def run_batch(
    plan: JobPlan,
    settings: SweepSettings,
    loader: ConfigLoader,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    outcomes: list[Outcome],
) -> list[JobReturn]:
    """Runs one batch of a sweeper's jobs, all of them for a plain sweep; what it returns is never NaN.

    Their rows are added to `outcomes`, those of earlier batches, and the sweep's files written over all of them.

    Raises:
        UserError: a job's configuration or input does not fit, and nothing was started; or, when the files are
            written, no job that is done measured `sweep.metric`.
        SystemExit: with code 1, at the end of a plain sweep of which jobs failed.
    """
    # Hydra's sweepers put down their own notes there, some only after the jobs.
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    keys = swept_keys(config.hydra.overrides.task, config.hydra.sweeper.get("params") or {})
    composed = [compose_sweep_job(loader, config, overrides) for overrides in job_overrides]
    frozen = [freeze(cfg) for cfg, _ in composed]
    folder = sweep_folder(Path(frozen[0].out))
    jobs = []
    for values, overrides in zip(frozen, job_overrides, strict=True):
        settings_of_job = settings_of(overrides, keys)
        name = job_name(settings_of_job) or "only"
        placed = replace(values, out=str(named_output(Path(values.out), name)))
        plan.check(placed)
        payload = folder / "jobs" / f"{name}.json"
        jobs.append(Job(plan.job, plan.target, name, settings_of_job, placed, payload))
    # An optimizer may ask for the same job twice, in one batch or in two.
    distinct = list({job.name: job for job in jobs}.values())
    ended = run_jobs(distinct, settings.workers, settings.metric, f"{plan.job} {folder.name}")
    mine = {row.name: row for row in ended}
    outcomes[:] = [row for row in outcomes if row.name not in mine] + ended
    print(
        write_sweep(folder, Sweep(plan.job, keys, settings.metric, settings.direction, outcomes)), flush=True
    )
    plain = config.hydra.sweeper._target_ == BASIC_SWEEPER
    failed = [row for row in ended if row.state == "failed"]
    if failed and plain:
        print(f"{len(failed)} of {len(ended)} jobs failed; the same command runs them again:", flush=True)
        for row in failed:
            print(f"  {row.name}: {row.error}; log: {row.log}", flush=True)
    require_measured(settings.metric, outcomes)
    if failed and plain:
        raise SystemExit(1)
    worst = -WORST if settings.direction == "max" else WORST
    return [
        JobReturn(
            overrides=list(overrides),
            cfg=cfg,
            hydra_cfg=hydra,
            status=JobStatus.COMPLETED,
            _return_value=worst if (value := mine[job.name].value) is None else value,
        )
        for overrides, (cfg, hydra), job in zip(job_overrides, composed, jobs, strict=True)
    ]


def require_measured(metric: str | None, outcomes: Sequence[Outcome]) -> None:
    """That a job of `outcomes` measured `metric`, where any is done; null is what jobs return, and always fits.

    Raises:
        UserError: none did; it names the nearest of the numbers there are.
    """
    done = [row for row in outcomes if row.state == "done"]
    if metric is None or not done or any(metric in row.numbers for row in done):
        return
    if metric in SHOWN_OF_ROUNDS:
        return  # a number of the filter: jobs that kept the base have none, later ones may
    names = list(dict.fromkeys(name for row in done for name in [*shown(row.numbers), *row.numbers]))
    near = difflib.get_close_matches(metric, names, n=3) or names[:MOST_NAMED]
    hint = f"set one that was, such as {', '.join(near)}, or " if names else ""
    raise UserError(
        f"expected sweep.metric to be a number measured by a finished job, got {metric}; {hint}leave it out to "
        "rank by what jobs return"
    )


def compose_sweep_job(
    loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, DictConfig]:
    """The job's own configuration, and all of it with Hydra's."""
    whole = loader.load_sweep_config(config, list(overrides))
    HydraConfig.instance().set_config(whole)  # a value may refer to ${hydra:...}
    own = whole.copy()
    with read_write(own), open_dict(own):
        del own["hydra"]
    return own, whole


def sweep_folder(out: Path) -> Path:
    """Where the sweep's own files go: `out`, or beside a picture the folder `NAME__sweep`."""
    return out.with_name(f"{out.stem}__sweep") if is_picture(str(out)) else out
