"""What every job's entry shares: Hydra composes, errors of the user become one line and exit code 2.

Nothing here imports torch. Hydra's own error printing is several lines and exits with 1, so it is asked to raise
instead, and the cause is told in one line.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from magic_insert.config.compose import JOB_LAUNCHER, JOB_SCHEMAS, known_keys, register_schemas
from magic_insert.core.errors import UserError
from magic_insert.launch.executor import StageFailed
from magic_insert.launch.launcher import is_picture, launch
from magic_insert.launch.sweep import JobPlan
from magic_insert.launch.sweep_names import job_name, settings_of, swept_keys
from magic_insert.paths import conf_dir

SWEEP_OPTION = re.compile(r"^sweep\.(?=(workers|metric|direction)=)")
# Hydra's own words for a group that a job does not have.
NO_GROUP = re.compile(r"Could not override '([^']+)'\. ?\n?.*No match in the defaults list", re.DOTALL)


def run_app(job: str, target: str, arguments: Sequence[str], check: Callable[[Any], Any]) -> None:
    """Composes `job` and launches `target` ("package.module:function"), once or once per run of a sweep.

    `check` looks at the frozen configuration's files before `target` is imported.
    """

    words = [SWEEP_OPTION.sub("hydra.launcher.", word) for word in arguments]

    def body(cfg: DictConfig) -> None:
        launch(job, target, cfg, check=check, name=sweep_name(words))

    compose_and_call(job, words, body, JobPlan(job, target, check))


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
    for word in parser.parse_args(list(arguments)).overrides:
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
            print(f"magic-insert: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    if plan is not None:
        # What Hydra hands to the launcher of sweeps is the function itself.
        task.__wrapped__.plan = plan
        # argparse takes the overrides in one piece, so ours stands beside the user's.
        overrides = parser.parse_args(list(arguments)).overrides
        place = list(arguments).index(overrides[0]) if overrides else len(arguments)
        arguments = [*arguments[:place], JOB_LAUNCHER, *arguments[place:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"magic-insert {job}", *arguments]
    try:
        task()
    except (HydraException, OmegaConfBaseException) as error:
        fail(UserError(explain(error, job)))
    except UserError as error:  # while the jobs of a sweep are composed
        fail(error)


def sweep_name(arguments: Sequence[str]) -> str | None:
    """What tells this run of a sweep from the others, such as `seed=1`; None outside a sweep.

    Only launchers of Hydra's own come here (hydra/launcher=basic): ours starts processes that are told their name.
    """
    config = HydraConfig.get()
    if config.mode != RunMode.MULTIRUN:
        return None
    words = get_args_parser().parse_args(list(arguments)).overrides
    keys = swept_keys(words, config.sweeper.get("params") or {})
    return job_name(settings_of(list(config.overrides.task), keys)) or f"{config.job.num:03d}"


def explain(error: HydraException | OmegaConfBaseException, job: str) -> str:
    """One line for an error of composing: which key, what is wrong, what to do."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, UserError):  # from the launcher of sweeps
        return str(cause)
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
    print("magic-insert: " + " ".join(str(error).split()), file=sys.stderr)
    raise SystemExit(2)
