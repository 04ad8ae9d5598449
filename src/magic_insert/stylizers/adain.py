"""AdaIN (Huang and Belongie 2017): the subject's own picture with the scene's channel statistics, in one pass.

The classical feed-forward baseline and a preview in about a second on a CPU. It needs no diffusion model and no
personalisation, keeps pose and outline, and knows no randomness.

Shape letters: S side of the square, B pictures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.vgg import load_adain
from magic_insert.stylizers.base import Draw


class AdainStylizer:
    """Gives the subject's picture the statistics of any scene; what is not subject stays plain white."""

    def __init__(
        self,
        settings: StylizerConfig,
        pipe: Any,
        subject: Subject,
        style: StyleConfig,
        sampling: SamplingConfig,
    ) -> None:
        """Loads the networks from `settings.weights`; `pipe`, `style` and `sampling` are not used.

        Raises:
            UserError: the weights are not there.
        """
        self.networks = load_adain(Path(settings.weights or "").expanduser())
        self.size, self.weight = settings.size, settings.style_weight
        picture, self.cover = place(subject, self.size)
        self.picture = spread_colours(picture, self.cover)

    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene, one after the other; the same for every seed, id and text."""
        pictures = []
        for done, draw in enumerate(draws, start=1):
            height, width = draw.scene.shape[-2:]
            scale = self.size / min(height, width)
            style = area_resize(draw.scene, round(height * scale), round(width * scale))
            drawn = self.networks(self.picture[None], style[None], self.weight)[0]
            pictures.append(self.cover * drawn + (1 - self.cover))
            on_step(done, len(draws))
        return torch.stack(pictures)

    def close(self) -> None:
        """Nothing is shared with others."""


def spread_colours(picture: Float[Tensor, "3 S S"], cover: Float[Tensor, "1 S S"]) -> Float[Tensor, "3 S S"]:
    """The subject on a ground of its own colours instead of white, which would count among its look and eat its edges.

    Colours flow outwards from coarse to fine (pull-push, Gortler et al. 1996, section 4.3).
    """
    levels = [(picture - (1 - cover), cover)]  # colours weighed by the matte: the ground was white
    while levels[-1][0].shape[-1] > 1:
        half = levels[-1][0].shape[-1] // 2
        colours, weight = (functional.adaptive_avg_pool2d(level[None], half)[0] for level in levels[-1])
        levels.append((colours, weight))
    colours, weight = levels.pop()
    filled = colours / weight
    for colours, weight in reversed(levels):
        coarse = functional.interpolate(
            filled[None], colours.shape[-2:], mode="bilinear", align_corners=False
        )[0]
        filled = colours + (1 - weight) * coarse
    return filled.clamp(0, 1)
