"""`magic-insert JOB [key=value ...]`: composes the job, looks at its input, and runs it once or as a sweep.

Errors of the user are one line and exit code 2. Help and shell completion are read from the declarations of the fields
(as are the key tables of the docs, tools/keys): `job_help` shows a job's own keys and groups with their values as
composed, completion composes nothing. Nothing here imports torch.
"""

import difflib
import os
import re
import select
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, NoReturn, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from magic_insert import __version__
from magic_insert.cli.jobs import JOBS
from magic_insert.config.compose import (
    JOB_SCHEMAS,
    compose_job,
    composer,
    described_options,
    group_options,
)
from magic_insert.config.fields import Key, keys_of
from magic_insert.config.freeze import freeze
from magic_insert.core.errors import UserError, mendable, require_known
from magic_insert.launch.run import (
    INTERRUPT_EXIT,
    JobPlan,
    StageFailed,
    ending_at_once,
    load_function,
    one_line,
    run_job,
    stop_on_signals,
    was_interrupted,
)
from magic_insert.paths import conf_dir

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


def program() -> None:
    """The console script: `main`, as the whole of a process."""
    with ending_at_once():
        main()


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the words ask for.

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
        # Is standard output a pipe that nobody reads any more, as after `| head -1`?
        watch = select.poll()
        watch.register(sys.stdout, 0)  # errors are reported unasked
        if not watch.poll(0):
            raise  # a pipe of the job's own
        # The interpreter flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(SIGPIPE_EXIT) from None


def run_words(words: Sequence[str]) -> None:
    """Answers the questions that need no job, or runs one; raises `SystemExit`, with code 2 for a wrong word."""
    name, *rest = [*words] or ["--help"]
    try:
        if name in ("-h", "--help"):
            print(usage())
        elif name == "--version":
            print(__version__)
        elif name == "completion":
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
    except StageFailed as error:
        print(one_line(error), file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        if (line := mendable(error)) is None:
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
        leaves = [key.name for key in keys_of(JOB_SCHEMAS[job])]
        groups = {name.rpartition(".")[0] for name in leaves}
        near = difflib.get_close_matches(cause.full_key, [*leaves, *groups], n=1)
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


NAME_WIDTH = 44
HIDDEN = ("hydra_quiet", "_self_", "job_debug", "optional job_debug", "experiment", "sweep", "debug")


def job_groups(job: str) -> dict[str, str]:
    """The configuration groups that a job offers, with their default choices, in the order of conf/<job>.yaml."""
    defaults = yaml.safe_load((conf_dir() / f"{job}.yaml").read_text())["defaults"]
    chosen = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    listed = {"stylizer": "", "inserter": ""} if job == "evaluate" else {}  # cli/jobs.py takes lists of them
    return listed | {group: str(choice) for group, choice in chosen if not group.startswith("override")}


def job_help(job: str, summary: str, words: Sequence[str], wanted: str | None = None) -> str:
    """The keys and groups of `job` with the values that `words` give them, one line each; or all about one of them.

    Raises:
        UserError: there is no key or group `wanted`.
        hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: the words do not fit.
    """
    cfg, schema, groups = compose_job(job, words), JOB_SCHEMAS[job], job_groups(job)
    hints: dict[str, type] = get_type_hints(schema)
    # The groups among its fields, by the class that was chosen.
    chosen = {
        name: OmegaConf.get_type(cfg, name) or hint for name, hint in hints.items() if is_dataclass(hint)
    }
    listed = [key for key in keys_of(schema) if "." not in key.name]
    listed += [key for group, cls in chosen.items() for key in keys_of(cls, f"{group}.")]
    keys = {key.name: (key, OmegaConf.select(cfg, key.name, default="???")) for key in listed}
    if wanted is not None:
        return _one(wanted, keys, groups, job)
    required = " ".join(f"{key.name}=..." for key, value in keys.values() if value == "???")
    lines = [f"magic-insert {job}: {summary}", "", f"usage: magic-insert {job} {required}".rstrip(), ""]
    lines += [_line(key, value) for key, value in keys.values() if "." not in key.name]
    for group, cls in chosen.items():
        options = f"{group}={' | '.join(group_options(group))}" if group in groups else group
        lines += ["", *_fitted(f"{options}: {first_sentence(cls)}")]
        lines += [
            _line(key, value)
            for key, value in keys.values()
            if key.name.startswith(f"{group}.") and not (key.name == f"{group}.name" and group in groups)
        ]
    rest = [group for group in groups if group not in hints and group not in HIDDEN]
    switches = [group for group in ("experiment", "sweep", "debug") if group in groups]
    for group in [*rest, *switches]:
        lines += ["", f"{group}={' | '.join(group_options(group)) or 'FILE'}"]
    lines += [
        "",
        f"--help KEY tells all about one key or group, --cfg job prints the composed configuration of {job},",
    ]
    return "\n".join([*lines, "-m key=1,2,3 runs a sweep; a list is key='[a,b]'."])


def first_sentence(cls: type) -> str:
    """What the docstring of a dataclass says first."""
    return str(cls.__doc__).strip().split("\n\n")[0].replace("\n    ", " ")


def _line(key: Key, value: Any) -> str:
    """A key on one line: its value, what it may be, and as much of its text as fits."""
    name = f"  {key.name}={shown(value)}"
    line = f"{name:<{NAME_WIDTH}}  {'. '.join(part for part in (key.limits, key.doc) if part)}".rstrip()
    width = _width()
    return line if len(line) <= width else line[: max(width - 3, len(name))] + "..."


def _fitted(text: str) -> list[str]:
    return textwrap.wrap(text, _width(), subsequent_indent="  ")


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    if value == "???":
        return "..."
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace("'", "") if isinstance(value, list | dict) else text


def _one(wanted: str, keys: Mapping[str, tuple[Key, Any]], groups: Mapping[str, str], job: str) -> str:
    """All about one key or group."""
    wanted = wanted.partition("=")[0]
    lines: list[str] = []
    if wanted in groups:
        docs = described_options(wanted)
        lines = [
            f"  {wanted}={name}" + (f": {docs[name]}" if docs.get(name) else "")
            for name in group_options(wanted)
        ]
    own = [
        (key, value) for name, (key, value) in keys.items() if name == wanted or name.startswith(f"{wanted}.")
    ]
    for key, value in own:
        lines += [
            f"{key.name}={shown(value)}",
            *_fitted(f"  {key.type}{key.limits and ', '}{key.limits}. {key.doc}"),
        ]
    if not lines:
        near = difflib.get_close_matches(wanted, [*keys, *groups], n=1)
        hint = f"did you mean {near[0]}?" if near else f"magic-insert {job} --help lists them"
        raise UserError(f"expected a key or group of {job}, got {wanted}; {hint}")
    return "\n".join(lines)


def completion(shell: str, jobs: Sequence[str]) -> str:
    """A script that completes jobs, keys, groups and their choices.

    Raises:
        UserError: another shell than bash, zsh and fish.
    """
    words = {job: " ".join(_words(job)) for job in jobs}
    if shell == "fish":
        first = f"not __fish_seen_subcommand_from {' '.join(jobs)}"
        lines = [f"complete -c magic-insert -f -n '{first}' -a '{job}'" for job in jobs]
        lines += [
            f"complete -c magic-insert -n '__fish_seen_subcommand_from {job}' -a '{words[job]}'"
            for job in jobs
        ]
        return "\n".join(lines)
    require_known("the word after completion", shell, ("bash", "zsh", "fish"))
    cases = "\n".join(f"      {job}) words='{words[job]}' ;;" for job in jobs)
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return zsh + BASH.replace("JOBS", " ".join([*jobs, "completion", "--help", "--version"])).replace(
        "CASES", cases
    )


# What the user has typed is read from the line, since `=` ends a word for bash; it replaces only what follows the `=`.
BASH = """\
_magic_insert() {
  local cur="${COMP_LINE:0:$COMP_POINT}" words='JOBS' before=''
  cur="${cur##*[[:space:]]}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "${COMP_WORDS[1]}" in
CASES
      completion) words='bash zsh fish' ;;
      *) words='' ;;
    esac
  fi
  case "$cur" in *=*) before="${cur%"${cur##*=}"}" ;; esac
  COMPREPLY=( $(compgen -W "$words" -- "$cur") )
  COMPREPLY=( "${COMPREPLY[@]#"$before"}" )
  if [ -n "$before" ] && [ -z "${COMPREPLY[0]}" ]; then
    COMPREPLY=( $(compgen -f -- "${cur#"$before"}") )
  fi
  case "${COMPREPLY[0]}" in *=) type compopt > /dev/null 2>&1 && compopt -o nospace ;; esac
}
complete -F _magic_insert magic-insert
"""


def _words(job: str) -> Iterator[str]:
    """What may follow the job: flags, `key=`, `key=choice` and `group=choice`."""
    yield from ("--help", "--cfg", "-m")
    for group in job_groups(job):
        if group not in ("job_debug", "optional job_debug"):
            yield from (f"{group}={choice}" for choice in group_options(group))
    for key in keys_of(JOB_SCHEMAS[job]):
        choices = key.limits.split(" | ") if " | " in key.limits else []
        yield from (f"{key.name}={choice}" for choice in choices) if choices else (f"{key.name}=",)
