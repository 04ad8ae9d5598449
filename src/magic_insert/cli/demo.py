"""`magic-insert demo`: one held-out subject in several held-out scenes, beside the truth."""

from collections.abc import Sequence

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import DemoConfig


def check(cfg: DemoConfig) -> None:
    """Looks at the place of the output before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("demo", "magic_insert.evaluation.demo:run_demo", arguments, check)
