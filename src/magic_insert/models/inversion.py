"""From a picture back to the noise it could have been drawn from: DDIM inversion (Song et al. 2021, section 4.3).

Shape letters: B pictures, K steps, C h w latents.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from magic_insert.models.latents import encode
from magic_insert.models.quiet import quiet
from magic_insert.models.sampling import time_ids
from magic_insert.models.style import blank_style, has_adapter


def ddim(pipe: Any) -> DDIMScheduler:
    """A deterministic scheduler on the model's own noise schedule."""
    with quiet():
        return DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)


def clean_and_noise(
    latents: Tensor, predicted: Tensor, kept: Tensor, prediction: str
) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise that a prediction at noise level `kept` (alpha bar) stands for."""
    a, s = kept.sqrt(), (1 - kept).sqrt()
    if prediction == "v_prediction":
        return a * latents - s * predicted, a * predicted + s * latents
    if prediction == "sample":
        return predicted, (latents - a * predicted) / s
    return (latents - s * predicted) / a, predicted


@torch.no_grad()
def invert(
    pipe: Any, images: Float[Tensor, "B 3 S S"], prompts: Sequence[str], *, steps: int
) -> Float[Tensor, "K B C h w"]:
    """The latents with which each of the `steps` steps of `ddim(pipe)` begins, the noisiest first.

    Without guidance: the step back is only small where the model is asked what it believes itself.

    Args:
        images: pictures in [0, 1] of the model's size.
        prompts: what they show.
    """
    scheduler = ddim(pipe)
    scheduler.set_timesteps(steps, device=pipe.device)
    text, _, pooled, _ = pipe.encode_prompt(
        list(prompts), device=pipe.device, do_classifier_free_guidance=False
    )
    added: dict[str, Any] = {
        "text_embeds": pooled,
        "time_ids": time_ids(pipe, images.shape[-1], len(images)),
    }
    if has_adapter(pipe):
        added["image_embeds"] = [blank_style(pipe, len(images)).positive]
    levels = scheduler.timesteps.flip(0)
    kept = scheduler.alphas_cumprod.to(pipe.device)
    latents = encode(pipe.vae, images)
    trail = []
    # A clean picture is taken for one at the first level of noise, which the eye cannot see.
    for here, there in zip([torch.zeros_like(levels[0]), *levels[:-1]], levels, strict=True):
        predicted = pipe.unet(
            latents.to(pipe.unet.dtype),
            here,
            encoder_hidden_states=text,
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        clean, noise = clean_and_noise(latents, predicted, kept[here], scheduler.config["prediction_type"])
        latents = kept[there].sqrt() * clean + (1 - kept[there]).sqrt() * noise
        trail.append(latents)
    return torch.stack(trail[::-1])
