"""The remover and the inserter as parts of the foundation: ObjectDrop's two tasks, learned on photographs alone."""

from collections.abc import Callable

import numpy as np
import torch

from magic_insert.config.schema import PartConfig
from magic_insert.models.micro import build_scheduler, widen_input
from magic_insert.training.foundation.denoiser import tokenize
from magic_insert.training.foundation.latents import composites
from magic_insert.training.foundation.module import encode_ids
from magic_insert.training.foundation.workshop import Recipe, Source, Workshop
from magic_insert.training.insertion import EditLatents, InsertionModule, Task, edit_batches, mask_cells

EFFECT_WEIGHT = 12.0  # measured: half a decibel more in the effect region after 350 steps than without
TIME_SHIFT = 3.0  # noisy times more often: an edit is decided there
PHOTO = 0  # drawing 0 of the pool: the domain the edit models start from


def edit_latents(shop: Workshop, task: Task) -> EditLatents:
    """Photo pairs as they are and mirrored; the other styles are left for the bootstrap to win."""
    pool = shop.pool
    mask = np.concatenate([pool.scene_mask, pool.photo_mask])
    cells = mask_cells(mask, shop.sizes.latent_size)

    def pasted(*layers: np.ndarray) -> Source:
        return lambda: composites(*layers), layers[0].shape[:-3]

    sources: dict[str, tuple[Source, Source]] = {
        "with": (pool.scenes_with[:, PHOTO], pool.photos_with[:, 0]),
        "without": (pool.scenes_without[:, PHOTO], pool.photos_without[:, 0]),
        "pasted": (
            pasted(pool.scenes_with[:, PHOTO], pool.scenes_without[:, PHOTO], pool.scene_mask),
            pasted(pool.photos_with[:, 0], pool.photos_without[:, 0], pool.photo_mask),
        ),
    }

    def seen(layer: str, flip: bool) -> np.ndarray:
        named = zip(("photo", "photos"), sources[layer], strict=True)
        return np.concatenate([shop.latents(f"{name}_{layer}", source, flip=flip) for name, source in named])

    layers = ("with", "without") if task == "remove" else ("pasted", "with")
    condition, target = (np.stack([seen(layer, flip) for flip in (False, True)], axis=1) for layer in layers)
    return EditLatents(condition, target, np.stack([cells, cells[..., ::-1]], axis=1))


def edit_part(task: Task, folder_name: str) -> Callable[[Workshop, PartConfig], Recipe]:
    def make(shop: Workshop, part: PartConfig) -> Recipe:
        unet = shop.trainable(widen_input(shop.load("denoiser", "unet"), 2 * shop.sizes.latent_channels + 1))
        with torch.no_grad():
            empty = encode_ids(
                shop.load("denoiser", "text_encoder"),
                shop.load("denoiser", "text_encoder_2"),
                tokenize(shop.tokenizer, [""]).to(shop.device),
                tokenize(shop.tokenizer_2, [""]).to(shop.device),
            )
        module = InsertionModule(
            unet,
            build_scheduler(),
            empty,
            image_size=shop.sizes.image_size,
            lr=part.lr,
            steps=part.steps,
            effect_weight=EFFECT_WEIGHT,
        )
        batches = edit_batches(
            edit_latents(shop, task),
            task=task,
            seed=shop.seed,
            batch_size=part.batch_size,
            time_shift=TIME_SHIFT,
        )
        return Recipe(module, batches, lambda folder: unet.save_pretrained(folder / folder_name), 0.995)

    return make
