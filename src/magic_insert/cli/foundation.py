"""`magic-insert foundation`: train every part of the micro model."""

from collections.abc import Sequence

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import FoundationConfig


def check(cfg: FoundationConfig) -> None:
    """Looks at the place of the output before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("foundation", "magic_insert.training.foundation.driver:run_foundation", arguments, check)
