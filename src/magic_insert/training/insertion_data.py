"""Pairs as training views: windows around the subject at the model's size, and their latents, computed once.

N pairs, K views of each, C x h x w latents in float16 `.npy` files (memory-mapped), so a pool need not fit into memory.
View 0 is the pair as it is, view 1 mirrored, further ones look through windows of random width, every other mirrored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import Region, area_resize, region_around
from magic_insert.core.digest import digest
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.masks import bounding_box, dilate
from magic_insert.core.rand import generator
from magic_insert.data.pairs import Pair, PairSet
from magic_insert.models.edit_unet import latent_mask
from magic_insert.models.pipeline import encode, fingerprint
from magic_insert.models.sampling import image_size
from magic_insert.training.insertion import EditLatents, Task

VIEWS_VERSION = 1
WIDTHS = (0.75, 1.45)  # of a random window, relative to the asked-for one
SHARPEST = (
    0.75  # a random window is not narrower than this share of the model's picture: no blur is trained in
)
LAYERS: dict[Task, tuple[str, str, str]] = {
    "remove": ("with_subject", "without", "loose_mask"),
    "insert": ("pasted", "with_subject", "mask"),
}


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
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> EditLatents:
    """The latents of every view for one task, kept in `folder` and continued there when they are not complete.

    Args:
        on_progress: called with (pairs done, pairs in all).
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
    home.mkdir(parents=True, exist_ok=True)
    state = home / "state.json"
    total = len(pairs.ids)
    done = read_json(state)["done"] if state.is_file() else 0
    arrays = _open_arrays(home, task, (total, config.views), (int(pipe.vae.config.latent_channels), side))
    for index in range(done, total):
        pair = pairs.load(index)
        views = [view_of(pair, number, size, config) for number in range(config.views)]
        for array, name in zip(arrays, LAYERS[task], strict=True):
            images = torch.stack([getattr(view, name) for view in views])
            cells = (
                latent_mask(images, side, side) if name.endswith("mask") else encode(pipe.vae, images).cpu()
            )
            array[index] = cells.to(torch.float16).numpy()
        if index % 16 == 15 or index == total - 1:
            # Numbers reach the disk before the count that vouches for them.
            for array in arrays:
                array.flush()
            write_json(state, {"done": index + 1})
        on_progress(index + 1, total)
    condition, target, mask = arrays
    return EditLatents(condition=condition, target=target, mask=mask)


def _open_arrays(home: Path, task: Task, lead: tuple[int, int], latent: tuple[int, int]) -> list[np.memmap]:
    arrays = []
    for name in LAYERS[task]:
        path = home / f"{name}.npy"
        channels = 1 if name.endswith("mask") else latent[0]
        shape = (*lead, channels, latent[1], latent[1])
        mode = "r+" if path.is_file() else "w+"
        arrays.append(np.lib.format.open_memmap(path, mode=mode, dtype=np.float16, shape=shape))
    return arrays
