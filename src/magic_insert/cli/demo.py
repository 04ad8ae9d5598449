"""`magic-insert demo`: one held-out subject in several held-out scenes, beside the truth."""

from collections.abc import Sequence

from magic_insert.cli.app import require_writable, run_app
from magic_insert.config.schema import DemoConfig
from magic_insert.inputs import find_folders
from magic_insert.stylizers import check_stylizer


def check(cfg: DemoConfig) -> None:
    """Looks at the place of the output and at the weights before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)
    folders = find_folders(cfg.model, cfg.inserter, cfg.segmenter)
    check_stylizer(cfg.stylizer, cfg.model, folders.model, subject_text=None)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("demo", "magic_insert.evaluation.demo:run_demo", arguments, check)
