"""Who is in the picture, whatever the drawing: the micro stand-in for the paper's DINO (ViT-S/16, CLS embedding).

A small residual network of timm. Unlike DINO it is trained with identity labels, which the Toybox knows, and it is
convolutional: from three thousand subjects a transformer of this size learns shapes far more slowly.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_insert.core.jsonl import write_json
from magic_insert.models.encoders.base import (
    HALF,
    SavedEncoder,
    read_card,
    read_config,
    read_weights,
    unit,
)
from magic_insert.models.encoders.card import EncoderCard

CONFIG_FILE = "config.json"
IMAGE_SIZE = 64
EMBEDDING_DIM = 128
# In timm's own words: what `timm.create_model` takes.
MICRO_RESNET: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": EMBEDDING_DIM,
    "model_args": {
        "layers": [1, 1, 1, 1], "channels": [32, 64, 96, 160], "stem_type": "deep", "stem_width": 16, "avg_down": True,
    },
}  # fmt: skip


def build_network(config: dict[str, Any]) -> nn.Module:
    """The network of a configuration in timm's format, untrained."""
    return timm.create_model(
        config["architecture"], pretrained=False, num_classes=config["num_classes"], **config["model_args"]
    )


def new_identity(seed: int) -> "IdentityEncoder":
    """An untrained micro identity encoder, 0.6 M weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(MICRO_RESNET)
    card = EncoderCard(
        name="micro-identity",
        role="identity",
        weights="magic-insert/micro-identity",
        weights_sha256="",
        resize=IMAGE_SIZE,
        crop=IMAGE_SIZE,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        text_template=None,
        embedding_dim=EMBEDDING_DIM,
        trained_on="nothing yet",
    )
    return IdentityEncoder(network, card, MICRO_RESNET).eval()


def load_identity(folder: Path) -> "IdentityEncoder":
    """The identity encoder saved in `folder`, on the CPU in eval mode."""
    card = read_card(folder, IdentityEncoder.weights_file)
    config = read_config(folder / CONFIG_FILE)
    network = build_network(config)
    read_weights(network, folder, IdentityEncoder.weights_file)
    return IdentityEncoder(network, card, config).eval()


class IdentityEncoder(SavedEncoder):
    """Cosine of two embeddings is high for two drawings of one subject, in any pose and style."""

    def __init__(self, network: nn.Module, card: EncoderCard, config: dict[str, Any]) -> None:
        super().__init__(network, card)
        self.config = config

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network(pixels))

    def write_config(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, self.config)
