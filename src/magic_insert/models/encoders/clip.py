"""A small CLIP in open_clip's own format: image and text towers with one embedding space.

The folder holds `open_clip_config.json`, `open_clip_model.safetensors` and the tokenizer's files, so that
`open_clip.create_model_and_transforms("local-dir:FOLDER")` loads it without this package.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn

from magic_insert.core.jsonl import write_json
from magic_insert.models.encoders.base import (
    HALF,
    MetricEncoder,
    SavedEncoder,
    read_card,
    read_config,
    read_weights,
    unit,
)
from magic_insert.models.encoders.card import EncoderCard

CONFIG_FILE = "open_clip_config.json"
IMAGE_SIZE = 64
CONTEXT_LENGTH = 32
EMBEDDING_DIM = 128
TEXT_TEMPLATE = "a {}"


def micro_clip_config(vocab_size: int, eos_id: int) -> dict[str, Any]:
    """open_clip's `model_cfg` of the micro CLIP: a small residual network on 64 pixels, 2 text layers, 1.2 M weights.

    Convolutions learn shapes from three thousand subjects where a transformer of this size did not: with 450 steps the
    latter named one held-out subject in eight.
    """
    return {
        "embed_dim": EMBEDDING_DIM,
        "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 2, 2, 1], "width": 12, "head_width": 48},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH, "vocab_size": vocab_size, "width": 128, "heads": 4, "layers": 2,
            "mlp_ratio": 2.0, "pool_type": "eos", "eos_id": eos_id, "hf_tokenizer_name": ".",
        },
    }  # fmt: skip


def new_clip(tokenizer_folder: Path, seed: int) -> "ClipEncoder":
    """An untrained micro CLIP over the vocabulary of the Hugging Face tokenizer in `tokenizer_folder`."""
    tokenizer = HFTokenizer(str(tokenizer_folder), context_length=CONTEXT_LENGTH)
    config = micro_clip_config(len(tokenizer.tokenizer), tokenizer.tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.CLIP(**config)
    card = EncoderCard(
        name="micro-clip",
        role="clip",
        weights="magic-insert/micro-clip",
        weights_sha256="",
        resize=IMAGE_SIZE,
        crop=IMAGE_SIZE,
        interpolation="bicubic",
        mean=HALF,
        std=HALF,
        text_template=TEXT_TEMPLATE,
        embedding_dim=EMBEDDING_DIM,
        trained_on="nothing yet",
    )
    return ClipEncoder(network.eval(), card, tokenizer, config)


def load_clip(folder: Path) -> "ClipEncoder":
    """The micro CLIP saved in `folder`, on the CPU in eval mode."""
    card = read_card(folder, ClipEncoder.weights_file)
    config = read_config(folder / CONFIG_FILE)["model_cfg"]
    network = open_clip.CLIP(**config)
    read_weights(network, folder, ClipEncoder.weights_file)
    tokenizer = HFTokenizer(str(folder), context_length=config["text_cfg"]["context_length"])
    return ClipEncoder(network, card, tokenizer, config).eval()


class TextImageEncoder(MetricEncoder):
    """Image and text towers of open_clip with one embedding space: CLIP-I, CLIP-T, retrieval, recognition."""

    def __init__(self, network: nn.Module, card: EncoderCard, tokenizer: Callable[..., Tensor]) -> None:
        super().__init__(network, card)
        self.tokenizer = tokenizer

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network.encode_image(pixels))

    def text_features(self, texts: list[str]) -> Float[Tensor, "T D"]:
        """Unit-length text embeddings with gradients; texts past the context (micro 32, OpenAI 77) are truncated."""
        device = next(self.parameters()).device
        return unit(self.network.encode_text(self.tokenizer(texts).to(device)))

    @torch.no_grad()
    def embed_texts(self, texts: list[str], chunk: int = 256) -> Float[Tensor, "T D"]:
        """Unit-length embeddings of texts exactly as given; `prompts` applies the card's template."""
        assert not self.training, "a metric encoder is evaluated in eval mode"
        parts = [self.text_features(texts[i : i + chunk]) for i in range(0, len(texts), chunk)]
        return torch.cat(parts).float()

    def prompts(self, names: list[str]) -> list[str]:
        """The card's text template filled with each name: `bunny` becomes `a bunny`."""
        assert self.card.text_template is not None
        return [self.card.text_template.format(name) for name in names]


class ClipEncoder(TextImageEncoder, SavedEncoder):
    """The micro CLIP, which knows how to save itself in open_clip's format."""

    weights_file = "open_clip_model.safetensors"

    def __init__(
        self, network: nn.Module, card: EncoderCard, tokenizer: HFTokenizer, config: dict[str, Any]
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
        return unit(pooled @ network.text_projection)

    def write_config(self, folder: Path) -> None:
        preprocessing = {
            "mean": list(self.card.mean), "std": list(self.card.std), "interpolation": self.card.interpolation,
            "resize_mode": "shortest",
        }  # fmt: skip
        write_json(folder / CONFIG_FILE, {"model_cfg": self.config, "preprocess_cfg": preprocessing})
        assert isinstance(self.tokenizer, HFTokenizer)
        self.tokenizer.save_pretrained(str(folder))
