"""`magic-insert remove`: an object and its shadow out of a picture."""

from collections.abc import Sequence

from magic_insert.cli.app import require_file, run_app
from magic_insert.config.schema import RemoveConfig
from magic_insert.methods.input_checks import (
    check_apart,
    check_mask,
    check_model,
    check_picture,
    check_place,
    check_remover,
)


def check(cfg: RemoveConfig) -> None:
    """Looks at pictures and places before anything heavy is loaded; raises `UserError`."""
    require_file("image", cfg.image)
    require_file("mask", cfg.mask)
    out = check_place(cfg.out, suffix=".png")
    check_apart(out, cfg.image, cfg.mask)
    check_mask(cfg.mask, check_picture(cfg.image))
    check_remover(cfg.run, check_model(cfg.model))


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("remove", "magic_insert.methods.remove_job:run_remove", arguments, check)
