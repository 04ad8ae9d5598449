"""SDXL at full size with random weights, from its public configuration: what a step costs without a download.

3.5 billion numbers, made directly in the wanted precision: 7 GB in bfloat16. Pictures drawn with it are noise.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from magic_insert.models.micro import build_tokenizer, load_tokenizers

CONTEXT = 77
VOCABULARY = 49408
UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "projection_dim": 768, "hidden_act": "quick_gelu"}  # fmt: skip
TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
          "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def build_full_size(
    tokenizer_folder: Path, *, image_size: int = 1024, device: torch.device | str = "cpu", dtype: torch.dtype
) -> Any:
    """A StableDiffusionXLPipeline of SDXL's shape; its tokenizer is a small one that is written to a folder.

    Args:
        tokenizer_folder: where the tokenizer goes.
        image_size: side in pixels that it draws.
        device: where the weights are made.
        dtype: their precision.
    """
    build_tokenizer(tokenizer_folder, ["a photo of a cat, sitting"], context=CONTEXT)
    tokenizer, tokenizer_2 = load_tokenizers(tokenizer_folder)
    shared = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(**UNET),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT, **shared)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2, **shared)),
        }
    for seed, part in enumerate(parts.values()):
        fill(part.to(dtype).to_empty(device=device), seed)
        part.requires_grad_(False).eval()
    pipe = StableDiffusionXLPipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        add_watermarker=False,
    )
    pipe.default_sample_size = image_size // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def fill(network: nn.Module, seed: int) -> None:
    """Small random weights, norms at rest, and positions counted anew: `to_empty` leaves whatever memory held."""
    numbers = torch.Generator(device=next(network.parameters()).device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02, generator=numbers)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    for buffer in network.buffers():  # of all these networks only CLIP's positions
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))
