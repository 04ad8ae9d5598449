"""From prompts and seeds to pictures: a denoiser, wrapped by features, on the pipeline's own scheduler.

A denoiser maps latents at a time to the model's prediction. `network` is the UNet under fixed conditions and outlines;
`guided`, `pushed` and `handed_over` wrap one denoiser into another, so a feature is a function and the loop knows none
of them. Every row of the batch has its own seed and its own style and does not depend on its neighbours; with the same
seeds and one style the stock pipeline draws the same pictures.

Shape letters: B pictures, N rows of a UNet call (2B with guidance), C h w latents.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.models.controlnet import Structure
from magic_insert.models.pipeline import decode
from magic_insert.models.style import StyleEmbeds, blank_style, has_adapter

# (latents as the scheduler scales them, their time, steps done before) -> prediction.
Denoiser = Callable[[Tensor, Tensor, int], Tensor]
BaseModel = Callable[[], AbstractContextManager[None]]  # inside its context the pipeline is the base model


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
    """A push along the difference of the base model's predictions for two looks, under an empty prompt.

    A LoRA that learned one picture carries its look along with its shape, against which the adapter has to act. The
    base model has no such bias: at the same noisy latents the difference of its predictions for the wanted look and for
    the subject's own is the way from one to the other, and `weight` times it is added, as in composed guidance (Liu et
    al. 2022, equation 11, with a negated concept).

    `own`: the look to leave.
    """

    own: StyleEmbeds
    weight: float
    base: BaseModel


@dataclass(frozen=True)
class Handover:
    """After `share` of the steps the personalised denoiser gives way to the base model, under the same conditions.

    Early steps draw layout and identity, late steps line and texture, and a LoRA that learned one photograph draws its
    texture too. At 1 the personalised model does all steps (Magic Insert, arXiv 2407.02489), at 0 none.
    """

    share: float
    base: BaseModel


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
    handover: Handover | None = None,
    scheduler: Any = None,
    replace: Callable[[int, Tensor], Tensor] | None = None,
    on_step: Callable[[int], None] = lambda done: None,
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
        handover: the share of the steps after which the base model goes on, without a `contrast`; None for never.
        scheduler: instead of the pipeline's own.
        replace: called with the number of steps done, from 0, and the latents BChw; what it returns goes on instead.
        on_step: called with the number of steps done.

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
    count, size = len(prompts), size or image_size(pipe)
    followed = None if structure is None else structure.expand(count)

    def denoiser() -> Denoiser:
        """The pipeline as it is now."""
        conditions = conditions_of(
            pipe, prompts, size, style=style, guided=guidance > 1, negative_prompt=negative_prompt
        )
        return guided(network(pipe, conditions, followed), guidance)

    denoise = denoiser()
    if contrast is not None and style is not None:
        denoise = pushed(denoise, pipe, contrast, style.expand(count), size)
    if handover is not None and handover.share < 1:
        with handover.base():
            base = denoiser()
        denoise = handed_over(denoise, inside(handover.base, base), round(handover.share * steps))

    return decode(
        pipe.vae, _solved(pipe, denoise, scheduler or pipe.scheduler, seeds, steps, size, replace, on_step)
    )


def _solved(
    pipe: Any,
    denoise: Denoiser,
    scheduler: Any,
    seeds: Sequence[int],
    steps: int,
    size: int,
    replace: Callable[[int, Tensor], Tensor] | None,
    on_step: Callable[[int], None],
) -> Float[Tensor, "B C h w"]:
    """The latents that `denoise` leads to from the noise of `seeds`."""
    # A scheduler remembers where it is; a copy keeps two calls apart.
    scheduler = type(scheduler).from_config(scheduler.config)
    scheduler.set_timesteps(steps, device=pipe.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (1, pipe.unet.config.in_channels, size // pipe.vae_scale_factor, size // pipe.vae_scale_factor)
    noise = [torch.randn(shape, generator=g, dtype=pipe.unet.dtype) for g in generators]
    latents = torch.cat(noise).to(pipe.device) * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for done, t in enumerate(scheduler.timesteps):
        if replace is not None:
            latents = replace(done, latents)
        predicted = denoise(scheduler.scale_model_input(latents, t), t, done)
        latents = scheduler.step(predicted, t, latents, return_dict=False, **extra)[0].to(pipe.unet.dtype)
        on_step(done + 1)
    return latents.float()


@dataclass(frozen=True)
class Conditions:
    """What the UNet is given besides the latents: token states N T D, and SDXL's added conditions."""

    states: Tensor
    added: dict[str, Any]


def conditions_of(
    pipe: Any,
    prompts: Sequence[str],
    size: int,
    *,
    style: StyleEmbeds | None = None,
    guided: bool = False,
    negative_prompt: str | None = None,
) -> Conditions:
    """The conditions of `prompts` and `style`; with `guided` the rows without prompt and style stand before them.

    Raises:
        UserError: a style, and the model has no adapter.
    """
    count = len(prompts)
    text, no_text, pooled, no_pooled = pipe.encode_prompt(
        list(prompts), device=pipe.device, do_classifier_free_guidance=guided, negative_prompt=negative_prompt
    )
    added: dict[str, Any] = {"text_embeds": pooled, "time_ids": time_ids(pipe, size, count)}
    if guided:
        text, added["text_embeds"] = torch.cat([no_text, text]), torch.cat([no_pooled, pooled])
        added["time_ids"] = added["time_ids"].repeat(2, 1)
    if has_adapter(pipe):
        given = (style or blank_style(pipe, 1)).expand(count)
        images = torch.cat([given.negative, given.positive]) if guided else given.positive
        added["image_embeds"] = [images.to(pipe.device, pipe.unet.dtype)]
    elif style is not None:
        raise UserError("expected a model with an IP-Adapter for style from a picture; set style.mode=none")
    return Conditions(text, added)


def network(pipe: Any, conditions: Conditions, structure: Structure | None = None) -> Denoiser:
    """The UNet as the pipeline holds it; with a `structure` its ControlNet steers it. One row per condition."""

    def denoise(latents: Tensor, t: Tensor, done: int) -> Tensor:
        residuals = {}
        if structure is not None:
            residuals = structure.residuals(latents, t, conditions.states, conditions.added)
        return pipe.unet(
            latents,
            t,
            encoder_hidden_states=conditions.states,
            added_cond_kwargs=conditions.added,
            return_dict=False,
            **residuals,
        )[0]

    return denoise


def guided(denoise: Denoiser, weight: float) -> Denoiser:
    """Classifier-free guidance (Ho and Salimans 2022) over a denoiser of 2B rows, those without a prompt first.

    At a `weight` of 1 or less `denoise` is returned as it is, for conditions of B rows.
    """
    if weight <= 1:
        return denoise

    def combined(latents: Tensor, t: Tensor, done: int) -> Tensor:
        without, with_text = denoise(torch.cat([latents] * 2), t, done).chunk(2)
        return without + weight * (with_text - without)

    return combined


def pushed(denoise: Denoiser, pipe: Any, contrast: StyleContrast, wanted: StyleEmbeds, size: int) -> Denoiser:
    """`denoise` plus the push of `contrast` from its own look to the `wanted` ones."""
    count = len(wanted)
    looks = torch.cat([wanted.positive, contrast.own.expand(count).positive])
    with contrast.base():
        conditions = conditions_of(pipe, [""] * 2 * count, size, style=StyleEmbeds(looks, looks))
    base = inside(contrast.base, network(pipe, conditions))

    def combined(latents: Tensor, t: Tensor, done: int) -> Tensor:
        predicted = denoise(latents, t, done)
        toward, away = base(torch.cat([latents] * 2), t, done).chunk(2)
        return predicted + contrast.weight * (toward - away)

    return combined


def handed_over(first: Denoiser, second: Denoiser, after: int) -> Denoiser:
    """`first` for `after` steps, then `second`."""
    return lambda latents, t, done: (first if done < after else second)(latents, t, done)


def inside(base: BaseModel, denoise: Denoiser) -> Denoiser:
    """`denoise` with the pipeline as it is in the context of `base`."""

    def run(latents: Tensor, t: Tensor, done: int) -> Tensor:
        with base():
            return denoise(latents, t, done)

    return run
