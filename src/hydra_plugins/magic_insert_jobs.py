"""The launcher that runs the jobs of a sweep as processes of their own. Hydra finds plugins in this package only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from magic_insert.launch.sweep_table import Outcome


class JobLauncher(Launcher):
    """Up to `workers` jobs at a time; `metric` (null: what the job returns) is best when `direction` is reached."""

    def __init__(self, workers: int, metric: str | None, direction: str) -> None:
        from magic_insert.config.fields import check
        from magic_insert.launch.sweep import SweepSettings

        self.settings = SweepSettings(workers, metric, direction)
        check(self.settings, "sweep.")
        self.outcomes: list[Outcome] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from magic_insert.launch.sweep import run_batch

        # The entry of a job (cli/app.py) hangs its plan on the function that it gives to Hydra.
        return run_batch(
            self.task.plan,  # type: ignore[attr-defined]
            self.settings,
            self.context.config_loader,
            self.config,
            job_overrides,
            self.outcomes,
        )
