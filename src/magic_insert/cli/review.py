"""`magic-insert review`: people judge the removals of a bootstrap run."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.bootstrap.review import TRUTH
from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import ReviewConfig
from magic_insert.core.errors import UserError


def check(cfg: ReviewConfig) -> None:
    """Looks at the files before the job starts; raises `UserError`."""
    if not (Path(cfg.run) / "rounds.jsonl").is_file():
        raise UserError(
            f"expected run to be the folder of a bootstrap run, got no rounds.jsonl in {cfg.run}; set run=DIR"
        )
    if cfg.verdicts is not None and cfg.verdicts != TRUTH and not Path(cfg.verdicts).is_file():
        raise UserError(
            f"expected verdicts to be a file or truth, got nothing at {cfg.verdicts}; set verdicts=FILE"
        )
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("review", "magic_insert.bootstrap.review:run_review", arguments, check)
