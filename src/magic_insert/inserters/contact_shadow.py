"""A contact shadow: the silhouette squashed onto the ground, and darkness under the feet. Seven numbers, no weights."""

import math

import torch

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.masks import blur
from magic_insert.core.silhouettes import foot_frame
from magic_insert.inserters.base import InserterBase, Insertion, Window
from magic_insert.models.effect_net import SIDE, contact_shade

FAINT_SHADE = 0.8  # factors nearer to 1 than this one are strengthened less


def tuned(layer: EffectLayer, longer: float, settings: InserterConfig) -> EffectLayer:
    """The layer as strong and as soft as the settings want it; `longer` is the subject's longer side in its pixels."""
    if settings.strength == 1.0 and settings.softness == 0.0:
        return layer
    log_shade, light = torch.log(layer.shade.clamp_min(1e-3)), layer.light
    if settings.softness > 0:
        log_shade, light = (blur(x, 0.2 * settings.softness * longer) for x in (log_shade, light))
    # Above 1 what is hardly there stays so: around a body a network leaves a trace that would become a halo.
    more = max(0.0, settings.strength - 1.0) * (log_shade / math.log(FAINT_SHADE)).clamp(0.0, 1.0)
    shade = torch.exp((min(1.0, settings.strength) + more) * log_shade)
    return EffectLayer(shade.clamp(max=1.0), (settings.strength * light).clamp(0.0, 1.0))


class ContactShadow(InserterBase):
    """No weights: darkness under the feet and the silhouette squashed onto the ground, the same in every light."""

    recorded = ("strength", "softness")

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """The layer alone."""
        covered = area_resize(window.mask, SIDE, SIDE)[None]
        shade = contact_shade(covered)[0].expand(3, -1, -1).clone()
        layer = EffectLayer(shade, torch.zeros_like(shade))
        return Insertion(tuned(layer, float(foot_frame(covered)[0, 2]), self.settings))
