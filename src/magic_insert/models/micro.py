"""The micro model: Stable Diffusion XL's own format at a size a laptop CPU trains and runs.

Every part is a stock class of diffusers or transformers, written with `save_pretrained`, so that
`StableDiffusionXLPipeline.from_pretrained(folder)` loads it without any code of ours. Latents are
C x H/8 x W/8 (f8, C = 16 channels); prompts are 32 tokens; `up_blocks.0` carries three attentions as in SDXL.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magic_insert.core.jsonl import read_json, write_json
from magic_insert.models.edit_unet import ORDER, ORDER_KEY
from magic_insert.models.ip_adapter import adapter_state
from magic_insert.models.tensor_file import read_tensors

IP_ADAPTER_FILE = "ip_adapter_micro.safetensors"
MERGES = 1500  # of byte pairs that a tokenizer learns
IMAGE_TOKENS = 4  # length of the image prompt, as in the standard SDXL IP-Adapter
# The ControlNet's encoder of edges, one stage per halving of the picture (f8): a third of the usual widths.
EDGE_CHANNELS = (16, 24, 48, 64)
# The UNet attends to the text in its lower stages. Here no stage does: outlines need no words, and attention would be a
# third of the file.
CONTROLNET_BLOCKS = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}
CLASSES: dict[str, Any] = {
    "vae": diffusers.AutoencoderKL,
    "unet": diffusers.UNet2DConditionModel,
    "remover": diffusers.UNet2DConditionModel,
    "inserter": diffusers.UNet2DConditionModel,
    "controlnet": diffusers.ControlNetModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "image_encoder": CLIPVisionModelWithProjection,
}


@dataclass(frozen=True)
class MicroSizes:
    """Widths of every part; `MICRO` is shipped, `TINY` is for tests."""

    image_size: int = 128
    latent_channels: int = 16
    context: int = 32
    text_width: int = 96
    text2_width: int = 160
    text_layers: int = 3
    vision_width: int = 144
    vision_layers: int = 4
    vision_patch: int = 16
    embed_dim: int = 160  # shared space of text_encoder_2 and image_encoder
    vae_channels: tuple[int, ...] = (24, 48, 64, 96)
    unet_channels: tuple[int, ...] = (96, 128, 128)
    unet_layers: int = 2
    heads: int = 4
    groups: int = 8

    @property
    def cross_dim(self) -> int:
        return self.text_width + self.text2_width

    @property
    def latent_size(self) -> int:
        return self.image_size // 8


MICRO = MicroSizes()
TINY = MicroSizes(
    image_size=64,
    latent_channels=4,
    text_width=16,
    text2_width=24,
    text_layers=2,
    vision_width=16,
    vision_layers=1,
    embed_dim=24,
    vae_channels=(8, 8, 8, 8),
    unet_channels=(16, 16, 16),
    heads=2,
    groups=4,
)


def build_tokenizer(folder: Path, corpus: Iterable[str], *, context: int = 32) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer learned on `corpus`; any other text still splits into bytes.

    The vocabulary has CLIP's own order: 256 bytes, 256 word-final bytes, merges, start and end token.
    """
    scratch = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    scratch.normalizer = normalizers.Lowercase()
    scratch.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512 + MERGES,
        initial_alphabet=alphabet,
        # Among equally frequent pairs the lowest numbers win. The trainer would number the word-final bytes in the
        # order in which it meets them, and that is the random one of a hash map.
        special_tokens=[byte + "</w>" for byte in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    # Sorted, so that the same set of phrases gives the same file whatever the order they came in.
    scratch.train_from_iterator(sorted(corpus), trainer)
    learned = [tuple(pair) for pair in json.loads(scratch.to_str())["model"]["merges"]]
    words = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in learned)]
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*words, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=learned, model_max_length=context)
    tokenizer.save_pretrained(folder)
    return tokenizer


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """SDXL's two tokenizers over one vocabulary: the first pads with the end token, the second with `!`."""
    return CLIPTokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder, pad_token="!")


def build_text_encoder(sizes: MicroSizes, tokenizer: CLIPTokenizer, *, second: bool) -> Any:
    """The first encoder (states only) or the second (states and the pooled projection)."""
    width = sizes.text2_width if second else sizes.text_width
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=sizes.embed_dim,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.heads,
        max_position_embeddings=sizes.context,
        hidden_act="gelu" if second else "quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if second else CLIPTextModel(config)


def build_image_encoder(sizes: MicroSizes) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=4 * sizes.vision_width,
            projection_dim=sizes.embed_dim,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.heads,
            image_size=sizes.image_size,
            patch_size=sizes.vision_patch,
            hidden_act="gelu",
        )
    )


def build_vae(sizes: MicroSizes) -> diffusers.AutoencoderKL:
    vae = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=sizes.latent_channels,
        block_out_channels=sizes.vae_channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae_channels),
        norm_num_groups=sizes.groups,
        sample_size=sizes.image_size,
        force_upcast=False,
    )
    # The posterior starts narrow (std e^-2.5): at the usual std of 1 a short training drowns in its own noise
    # (measured: 16 dB after 700 steps and no further).
    with torch.no_grad():
        vae.quant_conv.weight[sizes.latent_channels :].zero_()
        vae.quant_conv.bias[sizes.latent_channels :].fill_(-5.0)
    return vae


def build_unet(sizes: MicroSizes, *, in_channels: int | None = None) -> diffusers.UNet2DConditionModel:
    """The denoiser; `in_channels` = 2C + 1 makes it a remover or inserter (ObjectDrop, section 4)."""
    time_dim = 32
    return diffusers.UNet2DConditionModel(
        sample_size=sizes.latent_size,
        in_channels=in_channels or sizes.latent_channels,
        out_channels=sizes.latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=sizes.unet_channels,
        layers_per_block=sizes.unet_layers,
        cross_attention_dim=sizes.cross_dim,
        attention_head_dim=sizes.heads,
        transformer_layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        projection_class_embeddings_input_dim=sizes.embed_dim + 6 * time_dim,
        norm_num_groups=sizes.groups,
    )


def build_scheduler() -> diffusers.DDIMScheduler:
    """v-prediction on a schedule that ends in pure noise, so that the sampler starts where training ended."""
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def save_pipeline(folder: Path, sizes: MicroSizes, parts: Mapping[str, Any]) -> None:
    """Write the `parts`, by their names in a pipeline, as one SDXL folder, with diffusers' own writer."""
    edge = sizes.image_size
    diffusers.StableDiffusionXLPipeline(
        **parts,
        scheduler=build_scheduler(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge}
        ),
        add_watermarker=False,
        force_zeros_for_empty_prompt=False,
    ).save_pretrained(folder)


def build_controlnet(unet: diffusers.UNet2DConditionModel) -> diffusers.ControlNetModel:
    """A ControlNet that starts as the encoder half of `unet` and, by its zero convolutions, changes nothing yet.

    Args:
        unet: a micro UNet, with or without an adapter loaded.
    """
    config: dict[str, Any] = dict(
        diffusers.ControlNetModel.from_unet(
            diffusers.UNet2DConditionModel.from_config({**unet.config, "encoder_hid_dim_type": None}),
            conditioning_embedding_out_channels=EDGE_CHANNELS,
            load_weights_from_unet=False,
        ).config
    )
    network: diffusers.ControlNetModel = diffusers.ControlNetModel.from_config(
        {**config, **CONTROLNET_BLOCKS}
    )
    own = network.state_dict()
    shared = {key: value for key, value in unet.state_dict().items() if key in own}
    network.load_state_dict({**own, **shared})
    # Two layers of zeros in a row learn nothing until the outer one has moved. The outer ones alone keep the start
    # silent, so the edges may enter at once.
    network.controlnet_cond_embedding.conv_out.reset_parameters()
    return network


def ip_adapter_state(unet: diffusers.UNet2DConditionModel, embed_dim: int) -> dict[str, dict[str, Tensor]]:
    """A fresh image-prompt adapter for `unet` in the standard layout; its values start small."""
    cross = unet.config["cross_attention_dim"]
    projection = nn.ModuleDict(
        {"proj": nn.Linear(embed_dim, IMAGE_TOKENS * cross), "norm": nn.LayerNorm(cross)}
    )
    state: dict[str, dict[str, Tensor]] = {"image_proj": projection.state_dict(), "ip_adapter": {}}
    for key_id, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for ours, theirs in (("to_k_ip", attention.to_k), ("to_v_ip", attention.to_v)):
                # Keys start as the text keys, values near zero: the adapter begins as a whisper, not as noise.
                weight = theirs.weight.detach().clone()
                state["ip_adapter"][f"{key_id}.{ours}.weight"] = weight * (0.1 if ours == "to_v_ip" else 1.0)
    return state


def collect_ip_adapter(unet: diffusers.UNet2DConditionModel) -> dict[str, Tensor]:
    """The adapter loaded in `unet`, flattened to the keys of the standard IP-Adapter file."""
    projection = unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    flat = {f"image_proj.{k.replace('image_embeds', 'proj')}": v for k, v in projection.items()}
    for key_id, (name, processor) in enumerate(unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            flat[f"ip_adapter.{key_id}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            flat[f"ip_adapter.{key_id}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {key: value.detach().clone().contiguous() for key, value in flat.items()}


def save_ip_adapter(folder: Path, flat: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    path = folder / "ip_adapter" / IP_ADAPTER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to("cpu", dtype).contiguous() for k, v in flat.items()}, path)
    return path


def load_part(folder: Path, name: str) -> Any:
    """The network `name` saved in `folder`, float32 on the CPU."""
    kind = CLASSES[name]
    dtype = "torch_dtype" if issubclass(kind, diffusers.ModelMixin) else "dtype"
    return kind.from_pretrained(folder, **{dtype: torch.float32})


def new_adapter(unet: diffusers.UNet2DConditionModel, embed_dim: int) -> None:
    """Loads a fresh IP-Adapter into `unet`, ready to be trained."""
    unet._load_ip_adapter_weights([ip_adapter_state(unet, embed_dim)], low_cpu_mem_usage=False)


def load_adapter(unet: diffusers.UNet2DConditionModel, folder: Path) -> None:
    """Loads the adapter published in `folder` into `unet`, float32, ready to be trained on."""
    stored = adapter_state(_adapter_file(folder))
    state = {part: {name: value.float() for name, value in own.items()} for part, own in stored.items()}
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)


def _adapter_file(folder: Path) -> Path:
    return next((folder / "ip_adapter").glob("*.safetensors"))


def assemble_micro(folder: Path, parts: Path, tokenizer: Any, tokenizer_2: Any, sizes: MicroSizes) -> None:
    """Write the trained parts below `parts` as one SDXL folder in float16, its additions beside the pipeline."""
    half = torch.float16
    homes = {
        "vae": "vae", "text_encoder": "clip", "text_encoder_2": "clip", "image_encoder": "clip", "unet": "generator",
    }  # fmt: skip
    networks = {name: load_part(parts / home / name, name).to(half) for name, home in homes.items()}
    save_pipeline(folder, sizes, {**networks, "tokenizer": tokenizer, "tokenizer_2": tokenizer_2})
    save_ip_adapter(folder, read_tensors(_adapter_file(parts / "generator")).tensors, half)
    for name in ("controlnet", "remover", "inserter"):
        load_part(parts / name / name, name).to(half).save_pretrained(folder / name)
    for path in folder.rglob("config.json"):
        config = read_json(path)
        if path.parent.name in ("remover", "inserter"):
            config[ORDER_KEY] = ORDER
        # diffusers notes where a part was loaded from: a place on the machine that trained it, no business of others.
        config.pop("_name_or_path", None)
        # Stored in half, meant for float32: transformers would keep the stored type where diffusers does not, and a
        # pipeline of mixed types cannot run.
        if "dtype" in config:
            config["dtype"] = "float32"
        write_json(path, config)
