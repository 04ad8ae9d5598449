"""The default inserter: one forward pass predicts how the subject changes the scene's light.

Belongs to no base model: it serves micro, SDXL and pictures without any model alike. `sun` turns the light instead of
reading it from the picture. Shape letters: H side of the square window, s the network's side; float32 in [0, 1].
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectLayer, continue_under
from magic_insert.core.silhouettes import foot_frame
from magic_insert.inserters.base import LayerInserter, Window
from magic_insert.inserters.contact_shadow import tuned
from magic_insert.models.effect_net import SIDE, Effect, EffectNet, load_effect_net, predict, sun_from
from magic_insert.paths import effect_weights


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
        layer = EffectLayer(
            1.0 - continue_under(1.0 - shade, covered), continue_under(light, covered).clamp(0.0, 1.0)
        )
        layer = tuned(layer, longer, self.settings)
        return EffectLayer(layer.shade.to(window.mask.device), layer.light.to(window.mask.device))

    def _turned(self, small: list[Tensor]) -> Effect:
        """The effect under a sun where the settings want it, as high as the one that the network reads."""
        read = self.net(*small).sun
        sun = sun_from(read, math.radians(float(self.settings.sun)))
        return self.net(*small, sun, torch.ones(1, device=read.device))
