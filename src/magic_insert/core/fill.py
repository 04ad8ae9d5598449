"""A hole in a picture, filled by what a model drew at low resolution, without a seam.

Letters: s the model's side, H = W the window's. Pictures and masks are in [0, 1]; the hole is 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize, cover, resize
from magic_insert.core.effect_layer import EffectConfig, apply_effect, measure_effect, upsample_effect
from magic_insert.core.masks import blur, dilate, feather

RING = 0.06  # width of the rim whose colours the fill is matched to, as a share of the side
SMOOTH = 0.08  # how smoothly the match fades into the hole, as a share of the side


def fill_hole(
    window: Float[Tensor, "3 H H"],
    hole: Float[Tensor, "1 H H"],
    output: Float[Tensor, "3 s s"],
    reference: Float[Tensor, "3 s s"],
    *,
    grow: float,
    config: EffectConfig,
) -> tuple[Float[Tensor, "3 H H"], Float[Tensor, "1 H H"]]:
    """The window with its hole filled from `output` and the light around it changed as `output` changed `reference`.

    Outside the hole only the effect layer acts (`core.effect_layer`), on the window's own pixels; what neither reaches
    keeps its values exactly.

    Args:
        output: the window redrawn by a remover.
        reference: the same machinery's picture when it changes nothing.
        grow: how far around the hole the picture is redrawn, as a share of the side.

    Returns:
        The new window, and where it was changed, 0 or 1.
    """
    side, small = window.shape[-1], output.shape[-1]
    wide = dilate((hole > 0).to(hole.dtype), max(1, round(grow * side)))
    coarse = measure_effect(output, reference, area_resize(wide, small, small), config)
    layer = upsample_effect(coarse, window, wide, config)
    lit = apply_effect(window, window, torch.zeros_like(hole), layer)
    matched = (output + _mismatch(lit, wide, output)).clamp(0, 1)
    soft = _soft_edge(hole, wide, grow * side)
    changed = torch.maximum((soft > 0).to(hole.dtype), layer.region.to(hole.dtype))
    return cover(lit, resize(matched, side, side), soft), changed


def _mismatch(
    lit: Float[Tensor, "3 H H"], wide: Float[Tensor, "1 H H"], output: Float[Tensor, "3 s s"]
) -> Float[Tensor, "3 s s"]:
    """How far the drawn colours are off at the rim of the hole, continued smoothly into it."""
    small = output.shape[-1]
    inside = area_resize(wide, small, small)
    rim = dilate(inside, max(1, round(RING * small))) * (inside == 0)
    off = (area_resize(lit, small, small) - output) * rim
    sigma = max(1.0, SMOOTH * small)
    return blur(off, sigma) / blur(rim, sigma).clamp_min(1e-3)


def _soft_edge(
    hole: Float[Tensor, "1 H H"], wide: Float[Tensor, "1 H H"], width: float
) -> Float[Tensor, "1 H H"]:
    """1 on the hole, falling to 0 within the grown hole, exactly 0 outside it."""
    half = max(1, round(width / 2))
    middle = dilate((hole > 0).to(hole.dtype), half)
    return torch.maximum(feather(middle, half), (hole > 0).to(hole.dtype)) * wide
