"""What every metric encoder shares: preprocessing by its card, normalised embeddings, half-precision files.

Shapes: B images, H W pixels, D embedding dimensions. Images are RGB in [0, 1]; embeddings have unit length.
"""

import json
import os
import shutil
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_json
from magic_insert.models.encoders.card import CARD_FILE, EncoderCard

HALF = (0.5, 0.5, 0.5)


def preprocess(images: Tensor, card: EncoderCard) -> Float[Tensor, "B 3 C C"]:
    """Images B3HW in [0, 1]: resize the shorter side to `card.resize`, crop the centre to `card.crop`, standardise.

    Sizes are those of torchvision's Resize and CenterCrop: the longer side is rounded down. The resize is antialiased
    (PIL's filters, without PIL's rounding to eight bits) and skipped when the size already fits, so pixels are never
    resampled needlessly.

    Raises:
        UserError: not a batch of RGB images.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise UserError(f"expected RGB images of shape B3HW, got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    shorter = min(height, width)
    if shorter != card.resize:
        size = (height * card.resize // shorter, width * card.resize // shorter)
        images = interpolate(
            images, size, mode=card.interpolation, antialias=True, align_corners=False
        ).clamp(0, 1)
    top = round((images.shape[-2] - card.crop) / 2)
    left = round((images.shape[-1] - card.crop) / 2)
    images = images[..., top : top + card.crop, left : left + card.crop]
    return standardise(images, card)


def standardise(pixels: Float[Tensor, "B 3 C C"], card: EncoderCard) -> Float[Tensor, "B 3 C C"]:
    """`(pixels - mean) / std` per channel, for pixels already at the network's size."""
    mean = pixels.new_tensor(card.mean).view(3, 1, 1)
    std = pixels.new_tensor(card.std).view(3, 1, 1)
    return (pixels - mean) / std


class MetricEncoder(nn.Module, ABC):
    """A frozen network with its card. Subclasses say how standardised pixels become one vector."""

    network: Any  # a module of open_clip or timm, whose methods the subclass knows

    def __init__(self, network: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.network = network
        self.card = card

    @abstractmethod
    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of standardised pixels, with gradients: what training uses."""

    def prepare(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 C C"]:
        """One picture in [0, 1] as the network wants it; cheap, needs no network, so a thread may do it."""
        return preprocess(image[None], self.card)[0]

    @torch.no_grad()
    def embed_pixels(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of prepared pictures, in one pass, on the encoder's device."""
        assert not self.training, "a metric encoder is evaluated in eval mode"
        return self.features(pixels.to(next(self.parameters()).device)).float()

    def embed_images(self, images: Tensor, chunk: int = 64) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of images B3HW in [0, 1] of any size, `chunk` at a time through the network.

        A row does not depend on the other rows.

        Raises:
            UserError: not a batch of RGB images.
        """
        parts = preprocess(images.float(), self.card).split(chunk)
        return torch.cat([self.embed_pixels(part) for part in parts])


class SavedEncoder(MetricEncoder):
    """An encoder of our own, which can be written to a folder and trained."""

    weights_file = "model.safetensors"

    @abstractmethod
    def write_config(self, folder: Path) -> None:
        """Everything but the weights and the card that is needed to rebuild the network from `folder`."""

    def save(self, folder: Path, trained_on: str) -> EncoderCard:
        """Write weights (float16 safetensors), configuration and card to `folder`, all or nothing.

        Returns the card as written: `trained_on` filled in, with the sha256 of the weights file.
        """
        folder = Path(folder)
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        try:
            tensors = {
                key: (value.half() if value.is_floating_point() else value).contiguous()
                for key, value in self.network.state_dict().items()
            }
            save_file(tensors, partial / self.weights_file)
            self.write_config(partial)
            card = replace(
                self.card, weights_sha256=sha256_file(partial / self.weights_file), trained_on=trained_on
            )
            write_json(partial / CARD_FILE, card.to_dict())
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return card


def unit(vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Rows scaled to length one, in float32."""
    return normalize(vectors.float(), dim=-1)


def read_card(folder: Path, weights_file: str) -> EncoderCard:
    """The card in `folder`, after checking that the weights beside it are the ones it speaks of."""
    row = read_config(folder / CARD_FILE)
    card = EncoderCard.from_dict(row, source=folder / CARD_FILE)
    found = sha256_file(folder / weights_file)
    if found != card.weights_sha256:
        raise UserError(
            f"expected {folder / weights_file} with sha256 {card.weights_sha256[:12]}..., got {found[:12]}...; "
            "the weights and their card do not belong together: train or copy the encoder folder again"
        )
    return card


def read_weights(network: nn.Module, folder: Path, weights_file: str) -> None:
    """Load half-precision weights into `network` (every tensor must be there), keep it in float32."""
    network.load_state_dict({key: value.float() for key, value in load_file(folder / weights_file).items()})


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object of an encoder folder.

    Raises:
        UserError: it is not there, or not an object.
    """
    if not path.is_file():
        raise UserError(
            f"expected an encoder folder with {path.name}, got nothing at {path}; check the folder"
        )
    row = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(row, dict):
        raise UserError(f"expected a JSON object in {path}, got {type(row).__name__}")
    return row
