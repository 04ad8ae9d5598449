"""What inserters are, and the one way from a cut-out subject to the finished picture: paste, insert, composite.

`effect_layer` carries the inserter's shade and light to the scene's own pixels (`core.effect_layer`); everything else
stays as it was, bit for bit. `paper` keeps the whole regenerated picture, as Magic Insert does, enlarged to the scene's
size. Shape letters: H, W the scene's rows and columns, s the side an inserter draws, r that of a shade on the subject,
h, w a box. Values are float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import (
    Region,
    area_resize,
    cover,
    fit_to_box,
    paste_fitted,
    region_around,
    resize,
)
from magic_insert.core.effect_layer import (
    EffectConfig,
    EffectLayer,
    apply_effect,
    in_shade,
    measure_effect,
    upsample_near,
)
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnEvent, OnStep, no_event, no_step, stage
from magic_insert.core.images import to_pil
from magic_insert.core.masks import INSIDE, bounding_box
from magic_insert.core.records import Box, Composite, Scene, Subject

MARGIN = 0.5  # how far a subject's neighbourhood reaches, in units of its longer side


@dataclass(frozen=True)
class Window:
    """The square that an inserter is shown: `scene` without the subject, `pasted` with it, `mask` its coverage.

    `seed` and `id` name the draw.
    """

    scene: Float[Tensor, "3 H H"]
    pasted: Float[Tensor, "3 H H"]
    mask: Float[Tensor, "1 H H"]
    seed: int = 0
    id: str = ""


@dataclass(frozen=True)
class Insertion:
    """What an inserter does to the light of its window, at its own size.

    `output`, `reference`: of those that draw the window again, what they drew, and what the same machinery draws when
    it changes nothing; the layer is measured between them. `shade`: on the subject, in [0, 1], of those that shade it.
    """

    layer: EffectLayer
    output: Float[Tensor, "3 s s"] | None = None
    reference: Float[Tensor, "3 s s"] | None = None
    shade: Float[Tensor, "1 r r"] | None = None

    @classmethod
    def measured(
        cls,
        output: Float[Tensor, "3 s s"],
        reference: Float[Tensor, "3 s s"],
        mask: Float[Tensor, "1 H H"],
        settings: InserterConfig,
    ) -> "Insertion":
        """The insertion of an inserter that drew `output` beside its `reference`, around the subject `mask`."""
        config = EffectConfig(threshold=settings.threshold, reach=settings.reach)
        covered = area_resize(mask, *output.shape[-2:])
        return cls(measure_effect(output, reference, covered, config), output, reference)


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

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """What the subject, pasted in the window, does to its light."""
        ...


class InserterBase:
    """What our inserters share: a name, settings, and a provenance made of those settings that `recorded` names."""

    recorded: tuple[str, ...] = ()

    def __init__(self, settings: InserterConfig, pipe: Any = None, folder: Path | None = None) -> None:
        """One that needs neither a model nor weights."""
        self.name, self.settings, self.pipe = settings.name, settings, pipe
        self.weights_sha256: str | None = None

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings and the digest of its weights."""
        weights = {} if self.weights_sha256 is None else {"inserter_sha256": self.weights_sha256}
        settings = {f"inserter_{name}": getattr(self.settings, name) for name in self.recorded}
        return {"inserter": self.name, **weights, **settings}


@dataclass(frozen=True)
class Inserted:
    """The finished picture, the paste it came from, what the inserter drew, and where the scene was changed.

    `subject`: as it stands in its box, in the scene's light. `effect`: 1 where the scene's own pixels were changed,
    beside the subject and below it. `layer`: how, in the box `at`, outside which nothing is; None for
    `composite=paper`, which changes all.
    """

    final: Composite
    pasted: Composite
    subject: Subject
    drawn: Insertion
    effect: Float[Tensor, "1 H W"]
    layer: EffectLayer | None
    at: Box


def insert_cutout(
    scene: Scene,
    subject: Subject,
    box: Box,
    *,
    inserter: Inserter,
    composite: str = "effect_layer",
    draw: tuple[int, str],
    front: Float[Tensor, "1 H W"] | None = None,
    on_event: OnEvent = no_event,
) -> Inserted:
    """The cut-out `subject` in `scene`, standing in `box`, with the light the inserter gives it.

    Args:
        composite: one of COMPOSITES.
        draw: seed and name of the draw.
        front: 1 where something of the scene stands before the subject: the scene's own pixels stay there.
        on_event: gets the stages "paste", "insert" and "composite".

    Raises:
        UserError: the box is not inside the scene, the subject's matte is empty, or `composite` is "paper" and the
            inserter draws no picture.
    """
    with stage(on_event, "paste"):
        box.require_inside(*scene.size)
        lit = fit_to_box(subject, box)
        pasted = paste_fitted(scene, lit, box)
        region = _whole(*scene.size) if composite == "paper" else region_around(box, *scene.size)
        below, above, alpha = (region.crop(image) for image in (scene.rgb, pasted.rgb, pasted.mask))
    with stage(on_event, "insert") as running:
        drawn = inserter(Window(below, above, alpha, *draw), on_step=running)
        running.preview = None if drawn.output is None else partial(to_pil, drawn.output)
    with stage(on_event, "composite"):
        shown, mask = pasted.rgb, pasted.mask
        if drawn.shade is not None:
            lit = replace(lit, rgb=in_shade(lit.rgb, seen_in(region, drawn.shade, box)))
            shown = paste_fitted(scene, lit, box).rgb
        if front is not None:
            shown, mask = cover(shown, scene.rgb, front), mask * (1 - front)
        layer, at = None, Box(0, 0, 0, 0)
        if composite == "paper":
            rgb = region.put_back(pasted.rgb, resize(_picture(drawn, inserter), region.side, region.side))
            rgb = rgb if front is None else cover(rgb, scene.rgb, front)
            changed = (rgb != scene.rgb).any(dim=0, keepdim=True).to(rgb.dtype)
        else:
            near, at = upsample_near(drawn.layer, above, alpha)
            layer, at = _on_scene(near, at, region, scene)
            there = at.pixels
            layer = layer if front is None else _behind(layer, front[there])
            rgb, changed = shown.clone(), torch.zeros_like(mask)
            rgb[there] = apply_effect(scene.rgb[there], shown[there], mask[there], layer)
            changed[there] = layer.region.to(changed.dtype)
    provenance = {
        **pasted.provenance,
        **inserter.provenance,
        "composite": composite,
        "box": [box.x, box.y, box.w, box.h],
        "window": [region.x, region.y, region.side],
    }
    return Inserted(Composite(rgb, mask, provenance), pasted, lit, drawn, changed, layer, at)


def seen_in(region: Region, plane: Float[Tensor, "C r r"], box: Box) -> Float[Tensor, "C h w"]:
    """What a plane that was computed for a window, at any size, shows in a box of the same picture."""
    across, down = 2 * (box.x - region.x) + box.w, 2 * (box.y - region.y) + box.h
    place = [[box.w, 0.0, across - region.side], [0.0, box.h, down - region.side]]
    theta = torch.tensor([place], device=plane.device) / region.side
    grid = functional.affine_grid(theta, [1, 1, box.h, box.w], align_corners=False)
    return functional.grid_sample(plane[None], grid, padding_mode="border", align_corners=False)[0]


def _picture(drawn: Insertion, inserter: Inserter) -> Tensor:
    if drawn.output is None:
        raise UserError(
            f"expected an inserter that draws a picture for composite=paper, got {inserter.name}; "
            "set composite=effect_layer"
        )
    return drawn.output


def _behind(layer: EffectLayer, front: Float[Tensor, "1 H W"]) -> EffectLayer:
    """A layer that leaves alone what stands before it."""
    nothing = torch.ones_like(layer.shade)
    return EffectLayer(torch.lerp(layer.shade, nothing, front.expand_as(nothing)), layer.light * (1 - front))


def _on_scene(layer: EffectLayer, at: Box, region: Region, scene: Scene) -> tuple[EffectLayer, Box]:
    """A layer in the box `at` of a window, cut to the scene, and its box there."""
    x, y = region.x + at.x, region.y + at.y
    seen = Box(x, y, at.w, at.h).within(*scene.size)
    inside = Box(seen.x - x, seen.y - y, seen.w, seen.h).pixels
    return EffectLayer(layer.shade[inside], layer.light[inside]), seen


def _whole(height: int, width: int) -> Region:
    """The smallest square that holds the whole picture; it hangs over where the picture is not square."""
    side = max(height, width)
    return Region((width - side) // 2, (height - side) // 2, side)


def neighbourhood(mask: Float[Tensor, "1 s s"]) -> Float[Tensor, "1 s s"]:
    """The box of the subject, MARGIN of its longer side wider all round, without the subject; 0 or 1."""
    if float(mask.max()) < INSIDE:
        return torch.zeros_like(mask)
    box = bounding_box(mask)
    margin = round(MARGIN * max(box.w, box.h))
    ring = torch.zeros_like(mask)
    ring[:, max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin] = 1
    return ring * (mask < INSIDE)
