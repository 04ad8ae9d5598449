"""What every job's entry shares: Hydra composes, errors of the user become one line and exit code 2.

Nothing here imports torch. Hydra's own error printing is several lines and exits with 1, so it is asked to raise
instead, and the cause is told in one line.
"""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from magic_insert.config.compose import JOB_SCHEMAS, composer, known_keys, register_schemas
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError
from magic_insert.launch.run import JobPlan, StageFailed, is_picture, one_line, run_job
from magic_insert.paths import conf_dir

SWEEP_OPTION = re.compile(r"^sweep\.(?=(workers|metric|direction|trials|seed)=)")
CURVES = ("metrics.jsonl", "rounds.jsonl")
SWEEPING_WORDS = ("sweep=", "experiment=", "hydra.mode=")
# Hydra's own words for a group that a job does not have.
NO_GROUP = re.compile(r"Could not override '([^']+)'\. ?\n?.*No match in the defaults list", re.DOTALL)


def run_app(
    job: str,
    target: str,
    arguments: Sequence[str],
    check: Callable[[Any], Any],
    *,
    typed: Sequence[str] | None = None,
) -> None:
    """Composes `job` and launches `target` ("package.module:function"), once or once per run of a sweep.

    `check` looks at the frozen configuration's files before `target` is imported. `typed` are the words as the user
    typed them, where `arguments` are others.
    """
    plan = JobPlan(job, target, check, tuple(arguments if typed is None else typed))

    def body(cfg: DictConfig) -> None:
        frozen = freeze(cfg)
        run_job(plan, frozen, check(frozen))
        if any((Path(frozen.out) / name).is_file() for name in CURVES):
            page = shlex.join(
                ["magic-insert", "dashboard", f"run={frozen.out}", f"out={frozen.out}/dashboard.html"]
            )
            print(f"its curves and pictures on one page: {page}", file=sys.stderr)

    compose_and_call(job, [SWEEP_OPTION.sub("hydra.launcher.", word) for word in arguments], body, plan)


def compose_and_call(
    job: str, arguments: Sequence[str], body: Callable[[DictConfig], None], plan: JobPlan | None = None
) -> None:
    """Composes `job` from `arguments` (Hydra's flags and overrides) and hands the result to `body`.

    A sweep of a job with a `plan` hands each of its configurations to a process of its own instead.

    Raises:
        SystemExit: with code 2 after one line, if the user's input does not fit.
    """
    register_schemas()
    parser = get_args_parser()
    # argparse would print the usage of all of Hydra's flags before its one line.
    parser.error = lambda message: fail(UserError(f"{message}; see magic-insert {job} --help"))  # type: ignore
    given = parser.parse_args(list(arguments))
    for word in given.overrides:
        try:
            OverridesParser.create().parse_overrides([word])
        except OverrideParseException:
            fail(
                UserError(
                    f"expected key=value, got {word}; a value with brackets, commas, quotes, = or letters beyond a-z "
                    f"is quoted for Hydra and for the shell: \"{word.partition('=')[0]}='...'\""
                )
            )

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=job)
    def task(cfg: DictConfig) -> None:
        try:
            body(cfg)
        except UserError as error:
            fail(error)
        except StageFailed as error:
            print(one_line(error), file=sys.stderr)
            raise SystemExit(1) from None

    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"magic-insert {job}", *arguments]
    try:
        if plan is not None and asks_for_sweep(job, given.overrides, given.multirun):
            from magic_insert.launch.sweep import run_sweep  # brings libraries for tables and charts

            run_sweep(plan, given.overrides)
        else:
            task()
    except (HydraException, OmegaConfBaseException) as error:
        fail(UserError(explain(error, job)))
    except UserError as error:  # while the jobs of a sweep are composed
        fail(error)


def asks_for_sweep(job: str, words: Sequence[str], multirun: bool) -> bool:
    """Whether the words of a command are a sweep: by `-m`, or by the chosen file of a group that may say so."""
    chosen = [word for word in words if word.startswith(SWEEPING_WORDS)]
    if multirun or not chosen:
        return multirun
    with composer(job) as compose:
        return bool(compose(chosen, True).hydra.mode == RunMode.MULTIRUN)


def explain(error: HydraException | OmegaConfBaseException, job: str) -> str:
    """One line for an error of composing: which key, what is wrong, what to do."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        near = difflib.get_close_matches(cause.full_key, known_keys(JOB_SCHEMAS[job]), n=1)
        hint = f"did you mean {near[0]}?" if near else f"magic-insert {job} --cfg job shows every key"
        return f"expected a known key, got {cause.full_key}; {hint}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"expected a fitting value for {cause.full_key}, got another: {_first_line(cause)}"
    if unknown := NO_GROUP.search(str(error)):
        return f"expected a known key or group, got {unknown[1]}; magic-insert {job} --help shows them"
    lines = [line.strip() for line in str(error).splitlines()]
    options = [
        line for line in lines[1:] if line and not line.startswith(("Config search path", "provider="))
    ]
    return " ".join([lines[0], *options[:12]])


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def require_file(key: str, path: str) -> None:
    """That `path` is a file; raises `UserError` naming `key` otherwise. Its content is judged when it is read."""
    if not Path(path).is_file():
        raise UserError(f"expected {key} to be a picture, got no file at {path}; set {key}=PATH")


def require_folder(key: str, path: str) -> None:
    """That `path` names a folder and no picture; raises `UserError` naming `key` otherwise."""
    if is_picture(path):
        raise UserError(f"expected {key} to be a folder, got the name of a picture, {path}; set {key}=FOLDER")


def require_writable(key: str, path: str) -> None:
    """That `path` can be made or replaced: its nearest existing parent is a folder open for writing.

    Raises:
        UserError: names `key` and the place that is closed.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if place != Path(path).absolute() and not place.is_dir():
        raise UserError(
            f"expected {key} to be a place for output, got {path} below the file {place}; set {key}=PATH"
        )
    if not os.access(place, os.W_OK):
        raise UserError(f"expected {key} to be writable, got {path} ({place} is closed); set {key}=PATH")


def fail(error: UserError) -> NoReturn:
    """Prints the error as one line and exits with code 2."""
    print(one_line(error), file=sys.stderr)
    raise SystemExit(2)
