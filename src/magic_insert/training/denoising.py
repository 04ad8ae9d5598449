"""The denoising loss on cached latents: what one step trains on, and what the model should say about it.

Nothing here knows a pipeline. Every random number of step k is a function of (seed, k).

Shape letters: B batch, V views, C x h x w latents.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.data.subject_images import Views
from magic_insert.models.latents import encode


@dataclass(frozen=True)
class CachedViews:
    """Latents of the training views and the weight of every latent pixel in the loss (mean 1 per view)."""

    latents: Float[Tensor, "V C h w"]
    weights: Float[Tensor, "V 1 h w"]


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step."""

    views: Int[Tensor, " B"]
    times: Int[Tensor, " B"]
    noise: Float[Tensor, "B C h w"]


def cache_views(vae: Any, views: Views, *, mask_loss: bool) -> CachedViews:
    """Encodes every view once; with `mask_loss` the ground does not count in the loss."""
    latents = encode(vae, views.rgb).cpu()
    weights = torch.ones_like(latents[:, :1])
    if mask_loss:
        inside = functional.adaptive_max_pool2d(views.alpha, latents.shape[-2:])
        weights = inside / inside.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return CachedViews(latents, weights)


def draw(seed: int, step: int, cache: CachedViews, batch: int, num_times: int) -> Draw:
    """What step `step` trains on: independent of every other step."""
    numbers = generator(seed, "personalize", step)
    count, *shape = cache.latents.shape
    return Draw(
        views=torch.randint(count, (batch,), generator=numbers),
        times=torch.randint(num_times, (batch,), generator=numbers),
        noise=torch.randn(batch, *shape, generator=numbers),
    )


def diffuse(
    clean: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    kept: Float[Tensor, " B"],
    prediction: str,
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """The noisy latents and what the model should say about them; `kept` is the share of signal power left.

    Prediction types are the scheduler's: epsilon (Ho et al. 2020), v_prediction (Salimans and Ho 2022), sample.

    Raises:
        UserError: another prediction type.
    """
    signal, spread = kept.sqrt().view(-1, 1, 1, 1), (1 - kept).sqrt().view(-1, 1, 1, 1)
    noisy = signal * clean + spread * noise
    if prediction == "epsilon":
        return noisy, noise
    if prediction == "v_prediction":
        return noisy, signal * noise - spread * clean
    if prediction == "sample":
        return noisy, clean
    raise UserError(f"expected a scheduler that predicts epsilon, v_prediction or sample, got {prediction!r}")


def min_snr_weight(kept: Float[Tensor, " B"], gamma: float, prediction: str) -> Float[Tensor, " B"]:
    """Loss weights that cap the signal-to-noise ratio at `gamma` (Hang et al. 2023), for each prediction type."""
    snr = kept / (1 - kept).clamp(min=1e-8)
    capped = snr.clamp(max=gamma)
    if prediction == "epsilon":
        return capped / snr.clamp(min=1e-8)
    return capped / (snr + 1) if prediction == "v_prediction" else capped
