"""Every job of the command line: a line about it, the function that does it, and the look at its input before that.

A check runs in the light parent, without torch; what it returns is handed to the job. Ranges and choices of values are
checked before, where the fields are declared (config/fields.py).
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.cli import words
from magic_insert.config import schema
from magic_insert.core.errors import UserError
from magic_insert.launch.run import is_picture


@dataclass(frozen=True)
class Job:
    """`target`: "package.module:function", imported when the job starts. `check`: of the frozen configuration.

    `prepare`: from the words of the command line to Hydra's. `recorded`: a run folder is kept; otherwise the function
    is called with the configuration alone.
    """

    summary: str
    target: str
    check: Callable[[Any], Any]
    prepare: Callable[[Sequence[str]], list[str]] = list
    recorded: Callable[[Any], bool] = lambda cfg: True


def require(kind: str, key: str, path: str | None, what: str) -> None:
    """That `path` is a "file", a "folder" or either ("path"); None is fine.

    Raises:
        UserError: names `key` and `what` was expected.
    """
    if path is None:
        return
    found = Path(path)
    if not {"file": found.is_file, "folder": found.is_dir, "path": found.exists}[kind]():
        place = "FOLDER" if kind == "folder" else "PATH"
        raise UserError(f"expected {key} to be {what}, got nothing at {path}; set {key}={place}")


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


def check_out(cfg: Any) -> None:
    """The place of the output."""
    require_writable("out", cfg.out)


def check_insert(cfg: schema.InsertConfig) -> Any:
    """Pictures, boxes, places and weights; what was found."""
    from magic_insert.inputs import resolve_insert

    return resolve_insert(cfg)


def check_page(cfg: schema.PageConfig) -> None:
    """The places of output and the weights."""
    from magic_insert.inputs import find_folders
    from magic_insert.stylizers import check_stylizer

    check_out(cfg)
    require_writable("subjects", cfg.subjects)
    folders = find_folders(cfg.model, cfg.inserter, cfg.segmenter)
    check_stylizer(cfg.stylizer, cfg.model, folders.model, subject_text=None)


def check_remove(cfg: schema.RemoveConfig) -> Any:
    """Pictures, places and weights; what was found."""
    from magic_insert.inputs import resolve_remove

    return resolve_remove(cfg)


def check_personalize(cfg: schema.PersonalizeConfig) -> None:
    """Files, packages and the run folder."""
    from magic_insert.config.extras import require_optimizer
    from magic_insert.data.subject_files import check_run_folder, request_of, subjects_of

    require_optimizer(cfg.personalization.optimizer)
    style = cfg.personalization.validation.style
    require("file", "personalization.validation.style", style, "a picture")
    subjects = subjects_of(cfg)
    check_out(cfg)
    check_run_folder(Path(cfg.out), {})
    for subject in subjects:
        check_run_folder(subject.out, request_of(cfg, subject))


def check_export(cfg: schema.ExportConfig) -> None:
    """A finished personalisation, and another folder than its own to write to."""
    if not (Path(cfg.run) / "card.json").is_file():
        raise UserError(
            f"expected a finished personalisation at {cfg.run}, got no card.json there; set run=FOLDER"
        )
    if Path(cfg.out).resolve() == Path(cfg.run).resolve():
        raise UserError(f"expected another folder than the run itself for out, got {cfg.out}; set out=FOLDER")
    check_out(cfg)


def check_insertion(cfg: schema.InsertionConfig) -> None:
    """The places of data, start and output."""
    require("path", "data.path", None if cfg.data.name == "toybox" else str(cfg.data.path), "there")
    if cfg.train.init not in ("base", "shipped"):
        require("folder", "train.init", cfg.train.init, "base, shipped or a run folder")
    check_out(cfg)


def check_evaluate(cfg: schema.EvaluateConfig) -> None:
    """Folders of pictures, encoders and weights."""
    from magic_insert.inputs import find_inserter, find_model, find_segmenter

    check_out(cfg)
    require("folder", "benchmark.root", cfg.benchmark.root, "a folder of pictures")
    require("folder", "encoders.root", cfg.encoders.root, "a folder of encoders")
    stylizers, inserters = cfg.chosen_stylizers, cfg.chosen_inserters
    methods: list[tuple[str, Any]] = [
        *((f"stylizers.{name}", method) for name, method in stylizers.items()),
        *((f"inserters.{name}", method) for name, method in inserters.items()),
    ]
    for key, method in methods:
        if method.name == schema.IMAGES:
            require("folder", f"{key}.dir", method.dir, "a folder of pictures")
    for name, inserter in inserters.items():
        require("folder", f"inserters.{name}.mask_dir", inserter.mask_dir or None, "a folder of masks")
    find_segmenter(cfg.segmenter)
    if all(method.name == schema.IMAGES for _, method in methods):
        return
    model_folder = find_model(cfg.model)
    for inserter in inserters.values():
        if inserter.name != schema.IMAGES and "insert" in cfg.tracks:
            find_inserter(inserter, model_folder)


def check_bootstrap(cfg: schema.BootstrapConfig) -> None:
    """Filters, folders and places."""
    from magic_insert.bootstrap.filters import build_filters
    from magic_insert.bootstrap.stages import LPIPS_FILE, require_partners, require_room

    build_filters(cfg.filter.rules)
    require("folder", "pool.dir", cfg.pool.dir, "a folder of pictures")
    require("folder", "fit.photos", cfg.fit.photos, "a folder of photographs")
    if cfg.pool.name == "folder" and cfg.data.on_error == "refuse" and not cfg.pool.segment:
        pictures = Path(str(cfg.pool.dir))
        require_partners(pictures, Path(cfg.pool.masks) if cfg.pool.masks else pictures / "masks")
    if is_picture(cfg.out):
        raise UserError(f"expected out to be a folder, got the name of a picture, {cfg.out}; set out=FOLDER")
    require_room(Path(cfg.out))
    lpips = cfg.evaluate.lpips
    if lpips is not None and not (Path(lpips) / LPIPS_FILE).is_file():
        raise UserError(
            f"expected evaluate.lpips to be a folder with {LPIPS_FILE}, got none in {lpips}; set "
            "evaluate.lpips=FOLDER, or null to leave LPIPS out"
        )
    check_out(cfg)
    require_writable("store", cfg.store)


def check_review(cfg: schema.ReviewConfig) -> None:
    """A bootstrap run, and the verdicts."""
    if not (Path(cfg.run) / "rounds.jsonl").is_file():
        raise UserError(
            f"expected run to be the folder of a bootstrap run, got no rounds.jsonl in {cfg.run}; set run=DIR"
        )
    verdicts = None if cfg.verdicts == "truth" else cfg.verdicts
    require("file", "verdicts", verdicts, "a file or truth")
    check_out(cfg)


def check_report(cfg: schema.ReportConfig) -> None:
    """The files, and another folder than theirs to write to."""
    require("file", "rows", cfg.rows, "a file")
    require("file", "facts", cfg.facts, "a file")
    if Path(cfg.rows).resolve().parent == Path(cfg.out).resolve():
        raise UserError(
            f"expected out to be another folder than that of the rows (its record would be lost), got {cfg.out}; "
            "set out=FOLDER"
        )
    check_out(cfg)


def check_study(cfg: schema.StudyConfig) -> None:
    """The study, or what it is made from."""
    if cfg.action != "build":
        require("file", "out", str(Path(cfg.out) / "study.json"), "the folder of a study that was built")
        for answers in cfg.answers:
            require("file", "answers", answers, "files")
        return
    require("file", "rows", cfg.rows, "a file")
    for folder in cfg.folders:
        require("folder", "folders", folder, "folders of pictures")
    require("folder", "references", cfg.references, "a folder of pictures")
    check_out(cfg)


def check_subjectplop(cfg: schema.SubjectPlopConfig) -> None:
    """The folder to check, or that there is none to clone into."""
    if cfg.action == "check":
        require("folder", "root", cfg.root, "the folder of SubjectPlop")
    elif Path(cfg.out).exists():
        raise UserError(f"expected a new folder to clone into, got {cfg.out}; set out=FOLDER")


def check_dashboard(cfg: schema.DashboardConfig) -> None:
    """The run or the sweep."""
    require("folder", "run", cfg.run, "a run folder")
    require("folder", "sweep", cfg.sweep_dir, "the folder of a sweep")
    require_writable("out", cfg.out)


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
    from magic_insert.launch.dashboard import save_view, write_dashboard
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


def never(cfg: Any) -> bool:
    """For jobs that keep no run folder."""
    return False


JOBS: Mapping[str, Job] = {
    "insert": Job(
        "drop a subject from one picture into another: subject=PATH background=PATH out=PICTURE",
        "magic_insert.cli.insert:run_insert",
        check_insert,
        words.without_late_settings,
    ),
    "page": Job(
        "drag and drop in a browser: prints the page's address",
        "magic_insert.page.server:run_page",
        check_page,
        recorded=never,
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
        "magic_insert.cli.remove:run_remove",
        check_remove,
    ),
    "demo": Job(
        "one subject into four scenes of four styles, beside the truth",
        "magic_insert.evaluation.demo:run_demo",
        check_evaluate,
        words.of_the_demo,
    ),
    "evaluate": Job(
        "methods on a benchmark, with a report: stylizer='[a,b]' inserter='[x,y]' benchmark=toyplop|folder|...",
        "magic_insert.evaluation.evaluate:run_evaluate",
        check_evaluate,
        words.methods_side_by_side,
    ),
    "subjectplop": Job(
        "the paper's evaluation pictures: fetch out=FOLDER, check root=FOLDER",
        "magic_insert.data.benchmark_sources:run_subjectplop",
        check_subjectplop,
        words.action_first,
        never,
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
        "magic_insert.toybox.export:run_toybox",
        check_out,
    ),
    "foundation": Job(
        "train every part of the micro model: preset=cpu|gpu",
        "magic_insert.foundation.job:run_foundation",
        check_out,
    ),
    "card": Job(
        "measure micro weights on held-out seeds",
        "magic_insert.foundation.card:run_card",
        check_out,
    ),
    "plan": Job(
        "what a job takes of a GPU's memory: model=sdxl job=personalize|insertion|insert|remove gpu=24",
        "magic_insert.models.memory_plan:run_plan",
        lambda cfg: None,
        recorded=never,
    ),
    "status": Job(
        "list run folders: root=FOLDER", "magic_insert.cli.jobs:show_status", lambda cfg: None, recorded=never
    ),
    "dashboard": Job(
        "one page about a run or a sweep: run=FOLDER or sweep=FOLDER, out=PAGE",
        "magic_insert.cli.jobs:show_dashboard",
        check_dashboard,
        words.sweep_folder,
        never,
    ),
}
