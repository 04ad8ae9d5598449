"""`magic-insert dashboard`: one page about a run or a sweep, or its saved view in W&B."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from magic_insert.cli.app import compose_and_call, require_writable
from magic_insert.config.freeze import freeze
from magic_insert.config.schema import DashboardConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.dashboard import save_view, write_dashboard
from magic_insert.tracking import has_wandb_account


def build(cfg: DictConfig) -> None:
    """Writes the page and prints its path; with an account and `logger=wandb` the view's address."""
    wanted: DashboardConfig = freeze(cfg)
    key, folder = ("run", wanted.run) if wanted.run is not None else ("sweep", wanted.sweep_dir)
    if not Path(str(folder)).is_dir():
        raise UserError(f"expected {key} to be a folder, got nothing at {folder}; set {key}=DIR")
    if wanted.logger.name == "wandb":
        if has_wandb_account():
            print(save_view(wanted))
            return
        print("no W&B account here; the page is made from the same numbers", file=sys.stderr)
    require_writable("out", wanted.out)
    print(write_dashboard(wanted))


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    words = [re.sub("^sweep=", "sweep_dir=", word) for word in arguments]
    compose_and_call("dashboard", words, build)
