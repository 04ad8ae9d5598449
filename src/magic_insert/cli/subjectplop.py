"""`magic-insert subjectplop fetch|check`: the paper's evaluation pictures, which this package never ships."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from magic_insert.cli.app import compose_and_call, fail
from magic_insert.config.freeze import freeze
from magic_insert.config.schema import SubjectPlopConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.run import load_function

ACTIONS = ("fetch", "check")


def run(cfg: DictConfig) -> None:
    """Looks at the places, then does what was asked; raises `UserError`."""
    wanted: SubjectPlopConfig = freeze(cfg)
    if wanted.action == "check" and not Path(str(wanted.root)).is_dir():
        raise UserError(f"expected the folder of SubjectPlop, got none at {wanted.root}; set root=FOLDER")
    if wanted.action == "fetch" and Path(wanted.out).exists():
        raise UserError(f"expected a new folder to clone into, got {wanted.out}; set out=FOLDER")
    load_function("magic_insert.data.benchmark_sources:run_subjectplop")(wanted)


def main(arguments: Sequence[str]) -> None:
    """Runs `fetch` or `check` from command-line words; the first word says which."""
    words = list(arguments)
    if words and words[0] in ACTIONS:
        words[0] = f"action={words[0]}"
    elif words and "=" not in words[0] and not words[0].startswith("-"):
        fail(UserError(f"expected magic-insert subjectplop {' or '.join(ACTIONS)}, got {words[0]}"))
    compose_and_call("subjectplop", words, run)
