"""Seventeen hands that draw the same world, each with its own line, tone, texture, shadow and reflection.

A hand is a function of a `View` (one G-buffer row and its light). `photo` is the photograph; the four
held-out hands are never trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from magic_insert.config.registry import STYLES
from magic_insert.core.errors import UserError
from magic_insert.toybox.records import GBuffer
from magic_insert.toybox.styles.view import View, view_of

TRAIN_STYLES: tuple[str, ...] = (
    "photo", "cartoon", "cel", "watercolour", "oil", "pencil", "ink", "crayon", "pixel", "halftone",
    "blueprint", "papercut", "vintage",
)  # fmt: skip
HELD_OUT_STYLES: tuple[str, ...] = ("charcoal", "mosaic", "neon", "woodcut")
ALL_STYLES: tuple[str, ...] = TRAIN_STYLES + HELD_OUT_STYLES

__all__ = ["ALL_STYLES", "HELD_OUT_STYLES", "TRAIN_STYLES", "draw"]


def draw(g: GBuffer, styles: Sequence[str], complexity: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Draws every row of a G-buffer in its own style.

    Args:
        g: G-buffer of B worlds, any device.
        styles: B names of registered styles.
        complexity: B numbers in [0, 1]; 0 is the style's simplest form, 1 has the most line and texture.
        seeds: B seeds of the sheet's texture. Texture belongs to the place on the sheet, not to the motif, so
            two worlds drawn with one seed differ only near where the worlds differ.

    Returns:
        B 3 H W in [0, 1]. Row i depends on row i alone, and is bit-equal to drawing it by itself.

    Raises:
        UserError: unknown style, complexity outside [0, 1], or lengths that differ from B.
    """
    rows = g.depth.shape[0]
    if not len(styles) == len(complexity) == len(seeds) == rows:
        raise UserError(
            f"expected one style, complexity and seed for each of {rows} pictures, "
            f"got {len(styles)}, {len(complexity)} and {len(seeds)}"
        )
    for c in complexity:
        if not 0.0 <= c <= 1.0:
            raise UserError(f"expected a complexity between 0 and 1, got {c}")
    pictures = []
    with torch.no_grad():
        for i, (style, c, seed) in enumerate(zip(styles, complexity, seeds, strict=True)):
            hand: Callable[[View], Tensor] = STYLES.get(style)
            pictures.append(hand(view_of(_row(g, i), style, float(c), int(seed))))
    return torch.cat(pictures)


def _row(g: GBuffer, i: int) -> GBuffer:
    return GBuffer(**{f.name: getattr(g, f.name)[i : i + 1] for f in fields(g)})
