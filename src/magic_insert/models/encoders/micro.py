"""The three micro encoders, trained by this project on the Toybox, which judge micro-scale pictures only.

clip: a small CLIP in open_clip's own format; its folder holds `open_clip_config.json`, `open_clip_model.safetensors`
and the tokenizer's files, so `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads it without this package.
identity: who is in the picture, whatever the drawing; the stand-in for the paper's DINO. A residual network of timm,
trained with identity labels, which the Toybox knows. style: how the picture is drawn, whatever is in it; the stand-in
for CSD. All convolutional: from three thousand subjects they learn shapes where transformers of this size did not.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from magic_insert.core.jsonl import read_object, write_json
from magic_insert.models.encoders import base

Module = TypeVar("Module", bound=nn.Module)
CONFIG_FILE = "config.json"
CLIP_CONFIG_FILE = "open_clip_config.json"
CONTEXT_LENGTH = 32
EMBEDDING_DIM = 128
TEXT_TEMPLATE = "a {}"
HALF = (0.5, 0.5, 0.5)
# In timm's own words: what `timm.create_model` takes. 0.6 M weights.
MICRO_RESNET: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": EMBEDDING_DIM,
    "model_args": {
        "layers": [1, 1, 1, 1], "channels": [32, 64, 96, 160], "stem_type": "deep", "stem_width": 16, "avg_down": True,
    },
}  # fmt: skip
MICRO_STYLE_NET: dict[str, Any] = {
    "widths": [32, 64, 128],
    "hidden": 128,
    "embedding_dim": EMBEDDING_DIM,
}  # 0.4 M


class Encoders(TypedDict):
    """The three encoders by role; evaluation asks each for embeddings and for its card."""

    clip: "ClipEncoder"
    identity: "IdentityEncoder"
    style: "StyleEncoder"


def load_encoders(folder: Path, device: torch.device | str = "cpu") -> Encoders:
    """The encoders saved in `folder`/clip, /identity and /style, in eval mode on `device`.

    Raises:
        UserError: a part is missing, or its weights are not those its card speaks of.
    """
    folder = Path(folder)
    return Encoders(
        clip=ClipEncoder.load(folder / "clip").to(device),
        identity=IdentityEncoder.load(folder / "identity").to(device),
        style=StyleEncoder.load(folder / "style").to(device),
    )


def check_encoders(folder: Path) -> None:
    """That `load_encoders` will find its files; raises as it does, builds no network."""
    for name, kind in (("clip", ClipEncoder), ("identity", IdentityEncoder), ("style", StyleEncoder)):
        kind.check(Path(folder) / name)


def new_clip(tokenizer_folder: Path, seed: int) -> "ClipEncoder":
    """An untrained micro CLIP over the vocabulary of the tokenizer in `tokenizer_folder`; 1.2 M weights."""
    import open_clip  # seconds, which a job without such a metric need not wait for

    tokenizer = open_clip.tokenizer.HFTokenizer(str(tokenizer_folder), context_length=CONTEXT_LENGTH)
    config = {
        "embed_dim": EMBEDDING_DIM,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 12, "head_width": 48},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH, "vocab_size": len(tokenizer.tokenizer), "width": 128, "heads": 4,
            "layers": 2, "mlp_ratio": 2.0, "pool_type": "eos", "eos_id": tokenizer.tokenizer.eos_token_id,
            "hf_tokenizer_name": ".",
        },
    }  # fmt: skip
    network = _seeded(seed, lambda: open_clip.CLIP(**config))
    return ClipEncoder(network, _card("clip", 64, TEXT_TEMPLATE), tokenizer, config).eval()


def new_identity(seed: int) -> "IdentityEncoder":
    """An untrained micro identity encoder."""
    return _seeded(seed, lambda: IdentityEncoder(_card("identity", 64), MICRO_RESNET))


def new_style(seed: int) -> "StyleEncoder":
    """An untrained micro style encoder."""
    return _seeded(seed, lambda: StyleEncoder(_card("style", 128), MICRO_STYLE_NET))


def _seeded(seed: int, build: "Callable[[], Module]") -> "Module":
    """A module with first weights that `seed` alone decides, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def _card(role: base.Role, size: int, text_template: str | None = None) -> base.EncoderCard:
    return base.EncoderCard(
        name=f"micro-{role}",
        role=role,
        weights=f"magic-insert/micro-{role}",
        weights_sha256="",
        resize=size,
        crop=size,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        text_template=text_template,
        embedding_dim=EMBEDDING_DIM,
        trained_on="nothing yet",
    )


class ClipEncoder(base.TextImageEncoder, base.SavedEncoder):
    """The micro CLIP, which knows how to save itself in open_clip's format."""

    weights_file = "open_clip_model.safetensors"

    def __init__(
        self, network: nn.Module, card: base.EncoderCard, tokenizer: Any, config: dict[str, Any]
    ) -> None:
        super().__init__(network, card, tokenizer)
        self.config = config

    def text_features(self, texts: list[str]) -> Float[Tensor, "T D"]:
        """As above; the padding behind the longest text is left out, which changes nothing: the tower is causal."""
        network, device = self.network, next(self.parameters()).device
        ids = self.tokenizer(texts).to(device)
        ends = (ids == network.text_eos_id).int().argmax(dim=1)
        length = int(ends.max()) + 1
        states = network.token_embedding(ids[:, :length]) + network.positional_embedding[:length]
        states = network.transformer(states, attn_mask=network.attn_mask[:length, :length])
        pooled = network.ln_final(states)[torch.arange(len(ids), device=device), ends]
        return base.unit(pooled @ network.text_projection)

    def write_config(self, folder: Path) -> None:
        preprocessing = {
            "mean": list(self.card.mean), "std": list(self.card.std), "interpolation": self.card.interpolation,
            "resize_mode": "shortest",
        }  # fmt: skip
        write_json(folder / CLIP_CONFIG_FILE, {"model_cfg": self.config, "preprocess_cfg": preprocessing})
        cast(Any, self.tokenizer).save_pretrained(str(folder))

    @classmethod
    def untrained(cls, folder: Path, card: base.EncoderCard) -> Any:
        config = read_object(Path(folder) / CLIP_CONFIG_FILE)["model_cfg"]
        import open_clip

        tokenizer = open_clip.tokenizer.HFTokenizer(
            str(folder), context_length=config["text_cfg"]["context_length"]
        )
        return cls(open_clip.CLIP(**config), card, tokenizer, config)


class ConfiguredEncoder(base.PlainEncoder, base.SavedEncoder):
    """An encoder whose network follows from a small JSON configuration."""

    def __init__(self, card: base.EncoderCard, config: dict[str, Any]) -> None:
        super().__init__(self.build(config), card)
        self.config = config

    @staticmethod
    @abstractmethod
    def build(config: dict[str, Any]) -> nn.Module:
        """The untrained network."""

    def write_config(self, folder: Path) -> None:
        write_json(folder / CONFIG_FILE, self.config)

    @classmethod
    def untrained(cls, folder: Path, card: base.EncoderCard) -> Any:
        return cls(card, read_object(Path(folder) / CONFIG_FILE))


class IdentityEncoder(ConfiguredEncoder):
    """Cosine of two embeddings is high for two drawings of one subject, in any pose and style."""

    @staticmethod
    def build(config: dict[str, Any]) -> nn.Module:
        """The network of a configuration in timm's format."""
        classes, options = config["num_classes"], config["model_args"]
        import timm

        return timm.create_model(config["architecture"], pretrained=False, num_classes=classes, **options)


class StyleEncoder(ConfiguredEncoder):
    """Cosine of two embeddings is high for two pictures drawn alike."""

    @staticmethod
    def build(config: dict[str, Any]) -> nn.Module:
        """A `StyleNet` of these settings."""
        return StyleNet(**config)


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
    """Three stages, of each only the channels' mean and spread over the picture; a two-layer head. Any picture size.

    Style is texture, line and tone, and statistics cannot tell where things are.
    """

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
            variance, mean = torch.var_mean(maps.float(), dim=(2, 3), correction=0)
            statistics += [mean, (variance + 1e-5).sqrt()]
        return self.head(torch.cat(statistics, dim=1))
