"""The stages in which networks draw or learn: harvest, measure, evaluate, fit, blend.

`run_harvest`: the remover takes the subject out of every picture of the pool (paper, section 3).
`run_measure`: everything a filter may want to know of each removal, kept apart from the decision, so that a sweep over
thresholds measures once: `values/ID.json` = {"measures": {...}, "facts": {...}, "truth": {...} or null}.
`run_evaluate`: one network on held-out scenes, as photographs, in seen and in unseen styles, against the truth. Kept
are sums per picture, so that any set of pictures can be summed up, and resampled, later. An insertion is measured
twice: as the network redrew it, and as the effect layer over the scene that users get.
`run_fit`: one edit network trained on what was kept, among photographs that it must not forget (paper, section 3).
insert: condition = the subject pasted on the removed background, target = the original stylised picture.
remove: condition = the original, target = its accepted removal (the remover learns from its own best answers).
`run_blend`: a network drawn back towards the one it was trained from, weight by weight.

    w = (1 - share) * start + share * trained        (Wortsman et al. 2022, "Robust fine-tuning", arXiv 2109.01903)

What few pictures teach survives the middle of that line, what they make a network forget mostly does not. A stage of
its own, so that another share trains nothing anew.

Shape letters: B pictures, H, W rows and columns. Pictures and masks are float32 in [0, 1], rounded to 8 bit on disk;
everything downstream works from the rounded values, so a run that was resumed sees what an unbroken one sees.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap import stages
from magic_insert.bootstrap.measure import (
    changed_region,
    contrast,
    error_in,
    measures_of,
    rounded,
    sums_of,
    truth_of,
)
from magic_insert.core.effect_layer import transfer_effect
from magic_insert.core.events import stage, terminal_bars, tracked
from magic_insert.core.fidelity import effect_of
from magic_insert.core.images import as_levels, load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl, read_record, write_json
from magic_insert.core.masks import dilate, feather
from magic_insert.core.ranks import rank
from magic_insert.models.edit_unet import (
    EditSampling,
    blended,
    edit,
    edit_unet_of,
    load_edit_unet,
    noop,
    save_unet,
)
from magic_insert.models.encoders.paper import load_lpips
from magic_insert.models.folders import LORA_WEIGHTS, weights_in
from magic_insert.models.pipeline import decode, encode, load_pipeline
from magic_insert.training.insertion import EditFit, EditLatents, fit_edit, mask_cells

PICTURES = "pictures"
ENCODED_TOGETHER = 8
SOFT = 0.02  # of the picture's side: how far around hole and effect the composited background blends


def save(folder: Path, layer: str, name: str, picture: Float[Tensor, "C H W"]) -> None:
    """Writes one picture (3HW) or mask (1HW), atomically."""
    save_png(stages.picture_file(folder, layer, name), picture)


def load(folder: Path, layer: str, ids: Sequence[str]) -> Float[Tensor, "B 3 H W"]:
    """The pictures of one layer; all of one size."""
    return torch.stack([load_rgb(stages.picture_file(folder, layer, name)) for name in ids])


def load_masks(folder: Path, ids: Sequence[str]) -> Float[Tensor, "B 1 H W"]:
    """The subjects' masks."""
    return load(folder, stages.MASK, ids)[:, :1]


def load_pairs(folder: Path, ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures with and without their subjects, and the subjects' masks; B 3 H W, B 3 H W, B 1 H W."""
    return load(folder, stages.WITH, ids), load(folder, stages.WITHOUT, ids), load_masks(folder, ids)


def paste(
    subject: Float[Tensor, "B 3 H W"], background: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 3 H W"]:
    """ObjectDrop's input of insertion, y = M x + (1 - M) z (arXiv 2403.18818, section 4.2)."""
    return mask * subject + (1 - mask) * background


def run_harvest(path: Path) -> None:
    """Stage: remove every subject."""
    payload = stages.read_payload(path, stages.EditSettings)
    settings, pool = payload.settings, payload.inputs["pool"]
    groups = stages.groups_left(
        stages.read_index(pool),
        settings.batch_size,
        lambda item: [stages.picture_file(payload.out, stages.WITHOUT, item.id)],
    )
    if not groups:
        return
    pipe = load_pipeline(payload.model, draws=False)
    remover = edit_unet_of(pipe, payload.inputs["remover"])
    for group in tracked(groups, "removing subjects", shown=payload.progress):
        ids = stages.ids_of(group)
        on = load(pool, stages.WITH, ids).to(pipe.device), load_masks(pool, ids).to(pipe.device)
        removed = edit(pipe, remover, *on, EditSampling(settings.seed, ids, settings.steps))
        for name, picture in zip(ids, removed, strict=True):
            save(payload.out, stages.WITHOUT, name, picture)


def run_measure(path: Path) -> None:
    """Stage: measure every removal."""
    payload = stages.read_payload(path, stages.MeasureSettings)
    how, pool, harvest = payload.settings.edit, payload.inputs["pool"], payload.inputs["harvest"]
    known = stages.has_truth(pool)
    groups = stages.groups_left(
        stages.read_index(pool), how.batch_size, lambda item: [stages.values_file(payload.out, item.id)]
    )
    if not groups:
        return
    pipe = load_pipeline(payload.model, draws=False)
    cycle = payload.settings.cycle
    inserter = edit_unet_of(pipe, payload.inputs["inserter"]) if cycle else None
    for group in tracked(groups, "measuring removals", shown=payload.progress):
        ids = stages.ids_of(group)
        picture, mask = load(pool, stages.WITH, ids), load_masks(pool, ids)
        removed = load(harvest, stages.WITHOUT, ids)
        still = decode(pipe.vae, encode(pipe.vae, picture.to(pipe.device))).cpu()
        inserted: Sequence[Tensor | None] = [None] * len(ids)
        if inserter is not None:
            on = paste(picture, removed, mask).to(pipe.device), mask.to(pipe.device)
            inserted = list(edit(pipe, inserter, *on, EditSampling(how.seed, ids, how.steps)).cpu())
        truth = load(pool, stages.WITHOUT, ids) if known else None
        for i, name in enumerate(ids):
            answer = None if truth is None else truth_of(picture[i], still[i], removed[i], truth[i], mask[i])
            facts = {"size": float(mask[i].mean()), "contrast": contrast(picture[i], mask[i])}
            row = {
                "measures": measures_of(still[i], removed[i], inserted[i], mask[i]),
                "facts": {fact: rounded(value) for fact, value in facts.items()},
                "truth": answer,
            }
            write_json(stages.values_file(payload.out, name), row)


def run_evaluate(path: Path) -> None:
    """Stage: redraw every held-out pair and compare it with the truth; also keeps the pictures."""
    payload = stages.read_payload(path, stages.EvaluateSettings)
    how, heldout = payload.settings.edit, payload.inputs["heldout"]
    groups = stages.groups_left(
        stages.read_index(heldout), how.batch_size, lambda item: [stages.values_file(payload.out, item.id)]
    )
    if not groups:
        return
    pipe = load_pipeline(payload.model, draws=False)
    network = edit_unet_of(pipe, payload.inputs["network"])
    lpips = load_lpips(payload.inputs["lpips"], device=pipe.device) if "lpips" in payload.inputs else None
    insert = payload.settings.task == "insert"
    title = f"measuring {payload.settings.task} on held-out scenes"
    for group in tracked(groups, title, shown=payload.progress):
        ids = stages.ids_of(group)
        full, empty, mask = load_pairs(heldout, ids)
        given, target = (paste(full, empty, mask), full) if insert else (full, empty)
        on = given.to(pipe.device), mask.to(pipe.device), EditSampling(how.seed, ids, how.steps)
        drawn = edit(pipe, network, *on).cpu()
        still = noop(pipe, network, *on, reference="vae").cpu()
        effect = effect_of(full, empty, mask)
        found = torch.stack([changed_region(*one) for one in zip(still, drawn, mask, strict=True)])
        pictures = {"": drawn}
        if insert:
            layers = zip(empty, given, mask, drawn, still, strict=True)
            pictures["layered_"] = torch.stack([transfer_effect(*one)[0] for one in layers])
        distances = (
            {} if lpips is None else {kind: lpips(made, target).tolist() for kind, made in pictures.items()}
        )
        for i, name in enumerate(ids):
            save(payload.out, PICTURES, name, drawn[i])
            row = sums_of(given[i], drawn[i], target[i], mask[i], effect[i], found[i])
            row |= {f"{kind}lpips": rounded(values[i]) for kind, values in distances.items()}
            if insert:
                row["layered_error"] = error_in(pictures["layered_"][i], target[i], effect[i])
            write_json(stages.values_file(payload.out, name), row)


def run_fit(path: Path) -> None:
    """Stage: train one network."""
    payload = stages.read_payload(path, stages.FitSettings)
    task, recipe = payload.settings.task, payload.settings.recipe
    pipe = load_pipeline(payload.model, draws=False)
    drawn = _pairs(pipe, task, *_harvested(pipe, payload))
    known = None
    if (photos := payload.inputs.get("photos")) is not None:
        known = _pairs(pipe, task, *load_pairs(photos, stages.ids_of(stages.read_index(photos))))
    # A remover looks at pictures as they are: nothing in them gives its answer away.
    hidden = {} if task == "insert" else {"condition_noise": 0.0}
    settings = EditFit.of(recipe, task, payload.settings.seed, **hidden)
    latents = drawn if known is None else mixed(drawn, known, recipe.photo_share)
    with (
        terminal_bars(shown=payload.progress) as on_event,
        stage(on_event, f"train the {stages.NETWORKS[task]}") as running,
    ):
        fit_edit(
            payload.inputs["start"],
            pipe,
            latents,
            settings,
            payload.work,
            on_step=running,
            log=lambda step, values: append_jsonl(payload.work / stages.LOSSES, {"step": step, **values}),
        )
    if rank() == 0:
        product = payload.out / stages.NETWORKS[task]
        shutil.rmtree(product, ignore_errors=True)
        shutil.copytree(payload.work / stages.NETWORKS[task], product)


def run_blend(path: Path) -> None:
    """Stage: write the blended network; one rank's work."""
    payload = stages.read_payload(path, stages.BlendSettings)
    if rank() != 0:
        return
    folders = [payload.inputs[name] for name in ("start", "trained")]
    kept_as_lora = any(weights_in(folder).name == LORA_WEIGHTS for folder in folders)
    base = load_pipeline(payload.model).unet if kept_as_lora else None
    start, trained = (load_edit_unet(folder, base=base) for folder in folders)
    save_unet(
        payload.out / stages.NETWORKS[payload.settings.task], blended(start, trained, payload.settings.share)
    )


def _harvested(pipe: Any, payload: stages.Payload[stages.FitSettings]) -> tuple[Tensor, Tensor, Tensor]:
    """The kept pictures, their backgrounds without the subject, and the masks; B 3 H W, B 3 H W, B 1 H W."""
    pool = payload.inputs["pool"]
    ids = read_record(payload.inputs["select"] / stages.SELECTION, stages.Selected).accepted
    picture, mask = load(pool, stages.WITH, ids), load_masks(pool, ids)
    removed = load(payload.inputs["harvest"], stages.WITHOUT, ids)
    if payload.settings.recipe.background == "composited":
        removed = composited(pipe, picture, removed, mask)
    return picture, removed, mask


def composited(pipe: Any, picture: Tensor, removed: Tensor, mask: Tensor) -> Tensor:
    """The originals with only hole and effect taken from the removal, so that nothing else is blurred or shifted."""
    still = _in_chunks(lambda part: decode(pipe.vae, encode(pipe.vae, part.to(pipe.device))).cpu(), picture)
    width = max(1, round(SOFT * picture.shape[-1]))
    region = torch.stack(
        [
            feather(dilate(torch.maximum((m > 0).to(m.dtype), changed_region(s, r, m)), width), width)
            for s, r, m in zip(still, removed, mask, strict=True)
        ]
    )
    return region * removed + (1 - region) * picture


def _pairs(pipe: Any, task: stages.Task, picture: Tensor, background: Tensor, mask: Tensor) -> EditLatents:
    """Latents of a task's condition and target, as they are and mirrored."""
    if task == "insert":
        condition, target = paste(picture, background, mask), picture
    else:
        condition, target = picture, background

    def latents(images: Tensor) -> np.ndarray:
        def cached(part: Tensor) -> Tensor:
            return encode(pipe.vae, part.to(pipe.device)).cpu()

        views = [_in_chunks(cached, view).to(torch.float16).numpy() for view in (images, images.flip(-1))]
        return np.stack(views, axis=1)

    conditions = latents(condition)
    cells = mask_cells(as_levels(mask[:, 0]).numpy()[:, None], conditions.shape[-1])
    return EditLatents(conditions, latents(target), np.stack([cells, cells[..., ::-1]], axis=1))


def mixed(drawn: EditLatents, photos: EditLatents, photo_share: float) -> EditLatents:
    """Both sets in one, `photo_share` of its rows being photographs; the smaller set is repeated up to its share."""
    count = len(drawn.target) / (1 - photo_share)
    count = math.ceil(max(count, len(photos.target) / photo_share if photo_share > 0 else 0))
    num_photos = min(count - 1, round(photo_share * count))
    rows = np.arange(count - num_photos) % len(drawn.target), np.arange(num_photos) % len(photos.target)

    both = ((drawn.condition, photos.condition), (drawn.target, photos.target), (drawn.mask, photos.mask))
    return EditLatents(*(np.concatenate([first[rows[0]], second[rows[1]]]) for first, second in both))


def _in_chunks(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([function(part) for part in images.split(ENCODED_TOGETHER)])
