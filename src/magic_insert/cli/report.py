"""`magic-insert report`: tables, plots and page again from rows alone."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import ReportConfig
from magic_insert.core.errors import UserError


def check(cfg: ReportConfig) -> None:
    """Looks at the files before anything heavy is loaded; raises `UserError`."""
    for key, path in (("rows", cfg.rows), ("facts", cfg.facts)):
        if path is not None and not Path(path).is_file():
            raise UserError(f"expected {key} to be a file, got none at {path}; set {key}=PATH")
    if Path(cfg.rows).resolve().parent == Path(cfg.out).resolve():
        raise UserError(
            f"expected out to be another folder than that of the rows (its record would be lost), got {cfg.out}; "
            "set out=FOLDER"
        )
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("report", "magic_insert.evaluation.report:run_report", arguments, check)
