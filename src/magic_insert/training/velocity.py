"""What the parts of the foundation share: the text and size conditioning, and the denoising loss.

Shape letters: B batch, C latent channels, h w latent size, T tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn


def encode_ids(
    text_encoder: nn.Module, text_encoder_2: nn.Module, ids: Tensor, ids_2: Tensor
) -> tuple[Tensor, Tensor]:
    """SDXL's conditioning: second-to-last states of both encoders side by side (B T D), pooled text (B E)."""
    first = text_encoder(ids, output_hidden_states=True)
    second = text_encoder_2(ids_2, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def time_ids(batch: int, image_size: int, device: torch.device) -> Tensor:
    """SDXL's size conditioning: original size, crop corner, target size, for uncropped square pictures (B 6)."""
    return (
        torch.tensor([[image_size, image_size, 0, 0, image_size, image_size]], device=device)
        .repeat(batch, 1)
        .float()
    )


def velocity_loss(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    extra: Tensor | None = None,
    states: Tensor,
    added: dict[str, Any],
) -> Tensor:
    """Mean squared error of the predicted velocity (Salimans and Ho 2022, eq. 12), unweighted.

    Args:
        latents: clean, scaled latents, B C h w.
        extra: further input channels set beside the noisy latent, B K h w.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    inputs = noisy if extra is None else torch.cat([noisy, extra], dim=1)
    predicted = unet(
        inputs, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
    )[0]
    return (predicted.float() - target.float()).square().mean()
