"""The default inserter: one forward pass predicts how the subject changes the scene's light.

Belongs to no base model: it serves micro, SDXL and pictures without any model alike. `sun` turns the light instead of
reading it from the picture. Shape letters: H side of the square window, s the network's side; float32 in [0, 1].
"""

import math
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
from magic_insert.core.masks import bounding_box
from magic_insert.core.silhouettes import foot_frame
from magic_insert.inserters.base import LayerInserter, Window
from magic_insert.inserters.contact_shadow import tuned
from magic_insert.models.effect_net import SIDE, Effect, EffectNet, load_effect_net, predict, sun_from
from magic_insert.paths import effect_weights

RIM = 3  # pixels of the network's side around a matte
CONTACT = (0.6, 0.75)  # of a subject's height, from the top: where a dark rim turns into its contact shadow


class EffectInserter(LayerInserter):
    """The effect network with its settings."""

    recorded = ("sun", "strength", "softness")

    def __init__(self, settings: InserterConfig, pipe: Any = None, folder: Path | None = None) -> None:
        """Loads the weights in `folder` (null: those that come with the package); `pipe` only names the device.

        Raises:
            UserError: the weights are missing or not an effect network's.
        """
        super().__init__(settings, pipe, folder)
        path = effect_weights() if folder is None else folder / effect_weights().name
        self.net: EffectNet = load_effect_net(path).to(getattr(pipe, "device", "cpu"))
        self.weights_sha256 = sha256_file(path)

    @torch.no_grad()
    def layer(self, window: Window) -> EffectLayer:
        device = next(self.net.parameters()).device
        shown = (window.scene, window.pasted, window.mask)
        small = [area_resize(image, SIDE, SIDE)[None].to(device) for image in shown]
        found = predict(self.net, *small) if self.settings.sun == "auto" else self._turned(small)
        shade, light = torch.exp(found.log_shade[0]), found.light[0]
        covered, longer = small[2][0], float(foot_frame(small[2])[0, 2])
        dark = without_rim(1.0 - shade, covered)
        layer = EffectLayer(
            1.0 - continue_under(dark, covered), continue_under(light, covered).clamp(0.0, 1.0)
        )
        layer = tuned(layer, longer, self.settings)
        return EffectLayer(layer.shade.to(window.mask.device), layer.light.to(window.mask.device))

    def _turned(self, small: list[Tensor]) -> Effect:
        """The effect under a sun where the settings want it, as high as the one that the network reads."""
        read = self.net(*small).sun
        sun = sun_from(read, math.radians(float(self.settings.sun)))
        return self.net(*small, sun, torch.ones(1, device=read.device))


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
