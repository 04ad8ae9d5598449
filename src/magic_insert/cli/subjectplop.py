"""`magic-insert subjectplop fetch|check`: the paper's evaluation pictures, which this package never ships."""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.cli.app import fail, run_app
from magic_insert.config.schema import SubjectPlopConfig
from magic_insert.core.errors import UserError

ACTIONS = ("fetch", "check")


def check(cfg: SubjectPlopConfig) -> None:
    """Looks at the places before anything is done; raises `UserError`."""
    if cfg.action == "check" and not Path(str(cfg.root)).is_dir():
        raise UserError(f"expected the folder of SubjectPlop, got none at {cfg.root}; set root=FOLDER")
    if cfg.action == "fetch" and Path(cfg.out).exists():
        raise UserError(f"expected a new folder to clone into, got {cfg.out}; set out=FOLDER")


def main(arguments: Sequence[str]) -> None:
    """Runs `fetch` or `check` from command-line words; the first word says which."""
    words = list(arguments)
    if words and words[0] in ACTIONS:
        words[0] = f"action={words[0]}"
    elif words and "=" not in words[0] and not words[0].startswith("-"):
        fail(UserError(f"expected magic-insert subjectplop {' or '.join(ACTIONS)}, got {words[0]}"))
    run_app("subjectplop", "magic_insert.data.subjectplop_folder:run_subjectplop", words, check)
