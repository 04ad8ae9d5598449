"""How a job is spread over processes and machines."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from magic_insert.config.checks import at_least, one_of, positive
from magic_insert.config.schema.parts import LoggerConfig
from magic_insert.core.errors import UserError

EXECUTORS = ("inline", "torchrun", "slurm")
CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class ExecConfig:
    """Which processes do the work of a job or a stage. Where and how never changes what comes out.

    `inline`: this process. `torchrun`: `devices` processes on this machine under torch's elastic agent. `slurm`: a
    Slurm job of `nodes` times `devices` processes through submitit; `cluster: local` runs the same job script without
    Slurm. `devices` counts processes per machine, one per GPU; 0 means every GPU of this machine. `timeout_min`: how
    long one process waits for the others in a collective call, and the time limit of a Slurm job. `sbatch`: further
    Slurm options by their own names, such as {partition: gpu, account: lab, mem: 64G, cpus_per_task: 8}.
    """

    name: str = "inline"
    devices: int = 1
    nodes: int = 1
    timeout_min: float = 120.0
    cluster: str = "slurm"
    sbatch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("exec.name", self.name, EXECUTORS)
        one_of("exec.cluster", self.cluster, CLUSTERS)
        at_least("exec.devices", self.devices, 0)
        at_least("exec.nodes", self.nodes, 1)
        positive("exec.timeout_min", self.timeout_min)
        if self.name == "inline" and (self.devices != 1 or self.nodes != 1):
            raise UserError(
                f"expected exec.devices=1 and exec.nodes=1 for exec=inline, got {self.devices} and {self.nodes}; "
                "set exec=torchrun for several devices, exec=slurm for several machines"
            )
        if self.name == "torchrun" and self.nodes != 1:
            raise UserError(
                f"expected exec.nodes=1 for exec=torchrun, got {self.nodes}; set exec=slurm, or start torchrun "
                "on each machine yourself as docs/launch.md shows"
            )
        if self.name == "slurm" and self.devices == 0:
            raise UserError("expected exec.devices of at least 1 for exec=slurm, got 0; set exec.devices=N")


@dataclass(frozen=True)
class JobLauncherConfig:
    """How the jobs of a sweep are run: `workers` at a time, each a process of its own.

    `metric`: the number that ranks them, by its name in the run's results; null is what the job returns. `direction`:
    whether the largest (`max`) or the smallest (`min`) is best.
    """

    _target_: str = "hydra_plugins.magic_insert_jobs.JobLauncher"
    workers: int = 1
    metric: str | None = None
    direction: str = "max"


@dataclass(frozen=True)
class DashboardConfig:
    """One page in `out` about the run folder `run` or the sweep folder `sweep_dir`: charts, tables and pictures.

    The command line says sweep=DIR; a key of that name would be Hydra's group of sweeps.

    `logger: wandb` builds the saved view of the same curves in the W&B project instead, if there is an account.
    """

    run: str | None = None
    sweep_dir: str | None = None
    out: str = "runs/dashboard.html"
    logger: LoggerConfig = MISSING

    def __post_init__(self) -> None:
        if (self.run is None) == (self.sweep_dir is None):
            raise UserError(
                "expected one of run and sweep, got "
                + ("none" if self.run is None else "both")
                + "; set run=... or sweep=..."
            )
