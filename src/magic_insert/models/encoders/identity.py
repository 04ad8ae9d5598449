"""Who is in the picture, whatever the drawing: the micro stand-in for the paper's DINO (ViT-S/16, CLS embedding).

A timm VisionTransformer without registers. Unlike DINO it is trained with identity labels, which the Toybox knows, and
three strided convolutions stand in for the patch projection: a transformer this small learns shapes sooner behind a
convolutional stem (Xiao et al. 2021, "Early convolutions help transformers see better").
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
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
MICRO_VIT: dict[str, Any] = {
    "stem_widths": [24, 48, 96],
    "img_size": 64,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 3.0,
    "num_classes": 0,
    "global_pool": "token",
}


def build_vit(config: dict[str, Any]) -> VisionTransformer:
    """A VisionTransformer whose patches come from a stem that halves the picture once per width in `stem_widths`."""
    arguments = dict(config)
    channels = [3, *arguments.pop("stem_widths")]
    stem = nn.Sequential()
    for i in range(len(channels) - 1):
        stem.append(nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1))
        stem.append(nn.GroupNorm(8, channels[i + 1]))
        stem.append(nn.GELU())
    return VisionTransformer(patch_size=1, embed_layer=partial(HybridEmbed, backbone=stem), **arguments)


def new_identity(seed: int) -> "IdentityEncoder":
    """An untrained micro identity encoder, 0.8 M weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_vit(MICRO_VIT)
    card = EncoderCard(
        name="micro-identity",
        role="identity",
        weights="magic-insert/micro-identity",
        weights_sha256="",
        resize=MICRO_VIT["img_size"],
        crop=MICRO_VIT["img_size"],
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        text_template=None,
        embedding_dim=MICRO_VIT["embed_dim"],
        trained_on="nothing yet",
    )
    return IdentityEncoder(network, card, MICRO_VIT).eval()


def load_identity(folder: Path) -> "IdentityEncoder":
    """The identity encoder saved in `folder`, on the CPU in eval mode."""
    card = read_card(folder, IdentityEncoder.weights_file)
    config = read_config(folder / CONFIG_FILE)
    network = build_vit(config)
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
