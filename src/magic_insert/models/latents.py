"""Pictures to latents and back, in the units the denoiser works in.

Shape letters: B pictures of 3HW in [0, 1]; latents B x C x h x w with h = H / 8 for SDXL's and the micro VAE.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def _units(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's raw latents per channel, from its card."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return like.new_zeros(1), like.new_full((1,), 1 / vae.config.scaling_factor)
    shape = (1, -1, 1, 1)
    return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape) / vae.config.scaling_factor


@torch.no_grad()
def encode(vae: Any, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """The mode of the VAE's posterior: no random number, so a cached latent is the latent."""
    raw = vae.encode((2 * images - 1).to(vae.device, vae.dtype)).latent_dist.mode().float()
    mean, std = _units(vae, raw)
    return (raw - mean) / std


@torch.no_grad()
def decode(vae: Any, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """The pictures of `latents`, clamped to [0, 1], float32."""
    mean, std = _units(vae, latents)
    images = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()
    return (images / 2 + 0.5).clamp(0, 1)
