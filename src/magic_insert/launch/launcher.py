"""From a composed configuration to a running job, in this process or in the process group that its `exec` asks for.

The parent stays light: it freezes the configuration (all ranges checked), lets the job's entry look at its input files,
records the run, and only then imports the job, which brings torch; or starts the ranks, which read the frozen file.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from magic_insert.config.freeze import freeze
from magic_insert.config.schema import ExecConfig
from magic_insert.core.errors import UserError
from magic_insert.launch.executor import execute
from magic_insert.launch.run_folder import CONFIG, recorded_run
from magic_insert.launch.target import load_function

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# These run in the parent and start a process group per stage.
STAGED_JOBS = ("bootstrap",)


def launch(
    job: str,
    target: str,
    cfg: DictConfig,
    *,
    check: Callable[[Any], Any] | None = None,
    name: str | None = None,
) -> None:
    """Runs `target` ("package.module:function") with the frozen `cfg`; `name` tells the runs of a sweep apart.

    A run writes `config.yaml` and `run.json` into its folder `out`. Where `out` is a picture there is no folder: the
    picture's sidecar is the record.

    Raises:
        UserError: a value, an input file or the place of the output does not fit.
    """
    frozen = freeze(cfg)
    if name is not None:
        frozen = replace(frozen, out=str(named_output(Path(frozen.out), name)))
    inputs = None if check is None else check(frozen)
    run_frozen(job, target, frozen, inputs)


def run_frozen(job: str, target: str, frozen: Any, inputs: Any = None) -> Any:
    """Runs `target` with a frozen configuration that was checked, and keeps the record of its run folder.

    What the check found (`inputs`), if anything, is handed to a target that runs in this process.

    Returns what `target` returned; None where other processes did the work.
    """
    where: ExecConfig = getattr(frozen, "exec", ExecConfig())
    given = () if inputs is None else (inputs,)
    spread = where.name != "inline" and job not in STAGED_JOBS
    if is_picture(frozen.out):
        if spread:
            raise UserError(
                f"expected exec=inline for a picture, got {where.name}; set out=FOLDER or exec=inline"
            )
        return load_function(target)(frozen, *given)
    folder = Path(frozen.out)
    with recorded_run(folder, job, target, frozen):
        if spread:
            execute("magic_insert.launch.worker:run_recorded", folder / CONFIG, where)
            return None
        return load_function(target)(frozen, *given)


def is_picture(out: str) -> bool:
    """Whether `out` names a picture and not a folder, by its suffix."""
    return out.lower().endswith(PICTURE_SUFFIXES)


def named_output(out: Path, name: str) -> Path:
    """The output of one run of a sweep: `runs/a` -> `runs/a/seed=1`, `a.png` -> `a__seed=1.png`."""
    return out.with_name(f"{out.stem}__{name}{out.suffix}") if is_picture(str(out)) else out / name
