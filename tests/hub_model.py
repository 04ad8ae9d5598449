"""Folders as they come from the hub: SDXL's layout, file names and configuration values at the smallest widths.

The vocabulary is the beginning of CLIP's own (from open_clip; all of it takes a second to read), the end token is
called 2 as in the hub's files, weights are `*.fp16.safetensors` alone, adapters have the keys of the IP-Adapter
repository. All values are random.
"""

import gzip
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magic_insert.core.jsonl import read_json, write_json
from magic_insert.models.micro import ip_adapter_state

# Of the text encoders; the second's is that of the pooled text and of the bigG image encoder.
WIDTHS = (16, 24)
CROSS = sum(WIDTHS)
VIT_H = {"hidden_size": 20, "projection_dim": 16}
MERGES = 2000
VOCABULARY = 2 * 256 + MERGES + 2
SIZE = 64  # pixels that tests draw; the files say 1024 as the hub's do
START, END = "<|startoftext|>", "<|endoftext|>"
FILES = Path(__file__).parent / "hub"  # what the hub says word for word


class Hub(NamedTuple):
    """Folders of repositories: base model, inpainting model, IP-Adapters, ControlNet, and the mended VAE."""

    base: Path
    inpaint: Path
    adapter: Path
    controlnet: Path
    vae: Path

    def words(self, **changes: Any) -> list[str]:
        """Overrides that point `model=sdxl` to these folders, in float32 on a CPU, with `changes` to the group."""
        values = {
            "source": self.base,
            "revision": "null",
            "ip_adapter": self.adapter,
            "controlnet": self.controlnet,
            "image_size": SIZE,
            "device": "cpu",
            "dtype": "float32",
            **changes,
        }
        return ["model=sdxl", *(f"model.{name}={value}" for name, value in values.items())]


def build_hub(root: Path) -> Hub:
    """Writes every folder below `root`."""
    names = ("sdxl-base", "sdxl-inpainting", "IP-Adapter", "controlnet-canny", "sdxl-vae-fp16-fix")
    hub = Hub(*(root / name for name in names))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**_unet())
        _pipeline(hub.base)
        shutil.copytree(hub.base, hub.inpaint, copy_function=os.link)
        _network(hub.base / "unet", unet)
        _network(hub.inpaint / "unet", UNet2DConditionModel(**{**_unet(), "in_channels": 9}))
        _adapters(hub.adapter, unet)
        _network(hub.controlnet, ControlNetModel.from_unet(unet))
        _network(
            hub.vae, AutoencoderKL(**_vae(force_upcast=False)), file="diffusion_pytorch_model.safetensors"
        )
    index = read_json(FILES / "model_index.json")
    write_json(hub.base / "model_index.json", index)
    more = {"_class_name": "StableDiffusionXLInpaintPipeline", "requires_aesthetics_score": False}
    write_json(hub.inpaint / "model_index.json", {**index, **more})
    return hub


def _pipeline(folder: Path) -> None:
    """Everything of a pipeline but its UNet and its index."""
    write_json(folder / "scheduler" / "scheduler_config.json", read_json(FILES / "scheduler_config.json"))
    for name, pad in (("tokenizer", END), ("tokenizer_2", "!")):
        _tokenizer(folder / name, pad)
    first, second = CLIPTextModel(_text(second=False)), CLIPTextModelWithProjection(_text(second=True))
    _network(folder / "text_encoder", first, file="model.fp16.safetensors", prefix="text_model.")
    _network(folder / "text_encoder_2", second, file="model.fp16.safetensors", prefix="text_model.")
    _network(folder / "vae", AutoencoderKL(**_vae(force_upcast=True)))


def _network(
    folder: Path,
    network: nn.Module,
    *,
    file: str = "diffusion_pytorch_model.fp16.safetensors",
    prefix: str = "",
) -> None:
    """Weights in half precision and the configuration, as the hub keeps them.

    `prefix` stands before every name that begins with neither it nor a projection, as older transformers wrote it.
    """
    state = {
        name if not prefix or "projection" in name or name.startswith(prefix) else prefix + name: value
        for name, value in network.state_dict().items()
        if not name.endswith("position_ids")
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in state.items()}, folder / file, metadata={"format": "pt"})
    config: Any = network.config
    values = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    if prefix == "text_model.":
        values |= {"eos_token_id": 2, "torch_dtype": "float16", "transformers_version": "4.32.0.dev0"}
        values.pop("dtype", None)
    else:
        values.setdefault("_class_name", type(network).__name__)
    write_json(folder / "config.json", {k: v for k, v in values.items() if k != "_use_default_values"})


def _tokenizer(folder: Path, pad: str) -> None:
    """CLIP's vocabulary in the files of the slow tokenizer, without a `tokenizer.json`."""
    packed = (Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    listed = gzip.decompress(packed).decode()
    merges = [line for line in listed.split("\n")[1 : MERGES + 1] if line]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters)]
    words += ["".join(merge.split()) for merge in merges] + [START, END]
    assert len(words) == VOCABULARY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    values = read_json(FILES / "tokenizer_config.json") | {"pad_token": pad}
    write_json(folder / "tokenizer_config.json", values)
    special = {"bos_token": START, "eos_token": END, "pad_token": pad, "unk_token": END}
    write_json(folder / "special_tokens_map.json", special)


def _text(*, second: bool) -> CLIPTextConfig:
    width = WIDTHS[second]
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=3 if second else 2,
        num_attention_heads=4 if second else 2,
        hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
    )


def _unet() -> dict[str, Any]:
    return {
        "sample_size": 128,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 32, 64),
        "layers_per_block": 2,
        "cross_attention_dim": CROSS,
        "attention_head_dim": (2, 2, 4),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDTHS[1] + 6 * 8,
    }


def _vae(*, force_upcast: bool) -> dict[str, Any]:
    return {
        "block_out_channels": (32, 32, 32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": force_upcast,
    }


def _adapters(folder: Path, unet: Any) -> None:
    """The repository of adapters: one for each image encoder, and one that reads all tokens of ViT-H."""
    big = {"hidden_size": 32, "projection_dim": WIDTHS[1]}
    for place, sizes in (("sdxl_models/image_encoder", big), ("models/image_encoder", VIT_H)):
        config = CLIPVisionConfig(
            **sizes,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        encoder = CLIPVisionModelWithProjection(config)
        _network(folder / place, encoder, file="model.safetensors", prefix="vision_model.")
    home = folder / "sdxl_models"
    for name, width in (("ip-adapter_sdxl", WIDTHS[1]), ("ip-adapter_sdxl_vit-h", VIT_H["projection_dim"])):
        _save_adapter(home / f"{name}.safetensors", ip_adapter_state(unet, width))
    plus = {**ip_adapter_state(unet, WIDTHS[1]), "image_proj": _resampler(VIT_H["hidden_size"])}
    _save_adapter(home / "ip-adapter-plus_sdxl_vit-h.safetensors", plus)


def _save_adapter(path: Path, state: dict[str, dict[str, torch.Tensor]]) -> None:
    flat = {f"{part}.{name}": value for part, values in state.items() for name, value in values.items()}
    save_file({name: value.detach().half().contiguous() for name, value in flat.items()}, path)


def _resampler(width: int, inner: int = 64, layers: int = 4) -> dict[str, torch.Tensor]:
    """The projection of a `plus` adapter under its own names: latents that attend to CLIP's tokens."""
    draw = lambda *shape: 0.1 * torch.randn(shape)  # noqa: E731
    state = {"latents": draw(1, 4, inner)}
    shapes = {"proj_in": (inner, width), "proj_out": (CROSS, inner)}
    for name, shape in shapes.items():
        state |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
    state |= {"norm_out.weight": torch.ones(CROSS), "norm_out.bias": torch.zeros(CROSS)}
    for i in range(layers):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            state |= {
                f"layers.{i}.{norm}.weight": torch.ones(inner),
                f"layers.{i}.{norm}.bias": torch.zeros(inner),
            }
        state |= {
            f"layers.{i}.0.to_q.weight": draw(inner, inner),
            f"layers.{i}.0.to_kv.weight": draw(2 * inner, inner),
            f"layers.{i}.0.to_out.weight": draw(inner, inner),
            f"layers.{i}.1.1.weight": draw(4 * inner, inner),
            f"layers.{i}.1.3.weight": draw(inner, 4 * inner),
        }
    return state
