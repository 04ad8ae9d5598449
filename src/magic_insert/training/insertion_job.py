"""The insertion job: counterfactual pairs in, a remover and an inserter out, with numbers on held-out pairs.

Every step is kept in the run folder and found there by the same command: rendered or checked pairs, latents, the fit's
checkpoint, the finished networks. With several ranks rank 0 prepares and measures, all train.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from magic_insert.config.freeze import thaw
from magic_insert.config.schema import DataConfig, FitConfig, InsertionConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.core.store import Store
from magic_insert.data.pairs import LISTERS, FilePairs, PairSet, sound_pairs
from magic_insert.data.renders import PairsPlan, ToyboxPairs, render
from magic_insert.models.edit_unet import edit_start_from_inpainting, load_edit_unet
from magic_insert.models.pipeline import find_source, load_pipeline
from magic_insert.models.sampling import image_size
from magic_insert.tracking import open_tracker
from magic_insert.training.insertion import Task
from magic_insert.training.insertion_data import ViewConfig, edit_data
from magic_insert.training.insertion_fit import PRODUCTS, FitOptions, fit_edit
from magic_insert.training.insertion_validation import draw_held_out, save_sheet
from magic_insert.training.ranks import first_rank_first, first_rank_only

Watcher = Callable[[int, int], None]


def tasks_of(cfg: InsertionConfig) -> list[Task]:
    """What is trained, in order."""
    both: list[Task] = ["remove", "insert"]
    return [task for task in both if cfg.task in (task, "both")]


def run_insertion(cfg: InsertionConfig) -> Path:
    """Trains what `cfg.task` asks for; returns the run folder, which `inserter.run=` and `remove run=` read.

    Raises:
        UserError: bad pairs, a model that does not fit, or a folder that holds another run.
    """
    out = Path(cfg.out)
    pipe = load_pipeline(cfg.model)
    training, held_out = first_rank_first(lambda: open_pairs(cfg, image_size(pipe)))
    for task in tasks_of(cfg):
        train_task(cfg, pipe, task, training, held_out, out)
    return out


def open_pairs(cfg: InsertionConfig, size: int) -> tuple[PairSet, PairSet | None]:
    """The pairs to train on and those held out (None for none)."""
    data, out = cfg.data, Path(cfg.out)
    if data.name == "toybox":
        return _toybox(data, out, size, cfg.seed)
    found = _sound(data, out)
    order = sorted(range(len(found.refs)), key=lambda i: fold_in(cfg.seed, "held out", found.ids[i]))
    count = min(data.held_out, len(order) - 1)
    chosen, kept = sorted(order[:count]), sorted(order[count:])

    def part(rows: Sequence[int]) -> FilePairs:
        return FilePairs([found.refs[i] for i in rows], [found.digests[i] for i in rows])

    return part(kept), part(chosen) if chosen else None


def _toybox(data: DataConfig, out: Path, size: int, seed: int) -> tuple[PairSet, PairSet | None]:
    store = (
        Store(out / "renders", key="out") if data.cache is None else Store(Path(data.cache), key="data.cache")
    )
    count = data.num_pairs if data.limit is None else min(data.limit, data.num_pairs)
    plan = PairsPlan(seed, count, size, tuple(data.styles), "train", data.occlusion)
    plans = [plan] + ([replace(plan, split="heldout", count=data.held_out)] if data.held_out else [])
    made = []
    for each in plans:
        with bar(f"rendering {each.count} {each.split} pairs") as watch:
            made.append(ToyboxPairs(render(store, each, workers=data.workers, on_step=watch), each))
    return made[0], made[1] if data.held_out else None


def _sound(data: DataConfig, out: Path) -> FilePairs:
    """The sound pairs of a set on disk; the verdict is kept, because reading every picture takes its time."""
    root = Path(str(data.path))
    listing = LISTERS[data.name](root, black_subject=data.subject_in_mask == "black")
    if data.limit is not None:
        listing = replace(listing, pairs=listing.pairs[: data.limit])
    names = [ref.id for ref in listing.pairs]
    verdict = out / "pairs.json"
    if verdict.is_file() and (kept := read_json(verdict))["listed"] == names:
        by_name = {ref.id: ref for ref in listing.pairs}
        return FilePairs([by_name[name] for name in kept["ids"]], kept["digests"])
    console = Console(stderr=True)
    with bar(f"checking {len(names)} pairs") as watch:
        found = sound_pairs(
            listing, source=str(root), on_error=data.on_error, report=console.print, on_step=watch
        )
    if rank() == 0:
        write_json(verdict, {"listed": names, "ids": found.ids, "digests": list(found.digests)})
    return found


def start_of(fit: FitConfig, pipe: Any, task: Task, cfg: InsertionConfig) -> Any:
    """What a task's training starts from: a UNet of the pipeline, or the folder of an edit UNet.

    Raises:
        UserError: nothing there.
    """
    if fit.init == "base":
        inpainting = pipe.unet.config["in_channels"] != pipe.unet.config["out_channels"]
        return edit_start_from_inpainting(pipe.unet) if inpainting else pipe.unet
    home = Path(str(find_source(cfg.model))) if fit.init == "shipped" else Path(fit.init)
    folder = home / PRODUCTS[task]
    if not (folder / "config.json").is_file():
        raise UserError(
            f"expected a {PRODUCTS[task]} in {home} for train.init={fit.init}, got none; set train.init=base"
        )
    return folder


def train_task(
    cfg: InsertionConfig,
    pipe: Any,
    task: Task,
    training: PairSet,
    held_out: PairSet | None,
    out: Path,
) -> None:
    """Latents, fit and held-out numbers of one task; a finished one is not done again."""
    fit = cfg.train
    views = ViewConfig(fit.views, cfg.data.context, fit.dilate, cfg.seed)

    def prepare() -> Any:
        with bar(f"encoding for {task}") as watch:
            return edit_data(training, pipe, views, task, out, on_progress=watch)

    latents = first_rank_first(prepare)
    with open_tracker(out, f"insertion-{task}", cfg.logger, thaw(cfg)) as tracker:
        fit_edit(
            start_of(fit, pipe, task, cfg),
            pipe,
            latents,
            task=task,
            steps=fit.steps,
            batch_size=fit.batch_size,
            lr=fit.lr,
            seed=fold_in(cfg.seed, "fit", task),
            folder=out,
            device=pipe.device.type,
            progress=rank() == 0,
            log=tracker.log,
            options=FitOptions(
                precision=fit.precision,
                dropout=fit.dropout,
                ema_decay=fit.ema_decay or None,
                clip_norm=fit.clip_norm,
                effect_weight=fit.effect_weight,
                time_shift=fit.time_shift,
                condition_noise=fit.condition_noise,
                save_every=fit.save_every,
                lora_rank=fit.lora_rank,
                merged=fit.save == "merged",
            ),
        )
        if held_out is not None:
            first_rank_only(lambda: _measure(cfg, pipe, task, held_out, views, out, tracker))


def _measure(
    cfg: InsertionConfig,
    pipe: Any,
    task: Task,
    held_out: PairSet,
    views: ViewConfig,
    out: Path,
    tracker: Any,
) -> None:
    """Writes validation-<task>.json and .png, unless they are there."""
    report = out / f"validation-{task}.json"
    if report.is_file():
        return
    unet = load_edit_unet(out / PRODUCTS[task], device=pipe.device, base=pipe.unet)
    drawn = draw_held_out(pipe, unet, held_out, task, views, steps=cfg.validation_steps, seed=cfg.seed)
    numbers = drawn.numbers()
    styles: dict[str, list[int]] = {}
    for index, style in enumerate(getattr(held_out, "styles", ())):
        styles.setdefault(style, []).append(index)
    save_sheet(out / f"validation-{task}.png", drawn, held_out.ids)
    tracker.log(cfg.train.steps, numbers)
    write_json(
        report,
        {
            "task": task,
            "pairs": len(held_out.ids),
            "validation_steps": cfg.validation_steps,
            "all": numbers,
            "styles": {style: drawn.numbers(rows) for style, rows in styles.items()},
        },
    )
    print(summary(task, numbers, len(held_out.ids)), flush=True)


def summary(task: Task, numbers: dict[str, float], count: int) -> str:
    """One line for the terminal."""
    if "effect_psnr" not in numbers:
        return f"{task}: no effect to measure on {count} held-out pairs"
    return (
        f"{task}: effect-region PSNR {numbers['effect_psnr']:.1f} dB on {count} held-out pairs "
        f"(doing nothing {numbers['effect_psnr_nothing']:.1f} dB)"
    )


@contextmanager
def bar(text: str) -> Iterator[Watcher]:
    """A progress bar on rank 0; yields what is told (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=rank() != 0) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
