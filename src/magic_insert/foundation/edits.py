"""The remover and the inserter as parts of the foundation: ObjectDrop's two tasks, learned on photographs alone."""

from collections.abc import Callable

import numpy as np
import torch

from magic_insert.config.schema.training import PartConfig
from magic_insert.foundation.context import Context, Recipe, Source, encode_ids, tokenize
from magic_insert.models.edit_unet import edit_start
from magic_insert.models.micro import build_scheduler
from magic_insert.training.insertion import EditLatents, InsertionModule, Task, edit_batches, mask_cells

EFFECT_WEIGHT = 12.0  # measured: half a decibel more in the effect region after 350 steps than without
TIME_SHIFT = 3.0  # noisy times more often: an edit is decided there
PHOTO = 0  # drawing 0 of the pool: the domain the edit models start from


def edit_latents(context: Context, task: Task) -> EditLatents:
    """Photo pairs as they are and mirrored; the other styles are left for the bootstrap to win."""
    pool = context.pool
    mask = np.concatenate([pool.scene_mask, pool.photo_mask])
    cells = mask_cells(mask, context.sizes.latent_size)

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
        return np.concatenate(
            [context.latents(f"{name}_{layer}", source, flip=flip) for name, source in named]
        )

    layers = ("with", "without") if task == "remove" else ("pasted", "with")
    condition, target = (np.stack([seen(layer, flip) for flip in (False, True)], axis=1) for layer in layers)
    return EditLatents(condition, target, np.stack([cells, cells[..., ::-1]], axis=1))


def edit_part(task: Task, folder_name: str) -> Callable[[Context, PartConfig], Recipe]:
    def make(context: Context, part: PartConfig) -> Recipe:
        unet = context.trainable(edit_start(context.load("generator", "unet")).to(context.device))
        with torch.no_grad():
            empty = encode_ids(
                *context.text_encoders(),
                tokenize(context.tokenizer, [""]).to(context.device),
                tokenize(context.tokenizer_2, [""]).to(context.device),
            )
        module = InsertionModule(
            unet,
            build_scheduler(),
            empty,
            image_size=context.sizes.image_size,
            lr=part.lr,
            steps=part.steps,
            effect_weight=EFFECT_WEIGHT,
        )
        batches = edit_batches(
            edit_latents(context, task),
            task=task,
            seed=context.seed,
            batch_size=part.batch_size,
            time_shift=TIME_SHIFT,
        )
        return Recipe(module, batches, lambda folder: unet.save_pretrained(folder / folder_name), 0.995)

    return make


def composites(with_subject: np.ndarray, without: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The copy-paste picture of every scene: the subject's own pixels on the empty scene, uint8 [C, 3, H, W].

    y = M * x + (1 - M) * z with x the picture with, z without, M the subject's mask (ObjectDrop, section 4).
    """
    pasted = np.empty_like(with_subject)
    for i, covered in enumerate(mask):  # one at a time: a pool in floating point would not fit into memory
        share = covered.astype(np.float32) / 255.0
        pasted[i] = (share * with_subject[i] + (1.0 - share) * without[i] + 0.5).astype(np.uint8)
    return pasted
