"""A stage as a Slurm job through submitit: one task per rank, torchrun's environment made from Slurm's.

`exec.cluster=local` runs the same tasks as processes of this machine, without Slurm.
"""

import os
import time
from pathlib import Path
from typing import Any

from magic_insert.config.schema import ExecConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.worker import REPORTS, TIMEOUT, run_target

POLL_S, NOTICE_S = 0.5, 3.0


def run_slurm(target: str, payload: Path, cfg: ExecConfig, logs: Path) -> dict[int, int] | None:
    """Submits the job and waits; None when all tasks are done, an empty dict when one failed.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or Slurm refuses the job.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "expected submitit for exec=slurm, got none; pip install 'magic-insert[slurm]'"
        ) from error
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cfg.cluster)
    except RuntimeError as error:
        raise UserError(
            f"expected Slurm on this machine for exec=slurm, got: {error}; set exec.cluster=local or exec=torchrun"
        ) from error
    executor.update_parameters(**slurm_options(cfg))
    task = RankTask(target, str(payload.absolute()), str(logs.absolute()), cfg.timeout_min)
    try:
        job = executor.submit(task)
    except submitit.core.utils.FailedJobError as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"expected Slurm to take the job, got: {reason}; look at exec.sbatch") from error
    try:
        while not job.done():
            if any(logs.glob("rank-*.failed.json")):
                time.sleep(NOTICE_S)  # the other ranks may end by themselves, with reports of their own
                job.cancel(check=False)
                return {}
            time.sleep(POLL_S)
        job.results()
    except submitit.core.utils.UncompletedJobError:  # a task was ended without a word
        return {}
    except BaseException:  # SystemExit of a signal, KeyboardInterrupt
        job.cancel(check=False)
        raise
    return None


def slurm_options(cfg: ExecConfig) -> dict[str, Any]:
    """What submitit is asked for; names of `exec.sbatch` go to Slurm as they are."""
    options: dict[str, Any] = {
        "name": "magic-insert",
        "nodes": cfg.nodes,
        "tasks_per_node": cfg.devices,
        "timeout_min": max(1, round(cfg.timeout_min)),
    }
    if cfg.cluster == "slurm":
        options["slurm_additional_parameters"] = {"gpus_per_node": cfg.devices, **cfg.sbatch}
        options["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    return options


class RankTask:
    """What each task does: becomes a rank and works. A class, because submitit sends it as a pickle."""

    def __init__(self, target: str, payload: str, logs: str, timeout_min: float):
        self.target, self.payload, self.logs, self.timeout_min = target, payload, logs, timeout_min

    def __call__(self) -> None:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.environ[REPORTS] = self.logs
        os.environ[TIMEOUT] = str(self.timeout_min)
        code = run_target(self.target, Path(self.payload))
        if code:
            os._exit(code)  # an orderly end would wait for threads of the process group
