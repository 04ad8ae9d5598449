"""Fit: one edit network trained on what was kept, among photographs that it must not forget (paper, section 3).

insert: condition = the subject pasted on the removed background, target = the original stylised picture.
remove: condition = the original, target = its accepted removal (the remover learns from its own best answers).
Inputs: pool, harvest, select, photos, model, start. Output: `inserter/` or `remover/` in diffusers' layout.

Blend: a network drawn back towards the one it was trained from, weight by weight.

    w = (1 - share) * start + share * trained        (Wortsman et al. 2022, "Robust fine-tuning", arXiv 2109.01903)

What few pictures teach survives the middle of that line, what they make a network forget mostly does not. A stage of
its own, so that another share trains nothing anew. Inputs: start, trained. Output: as of a fit.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.bootstrap.measure import changed_region, open_model
from magic_insert.bootstrap.pictures import load, load_masks, paste
from magic_insert.bootstrap.stages import (
    LOSSES,
    NETWORKS,
    SELECTION,
    WITH,
    WITHOUT,
    BlendSettings,
    FitSettings,
    Payload,
    Selected,
    Task,
    ids_of,
    read_index,
    read_payload,
)
from magic_insert.core.jsonl import append_jsonl, read_record
from magic_insert.core.masks import dilate, feather
from magic_insert.core.ranks import rank
from magic_insert.models.edit_unet import blended, load_edit_unet, save_unet
from magic_insert.models.pipeline import decode, encode
from magic_insert.training.insertion import EditLatents, mask_cells
from magic_insert.training.insertion_fit import FitOptions, fit_edit

ENCODED_TOGETHER = 8
SOFT = 0.02  # of the picture's side: how far around hole and effect the composited background blends


def run_fit(path: Path) -> None:
    """Stage: train one network."""
    payload = read_payload(path, FitSettings)
    task, recipe = payload.settings.task, payload.settings.recipe
    pipe = open_model(payload.model)
    drawn = _pairs(pipe, task, *_harvested(pipe, payload))
    photos = payload.inputs["photos"]
    names = ids_of(read_index(photos))
    known = _pairs(
        pipe, task, load(photos, WITH, names), load(photos, WITHOUT, names), load_masks(photos, names)
    )
    fit_edit(
        payload.inputs["start"],
        pipe,
        mixed(drawn, known, recipe.photo_share),
        task=task,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        seed=payload.settings.seed,
        folder=payload.work,
        device=pipe.device.type,
        progress=payload.progress and rank() == 0,
        log=lambda step, values: append_jsonl(payload.work / LOSSES, {"step": step, **values}),
        options=FitOptions(
            ema_decay=recipe.ema_decay or None,
            effect_weight=recipe.effect_weight,
            time_shift=recipe.time_shift,
            # A remover looks at pictures as they are: nothing in them gives its answer away.
            condition_noise=recipe.condition_noise if task == "insert" else 0.0,
            precision=recipe.precision,
            lora_rank=recipe.lora_rank,
            save_every=recipe.save_every,
        ),
    )
    if rank() == 0:
        product = payload.out / NETWORKS[task]
        shutil.rmtree(product, ignore_errors=True)
        shutil.copytree(payload.work / NETWORKS[task], product)


def run_blend(path: Path) -> None:
    """Stage: write the blended network; one rank's work."""
    payload = read_payload(path, BlendSettings)
    if rank() != 0:
        return
    start, trained = (load_edit_unet(payload.inputs[name]) for name in ("start", "trained"))
    save_unet(payload.out / NETWORKS[payload.settings.task], blended(start, trained, payload.settings.share))


def _harvested(pipe: Any, payload: Payload[FitSettings]) -> tuple[Tensor, Tensor, Tensor]:
    """The kept pictures, their backgrounds without the subject, and the masks; B 3 H W, B 3 H W, B 1 H W."""
    pool = payload.inputs["pool"]
    ids = read_record(payload.inputs["select"] / SELECTION, Selected).accepted
    picture, mask = load(pool, WITH, ids), load_masks(pool, ids)
    removed = load(payload.inputs["harvest"], WITHOUT, ids)
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


def _pairs(pipe: Any, task: Task, picture: Tensor, background: Tensor, mask: Tensor) -> EditLatents:
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
    cells = mask_cells((mask * 255).round().to(torch.uint8).numpy(), conditions.shape[-1])
    return EditLatents(conditions, latents(target), np.stack([cells, cells[..., ::-1]], axis=1))


def mixed(drawn: EditLatents, photos: EditLatents, photo_share: float) -> EditLatents:
    """Both sets in one, `photo_share` of its rows being photographs; the smaller set is repeated up to its share."""
    count = len(drawn.target) / (1 - photo_share)
    count = math.ceil(max(count, len(photos.target) / photo_share if photo_share > 0 else 0))
    num_photos = min(count - 1, round(photo_share * count))
    rows = np.arange(count - num_photos) % len(drawn.target), np.arange(num_photos) % len(photos.target)

    def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.concatenate([first[rows[0]], second[rows[1]]])

    return EditLatents(
        both(drawn.condition, photos.condition),
        both(drawn.target, photos.target),
        both(drawn.mask, photos.mask),
    )


def _in_chunks(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([function(part) for part in images.split(ENCODED_TOGETHER)])
