"""The pictures of a stage, to tensors and back.

Shape letters: B pictures, H, W rows and columns. Pictures and masks are float32 in [0, 1], rounded to 8 bit on disk;
everything downstream works from the rounded values, so a run that was resumed sees what an unbroken one sees.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.files import MASK, place
from magic_insert.core.images import load_rgb, save_png


def save(folder: Path, layer: str, name: str, picture: Float[Tensor, "C H W"]) -> None:
    """Writes one picture (3HW) or mask (1HW), atomically."""
    save_png(place(folder, layer, name), picture)


def load(folder: Path, layer: str, ids: Sequence[str]) -> Float[Tensor, "B 3 H W"]:
    """The pictures of one layer; all of one size."""
    return torch.stack([load_rgb(place(folder, layer, name)) for name in ids])


def load_masks(folder: Path, ids: Sequence[str]) -> Float[Tensor, "B 1 H W"]:
    """The subjects' masks."""
    return load(folder, MASK, ids)[:, :1]


def paste(
    subject: Float[Tensor, "B 3 H W"], background: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 3 H W"]:
    """ObjectDrop's input of insertion, y = M x + (1 - M) z (arXiv 2403.18818, section 4.2)."""
    return mask * subject + (1 - mask) * background
