"""AdaIN (Huang and Belongie 2017): the subject's own picture with the scene's channel statistics, in one pass.

The classical feed-forward baseline and a preview in about a second on a CPU. It needs no diffusion model and no
personalisation, keeps pose and outline, and knows no randomness. Its two networks, VGG-19 up to relu4_1 and the mirror
image of it, are plain sequences with the positions, and so the key names, of the published weights: a 1x1 convolution
that turns RGB in [0, 1] into what VGG expects, then 3x3 convolutions on reflected borders.

Shape letters: S side of the square, B pictures, H W their size; features B x 512 x H/8 x W/8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.config.schema.shared import ADAIN_FILES, SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.compositing import adain, area_resize
from magic_insert.core.errors import expecting
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.tensor_file import read_tensors
from magic_insert.stylizers.draws import Draw

ENCODER_WIDTHS = ((64, 64), (128, 128), (256, 256, 256, 256), (512,))  # per scale, from fine to coarse
ENCODER_FILE, DECODER_FILE = ADAIN_FILES


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


def build_encoder() -> nn.Sequential:
    """RGB in [0, 1] to the features of the last layer; a max pool that rounds up between the scales."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    channels = 3
    for scale, stage in enumerate(ENCODER_WIDTHS):
        if scale:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        for width in stage:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def build_decoder() -> nn.Sequential:
    """The encoder in reverse, nearest-neighbour doubling for its pools; the last layer is linear and gives RGB."""
    layers: list[nn.Module] = []
    for scale, stage in reversed(list(enumerate(ENCODER_WIDTHS))):
        below = ENCODER_WIDTHS[scale - 1][-1] if scale else 3
        outputs = [*reversed(stage[:-1]), below]
        for channels, width in zip(reversed(stage), outputs, strict=True):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
        if scale:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class AdainNetworks:
    """Encoder and decoder, frozen."""

    encoder: nn.Sequential
    decoder: nn.Sequential

    @torch.no_grad()
    def __call__(
        self,
        content: Float[Tensor, "B 3 H W"],
        style: Float[Tensor, "B 3 _ _"],
        weight: float = 1.0,
    ) -> Float[Tensor, "B 3 H W"]:
        """`content` with the channel statistics of `style`, in [0, 1]; at `weight` 0 it only passes the networks."""
        features = self.encoder(content)
        moved = adain(features, self.encoder(style), dim=(2, 3))
        picture = self.decoder(torch.lerp(features, moved, weight))
        return picture[..., : content.shape[-2], : content.shape[-1]].clamp(0, 1)


def load_adain(folder: Path) -> AdainNetworks:
    """The networks whose weights lie in `folder` as ENCODER_FILE and DECODER_FILE, float32.

    Raises:
        UserError: a file is missing, damaged or of another network.
    """
    networks = {ENCODER_FILE: build_encoder(), DECODER_FILE: build_decoder()}
    for name, network in networks.items():
        path = folder / name
        with expecting(f"the weights of AdaIN's network in {path}", RuntimeError):
            network.load_state_dict(read_tensors(path).tensors)
        network.requires_grad_(False).eval()
    return AdainNetworks(networks[ENCODER_FILE], networks[DECODER_FILE])
