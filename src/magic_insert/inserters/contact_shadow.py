"""A contact shadow: the silhouette squashed onto the ground, and darkness under the feet. Seven numbers, no weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.masks import blur
from magic_insert.core.silhouettes import contact, foot_frame, frame_coordinates
from magic_insert.inserters.base import Insertion

SIDE = 128  # of the layer
BROAD, TIGHT = 0.33, 0.34  # darkening by the squashed silhouette and by its lowest tenth


def contact_shade(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The factor in (0, 1] by which the ground is darkened."""
    frame = foot_frame(mask)
    broad, tight = contact(mask, frame, frame_coordinates(frame, *mask.shape[-2:]))
    return (1.0 - BROAD * broad) * (1.0 - TIGHT * tight)


def tuned(layer: EffectLayer, longer: float, settings: InserterConfig) -> EffectLayer:
    """The layer as strong and as soft as the settings want it; `longer` is the subject's longer side in its pixels."""
    if settings.strength == 1.0 and settings.softness == 0.0:
        return layer
    log_shade, light = torch.log(layer.shade.clamp_min(1e-3)), layer.light
    if settings.softness > 0:
        log_shade, light = (blur(x, 0.2 * settings.softness * longer) for x in (log_shade, light))
    shade = torch.exp(settings.strength * log_shade)
    return EffectLayer(shade.clamp(max=1.0), (settings.strength * light).clamp(0.0, 1.0))


class ContactShadow:
    """No weights: darkness under the feet and the silhouette squashed onto the ground, the same in every light."""

    def __init__(self, settings: InserterConfig, pipe: Any = None, folder: Path | None = None) -> None:
        self.name, self.settings = settings.name, settings

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings."""
        return {
            "inserter": self.name,
            "inserter_strength": self.settings.strength,
            "inserter_softness": self.settings.softness,
        }

    def __call__(
        self,
        scene: Float[Tensor, "3 H H"],
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: OnStep = no_step,
    ) -> Insertion:
        """The layer; it knows no randomness."""
        return Insertion(self.layer(scene, window, mask))

    def layer(
        self,
        scene: Float[Tensor, "3 H H"],
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
    ) -> EffectLayer:
        """The layer at the effect network's side."""
        covered = area_resize(mask, SIDE, SIDE)[None]
        shade = contact_shade(covered)[0].expand(3, -1, -1).clone()
        layer = EffectLayer(shade, torch.zeros_like(shade))
        return tuned(layer, float(foot_frame(covered)[0, 2]), self.settings)
