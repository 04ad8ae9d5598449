"""A finished subject in its scene: paste, insert, and bring the new light home, or keep all that the model drew.

`effect_layer` carries shade and light to the scene's own pixels (`core.effect_layer`); everything else stays as it was,
bit for bit. `paper` keeps the whole regenerated picture, as Magic Insert does, enlarged to the scene's size.
Shape letters: H, W the scene's rows and columns, s the side an inserter draws. Values are float32 in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import Region, area_resize, paste, region_around, resize
from magic_insert.core.effect_layer import EffectConfig, apply_effect, measure_effect, upsample_effect
from magic_insert.core.records import Box, Composite, Scene, Subject
from magic_insert.methods.base import Inserter, Insertion
from magic_insert.methods.stages import Stages


@dataclass(frozen=True)
class Placed:
    """The finished picture, the paste it came from, what the inserter drew, and where the scene was changed."""

    final: Composite
    pasted: Composite
    drawn: Insertion
    effect: Float[Tensor, "1 H W"]  # 1 where the scene's own pixels were changed


def place(
    scene: Scene,
    subject: Subject,
    box: Box,
    *,
    inserter: Inserter,
    effect: EffectConfig,
    composite: str = "effect_layer",
    seed: int,
    id: str,
    stages: Stages,
    on_step: Callable[[int], None],
) -> Placed:
    """The subject in `scene`, standing in `box`, with the light the inserter gives it.

    Args:
        composite: "effect_layer" or "paper".
        id: names the draw.

    Raises:
        UserError: the box is not inside the scene, or the subject's matte is empty.
    """
    assert composite in ("effect_layer", "paper")
    with stages.stage("paste"):
        pasted = paste(scene, subject, box)
        region = _whole(*scene.size) if composite == "paper" else region_around(box, *scene.size)
        below, above, alpha = (region.crop(image) for image in (scene.rgb, pasted.rgb, pasted.mask))
    with stages.stage("insert"):
        drawn = inserter(above, alpha, seed=seed, id=id, on_step=on_step)
    with stages.stage("composite"):
        if composite == "paper":
            rgb = region.put_back(pasted.rgb, resize(drawn.output, region.side, region.side))
            changed = (rgb != scene.rgb).any(dim=0, keepdim=True).to(rgb.dtype)
        else:
            coarse = measure_effect(
                drawn.output, drawn.reference, area_resize(alpha, *drawn.output.shape[-2:]), effect
            )
            layer = upsample_effect(coarse, above, alpha, effect)
            rgb = region.put_back(pasted.rgb, apply_effect(below, above, alpha, layer))
            changed = region.put_back(torch.zeros_like(pasted.mask), layer.region.to(pasted.mask.dtype))
    provenance = {
        **pasted.provenance,
        **inserter.provenance,
        "composite": composite,
        "box": [box.x, box.y, box.w, box.h],
        "window": [region.x, region.y, region.side],
    }
    return Placed(Composite(rgb, pasted.mask, provenance), pasted, drawn, changed)


def _whole(height: int, width: int) -> Region:
    """The smallest square that holds the whole picture; it hangs over where the picture is not square."""
    side = max(height, width)
    return Region((width - side) // 2, (height - side) // 2, side)
