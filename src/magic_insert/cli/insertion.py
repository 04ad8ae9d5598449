"""`magic-insert insertion`: train a remover and an inserter on counterfactual pairs."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import InsertionConfig
from magic_insert.core.errors import UserError


def check(cfg: InsertionConfig) -> None:
    """Looks at the places of data, start and output before anything heavy is loaded; raises `UserError`."""
    if cfg.data.name != "toybox" and not Path(str(cfg.data.path)).exists():
        raise UserError(
            f"expected data.path to be there, got nothing at {cfg.data.path}; set data.path=FOLDER"
        )
    if cfg.train.init not in ("base", "shipped") and not Path(cfg.train.init).is_dir():
        raise UserError(
            f"expected train.init=base, shipped or a run folder, got {cfg.train.init}; set train.init=..."
        )
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("insertion", "magic_insert.training.insertion_job:run_insertion", arguments, check)
