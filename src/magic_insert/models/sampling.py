"""From prompts and seeds to pictures: classifier-free guidance on the pipeline's own scheduler.

One loop serves every caller, and it differs from the stock pipeline in one thing only: every row of the batch has its
own seed and its own style, so a row does not depend on its neighbours. With the same seeds and one style the stock
pipeline draws the same pictures.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.models.controlnet import Structure
from magic_insert.models.latents import decode
from magic_insert.models.style import StyleEmbeds, blank_style, has_adapter


def time_ids(pipe: Any, size: int, count: int) -> Float[Tensor, "B 6"]:
    """SDXL's size conditioning: a picture of `size` pixels, not cropped, made for `size` pixels."""
    width = pipe.text_encoder_2.config.projection_dim
    ids = pipe._get_add_time_ids((size, size), (0, 0), (size, size), pipe.unet.dtype, width)
    return ids.to(pipe.device).repeat(count, 1)


def image_size(pipe: Any) -> int:
    """The side in pixels that the model was made for."""
    return int(pipe.default_sample_size * pipe.vae_scale_factor)


@dataclass(frozen=True)
class StyleContrast:
    """A push along what the base model says of two looks, when nobody tells it what is drawn.

    A LoRA that learned one picture speaks its look along with its shape, and the adapter has to speak against it. The
    base model without the LoRA has no such habit: at the same noisy latents the difference of its predictions for the
    wanted look and for the subject's own is the way from one to the other, and `weight` times it is added, as in
    composed guidance (Liu et al. 2022, equation 11, with a negated concept).

    `own`: the look to leave. `base`: inside its context the pipeline is the base model.
    """

    own: StyleEmbeds
    weight: float
    base: Callable[[], AbstractContextManager[None]]


@torch.no_grad()
def sample(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 30,
    guidance: float = 5.0,
    style: StyleEmbeds | None = None,
    negative_prompt: str | None = None,
    size: int | None = None,
    structure: Structure | None = None,
    contrast: StyleContrast | None = None,
    scheduler: Any = None,
    replace: Callable[[int, Tensor], Tensor] | None = None,
    progress: bool = False,
) -> Float[Tensor, "B 3 S S"]:
    """One picture per prompt, in [0, 1]; row i depends on prompt, seed and style i only (to float tolerance).

    Args:
        pipe: a StableDiffusionXLPipeline; learned tokens, LoRA and adapter scales are used as they are set.
        prompts: B texts.
        seeds: B numbers; the start noise of row i is `torch.Generator().manual_seed(seeds[i])`, as in diffusers.
        steps: denoising steps, at least 1.
        guidance: weight of classifier-free guidance; 1 or less switches it off.
        style: one style for all rows or B of them; None for no style.
        negative_prompt: the text to move away from; None leaves it to the model's own convention.
        size: side in pixels; the model's own by default.
        structure: edges to follow, one for all rows or B of them; None for none.
        contrast: a push from another look to `style`, at the price of a second prediction for two pictures a row; None
            for none. Needs `style`.
        scheduler: instead of the pipeline's own.
        replace: called with the number of steps done, from 0, and the latents BChw; what it returns goes on instead.
        progress: draw a bar on standard error.

    Raises:
        UserError: lengths disagree, steps below 1, or a contrast without a style.
    """
    if not prompts or len(prompts) != len(seeds):
        raise UserError(
            f"expected as many seeds as prompts and at least one, got {len(seeds)} and {len(prompts)}"
        )
    if steps < 1:
        raise UserError(f"expected at least 1 sampling step, got {steps}; set sampling.steps")
    if contrast is not None and style is None:
        raise UserError("expected a style for a contrast of looks, got none; set style.guidance=0")
    count, size, guided = len(prompts), size or image_size(pipe), guidance > 1
    text, no_text, pooled, no_pooled = pipe.encode_prompt(
        list(prompts), device=pipe.device, do_classifier_free_guidance=guided, negative_prompt=negative_prompt
    )
    added = {"text_embeds": pooled, "time_ids": time_ids(pipe, size, count)}
    if has_adapter(pipe):
        heard = (style or blank_style(pipe, 1)).expand(count)
        added["image_embeds"] = heard.positive
    elif style is not None:
        raise UserError("expected a model with an IP-Adapter for style from a picture; set style.mode=none")
    if guided:
        text, added["text_embeds"] = torch.cat([no_text, text]), torch.cat([no_pooled, pooled])
        added["time_ids"] = added["time_ids"].repeat(2, 1)
        if "image_embeds" in added:
            added["image_embeds"] = torch.cat([heard.negative, heard.positive])
    if "image_embeds" in added:
        added["image_embeds"] = [added["image_embeds"].to(pipe.device, pipe.unet.dtype)]
    push = None if contrast is None or style is None else _push(pipe, contrast, style.expand(count), size)

    # A scheduler remembers where it is; a copy keeps two calls apart.
    original = scheduler or pipe.scheduler
    scheduler = type(original).from_config(original.config)
    scheduler.set_timesteps(steps, device=pipe.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (1, pipe.unet.config.in_channels, size // pipe.vae_scale_factor, size // pipe.vae_scale_factor)
    noise = [torch.randn(shape, generator=g, dtype=pipe.unet.dtype) for g in generators]
    latents = torch.cat(noise).to(pipe.device) * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    times = track(
        scheduler.timesteps, "sampling", console=Console(stderr=True), disable=not progress, transient=True
    )
    followed = None if structure is None else structure.expand(count)
    for done, t in enumerate(times):
        if replace is not None:
            latents = replace(done, latents)
        inputs = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
        residuals = {} if followed is None else followed.residuals(inputs, t, text, added)
        predicted = pipe.unet(
            inputs, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False, **residuals
        )[0]
        if guided:
            without, with_text = predicted.chunk(2)
            predicted = without + guidance * (with_text - without)
        if push is not None:
            predicted = predicted + push(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(predicted, t, latents, return_dict=False, **extra)[0].to(pipe.unet.dtype)
    return decode(pipe.vae, latents.float())


def _push(
    pipe: Any, contrast: StyleContrast, wanted: StyleEmbeds, size: int
) -> Callable[[Float[Tensor, "B C h w"], Tensor], Float[Tensor, "B C h w"]]:
    """What `contrast` adds to the prediction for latents at a time; the base model is told the looks and no words."""
    count = len(wanted)
    looks = torch.cat([wanted.positive, contrast.own.expand(count).positive])
    with contrast.base():
        text, _, pooled, _ = pipe.encode_prompt(
            [""] * 2 * count, device=pipe.device, do_classifier_free_guidance=False
        )
    added = {
        "text_embeds": pooled,
        "time_ids": time_ids(pipe, size, 2 * count),
        "image_embeds": [looks.to(pipe.device, pipe.unet.dtype)],
    }

    def push(inputs: Tensor, t: Tensor) -> Tensor:
        with contrast.base():
            said = pipe.unet(
                torch.cat([inputs] * 2),
                t,
                encoder_hidden_states=text,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        toward, away = said.chunk(2)
        return contrast.weight * (toward - away)

    return push
