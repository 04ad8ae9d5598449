"""What inserters are, and the one way from a cut-out subject to the finished picture: paste, insert, composite.

`effect_layer` carries the inserter's shade and light to the scene's own pixels (`core.effect_layer`); everything else
stays as it was, bit for bit. `paper` keeps the whole regenerated picture, as Magic Insert does, enlarged to the scene's
size. Shape letters: H, W the scene's rows and columns, s the side an inserter draws. Values are float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import InserterConfig
from magic_insert.core.compositing import Region, area_resize, paste, region_around, resize
from magic_insert.core.effect_layer import (
    EffectConfig,
    EffectLayer,
    apply_effect,
    measure_effect,
    upsample_effect,
)
from magic_insert.core.events import OnEvent, OnStep, no_event, no_step, stage
from magic_insert.core.images import to_pil
from magic_insert.core.records import Box, Composite, Scene, Subject


@dataclass(frozen=True)
class Insertion:
    """What an inserter drew, and what the same machinery draws when it changes nothing: the effect is between them."""

    output: Float[Tensor, "3 s s"]
    reference: Float[Tensor, "3 s s"]


@runtime_checkable
class Inserter(Protocol):
    """Gives a pasted subject its shadow, reflection and contact."""

    @property
    def name(self) -> str:
        """How rows and reports call it."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it is made of: plain JSON values, digests of weights included."""
        ...

    def __call__(
        self,
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: OnStep = no_step,
    ) -> Insertion:
        """The square `window`, whose subject is `mask`, redrawn at the inserter's own size; `id` names the draw."""
        ...


@dataclass(frozen=True)
class Inserted:
    """The finished picture, the paste it came from, what the inserter drew, and where the scene was changed.

    `effect`: 1 where the scene's own pixels were changed, beside the subject and below it. `layer`: how; None for
    `composite=paper`, which changes all.
    """

    final: Composite
    pasted: Composite
    drawn: Insertion
    effect: Float[Tensor, "1 H W"]
    layer: EffectLayer | None


def effect_config(cfg: InserterConfig) -> EffectConfig:
    """What the inserter's configuration calls an effect, as compositing calls it."""
    return EffectConfig(threshold=cfg.threshold, reach=cfg.reach)


def insert_cutout(
    scene: Scene,
    subject: Subject,
    box: Box,
    *,
    inserter: Inserter,
    effect: EffectConfig,
    composite: str = "effect_layer",
    draw: tuple[int, str],
    on_event: OnEvent = no_event,
) -> Inserted:
    """The cut-out `subject` in `scene`, standing in `box`, with the light the inserter gives it.

    Args:
        composite: one of COMPOSITES.
        draw: seed and name of the draw.
        on_event: gets the stages "paste", "insert" and "composite".

    Raises:
        UserError: the box is not inside the scene, or the subject's matte is empty.
    """
    seed, name = draw
    with stage(on_event, "paste"):
        pasted = paste(scene, subject, box)
        region = _whole(*scene.size) if composite == "paper" else region_around(box, *scene.size)
        below, above, alpha = (region.crop(image) for image in (scene.rgb, pasted.rgb, pasted.mask))
    with stage(on_event, "insert") as running:
        drawn = inserter(above, alpha, seed=seed, id=name, on_step=running)
        running.preview = to_pil(drawn.output)
    with stage(on_event, "composite"):
        layer = None
        if composite == "paper":
            rgb = region.put_back(pasted.rgb, resize(drawn.output, region.side, region.side))
            changed = (rgb != scene.rgb).any(dim=0, keepdim=True).to(rgb.dtype)
        else:
            covered = area_resize(alpha, *drawn.output.shape[-2:])
            coarse = measure_effect(drawn.output, drawn.reference, covered, effect)
            fine = upsample_effect(coarse, above, alpha, effect)
            rgb = region.put_back(pasted.rgb, apply_effect(below, above, alpha, fine))
            layer = EffectLayer(
                region.put_back(torch.ones_like(scene.rgb), fine.shade),
                region.put_back(torch.zeros_like(scene.rgb), fine.light),
            )
            changed = layer.region.to(rgb.dtype)
    provenance = {
        **pasted.provenance,
        **inserter.provenance,
        "composite": composite,
        "box": [box.x, box.y, box.w, box.h],
        "window": [region.x, region.y, region.side],
    }
    return Inserted(Composite(rgb, pasted.mask, provenance), pasted, drawn, changed, layer)


def _whole(height: int, width: int) -> Region:
    """The smallest square that holds the whole picture; it hangs over where the picture is not square."""
    side = max(height, width)
    return Region((width - side) // 2, (height - side) // 2, side)
