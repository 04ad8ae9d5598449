"""Help and shell completion, read from the declarations of the fields (as are the key tables of the docs, tools/keys).

`job_help` shows a job's own keys and groups with their values as composed; the others compose nothing.
"""

import difflib
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from magic_insert.config.compose import JOB_SCHEMAS, compose_job, described_options, group_options
from magic_insert.config.fields import Key, keys_of
from magic_insert.core.errors import UserError
from magic_insert.paths import conf_dir

NAME_WIDTH = 44
HIDDEN = ("hydra_quiet", "_self_", "job_debug", "optional job_debug", "experiment", "sweep", "debug")


def job_groups(job: str) -> dict[str, str]:
    """The configuration groups that a job offers, with their default choices, in the order of conf/<job>.yaml."""
    defaults = yaml.safe_load((conf_dir() / f"{job}.yaml").read_text())["defaults"]
    chosen = {
        group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()
    }
    listed = {"stylizer": "", "inserter": ""} if job == "evaluate" else {}  # cli/words.py takes lists of them
    return listed | {
        group: str(choice) for group, choice in chosen.items() if not group.startswith("override")
    }


def job_help(job: str, summary: str, words: Sequence[str], wanted: str | None = None) -> str:
    """The keys and groups of `job` with the values that `words` give them, one line each; or all about one of them.

    Raises:
        UserError: there is no key or group `wanted`.
        hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: the words do not fit.
    """
    cfg = compose_job(job, words)
    keys = _composed_keys(job, cfg)
    groups = job_groups(job)
    if wanted is not None:
        return _one(wanted, keys, groups, job)
    required = " ".join(f"{key.name}=..." for key, value in keys.values() if value == "???")
    lines = [f"magic-insert {job}: {summary}", "", f"usage: magic-insert {job} {required}".rstrip(), ""]
    lines += [_line(key, value) for key, value in keys.values() if "." not in key.name]
    hints = get_type_hints(JOB_SCHEMAS[job])
    for group in [field.name for field in fields(JOB_SCHEMAS[job]) if is_dataclass(hints[field.name])]:
        options = f"{group}={' | '.join(group_options(group))}" if group in groups else group
        lines += ["", *_fitted(f"{options}: {first_sentence(_class(cfg, group, hints[group]))}")]
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


def _composed_keys(job: str, cfg: DictConfig) -> dict[str, tuple[Key, Any]]:
    """Every leaf key of a composed job with its value, by its dotted name; groups by the class that was chosen."""
    found: dict[str, tuple[Key, Any]] = {}
    schema, hints = JOB_SCHEMAS[job], get_type_hints(JOB_SCHEMAS[job])
    groups = [field.name for field in fields(schema) if is_dataclass(hints[field.name])]
    own = [key for key in keys_of(schema) if "." not in key.name]
    for key in [*own, *(k for g in groups for k in keys_of(_class(cfg, g, hints[g]), f"{g}."))]:
        value = OmegaConf.select(cfg, key.name, throw_on_missing=False)
        missing = value is None and OmegaConf.is_missing(*_parent(cfg, key.name))
        found[key.name] = (key, "???" if missing else value)
    return found


def _parent(cfg: DictConfig, name: str) -> tuple[Any, str]:
    group, _, leaf = name.rpartition(".")
    return (OmegaConf.select(cfg, group) if group else cfg), leaf


def _class(cfg: DictConfig, group: str, declared: type) -> type:
    return OmegaConf.get_type(cfg, group) or declared


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
    if shell not in ("bash", "zsh"):
        raise UserError(f"expected magic-insert completion bash, zsh or fish, got {shell}")
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
