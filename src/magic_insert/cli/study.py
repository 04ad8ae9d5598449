"""`magic-insert study`: a two-alternative preference study; action=build, serve or analyse."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from magic_insert.cli.app import compose_and_call, require_writable
from magic_insert.config.freeze import freeze
from magic_insert.config.schema import StudyConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.run import JobPlan, load_function, run_job

ACTIONS = {
    "build": "magic_insert.evaluation.study:run_build",
    "serve": "magic_insert.evaluation.study:run_serve",
    "analyse": "magic_insert.evaluation.study_analysis:run_analyse",
}


def check(cfg: StudyConfig) -> None:
    """Looks at the files before anything heavy is loaded; raises `UserError`."""
    if cfg.action != "build":
        if not (Path(cfg.out) / "study.json").is_file():
            raise UserError(
                f"expected a study in {cfg.out}, got none; run action=build first or set out=FOLDER"
            )
        missing = [path for path in cfg.answers if not Path(path).is_file()]
        if missing:
            raise UserError(f"expected answers to be files, got none at {missing[0]}; set answers=[PATH]")
        return
    if cfg.rows is not None and not Path(cfg.rows).is_file():
        raise UserError(f"expected rows to be a file, got none at {cfg.rows}; set rows=PATH")
    for folder in [*cfg.folders, *([cfg.references] if cfg.references else [])]:
        if not Path(folder).is_dir():
            raise UserError(
                f"expected a folder of pictures, got none at {folder}; correct folders or references"
            )
    require_writable("out", cfg.out)


def main(arguments: Sequence[str]) -> None:
    """Builds as a recorded run; serves and analyses in the folder of that run, whose record stays."""

    def body(composed: DictConfig) -> None:
        cfg: StudyConfig = freeze(composed)
        check(cfg)
        if cfg.action == "build":
            run_job(JobPlan("study", ACTIONS[cfg.action], check, tuple(arguments)), cfg)
        else:
            load_function(ACTIONS[cfg.action])(cfg)

    compose_and_call("study", arguments, body)
