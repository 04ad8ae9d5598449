"""`magic-insert toybox`: render the world with known answers."""

from collections.abc import Sequence

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import ToyboxConfig


def check(cfg: ToyboxConfig) -> None:
    """Looks at the place of the output before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("toybox", "magic_insert.toybox.export:run_toybox", arguments, check)
