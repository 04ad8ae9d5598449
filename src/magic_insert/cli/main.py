"""`magic-insert JOB [key=value ...]`: composes the job, looks at its input, and runs it once or as a sweep.

Errors of the user are one line and exit code 2. Nothing here imports torch.
"""

import difflib
import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from magic_insert import __version__
from magic_insert.cli.jobs import JOBS
from magic_insert.config.compose import JOB_SCHEMAS, composer, group_options, known_keys
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError, machine_fault
from magic_insert.launch.run import (
    INTERRUPT_EXIT,
    JobPlan,
    StageFailed,
    load_function,
    one_line,
    run_job,
    stop_on_signals,
    was_interrupted,
)

SIGPIPE_EXIT = 128 + signal.SIGPIPE
SWEEP_OPTION = re.compile(r"^sweep\.(?=(workers|metric|direction|trials|seed)=)")
SWEEPING_WORDS = ("sweep=", "experiment=", "hydra.mode=")
# Hydra's own words for a choice that a group does not have, and for a group that a job does not have.
NO_CHOICE = re.compile(r"Could not find '([^/']+)/([^']+)'")
NO_GROUP = re.compile(r"Could not override '([^']+)'\. ?\n?.*No match in the defaults list", re.DOTALL)


def usage() -> str:
    """The text of `magic-insert --help`."""
    return "\n".join(
        [
            f"magic-insert {__version__}: style-aware drag-and-drop of a subject into a picture of another style.",
            "",
            "usage: magic-insert JOB [key=value ...] [group=choice ...]",
            "",
            "jobs:",
            *(f"  {name:<12} {job.summary}" for name, job in JOBS.items()),
            "",
            "magic-insert JOB --help shows a job's keys and groups, --help KEY one of them, --cfg job the composed",
            "configuration; -m runs a sweep (seed=1,2,3). magic-insert completion bash|zsh|fish prints a completion.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script.

    Exit codes: 0 done, 1 a fault of ours, 2 input that does not fit, 130 and 143 stopped, 141 nobody reads our output.
    """
    if sys.stdout is None:  # closed by the shell, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        try:
            run_words(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, SystemExit) as stop:
            sys.stdout.flush()
            asked = isinstance(stop, KeyboardInterrupt)
            if not asked and not was_interrupted():
                raise
            # A library may have turned Ctrl-C into an exit of its own.
            print(f"magic-insert: {stop if asked and str(stop) else 'stopped'}", file=sys.stderr)
            raise SystemExit(INTERRUPT_EXIT) from None
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise  # a pipe of the job's own
        # The interpreter flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(SIGPIPE_EXIT) from None


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head -1`."""
    watch = select.poll()
    watch.register(sys.stdout, 0)  # errors are reported unasked
    return bool(watch.poll(0))


def run_words(words: Sequence[str]) -> None:
    """Answers the questions that need no job, or runs one; raises `SystemExit`, with code 2 for a wrong word."""
    name, *rest = [*words] or ["--help"]
    try:
        if name in ("-h", "--help"):
            print(usage())
        elif name == "--version":
            print(__version__)
        elif name == "completion":
            from magic_insert.cli.help import completion

            print(completion(rest[0] if rest else "", list(JOBS)))
        elif name in JOBS:
            require_place(words)
            run(name, rest)
        else:
            near = difflib.get_close_matches(name, JOBS, n=1)
            hint = f"did you mean {near[0]}?" if near else "magic-insert --help lists them"
            raise UserError(f"expected a job, one of {', '.join(JOBS)}, got {name!r}; {hint}")
    except (HydraException, OmegaConfBaseException) as error:
        fail(UserError(explain(error, name)))
    except UserError as error:
        fail(error)
    except StageFailed as error:
        print(one_line(error), file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        if (line := machine_fault(error)) is None:
            raise
        fail(UserError(line))


def require_place(words: Sequence[str]) -> None:
    """That a job can work here: in a folder that is there, with words that its record can hold."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("expected a folder to work in, got one that was deleted; cd to another") from None
    for word in words:
        if (readable := word.encode(errors="replace").decode()) != word:
            raise UserError(f"expected words in UTF-8, got {readable[:80]}; rename the file")


@dataclass
class Flags:
    """What the words of a job ask for beside its keys; `about`: the key that help is wanted for."""

    help: bool = False
    about: str | None = None
    config: bool = False
    resolve: bool = False
    sweep: bool = False


def split_flags(name: str, words: Sequence[str]) -> tuple[Flags, list[str]]:
    """The flags among `words`, and the others; raises `UserError` for an unknown flag."""
    flags, rest = Flags(), list[str]()
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("-h", "--help"):
            flags.help = True
            flags.about = left.pop(0) if left and "=" not in left[0] and left[0][:1] != "-" else None
        elif word in ("-c", "--cfg"):
            flags.config = True
            if left and left[0] == "job":
                left.pop(0)
        elif word == "--resolve":
            flags.resolve = True
        elif word in ("-m", "--multirun"):
            flags.sweep = True
        elif word.startswith("-"):
            raise UserError(
                f"expected --help, --cfg job, --resolve or -m, got {word}; see magic-insert {name} --help"
            )
        else:
            rest.append(word)
    return flags, rest


def run(name: str, words: Sequence[str]) -> None:
    """Runs the job `name` with the words of a command line: help, its configuration, one run or a sweep.

    Raises:
        UserError, hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: the words or an input file do
            not fit.
        StageFailed: a process of the job failed.
    """
    job = JOBS[name]
    flags, rest = split_flags(name, words)
    if flags.help:
        from magic_insert.cli.help import job_help

        print(job_help(name, job.summary, rest, flags.about))
        return
    prepared = [SWEEP_OPTION.sub("hydra.launcher.", word) for word in job.prepare(rest)]
    swept = [word for word in prepared if is_sweep(word)]
    stop_on_signals()
    if not flags.config and (flags.sweep or is_sweep_by_choice(name, prepared)):
        from magic_insert.launch.sweep import run_sweep  # brings libraries for tables and charts

        run_sweep(JobPlan(name, job.target, job.look, tuple(words)), prepared)
        return
    if swept:
        key, _, value = swept[0].partition("=")
        raise UserError(
            f"expected one value for {key}, got {value}; set {key}='[{value}]' for a list, or -m for a sweep"
        )
    with composer(name) as compose:
        cfg = compose(prepared, False)
    if flags.config:
        print(OmegaConf.to_yaml(cfg, resolve=flags.resolve).rstrip())
        return
    frozen = freeze(cfg)
    found = job.look(frozen)
    if job.recorded(frozen):
        run_job(JobPlan(name, job.target, job.look, tuple(words)), frozen, found)
    else:
        load_function(job.target)(frozen)


def is_sweep(word: str) -> bool:
    """Whether an override names several values; raises `UserError` where it is none."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        raise UserError(
            f"expected key=value, got {word}; a value with brackets, commas, quotes, = or letters beyond a-z "
            f"is quoted for Hydra and for the shell: \"{word.partition('=')[0]}='...'\""
        ) from None
    return bool(parsed.is_sweep_override())


def is_sweep_by_choice(name: str, words: Sequence[str]) -> bool:
    """Whether the chosen file of a group says that the words are a sweep."""
    chosen = [word for word in words if word.startswith(SWEEPING_WORDS)]
    if not chosen:
        return False
    with composer(name) as compose:
        return bool(compose(chosen, True).hydra.mode == RunMode.MULTIRUN)


def explain(error: HydraException | OmegaConfBaseException, job: str) -> str:
    """One line for an error of composing: which key, what is wrong, what to do."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        near = difflib.get_close_matches(cause.full_key, known_keys(JOB_SCHEMAS[job]), n=1)
        hint = f"did you mean {near[0]}?" if near else f"magic-insert {job} --help shows every key"
        return f"expected a known key, got {cause.full_key}; {hint}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"expected a fitting value for {cause.full_key}, got another: {str(cause).splitlines()[0]}"
    if unknown := NO_GROUP.search(str(error)):
        return f"expected a known key or group, got {unknown[1]}; magic-insert {job} --help shows them"
    if unknown := NO_CHOICE.search(str(error)):
        options = ", ".join(group_options(unknown[1]))
        return f"expected {unknown[1]} to be one of {options}, got {unknown[2]}"
    first, *others = [line.strip() for line in str(error).splitlines()]
    shown = [line for line in others if line and not line.startswith(("Config search path", "provider="))]
    return " ".join([first, *shown[:12]])


def fail(error: UserError) -> NoReturn:
    """Prints the error as one line and exits with code 2."""
    print(one_line(error), file=sys.stderr)
    raise SystemExit(2)
