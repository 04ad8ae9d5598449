"""Every job of the command line: a line about it, the function that does it, the look at its input before that, and
how its words become Hydra's where the two differ.

The look runs in the light parent, without torch; what it returns is handed to the job. Ranges, choices, and places that
must be there or be writable are declared beside the fields (config/fields.py); a job's own look is for the rest.

Several methods of an evaluation run side by side: each name of the list `stylizer='[a,b]'` becomes a choice of the
group for one entry of `stylizers`. `label:name` gives the entry another name; `images` is a folder of pictures made
elsewhere.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.config.compose import group_options
from magic_insert.config.fields import check as check_fields
from magic_insert.config.registry import INSERTERS, STYLIZERS
from magic_insert.config.schema import jobs as schema
from magic_insert.config.schema.evaluation import IMAGES
from magic_insert.core.errors import UserError, require_known
from magic_insert.launch.run import load_function

GROUPS = {"stylizer": STYLIZERS, "inserter": INSERTERS}
DEFAULTS = {"stylizer": "[personalized,instantstyle]", "inserter": "[effect,copy_paste]"}
OURS = {"stylizer": "personalized", "inserter": "effect"}
VARIANTS = "variant"  # stylizers with settings of other groups, which only an evaluation can mix
SHORT = {key: f"benchmark.{key}" for key in ("root", "split", "num_scenes")}
NAME = re.compile(r"[A-Za-z0-9_.-]+")
ACTIONS = ("fetch", "check")


@dataclass(frozen=True)
class Job:
    """`target`: "package.module:function", imported when the job starts. `check`: of the frozen configuration.

    `prepare`: from the words of the command line to Hydra's. `recorded`: a run folder is kept; otherwise the function
    is called with the configuration alone.
    """

    summary: str
    target: str
    check: Callable[[Any], Any] = lambda cfg: None
    prepare: Callable[[Sequence[str]], list[str]] = list
    recorded: Callable[[Any], bool] = lambda cfg: True

    def look(self, frozen: Any) -> Any:
        """The look at the places that its fields declare, then the job's own; returns what that found.

        Raises:
            UserError: names what does not fit.
        """
        check_fields(frozen, places=True)
        return self.check(frozen)


def require(found: bool, key: str, expected: str, got: object) -> None:
    """Raises `UserError` unless `found`."""
    if not found:
        raise UserError(f"expected {key} to be {expected}, got {got}; set {key}=...")


def check_page(cfg: schema.PageConfig) -> None:
    """The weights."""
    from magic_insert.models.folders import find_folders
    from magic_insert.stylizers import check_stylizer

    folders = find_folders(cfg.model, cfg.inserter, cfg.segmenter)
    check_stylizer(cfg.stylizer, cfg.model, folders.model, subject_text=None)


def check_personalize(cfg: schema.PersonalizeConfig) -> None:
    """Pictures, packages, the run folders and the model's."""
    from magic_insert.config.schema.training import require_optimizer
    from magic_insert.data.subject_files import check_run_folder, request_of, subjects_of
    from magic_insert.models.folders import find_model

    require_optimizer(cfg.personalization.optimizer)
    subjects = subjects_of(cfg)
    check_run_folder(Path(cfg.out), {})
    for subject in subjects:
        check_run_folder(subject.out, request_of(cfg, subject))
    find_model(cfg.model)


def check_insertion(cfg: schema.InsertionConfig) -> None:
    """The optimizer's package, and the networks that are trained on."""
    from magic_insert.config.schema.training import require_optimizer
    from magic_insert.models.folders import PRODUCTS, find_effect_start, find_start

    require_optimizer(cfg.train.optimizer, "train")
    if cfg.train.architecture != "edit_unet":
        find_effect_start(cfg.train.init)
        return
    for task in PRODUCTS:
        if cfg.task in (task, "both"):
            find_start(task, cfg.train.init, cfg.model)


def check_export(cfg: schema.ExportConfig) -> None:
    """A finished personalisation, and another folder than its own to write to."""
    from magic_insert.data.subject_files import finished_run

    finished_run(cfg.run)
    require(not _same(cfg.out, cfg.run), "out", "another folder than the run itself", cfg.out)


def check_evaluate(cfg: schema.EvaluateConfig) -> None:
    """Folders of pictures and weights of the methods."""
    from magic_insert.models.folders import find_inserter, find_model, find_segmenter

    groups: dict[str, Mapping[str, Any]] = {
        "stylizers": cfg.chosen_stylizers,
        "inserters": cfg.chosen_inserters,
    }
    methods = {
        f"{group}.{name}.": method for group, chosen in groups.items() for name, method in chosen.items()
    }
    for key, method in methods.items():
        check_fields(method, key, places=True)
    find_segmenter(cfg.segmenter)
    if all(method.name == IMAGES for method in methods.values()):
        return
    model_folder = find_model(cfg.model)
    for inserter in cfg.chosen_inserters.values():
        if inserter.name != IMAGES and "insert" in cfg.tracks:
            find_inserter(inserter, model_folder)


def check_bootstrap(cfg: schema.BootstrapConfig) -> None:
    """Packages, filters, masks of pictures, and room for the networks."""
    from magic_insert.bootstrap.filters import build_filters
    from magic_insert.bootstrap.stages import LPIPS_FILE, require_partners, require_room
    from magic_insert.config.schema.training import require_optimizer

    require_optimizer(cfg.fit.optimizer, "fit")
    build_filters(cfg.filter.rules)
    if cfg.pool.name == "folder" and cfg.data.on_error == "refuse" and not cfg.pool.segment:
        pictures = Path(str(cfg.pool.dir))
        require_partners(pictures, Path(cfg.pool.masks) if cfg.pool.masks else pictures / "masks")
    require_room(Path(cfg.out))
    lpips = cfg.evaluate.lpips
    there = lpips is None or (Path(lpips) / LPIPS_FILE).is_file()
    require(there, "evaluate.lpips", f"null or a folder with {LPIPS_FILE}", lpips)


def check_review(cfg: schema.ReviewConfig) -> None:
    """A bootstrap run."""
    rounds = Path(cfg.run) / "rounds.jsonl"
    require(rounds.is_file(), "run", "the folder of a bootstrap run with its rounds.jsonl", cfg.run)


def check_report(cfg: schema.ReportConfig) -> None:
    """Another folder than that of the rows, whose record would be lost."""
    require(not _same(Path(cfg.rows).parent, cfg.out), "out", "another folder than that of the rows", cfg.out)


def check_study(cfg: schema.StudyConfig) -> None:
    """The study that is served or analysed."""
    there = cfg.action == "build" or (Path(cfg.out) / "study.json").is_file()
    require(there, "out", "the folder of a study that was built", cfg.out)


def check_subjectplop(cfg: schema.SubjectPlopConfig) -> None:
    """That there is nothing where the pictures are cloned to."""
    require(cfg.action == "check" or not Path(cfg.out).exists(), "out", "a new folder to clone into", cfg.out)


def _same(one: str | Path, other: str | Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


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
        require_known("the word after subjectplop", first, ACTIONS)
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
    options = {name: home for home in reversed(homes) for name in group_options(home)}
    require_known(group, file, [*sorted(options), IMAGES])
    return f"+{options[file]}@{group}s.{label}={file}"


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


def show_status(cfg: schema.StatusConfig) -> None:
    """Prints state, job, start and folder of every run in the wanted states, oldest first."""
    from magic_insert.launch.run import list_runs

    runs, damaged = list_runs(Path(cfg.root))
    if not runs:
        print(f"no runs under {cfg.root}")
    for folder, record in runs:
        if (state := record.state_now) in cfg.states:
            print(f"{state:<8} {record.job:<12} {record.started}  {folder}")
    for line in damaged:
        print(f"damaged  {line}")


def show_dashboard(cfg: schema.DashboardConfig) -> None:
    """Writes the page and prints its path; with an account and `logger=wandb` the view's address."""
    from magic_insert.launch.results import save_view, write_dashboard
    from magic_insert.tracking import has_wandb_account

    if cfg.logger.name == "wandb":
        if has_wandb_account():
            print(save_view(cfg))
            return
        print("no W&B account here; the page is made from the same numbers", file=sys.stderr)
    print(write_dashboard(cfg))


def run_study(cfg: schema.StudyConfig) -> None:
    """Builds, serves or analyses."""
    from magic_insert.evaluation import study

    {"build": study.run_build, "serve": study.run_serve, "analyse": study.run_analyse}[cfg.action](cfg)


JOBS: Mapping[str, Job] = {
    "insert": Job(
        "drop a subject from one picture into another: subject=PATH background=PATH out=PICTURE",
        "magic_insert.cli.insert:run_insert",
        lambda cfg: load_function("magic_insert.inputs:resolve_insert")(cfg),
        without_late_settings,
    ),
    "page": Job(
        "drag and drop in a browser: prints the page's address",
        "magic_insert.page.server:run_page",
        check_page,
        recorded=lambda cfg: False,
    ),
    "personalize": Job(
        "teach the model a subject: subject=PATH (or [PATH,PATH], or a folder of many) out=FOLDER",
        "magic_insert.training.personalize:run_personalize",
        check_personalize,
    ),
    "export": Job(
        "a finished personalisation for other programs: run=FOLDER out=FOLDER format=kohya|diffusers",
        "magic_insert.training.export:run_export",
        check_export,
    ),
    "insertion": Job(
        "train a remover and an inserter on pairs: task=remove|insert|both data=toybox|pairs|... out=FOLDER",
        "magic_insert.training.insertion_job:run_insertion",
        check_insertion,
    ),
    "remove": Job(
        "take an object and its shadow out of a picture: image=PATH mask=PATH out=PICTURE",
        "magic_insert.cli.insert:run_remove",
        lambda cfg: load_function("magic_insert.inputs:resolve_remove")(cfg),
    ),
    "demo": Job(
        "one subject into four scenes of four styles, beside the truth",
        "magic_insert.evaluation.evaluate:run_demo",
        check_evaluate,
        of_the_demo,
    ),
    "evaluate": Job(
        "methods on a benchmark, with a report: stylizer='[a,b]' inserter='[x,y]' benchmark=toyplop|folder|...",
        "magic_insert.evaluation.evaluate:run_evaluate",
        check_evaluate,
        methods_side_by_side,
    ),
    "subjectplop": Job(
        "the paper's evaluation pictures: fetch out=FOLDER, check root=FOLDER",
        "magic_insert.data.benchmark_sources:run_subjectplop",
        check_subjectplop,
        action_first,
        recorded=lambda cfg: False,
    ),
    "bootstrap": Job(
        "adapt the inserter from photographs to drawings: bootstrap.rounds=N filter=... store=FOLDER",
        "magic_insert.bootstrap.job:run_bootstrap",
        check_bootstrap,
    ),
    "report": Job(
        "tables, plots and page again from rows alone: rows=PATH out=FOLDER",
        "magic_insert.evaluation.report:run_report",
        check_report,
    ),
    "study": Job(
        "ask people which picture is better: action=build|serve|analyse out=FOLDER",
        "magic_insert.cli.jobs:run_study",
        check_study,
        recorded=lambda cfg: cfg.action == "build",
    ),
    "review": Job(
        "people judge the removals of a bootstrap: run=DIR, then run=DIR verdicts=FILE",
        "magic_insert.bootstrap.review:run_review",
        check_review,
    ),
    "toybox": Job(
        "render the world with known answers: what=subjects|pairs|benchmark|sheet",
        "magic_insert.toybox.world:run_toybox",
    ),
    "foundation": Job(
        "train every part of the micro model: preset=cpu|gpu",
        "magic_insert.foundation.job:run_foundation",
    ),
    "card": Job(
        "measure micro weights on held-out seeds",
        "magic_insert.foundation.card:run_card",
    ),
    "plan": Job(
        "what a job takes of a GPU's memory: model=sdxl job=personalize|insertion|insert|remove gpu=24",
        "magic_insert.models.memory_plan:run_plan",
        recorded=lambda cfg: False,
    ),
    "status": Job(
        "list run folders: root=FOLDER", "magic_insert.cli.jobs:show_status", recorded=lambda cfg: False
    ),
    "dashboard": Job(
        "one page about a run or a sweep: run=FOLDER or sweep=FOLDER, out=PAGE",
        "magic_insert.cli.jobs:show_dashboard",
        prepare=sweep_folder,
        recorded=lambda cfg: False,
    ),
}
