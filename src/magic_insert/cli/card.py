"""`magic-insert card`: measure micro weights on held-out seeds."""

from collections.abc import Sequence

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import CardConfig


def check(cfg: CardConfig) -> None:
    """Looks at the place of the output before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("card", "magic_insert.training.foundation.card:run_card", arguments, check)
