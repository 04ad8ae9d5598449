"""How the picture is drawn, whatever is in it: the micro stand-in for the paper's CSD.

A small convolutional network whose embedding reads only channel statistics (mean and spread over the picture) at three
depths. Style is texture, line and tone, and statistics cannot tell where things are.
"""

from pathlib import Path
from typing import Any

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
IMAGE_SIZE = 128
MICRO_STYLE_NET: dict[str, Any] = {"widths": [32, 64, 128], "hidden": 128, "embedding_dim": 128}


def new_style(seed: int) -> "StyleEncoder":
    """An untrained micro style encoder, 0.4 M weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StyleNet(**MICRO_STYLE_NET)
    card = EncoderCard(
        name="micro-style",
        role="style",
        weights="magic-insert/micro-style",
        weights_sha256="",
        resize=IMAGE_SIZE,
        crop=IMAGE_SIZE,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        text_template=None,
        embedding_dim=MICRO_STYLE_NET["embedding_dim"],
        trained_on="nothing yet",
    )
    return StyleEncoder(network, card, MICRO_STYLE_NET).eval()


def load_style(folder: Path) -> "StyleEncoder":
    """The style encoder saved in `folder`, on the CPU in eval mode."""
    card = read_card(folder, StyleEncoder.weights_file)
    config = read_config(folder / CONFIG_FILE)
    network = StyleNet(**config)
    read_weights(network, folder, StyleEncoder.weights_file)
    return StyleEncoder(network, card, config).eval()


def spread(maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 2*C"]:
    """Mean and standard deviation of every channel over the picture."""
    maps = maps.float()
    variance, mean = torch.var_mean(maps, dim=(2, 3), correction=0)
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=1)


class StyleStage(nn.Module):
    """Halve the picture, then look once more at that scale."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.look = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        maps = nn.functional.gelu(self.down(maps))
        return maps + nn.functional.gelu(self.look(maps))


class StyleNet(nn.Module):
    """Three stages; the statistics of each feed a two-layer head. Takes pictures of any size."""

    def __init__(self, widths: list[int], hidden: int, embedding_dim: int) -> None:
        super().__init__()
        channels = [3, *widths]
        self.stages = nn.ModuleList(StyleStage(channels[i], channels[i + 1]) for i in range(len(widths)))
        self.head = nn.Sequential(
            nn.LayerNorm(2 * sum(widths)),
            nn.Linear(2 * sum(widths), hidden),
            nn.GELU(),
            nn.Linear(hidden, embedding_dim),
        )

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        statistics, maps = [], pixels
        for stage in self.stages:
            maps = stage(maps)
            statistics.append(spread(maps))
        return self.head(torch.cat(statistics, dim=1))


class StyleEncoder(SavedEncoder):
    """Cosine of two embeddings is high for two pictures drawn alike."""

    def __init__(self, network: nn.Module, card: EncoderCard, config: dict[str, Any]) -> None:
        super().__init__(network, card)
        self.config = config

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network(pixels))

    def write_config(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, self.config)
