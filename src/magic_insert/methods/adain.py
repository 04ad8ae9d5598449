"""AdaIN (Huang and Belongie 2017): the subject's own picture with the scene's channel statistics, in one pass.

The classical feed-forward baseline and a preview in about a second on a CPU. It needs no diffusion model and no
personalisation, keeps pose and outline, and knows no randomness.

Shape letters: H, W the scene's rows and columns, S side of the square, B scenes.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.compositing import area_resize
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.vgg import load_adain


class AdainStylizer:
    """Gives the subject's picture the statistics of any scene; what is not subject stays plain white."""

    def __init__(self, weights: Path, subject: Subject, *, size: int, weight: float = 1.0) -> None:
        """Loads the networks.

        Args:
            weights: folder with the two safetensors files.
            subject: the picture and its matte.
            size: side in pixels of the square on which the networks work, and of the result.
            weight: from the subject's own statistics (0) to the scene's (1).

        Raises:
            UserError: the weights are not there.
        """
        self.networks = load_adain(weights)
        self.size, self.weight = size, weight
        picture, self.cover = place(subject, size)
        self.picture = spread_colours(picture, self.cover)

    def __call__(
        self, scene_rgb: Float[Tensor, "3 H W"], *, seed: int, id: str, style_text: str = ""
    ) -> Float[Tensor, "3 S S"]:
        """The subject in the scene's style; the same for every seed, id and text."""
        height, width = scene_rgb.shape[-2:]
        scale = self.size / min(height, width)
        style = area_resize(scene_rgb, round(height * scale), round(width * scale))
        drawn = self.networks(self.picture[None], style[None], self.weight)[0]
        return self.cover * drawn + (1 - self.cover)

    def batch(
        self,
        scenes: Sequence[Float[Tensor, "3 _ _"]],
        *,
        seeds: Sequence[int],
        ids: Sequence[str],
        style_texts: Sequence[str] | None = None,
    ) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene, one after the other: scenes may differ in shape."""
        return torch.stack(
            [self(scene, seed=seed, id=name) for scene, seed, name in zip(scenes, seeds, ids, strict=True)]
        )

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
