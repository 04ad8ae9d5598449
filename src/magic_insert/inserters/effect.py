"""The default inserter: one network predicts how the subject changes the scene's light, one how that light shades it.

Belongs to no base model: it serves micro, SDXL and pictures without any model alike. `sun` turns the light instead of
reading it from the picture. Shape letters: H side of the square window, s the network's side; float32 in [0, 1].
"""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import FAINT, area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectLayer, continue_under
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.masks import bounding_box
from magic_insert.core.silhouettes import foot_frame
from magic_insert.inserters.base import InserterBase, Insertion, Window
from magic_insert.inserters.contact_shadow import tuned
from magic_insert.models.effect_net import (
    SIDE,
    Effect,
    EffectNet,
    crisp,
    load_effect_net,
    predict,
    sun_from,
    sure_light,
)
from magic_insert.models.relight_net import RelightNet, load_relight_net, predict_shade
from magic_insert.paths import effect_weights, relight_weights

RIM = 3  # pixels of the network's side around a matte
CONTACT = (0.6, 0.75)  # of a subject's height, from the top: where a dark rim turns into its contact shadow


class EffectInserter(InserterBase):
    """The effect network with its settings."""

    recorded = ("sun", "strength", "softness", "relight")

    def __init__(self, settings: InserterConfig, pipe: Any = None, folder: Path | None = None) -> None:
        """Loads the weights in `folder`, and in place of what it lacks those of the package; `pipe` names the device.

        Raises:
            UserError: the weights are missing or not these networks'.
        """
        super().__init__(settings, pipe, folder)
        device = getattr(pipe, "device", "cpu")
        paths = [_in(folder, shipped) for shipped in (effect_weights(), relight_weights())]
        self.net: EffectNet = load_effect_net(paths[0]).to(device)
        self.weights_sha256 = sha256_file(paths[0])
        self.relight: RelightNet | None = None
        if settings.relight > 0:
            self.relight = load_relight_net(paths[1]).to(device)
            self.relight_sha256 = sha256_file(paths[1])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings and the digests of its weights."""
        weights = {} if self.relight is None else {"relight_sha256": self.relight_sha256}
        return {**super().provenance, **weights}

    @torch.no_grad()
    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """The layer, and the shade on the subject."""
        device, home = next(self.net.parameters()).device, window.mask.device
        shown = (window.scene, window.pasted, window.mask)
        scene, pasted, mask = (area_resize(image, SIDE, SIDE)[None].to(device) for image in shown)
        read = predict if self.settings.sun == "auto" else self._turned
        found = read(self.net, scene, pasted, mask)
        layer, shade = self._layer(crisp(found, mask), mask), None
        if self.relight is not None:
            dark = found.told * (1.0 - predict_shade(self.relight, scene, pasted, mask, found)[0])
            shade = 1.0 - self.settings.relight * dark.to(home)
        return Insertion(EffectLayer(layer.shade.to(home), layer.light.to(home)), shade=shade)

    def _layer(self, found: Effect, mask: Float[Tensor, "1 1 s s"]) -> EffectLayer:
        covered, longer = mask[0], float(foot_frame(mask)[0, 2])
        dark = without_rim(1.0 - torch.exp(found.log_shade[0]), covered)
        light = continue_under(found.light[0], covered).clamp(0.0, 1.0)
        layer = EffectLayer(1.0 - continue_under(dark, covered), light)
        return tuned(layer, longer, self.settings)

    def _turned(self, net: EffectNet, scene: Tensor, pasted: Tensor, mask: Tensor) -> Effect:
        """The effect under a sun where the settings want it, as high as the one that the network reads."""
        seen = net.look(scene, pasted, mask)
        sun = sun_from(seen.sun, math.radians(float(self.settings.sun)))
        drawn = net.draw(seen, sun)
        return replace(drawn, light=sure_light(drawn), sun=sun, tells=sun.new_full((1,), math.inf))


def _in(folder: Path | None, shipped: Path) -> Path:
    """The file of that name in `folder`, where there is one."""
    own = None if folder is None else folder / shipped.name
    return own if own is not None and os.path.lexists(own) else shipped


def without_rim(dark: Float[Tensor, "3 s s"], covered: Float[Tensor, "1 s s"]) -> Float[Tensor, "3 s s"]:
    """The darkening without what clings to the upper part of a subject: no more there than there is just beyond.

    In drawings the outer half of a subject's outline is no part of its matte, so the network has learned it as a shade.
    A shadow leaves the subject somewhere and goes on; an outline does not. Low down a dark rim is the contact shadow.
    """
    away = functional.max_pool2d(covered, 2 * RIM + 1, stride=1, padding=RIM) < FAINT
    beyond = functional.max_pool2d(dark * away, 2 * RIM + 5, stride=1, padding=RIM + 2)
    clean = torch.where(away, dark, torch.minimum(dark, beyond))
    if not bool((covered >= FAINT).any()):
        return dark
    box = bounding_box(covered.cpu(), FAINT)
    rows = torch.arange(dark.shape[-2], device=dark.device)[:, None]
    low = ((rows - box.y) / box.h - CONTACT[0]) / (CONTACT[1] - CONTACT[0])
    return torch.lerp(clean, dark, low.clamp(0, 1))
