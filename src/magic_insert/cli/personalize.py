"""`magic-insert personalize`: teach the model one subject."""

from collections.abc import Sequence

from magic_insert.cli.app import refuse_duplicates, require_file, require_writable, run_app
from magic_insert.config.schema import PersonalizeConfig


def check(cfg: PersonalizeConfig) -> None:
    """Looks at the files before anything heavy is loaded; raises `UserError`."""
    for path in cfg.pictures:
        require_file("subject", path)
    refuse_duplicates("subject", cfg.pictures)
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    run_app("personalize", "magic_insert.training.personalize:run_personalize", arguments, check)
