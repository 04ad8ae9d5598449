"""Simple scores of a demo picture against the truth, which the Toybox knows.

Shape letters: H, W the scene's rows and columns. Pictures are float32 in [0, 1], masks 1HW.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.fidelity import psnr_pooled, region_sums
from magic_insert.core.masks import bounding_box
from magic_insert.core.records import Box
from magic_insert.data.benchmarks import FAINT
from magic_insert.evaluation.metrics import subject_crop


@dataclass(frozen=True)
class Scores:
    """`effect_db`, `box_db`: PSNR in dB inside the true effect region and the subject's box (None: no such region).

    `identity`, `style`: cosines of micro embeddings against the true stylised subject and the background, None without
    the encoders. `untouched`: whether every pixel outside subject and effect is the background's own.
    """

    effect_db: float | None
    box_db: float
    identity: float | None
    style: float | None
    untouched: bool


def psnr(
    image: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], where: Float[Tensor, "1 H W"]
) -> float | None:
    """PSNR in dB over the pixels of `where`; None when there are none."""
    found = psnr_pooled(region_sums(image[None], truth[None], (where > 0).float()[None]))
    return None if found is None else round(found, 2)


def box_of(mask: Float[Tensor, "1 H W"]) -> Box:
    """The box of a subject's mask, a faint edge included."""
    return bounding_box(mask, FAINT)


def score(
    image: Float[Tensor, "3 H W"],
    *,
    truth: Float[Tensor, "3 H W"],
    background: Float[Tensor, "3 H W"],
    mask: Float[Tensor, "1 H W"],
    effect: Float[Tensor, "1 H W"],
    changed: Float[Tensor, "1 H W"],
    encoders: Any | None,
) -> Scores:
    """How close `image` is to `truth`; `changed` is where the method says it touched the background."""
    box = box_of(mask)
    window = torch.zeros_like(mask)
    window[:, box.y : box.bottom, box.x : box.right] = 1.0
    in_box = psnr(image, truth, window)
    assert in_box is not None, "a bounding box is never empty"
    alone = (changed == 0).expand_as(image)
    crops = [subject_crop(picture, mask) for picture in (image, truth)]
    return Scores(
        effect_db=psnr(image, truth, effect),
        box_db=in_box,
        identity=_cosine(encoders, "identity", *crops),
        style=_cosine(encoders, "style", crops[0], subject_crop(background, torch.ones_like(mask))),
        untouched=torch.equal(image[alone], background[alone]),
    )


def _cosine(encoders: Any | None, role: str, one: Tensor, other: Tensor) -> float | None:
    if encoders is None:
        return None
    first, second = (encoders[role].embed_images(picture[None])[0] for picture in (one, other))
    return round(float(first @ second), 3)


def find_encoders(model_folder: Path | None) -> Path | None:
    """The folder of metric encoders shipped with a model, or None: then their columns stay empty."""
    folder = None if model_folder is None else model_folder / "encoders"
    return (
        folder
        if folder is not None and (folder / "identity").is_dir() and (folder / "style").is_dir()
        else None
    )
