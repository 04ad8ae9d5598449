"""SDXL at full size with random weights, from its public configuration: what a step costs without a download.

3.5 billion numbers, made directly in the wanted precision: 7 GB in bfloat16. Pictures drawn with it are noise.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from magic_insert.models.memory_plan import CONTEXT, TEXT, TEXT_2, UNET, VAE, WORDS
from magic_insert.models.micro import build_tokenizer, load_tokenizers

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
        **WORDS,
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
