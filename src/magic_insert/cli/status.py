"""`magic-insert status`: what became of the runs under a folder. One line a run, oldest first."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from magic_insert.cli.app import compose_and_call
from magic_insert.config.freeze import freeze
from magic_insert.config.schema import StatusConfig
from magic_insert.launch.run import list_runs


def print_status(cfg: DictConfig) -> None:
    """Prints state, job, start and folder of every run in the wanted states."""
    wanted: StatusConfig = freeze(cfg)
    runs, damaged = list_runs(Path(wanted.root))
    if not runs:
        print(f"no runs under {wanted.root}")
    for folder, record in runs:
        if (state := record.state_now) in wanted.states:
            print(f"{state:<8} {record.job:<12} {record.started}  {folder}")
    for line in damaged:
        print(f"damaged  {line}")


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    compose_and_call("status", arguments, print_status)
