"""The two networks of AdaIN style transfer (Huang and Belongie 2017): VGG-19 up to relu4_1 and its mirror image.

Both are plain sequences with the positions, and so the key names, of the published weights: a 1x1 convolution that
turns RGB in [0, 1] into what VGG expects, then 3x3 convolutions on reflected borders.

Shape letters: B pictures, H W their size; features B x 512 x H/8 x W/8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_insert.config.schema import ADAIN_FILES
from magic_insert.core.errors import UserError
from magic_insert.models.shared_attention import adain
from magic_insert.models.tensor_file import read_tensors

ENCODER_WIDTHS = ((64, 64), (128, 128), (256, 256, 256, 256), (512,))  # per scale, from fine to coarse
ENCODER_FILE, DECODER_FILE = ADAIN_FILES


def build_encoder(widths: Sequence[Sequence[int]] = ENCODER_WIDTHS) -> nn.Sequential:
    """RGB in [0, 1] to the features of the last layer; a max pool that rounds up between the scales."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    channels = 3
    for scale, stage in enumerate(widths):
        if scale:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        for width in stage:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def build_decoder(widths: Sequence[Sequence[int]] = ENCODER_WIDTHS) -> nn.Sequential:
    """The encoder in reverse, nearest-neighbour doubling for its pools; the last layer is linear and gives RGB."""
    layers: list[nn.Module] = []
    for scale, stage in reversed(list(enumerate(widths))):
        below = widths[scale - 1][-1] if scale else 3
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
        if not path.is_file():
            raise UserError(f"expected {name} in {folder}, got no such file; set stylizer.weights=FOLDER")
        try:
            network.load_state_dict(read_tensors(path).tensors)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise UserError(
                f"expected the weights of AdaIN's network in {path}, got others: {first}"
            ) from error
        network.requires_grad_(False).eval()
    return AdainNetworks(networks[ENCODER_FILE], networks[DECODER_FILE])
