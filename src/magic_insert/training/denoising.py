"""The denoising loss on cached latents: what one step trains on, and what the model should say about it.

Nothing here knows a pipeline. Every random number of row k of the training is a function of (seed, k).

Shape letters: B batch, V views, C x h x w latents.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.training.view_cache import CachedViews


@dataclass(frozen=True)
class Draw:
    """The random numbers of one step."""

    views: Int[Tensor, " B"]
    times: Int[Tensor, " B"]
    noise: Float[Tensor, "B C h w"]


def draw(
    seed: int,
    step: int,
    cache: CachedViews,
    batch: int,
    num_times: int,
    *,
    stream: str = "personalize",
    noise_offset: float = 0.0,
) -> Draw:
    """What micro-batch `step` trains on: its rows are numbers `step * batch` and on, each a function of its number.

    So n micro-batches of one row are one batch of n rows, and a resumed run needs nothing but the step.

    Args:
        seed: root of the draws.
        step: number of the micro-batch, from 0.
        cache: the views to draw from.
        batch: rows B.
        num_times: number of the scheduler's training times.
        stream: name of the draws; another name gives other numbers.
        noise_offset: strength of a noise that is the same all over each channel, so that very dark and very bright
            pictures can be learned (Guttenberg 2023).
    """
    count, *shape = cache.latents.shape
    views, times, noise = [], [], []
    for row in range(step * batch, (step + 1) * batch):
        numbers = generator(seed, stream, row)
        views.append(torch.randint(count, (1,), generator=numbers))
        times.append(torch.randint(num_times, (1,), generator=numbers))
        drawn = torch.randn(1, *shape, generator=numbers)
        if noise_offset:
            drawn = drawn + noise_offset * torch.randn(1, shape[0], 1, 1, generator=numbers)
        noise.append(drawn)
    return Draw(torch.cat(views), torch.cat(times), torch.cat(noise))


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
