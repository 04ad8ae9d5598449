"""`magic-insert insert`: one subject into one background."""

from collections.abc import Sequence

from magic_insert.cli.app import require_file, require_writable, run_app
from magic_insert.config.schema import InsertConfig


def check(cfg: InsertConfig) -> None:
    """Looks at the files before anything heavy is loaded; raises `UserError`."""
    require_file("subject", cfg.subject)
    require_file("background", cfg.background)
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("insert", "magic_insert.methods.insert_job:run_insert", arguments, check)
