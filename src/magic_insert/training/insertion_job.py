"""The insertion job: counterfactual pairs in, a remover and an inserter out, with numbers on held-out pairs.

Every step is kept in the run folder and found there by the same command: rendered or checked pairs, latents, the fit's
checkpoint, the finished networks. With several ranks rank 0 prepares the pairs and measures, all encode and train.

Pairs become views: windows around the subject at the model's size s, and their latents, computed once. N pairs, K views
of each, C x h x w latents in float16 `.npy` files (memory-mapped), so a pool need not fit into memory. View 0 is the
pair as it is, view 1 mirrored, further ones look through windows of random width, every other mirrored.

Held-out pairs are measured in decibels inside the true effect: what the subject changed outside its own mask by more
than the Toybox's step; in photographs that were not taken with one exposure it also holds their noise.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import InsertionConfig
from magic_insert.config.schema.training import DataConfig
from magic_insert.core.compositing import Region, area_resize, region_around
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.events import OnEvent, OnStep, no_event, no_step, stage, terminal_bars
from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.images import contact_sheet, save_png
from magic_insert.core.jsonl import append_jsonl, read_json, read_jsonl, write_json
from magic_insert.core.masks import INSIDE, bounding_box, dilate
from magic_insert.core.picture_files import named_pictures
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.ranks import rank, shard, world_size
from magic_insert.core.store import Store
from magic_insert.data.pairs import (
    LISTERS,
    CompositePairs,
    FilePairs,
    Pair,
    PairSet,
    load_cut_out,
    sound_pairs,
)
from magic_insert.data.renders import PairsPlan, ToyboxPairs, open_array, render
from magic_insert.models.edit_unet import (
    EditSampling,
    edit,
    edit_unet_of,
    latent_mask,
)
from magic_insert.models.effect_net import SIDE, load_effect_net
from magic_insert.models.folders import PRODUCTS, find_effect_start, find_start
from magic_insert.models.pipeline import encode, fingerprint, load_pipeline, resolve_device
from magic_insert.models.relight_net import load_relight_net
from magic_insert.models.sampling import image_size
from magic_insert.tracking import Tracker, open_tracker
from magic_insert.training.effect import (
    Drawings,
    EffectFit,
    draw_effects,
    fit_effect,
    pair_drawings,
    toybox_drawings,
)
from magic_insert.training.insertion import EditFit, EditLatents, Task, fit_edit
from magic_insert.training.relight import RelightFit, draw_relit, fit_relight
from magic_insert.training.trainer import first_rank_first, first_rank_only, wait_for_all

VIEWS_VERSION = 1
ENCODED, FLUSHED = "encoded", 16  # books of what is encoded, and how many pairs at a time
WIDTHS = (0.75, 1.45)  # of a random window, relative to the asked-for one
# A random window is not narrower than this share of the model's picture: no blur is trained in.
SHARPEST = 0.75
LAYERS: dict[Task, tuple[str, str, str]] = {
    "remove": ("with_subject", "without", "loose_mask"),
    "insert": ("pasted", "with_subject", "mask"),
}
TOGETHER = 8  # pictures drawn at once
SHOWN = 8


def run_insertion(cfg: InsertionConfig) -> Path:
    """Trains what `cfg.task` asks for; returns the run folder, which `inserter.run=` and `remove run=` read.

    Raises:
        UserError: bad pairs, a model that does not fit, or a folder that holds another run.
    """
    if cfg.train.architecture != "edit_unet":
        with terminal_bars() as on_event:
            first_rank_only(lambda: train_light(cfg, on_event))
        return Path(cfg.out)
    pipe = load_pipeline(cfg.model, draws=False)
    with terminal_bars() as on_event:
        training, held_out = first_rank_first(lambda: open_pairs(cfg, image_size(pipe), on_event))
        for task in ("remove", "insert"):
            if cfg.task in (task, "both"):
                train_task(cfg, pipe, task, training, held_out, on_event)
    return Path(cfg.out)


def open_pairs(
    cfg: InsertionConfig, size: int, on_event: OnEvent = no_event
) -> tuple[PairSet, PairSet | None]:
    """The pairs to train on and those held out (None for none)."""
    data, out = cfg.data, Path(cfg.out)
    if data.name == "toybox":
        return _toybox(data, out, size, cfg.seed, on_event)
    if data.name == "composites":
        return _composites(data, cfg.seed)
    found = _sound(data, out, on_event)
    order = sorted(range(len(found.refs)), key=lambda i: fold_in(cfg.seed, "held out", found.ids[i]))
    count = min(data.held_out, len(order) - 1)
    chosen, kept = sorted(order[:count]), sorted(order[count:])

    def part(rows: Sequence[int]) -> FilePairs:
        return FilePairs([found.refs[i] for i in rows], [found.digests[i] for i in rows])

    return part(kept), part(chosen) if chosen else None


def _toybox(
    data: DataConfig, out: Path, size: int, seed: int, on_event: OnEvent
) -> tuple[PairSet, PairSet | None]:
    kept, key = (out / "renders", "out") if data.cache is None else (Path(data.cache), "data.cache")
    store = Store(kept, key=key)
    plan = PairsPlan(seed, data.made, size, tuple(data.styles), "train", data.occlusion)
    plans = [plan] + ([replace(plan, split="heldout", count=data.held_out)] if data.held_out else [])
    photographs = _named(data.backgrounds, "data.backgrounds") if data.backgrounds else []
    made = []
    for each in plans:
        with stage(on_event, f"render {each.split} pairs") as running:
            arrays = render(store, each, workers=data.workers, on_step=running)
            made.append(ToyboxPairs(arrays, each, photographs))
    return made[0], made[1] if data.held_out else None


def _named(folder: str | None, key: str) -> list[Path]:
    """The pictures in the folder that the setting `key` names."""
    return list(named_pictures(Path(str(folder)), key).values())


def _composites(data: DataConfig, seed: int) -> tuple[PairSet, PairSet | None]:
    """Pairs of cut-outs and photographs; those held out have other places and suns."""
    subjects, backgrounds = _named(data.path, "data.path"), _named(data.backgrounds, "data.backgrounds")
    training = CompositePairs(subjects, backgrounds, data.made, seed)
    for path in subjects:  # before anything is trained
        load_cut_out(path)
    return training, (
        replace(training, count=data.held_out, seed=fold_in(seed, "held out")) if data.held_out else None
    )


def _sound(data: DataConfig, out: Path, on_event: OnEvent) -> FilePairs:
    """The sound pairs of a set on disk; the verdict is kept, because reading every picture takes its time."""
    root = Path(str(data.path))
    listing = LISTERS[data.name](root)
    if data.subject_in_mask == "black":
        listing = replace(listing, pairs=[replace(ref, black_subject=True) for ref in listing.pairs])
    if data.limit is not None:
        listing = replace(listing, pairs=listing.pairs[: data.limit])
    names = [ref.id for ref in listing.pairs]
    verdict = out / "pairs.json"
    if verdict.is_file() and (kept := read_json(verdict))["listed"] == names:
        by_name = {ref.id: ref for ref in listing.pairs}
        return FilePairs([by_name[name] for name in kept["ids"]], kept["digests"])
    console = Console(stderr=True)
    with stage(on_event, "check pairs") as running:
        found = sound_pairs(
            listing, source=str(root), on_error=data.on_error, report=console.print, on_step=running
        )
    if rank() == 0:
        write_json(verdict, {"listed": names, "ids": found.ids, "digests": list(found.digests)})
    return found


def train_light(cfg: InsertionConfig, on_event: OnEvent) -> None:
    """The effect or the relighting network, and its numbers on scenes of another seed; one process trains.

    Raises:
        UserError: no weights at `train.init`, or a folder that holds another fit.
    """
    out, train, data, kind = Path(cfg.out), cfg.train, cfg.data, cfg.train.architecture
    start = find_effect_start(train.init)
    started = None if start is None else load_effect_net(start)  # refused before anything is rendered
    training, held_out = None, None
    if data.name != "toybox" or data.backgrounds:
        training, held_out = open_pairs(cfg, SIDE, on_event)
    sha256 = None if start is None else sha256_file(start)
    settings = EffectFit(
        train.steps,
        train.batch_size,
        train.lr,
        cfg.seed,
        data.made if training is None else len(training.ids),
        precision=train.precision,
        ema_decay=train.ema_decay or None,
        clip_norm=train.clip_norm,
        save_every=train.save_every,
        start=sha256 if kind == "effect" else None,
        data=None if training is None else digest(list(training.digests)),
    )
    device = str(resolve_device(cfg.model.device))
    with open_tracker(out, f"insertion-{kind}", cfg.logger, thaw(cfg)) as tracker:
        with (
            stage(on_event, f"train the {kind} network") as running,
            _drawings(data, out, training, cfg.seed, settings.scenes) as drawings,
        ):
            how: dict[str, Any] = {"device": device, "log": tracker.log, "on_step": running}
            if kind == "effect":
                weights = fit_effect(settings, out, drawings, start=started, **how)
            else:
                assert started is not None, "checked with the settings"
                relight = RelightFit(**asdict(settings), effect=str(sha256))
                weights = fit_relight(relight, out, drawings, started, **how)
        # Pairs too few to hold one out are not measured on another world.
        measured = data.held_out > 0 if training is None else held_out is not None
        if not measured or (out / f"validation-{kind}.json").is_file():
            return
        with _drawings(data, out, held_out, fold_in(cfg.seed, "held out"), data.held_out) as scenes:
            if kind == "effect" or start is None:
                batch, output = draw_effects(load_effect_net(weights), scenes)
                before, region = batch.pasted, effect_of(batch.truth, batch.scene, batch.mask)
            else:
                # Read anew: what trained beside the network may have changed device and precision with it.
                batch, output = draw_relit(load_relight_net(weights), load_effect_net(start), scenes)
                before = batch.mask * batch.own + (1 - batch.mask) * batch.truth
                region = (batch.mask > INSIDE).float()
        names = [f"scene-{i}" for i in range(len(output))]
        drawn = Drawn(names, before, output, batch.truth, batch.mask, region)
        publish_numbers(out, kind, drawn, tracker, cfg)


def _drawings(
    data: DataConfig, out: Path, pairs: PairSet | None, seed: int, scenes: int
) -> AbstractContextManager[Drawings]:
    """What an effect network sees: windows on `pairs`, or scenes of the Toybox where there are none."""
    cache = out if data.cache is None else Path(data.cache)
    if pairs is not None:
        return pair_drawings(cache, pairs)
    return toybox_drawings(cache, seed, scenes, data.workers)


def train_task(
    cfg: InsertionConfig,
    pipe: Any,
    task: Task,
    training: PairSet,
    held_out: PairSet | None,
    on_event: OnEvent,
) -> None:
    """Latents, fit and held-out numbers of one task of a run; what is finished is not done again.

    Raises:
        UserError: nothing to start from.
    """
    out, product = Path(cfg.out), PRODUCTS[task]
    config = ViewConfig(cfg.train.views, cfg.data.context, cfg.train.dilate, cfg.seed)
    with stage(on_event, f"encode for the {product}") as running:
        latents = edit_data(training, pipe, config, task, out, on_step=running)
    with open_tracker(out, f"insertion-{task}", cfg.logger, thaw(cfg)) as tracker:

        def measure(pairs: PairSet) -> None:
            if (out / f"validation-{task}.json").is_file():
                return
            drawn = draw_held_out(
                pipe, edit_unet_of(pipe, out / product), pairs, task, config, cfg.validation_steps
            )
            publish_numbers(out, task, drawn, tracker, cfg, getattr(pairs, "styles", ()))

        with stage(on_event, f"train the {product}") as running:
            settings = EditFit.of(cfg.train, task, fold_in(cfg.seed, "fit", task))
            start = find_start(task, cfg.train.init, cfg.model) or pipe.unet
            fit_edit(start, pipe, latents, settings, out, on_step=running, log=tracker.log)
        if held_out is not None:
            first_rank_only(lambda: measure(held_out))


def publish_numbers(
    out: Path, what: str, drawn: "Drawn", tracker: Tracker, cfg: InsertionConfig, styles: Sequence[str] = ()
) -> None:
    """Writes validation-<what>.png and .json, all pairs together and by their style, and prints a line."""
    numbers, count = drawn.numbers(), len(drawn.output)
    rows = {style: [i for i, own in enumerate(styles) if own == style] for style in dict.fromkeys(styles)}
    save_sheet(out / f"validation-{what}.png", drawn)
    tracker.log(cfg.train.steps, numbers)
    report = {
        "task": what,
        "pairs": count,
        "validation_steps": cfg.validation_steps,
        "all": numbers,
        "styles": {style: drawn.numbers(own) for style, own in rows.items()},
    }
    write_json(out / f"validation-{what}.json", report)
    print(summary(what, numbers, count), flush=True)


def summary(task: str, numbers: dict[str, float], count: int) -> str:
    """One line for the terminal."""
    if "effect_psnr" not in numbers:
        return f"{task}: no effect to measure on {count} held-out pairs"
    return (
        f"{task}: {'subject' if task == 'relight' else 'effect-region'} PSNR {numbers['effect_psnr']:.1f} dB on "
        f"{count} held-out pairs "
        f"(doing nothing {numbers['effect_psnr_nothing']:.1f} dB)"
    )


@dataclass(frozen=True)
class ViewConfig:
    """How pairs become views: their number, the window in units of the subject's longer side, growth of the mask."""

    views: int
    context: float
    dilate: float
    seed: int


@dataclass(frozen=True)
class View:
    """One window at the model's size s; `pasted` is the subject's own pixels on the empty scene.

    y = M * x + (1 - M) * z (ObjectDrop, section 4); `loose_mask` is the mask, grown by a random width.
    """

    with_subject: Float[Tensor, "3 s s"]
    without: Float[Tensor, "3 s s"]
    pasted: Float[Tensor, "3 s s"]
    mask: Float[Tensor, "1 s s"]
    loose_mask: Float[Tensor, "1 s s"]


def view_of(pair: Pair, number: int, size: int, config: ViewConfig) -> View:
    """View `number` of a pair: a function of the pair's name, the number and `config.seed`."""
    draw = generator(config.seed, "view", pair.id, number)
    width, growth = torch.rand(2, generator=draw).tolist()
    region = _window(pair, size, config.context, None if number < 2 else width)
    pasted = pair.mask * pair.with_subject + (1 - pair.mask) * pair.without

    def seen(image: Tensor) -> Tensor:
        small = area_resize(region.crop(image), size, size)
        return small.flip(-1) if number % 2 else small

    mask = seen(pair.mask)
    return View(
        seen(pair.with_subject),
        seen(pair.without),
        seen(pasted),
        mask,
        dilate(mask, round(growth * config.dilate * size)),
    )


def _window(pair: Pair, size: int, context: float, width: float | None) -> Region:
    height, breadth = pair.mask.shape[-2:]
    box = bounding_box(pair.mask, min(0.5, float(pair.mask.max())))
    whole = min(height, breadth)
    context = min(context, whole / max(box.w, box.h))
    if width is not None:
        low = min(context, SHARPEST * size / max(box.w, box.h))
        context = max(low, context * (WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * width))
    return region_around(box, height, breadth, context=max(1.0, context))


def edit_data(
    pairs: PairSet,
    pipe: Any,
    config: ViewConfig,
    task: Task,
    folder: Path,
    *,
    on_step: OnStep = no_step,
) -> EditLatents:
    """The latents of every view for one task, kept in `folder` and continued there when they are not complete.

    Ranks on one machine share the pairs; on several machines rank 0 encodes them all.
    """
    size = image_size(pipe)
    side = size // pipe.vae_scale_factor
    key = digest(
        {
            "version": VIEWS_VERSION,
            "pairs": [list(pairs.ids), list(pairs.digests)],
            "views": [config.views, config.context, config.dilate, config.seed, size],
            "model": fingerprint(pipe),
            "task": task,
        }
    )
    home = folder / f"latents-{key}"
    total = len(pairs.ids)
    shape = (total, config.views), (int(pipe.vae.config.latent_channels), side)
    arrays = first_rank_first(lambda: _open_arrays(home, task, *shape))
    # Ranks on one machine see each other's pages; those of several do not.
    together = world_size() == int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    kept = {
        number for file in home.glob(f"{ENCODED}-*") for row in read_jsonl(file) for number in row["pairs"]
    }
    wait_for_all()  # nobody adds to the books before all have read them
    left = [index for index in range(total) if index not in kept]
    mine = shard(left) if together else left if rank() == 0 else []
    for first in range(0, len(mine), FLUSHED):
        some = mine[first : first + FLUSHED]
        for number, index in enumerate(some, start=first + 1):
            pair = pairs.load(index)
            views = [view_of(pair, number, size, config) for number in range(config.views)]
            for array, name in zip(arrays, LAYERS[task], strict=True):
                images = torch.stack([getattr(view, name) for view in views])
                masks = name.endswith("mask")
                cells = latent_mask(images, side, side) if masks else encode(pipe.vae, images).cpu()
                array[index] = cells.to(torch.float16).numpy()
            on_step(number, len(mine))
        # Numbers reach the disk before the books that vouch for them.
        for array in arrays:
            array.flush()
        append_jsonl(home / f"{ENCODED}-{rank()}.jsonl", {"pairs": some})
    wait_for_all()
    condition, target, mask = arrays
    return EditLatents(condition=condition, target=target, mask=mask)


def _open_arrays(home: Path, task: Task, lead: tuple[int, int], latent: tuple[int, int]) -> list[np.memmap]:
    home.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name in LAYERS[task]:
        channels = 1 if name.endswith("mask") else latent[0]
        shape = (*lead, channels, latent[1], latent[1])
        arrays.append(open_array(home / f"{name}.npy", shape, np.float16))
    return arrays


@dataclass(frozen=True)
class Drawn:
    """Held-out pictures B 3 H W of one task: what went in, what came out, the truth; mask and true effect B 1 H W."""

    ids: Sequence[str]
    condition: Float[Tensor, "B 3 H W"]
    output: Float[Tensor, "B 3 H W"]
    truth: Float[Tensor, "B 3 H W"]
    mask: Float[Tensor, "B 1 H W"]
    effect: Float[Tensor, "B 1 H W"]

    def numbers(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Decibels of all rows, or of some: in the effect, in the subject's place, elsewhere; doing nothing beside it.

        A region that is empty has no number.
        """
        chosen = list(range(len(self.output))) if rows is None else list(rows)
        output, truth, condition = (x[chosen] for x in (self.output, self.truth, self.condition))
        effect, subject = self.effect[chosen], (self.mask[chosen] > 0.5).to(output.dtype)
        values = {
            "effect_psnr": region_sums(output, truth, effect),
            "effect_psnr_nothing": region_sums(condition, truth, effect),
            "subject_psnr": region_sums(output, truth, subject),
            "rest_psnr": region_sums(output, truth, (1 - effect) * (self.mask[chosen] <= 0)),
        }
        pooled = {name: psnr_pooled(sums) for name, sums in values.items()}
        return {name: round(value, 3) for name, value in pooled.items() if value is not None}


def draw_held_out(pipe: Any, unet: Any, pairs: PairSet, task: Task, config: ViewConfig, steps: int) -> Drawn:
    """Every pair of `pairs`, drawn by `unet`; pair i does not depend on the others."""
    views = [view_of(pairs.load(i), 0, image_size(pipe), config) for i in range(len(pairs.ids))]
    with_subject, without, pasted, mask = (
        torch.stack([getattr(view, name) for view in views])
        for name in ("with_subject", "without", "pasted", "mask")
    )
    condition, truth = (with_subject, without) if task == "remove" else (pasted, with_subject)
    device = unet.device
    output = [
        edit(
            pipe,
            unet,
            condition[i : i + TOGETHER].to(device),
            mask[i : i + TOGETHER].to(device),
            EditSampling(config.seed, list(pairs.ids[i : i + TOGETHER]), steps),
        ).cpu()
        for i in range(0, len(views), TOGETHER)
    ]
    return Drawn(
        list(pairs.ids), condition, torch.cat(output), truth, mask, effect_of(with_subject, without, mask)
    )


def save_sheet(path: Path, drawn: Drawn) -> None:
    """Condition, output, truth and effect of the first pairs, a row each."""
    rows = [
        [drawn.condition[i], drawn.output[i], drawn.truth[i], drawn.effect[i].expand(3, -1, -1)]
        for i in range(min(SHOWN, len(drawn.output)))
    ]
    save_png(path, contact_sheet(rows, list(drawn.ids[:SHOWN]), ["input", "output", "truth", "effect"]))
