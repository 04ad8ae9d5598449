"""From a composed configuration to a running job, in this process.

The parent stays light: it freezes the configuration (all ranges checked), lets the job's entry look at its input files,
records the run, and only then imports the job, which brings torch.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from magic_insert.config.freeze import freeze
from magic_insert.launch.run_folder import recorded_run

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def launch(
    job: str,
    target: str,
    cfg: DictConfig,
    *,
    check: Callable[[Any], None] | None = None,
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
    if check is not None:
        check(frozen)
    if is_picture(frozen.out):
        load_function(target)(frozen)
        return
    with recorded_run(Path(frozen.out), job, frozen):
        load_function(target)(frozen)


def is_picture(out: str) -> bool:
    """Whether `out` names a picture and not a folder, by its suffix."""
    return out.lower().endswith(PICTURE_SUFFIXES)


def named_output(out: Path, name: str) -> Path:
    """The output of one run of a sweep: `runs/a` -> `runs/a/seed=1`, `a.png` -> `a__seed=1.png`."""
    return out.with_name(f"{out.stem}__{name}{out.suffix}") if is_picture(str(out)) else out / name


def load_function(target: str) -> Callable[[Any], Any]:
    """The function that `target` ("package.module:function") names."""
    module, _, function = target.partition(":")
    loaded: Callable[[Any], Any] = getattr(import_module(module), function)
    return loaded
