"""Seventeen styles that draw the same world, each with its own line, tone, texture, shadow and reflection.

A style is one function of a `View` (one G-buffer row and its light) under `@style("as a woodcut print")`, its name in
`config.registry.STYLES`; `photo` is the photograph, and training never sees the styles that are held out. An installed
package adds one through an entry point of the group `magic_insert.styles`, a script through `STYLES.register`; it can
be drawn by its name, and is in none of the fixed lists below.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from magic_insert.config.registry import STYLES
from magic_insert.toybox.records import GBuffer, rows
from magic_insert.toybox.styles.view import Style, view_of

_SHIPPED: dict[str, Style] = {name: STYLES.get(name) for name in STYLES.own}
TRAIN_STYLES: tuple[str, ...] = tuple(name for name, one in _SHIPPED.items() if not one.held_out)
HELD_OUT_STYLES: tuple[str, ...] = tuple(name for name, one in _SHIPPED.items() if one.held_out)
ALL_STYLES: tuple[str, ...] = TRAIN_STYLES + HELD_OUT_STYLES


def style_phrase(name: str) -> str:
    """How a style looks, in words: "as a pencil drawing". Raises UserError for a style that does not exist."""
    found: Style = STYLES.get(name)
    return found.phrase


def draw(g: GBuffer, styles: Sequence[str], complexity: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Draws every row of a G-buffer in its own style.

    Args:
        g: G-buffer of B worlds, any device.
        styles: B names of styles.
        complexity: B numbers in [0, 1]; 0 is the style's simplest form, 1 has the most line and texture.
        seeds: B seeds of the sheet's texture. Texture belongs to the place on the sheet, not to the motif, so
            two worlds drawn with one seed differ only near where the worlds differ.

    Returns:
        B 3 H W in [0, 1]. Row i depends on row i alone, and is bit-equal to drawing it by itself.

    Raises:
        UserError: unknown style.
    """
    assert len(styles) == g.depth.shape[0]
    assert all(0.0 <= c <= 1.0 for c in complexity), complexity
    found: list[Style] = [STYLES.get(name) for name in styles]
    with torch.no_grad():
        views = (
            view_of(rows(g, i, i + 1), name, float(c), int(seed))
            for i, (name, c, seed) in enumerate(zip(styles, complexity, seeds, strict=True))
        )
        return torch.cat([one(view) for one, view in zip(found, views, strict=True)])
