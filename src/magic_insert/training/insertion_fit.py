"""One fit of an edit model: weights to start from and cached latents in, a folder with the trained UNet out.

Killed at any step and called again, it goes on from its checkpoint; finished, it returns at once.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.models.edit_unet import (
    edit_start,
    empty_prompt,
    load_edit_unet,
    merge_lora,
    open_for_lora,
    save_edit_lora,
    save_unet,
    weights_digest,
)
from magic_insert.models.pipeline import ddim, plain_attention
from magic_insert.models.sampling import image_size
from magic_insert.training.insertion import EditLatents, InsertionModule, Task, edit_batches
from magic_insert.training.ranks import first_rank_only
from magic_insert.training.trainer import TrainerOptions, fit

PRODUCTS: dict[Task, str] = {"remove": "remover", "insert": "inserter"}
CARD = "fit.json"


@dataclass(frozen=True)
class FitOptions:
    """How a fit is done beyond its length: precision of the arithmetic, dropped conditions, averaging, checkpoints.

    `effect_weight`: how much more the changed cells count. `time_shift` above 1: more training on noisy times.
    `condition_noise`: largest spread of the noise on the condition.
    `lora_rank` 0 trains every weight; otherwise a LoRA and the input layer, written `merged` or, with
    `merged` off, as the difference that `models.edit_lora` reads.
    """

    precision: str = "32-true"
    dropout: float = 0.0
    ema_decay: float | None = None
    clip_norm: float = 1.0
    save_every: int = 100
    effect_weight: float = 0.0
    time_shift: float = 1.0
    condition_noise: float = 0.0
    lora_rank: int = 0
    merged: bool = True


PLAIN = FitOptions()


def fit_edit(
    start: Path | Any,
    pipe: Any,
    latents: EditLatents,
    *,
    task: Task,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    folder: Path,
    device: str,
    progress: bool = True,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    options: FitOptions = PLAIN,
) -> None:
    """Trains a remover or an inserter and writes it to `folder`/remover or `folder`/inserter, whole or not at all.

    Args:
        start: a folder with an edit UNet, an edit UNet (2C + 1 channels), or a text-to-image UNet (C channels), which
            is given the further channels with zero weights. It is copied, never changed.
        pipe: lends its text encoders for the empty prompt, its schedule and its picture size.
        latents: what to train on, in the units of the pipe's autoencoder.
        log: takes a step and its loss now and then.

    Raises:
        UserError: the folder holds a fit of other data or settings, or `start` is no such network.
    """
    unet = load_edit_unet(start) if isinstance(start, Path) else edit_start(start)
    unet.register_to_config(sample_size=image_size(pipe) // pipe.vae_scale_factor)
    before = weights_digest(unet)
    contents = {
        "task": task,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": options.precision,
        "dropout": options.dropout,
        "ema_decay": options.ema_decay,
        "clip_norm": options.clip_norm,
        "effect_weight": options.effect_weight,
        "time_shift": options.time_shift,
        "condition_noise": options.condition_noise,
        "lora_rank": options.lora_rank,
        "merged": options.merged,
        "start": before,
        "data": latents_digest(latents),
    }
    product, work = folder / PRODUCTS[task], folder / f"{PRODUCTS[task]}.fit"
    if _claim(product, work, contents):
        return
    scheduler = ddim(pipe)
    prompt = empty_prompt(pipe, 1)
    empty = (prompt["encoder_hidden_states"], prompt["added_cond_kwargs"]["text_embeds"])
    unet.train().requires_grad_(True)
    if options.lora_rank:
        open_for_lora(unet, rank=options.lora_rank, seed=seed)
    if device == "cpu":
        plain_attention(unet)
    module = InsertionModule(
        unet,
        scheduler,
        empty,
        image_size=image_size(pipe),
        lr=lr,
        steps=steps,
        effect_weight=options.effect_weight,
    )
    batches = edit_batches(
        latents,
        task=task,
        seed=seed,
        batch_size=batch_size,
        dropout=options.dropout,
        time_shift=options.time_shift,
        condition_noise=options.condition_noise,
        num_times=scheduler.config.num_train_timesteps,
    )
    fit(
        module,
        batches,
        TrainerOptions(
            steps=steps,
            device=device,
            precision=options.precision,
            save_every=options.save_every,
            ema_decay=options.ema_decay,
            clip_norm=options.clip_norm,
            progress=progress,
            title=f"training the {PRODUCTS[task]}",
        ),
        work,
        key=digest(contents),
        log=log,
    )
    unet.cpu()

    def publish() -> None:
        staged = work / "product"
        shutil.rmtree(staged, ignore_errors=True)
        if options.lora_rank and options.merged:
            merge_lora(unet)
        if options.merged:
            save_unet(staged, unet)
        else:
            save_edit_lora(staged, unet, rank=options.lora_rank, start=before)
        sums = {path.name: sha256_file(path) for path in sorted(staged.glob("*.safetensors"))}
        write_json(staged / CARD, {"key": digest(contents), **contents, "weights_sha256": sums})
        staged.rename(product)
        shutil.rmtree(work)

    first_rank_only(publish)


def _claim(product: Path, work: Path, contents: dict[str, Any]) -> bool:
    """Whether the product is there already; if not, the work folder is marked as this fit's.

    Raises:
        UserError: product or work folder belong to another fit.
    """
    key = digest(contents)
    for card in (product / CARD, work / CARD):
        if card.is_file() and (found := read_json(card)["key"]) != key:
            raise UserError(
                f"expected a fit with the settings and data of {card.parent} ({found}), got others ({key}); "
                "choose another out="
            )
    if product.is_dir():
        return True
    write_json(work / CARD, {"key": key, **contents})
    return False


def latents_digest(latents: EditLatents) -> str:
    """16 hex digits of all values."""
    sha = hashlib.sha256()
    for array in (latents.condition, latents.target, latents.mask):
        sha.update(f"{array.dtype}{array.shape}".encode())
        for row in array:
            sha.update(np.ascontiguousarray(row).tobytes())
    return sha.hexdigest()[:16]
