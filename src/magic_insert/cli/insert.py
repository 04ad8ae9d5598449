"""`magic-insert insert`: one subject into one background, or into many."""

from collections.abc import Sequence

from magic_insert.cli.app import fail, require_file, run_app
from magic_insert.config.schema import InsertConfig
from magic_insert.core.errors import UserError
from magic_insert.methods.input_checks import (
    check_box_inside,
    check_inserter,
    check_model,
    check_picture,
    check_segmenter,
)
from magic_insert.methods.insert_checks import check_run, places_of
from magic_insert.methods.pose_server import check_server
from magic_insert.methods.stylizer_checks import check_stylizer


def check(cfg: InsertConfig) -> None:
    """Looks at pictures, box and places before anything heavy is loaded; raises `UserError`."""
    require_file("subject", cfg.subject)
    places = places_of(cfg)
    check_picture(cfg.subject)
    for background, _ in places:
        check_box_inside(cfg.box, check_picture(str(background)))
    check_run(cfg)
    check_segmenter(cfg.segmenter)
    model_folder = check_model(cfg.model)
    check_inserter(cfg.inserter, model_folder)
    check_stylizer(cfg.stylizer, cfg.model, model_folder, subject_text=cfg.subject_text)
    check_server(cfg.pose)


def refuse_late_settings(words: Sequence[str]) -> None:
    """That nothing is asked of a personalisation which `run=` says is there already.

    Raises:
        UserError: it is, and would do nothing.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    late = [key for key in keys if key.partition(".")[0].partition("@")[0] == "personalization"]
    if "run" in keys and late:
        raise UserError(
            f"expected no {late[0]} beside run=FOLDER, which is personalised already; "
            "personalise again with it or leave it out"
        )


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    try:
        refuse_late_settings(arguments)
    except UserError as error:
        fail(error)
    run_app("insert", "magic_insert.methods.insert_job:run_insert", arguments, check)
