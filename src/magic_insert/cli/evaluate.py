"""`magic-insert evaluate`: methods on a benchmark, beside floors and the truth.

Several methods run side by side: before Hydra sees the words, each name of the list `stylizer='[a,b]'` becomes a choice
of the group for one entry of `stylizers`. `label:file` gives the entry another name; `images` needs no
file, it is a folder of pictures made elsewhere.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magic_insert.cli.app import fail, require_writable, run_app
from magic_insert.config.compose import group_options
from magic_insert.config.registry import INSERTERS, STYLIZERS
from magic_insert.config.schema import IMAGES, EvaluateConfig
from magic_insert.core.errors import UserError
from magic_insert.inputs import find_inserter, find_model, find_segmenter

GROUPS = ("stylizer", "inserter")
DEFAULTS = {"stylizer": "[personalized,instantstyle]", "inserter": "[effect,copy_paste]"}
VARIANTS = "variant"  # stylizers with settings of other groups, which only an evaluation can mix
SHORT = {"root": "benchmark.root", "split": "benchmark.split"}
# Words that were rewritten before, as the jobs of a sweep and the printed command carry them.
REWRITTEN = {group: re.compile(rf"\+\w+@{group}s\.|\+\+{group}s\.\w+\.name=") for group in GROUPS}
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def rewrite(words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them; a group that nobody chose gets its default unless an experiment may choose it.

    Raises:
        UserError: a name that cannot be one, the same name twice, or `stylizer.key=...` beside several stylizers.
    """
    chosen: dict[str, list[tuple[str, str]]] = {}
    rest: list[str] = []
    experiment = False
    given: set[str] = set()
    for word in words:
        given |= {group for group in GROUPS if REWRITTEN[group].match(word)}
        key, equals, value = word.partition("=")
        if equals and key in GROUPS:
            chosen[key] = [*chosen.get(key, []), *_names(key, value)]
            continue
        experiment = experiment or (key == "experiment" and value not in ("", "null"))
        rest.append(f"{SHORT[key]}={value}" if equals and key in SHORT else word)
    for group in GROUPS:
        if group not in (*chosen, *given) and not experiment:
            chosen[group] = _names(group, DEFAULTS[group])
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
    registry = STYLIZERS if group == "stylizer" else INSERTERS
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


def check(cfg: EvaluateConfig) -> None:
    """Looks at the folders before anything heavy is loaded; raises `UserError`."""
    require_writable("out", cfg.out)
    if cfg.benchmark.root is not None and not Path(cfg.benchmark.root).is_dir():
        raise UserError(
            f"expected a folder of pictures at {cfg.benchmark.root}, got none; set benchmark.root=FOLDER"
        )
    if cfg.encoders.root is not None and not Path(cfg.encoders.root).is_dir():
        raise UserError(
            f"expected a folder of encoders at {cfg.encoders.root}, got none; set encoders.root=FOLDER"
        )
    methods: list[tuple[str, Any]] = [*cfg.chosen_stylizers.items(), *cfg.chosen_inserters.items()]
    for name, method in methods:
        if method.name == IMAGES and not Path(str(method.dir)).is_dir():
            raise UserError(
                f"expected a folder of pictures for {name}, got none at {method.dir}; set its dir=FOLDER"
            )
    for name, inserter in cfg.chosen_inserters.items():
        if inserter.mask_dir and not Path(inserter.mask_dir).is_dir():
            raise UserError(
                f"expected a folder of masks for {name}, got none at {inserter.mask_dir}; set its mask_dir=FOLDER"
            )
    find_segmenter(cfg.segmenter)
    if all(method.name == IMAGES for _, method in methods):
        return
    model_folder = find_model(cfg.model)
    for inserter in cfg.chosen_inserters.values():
        if inserter.name != IMAGES and "insert" in cfg.tracks:
            find_inserter(inserter, model_folder)


def main(arguments: Sequence[str]) -> None:
    """Runs the job from command-line words."""
    try:
        words = rewrite(arguments)
    except UserError as error:
        fail(error)
    run_app("evaluate", "magic_insert.evaluation.evaluate:run_evaluate", words, check, typed=arguments)
