"""`magic-insert export`: a finished personalisation for ComfyUI, A1111 or diffusers."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import ExportConfig
from magic_insert.core.errors import UserError


def check(cfg: ExportConfig) -> None:
    """Looks at the folders before anything heavy is loaded; raises `UserError`."""
    run, out = Path(cfg.run), Path(cfg.out)
    if not (run / "card.json").is_file():
        raise UserError(
            f"expected a finished personalisation at {run}, got no card.json there; set run=FOLDER"
        )
    if out.resolve() == run.resolve():
        raise UserError(f"expected another folder than the run itself for out, got {out}; set out=FOLDER")
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("export", "magic_insert.training.export:run_export", arguments, check)
