"""From the words of the command line to Hydra's, where the two differ.

Several methods of an evaluation run side by side: each name of the list `stylizer='[a,b]'` becomes a choice of the
group for one entry of `stylizers`. `label:name` gives the entry another name; `images` is a folder of pictures made
elsewhere.
"""

import re
from collections.abc import Mapping, Sequence

from magic_insert.config.compose import group_options
from magic_insert.config.registry import INSERTERS, STYLIZERS
from magic_insert.config.schema import IMAGES
from magic_insert.core.errors import UserError

GROUPS = {"stylizer": STYLIZERS, "inserter": INSERTERS}
DEFAULTS = {"stylizer": "[personalized,instantstyle]", "inserter": "[effect,copy_paste]"}
OURS = {"stylizer": "personalized", "inserter": "effect"}
VARIANTS = "variant"  # stylizers with settings of other groups, which only an evaluation can mix
SHORT = {key: f"benchmark.{key}" for key in ("root", "split", "num_scenes")}
NAME = re.compile(r"[A-Za-z0-9_.-]+")
ACTIONS = ("fetch", "check")


def without_late_settings(words: Sequence[str]) -> list[str]:
    """The words of `insert`, where nothing is asked of a personalisation which `run=` names as done already.

    Raises:
        UserError: it is, and would do nothing.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    late = [key for key in keys if key.partition(".")[0].partition("@")[0] == "personalization"]
    if "run" in keys and late:
        raise UserError(
            f"expected no {late[0]} beside run=FOLDER, which is personalised already; "
            "personalise again with it or leave it out"
        )
    return list(words)


def sweep_folder(words: Sequence[str]) -> list[str]:
    """The words of `dashboard`, whose key `sweep` would be Hydra's group of sweeps."""
    return [re.sub("^sweep=", "sweep_dir=", word) for word in words]


def action_first(words: Sequence[str]) -> list[str]:
    """The words of `subjectplop`, of which the first may be the action; raises `UserError` for another."""
    first, *rest = [*words] or [""]
    if first in ACTIONS:
        return [f"action={first}", *rest]
    if first and "=" not in first:
        raise UserError(f"expected magic-insert subjectplop {' or '.join(ACTIONS)}, got {first}")
    return list(words)


def of_the_demo(words: Sequence[str]) -> list[str]:
    """The words of `demo`, an evaluation of our own method alone unless others are chosen."""
    return methods_side_by_side(words, OURS)


def methods_side_by_side(words: Sequence[str], defaults: Mapping[str, str] = DEFAULTS) -> list[str]:
    """The words as Hydra takes them; a group that nobody chose gets its default unless an experiment may choose it.

    Raises:
        UserError: a name that cannot be one, the same name twice, or `stylizer.key=...` beside several stylizers.
    """
    chosen: dict[str, list[tuple[str, str]]] = {}
    rest: list[str] = []
    experiment = False
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in GROUPS:
            chosen[key] = [*chosen.get(key, []), *_names(key, value)]
            continue
        experiment = experiment or (key == "experiment" and value not in ("", "null"))
        rest.append(f"{SHORT[key]}={value}" if equals and key in SHORT else word)
    for group in GROUPS:
        given = any(
            word.startswith((f"+{group}@", f"+{VARIANTS}@{group}s.", f"++{group}s.")) for word in rest
        )
        if group not in chosen and not experiment and not given:
            chosen[group] = _names(group, defaults[group])
    made = [_entry(group, label, file) for group, names in chosen.items() for label, file in names]
    return [*made, *(_own(word, chosen) for word in rest)]


def _names(group: str, value: str) -> list[tuple[str, str]]:
    """`a` or `[a,b:c]` as (label, choice) pairs."""
    names: list[tuple[str, str]] = []
    if "," in value and not (value.startswith("[") and value.endswith("]")):
        raise UserError(f"expected a list of methods, got {group}={value}; set {group}='[{value}]'")
    for name in value.strip("[]").split(","):
        label, _, file = name.strip().partition(":")
        if not NAME.fullmatch(label) or (file and not NAME.fullmatch(file)):
            raise UserError(f"expected {group}=NAME or {group}='[NAME,LABEL:NAME]', got {value!r}")
        if label in [known for known, _ in names]:
            raise UserError(
                f"expected each {group} once, got {label} twice; set {group}='[{label},OTHER:{label}]'"
            )
        names.append((label, file or label))
    return names


def _entry(group: str, label: str, file: str) -> str:
    registry = GROUPS[group]
    if file == IMAGES or (file in registry.names() and file not in registry.own):
        return f"++{group}s.{label}.name={file}"
    homes = [group, VARIANTS] if group == "stylizer" else [group]
    for home in homes:
        if file in group_options(home):
            return f"+{home}@{group}s.{label}={file}"
    known = sorted(name for home in homes for name in group_options(home))
    raise UserError(f"expected {group} to be one of {', '.join([*known, IMAGES])}, got {file!r}")


def _own(word: str, chosen: dict[str, list[tuple[str, str]]]) -> str:
    """`stylizer.key=value` for the only stylizer, and `stylizers.name.key=value`, as Hydra adds or replaces them."""
    for group in GROUPS:
        if word.startswith(f"{group}."):
            labels = [label for label, _ in chosen.get(group, [])]
            if len(labels) != 1:
                key = word.partition("=")[0].removeprefix(f"{group}.")
                raise UserError(
                    f"expected one {group} for {group}.{key}, got {', '.join(labels) or 'none'}; "
                    f"set {group}s.NAME.{key}=..."
                )
            word = f"{group}s.{labels[0]}.{word.removeprefix(f'{group}.')}"
        if word.startswith(f"{group}s."):
            return f"++{word}"
    return word
