"""`magic-insert personalize`: teach the model one subject, or each subject of a folder."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.cli.app import require_file, require_writable, run_app
from magic_insert.config.extras import require_optimizer
from magic_insert.config.schema import PersonalizeConfig
from magic_insert.data.subject_files import check_run_folder, request_of, subjects_of


def check(cfg: PersonalizeConfig) -> None:
    """Looks at files, packages and the run folder before anything heavy is loaded; raises `UserError`."""
    require_optimizer(cfg.personalization.optimizer)
    if cfg.personalization.validation.style is not None:
        require_file("personalization.validation.style", cfg.personalization.validation.style)
    subjects = subjects_of(cfg)
    require_writable("out", cfg.out)
    check_run_folder(Path(cfg.out), {})
    for subject in subjects:
        check_run_folder(subject.out, request_of(cfg, subject))


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("personalize", "magic_insert.training.personalize_job:run_personalize", arguments, check)
