"""From prompts and seeds to pictures: a denoiser, wrapped by features, on the pipeline's own scheduler.

A denoiser maps latents at a time to the model's prediction. `network` is the UNet under fixed conditions and outlines;
`guided`, `style_guided` and `handed_over` wrap one denoiser into another, so a feature is a function and the loop knows
none of them. Every row of the batch has its own seed and its own style and does not depend on its neighbours; with the
same seeds and one style the stock pipeline draws the same pictures.

Structure comes from a picture's outlines, by a Canny ControlNet beside the UNet (Zhang et al. 2023, section 3): a stock
`ControlNetModel` in the folder `controlnet` of a model, or on the hub. At strength 0, or without a structure, it is not
asked at all: that is exactly the model without it.

Shape letters: B pictures, N rows of a UNet call (2B with guidance), C h w latents, S side of the model's square.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.images import to_pil
from magic_insert.models.hub import UNREACHABLE, Place
from magic_insert.models.ip_adapter import StyleEmbeds, blank_style, has_adapter, require_adapter
from magic_insert.models.pipeline import decode, quiet, require_drawing, size_ids
from magic_insert.models.tensor_file import DAMAGED, verify_folder

CANNY = (50, 200)  # thresholds of InstantStyle's own script, in grey levels of 8 bits
WHOLE_FILE, HALF_FILE = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SCALE = 0.6  # conditioning strength of InstantStyle's own script
SAMPLE_BATCH = 4  # samples of a training that are drawn together at most
TOGETHER = 8  # pictures of up to 256 pixels that are drawn together; fewer of larger ones, whose memory grows with them


def canny_edges(picture: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """The outlines of a picture in [0, 1], the same in three channels, as Canny ControlNets read them."""
    edges = cv2.Canny(np.array(to_pil(picture)), *CANNY) > 0
    return torch.from_numpy(edges).float().expand(3, -1, -1).contiguous()


@dataclass(frozen=True)
class Structure:
    """Edges for every row of a batch (or one for all), the network that reads them, and how strongly each row obeys.

    `unguided`: the share of that strength in the half without a prompt; below 1 guidance amplifies the edges, too.
    """

    network: Any
    edges: Float[Tensor, "B 3 S S"]
    scale: float | Sequence[float] = SCALE
    unguided: float = 1.0

    def expand(self, count: int) -> "Structure":
        """The one structure repeated for `count` pictures; `count` structures are returned as they are."""
        edges = self.edges.expand(count, -1, -1, -1) if len(self.edges) == 1 else self.edges
        scales = [self.scale] * count if isinstance(self.scale, int | float) else list(self.scale)
        assert len(edges) == len(scales) == count
        return replace(self, edges=edges, scale=scales)

    def residuals(
        self, inputs: Float[Tensor, "B C h w"], time: Tensor, text: Tensor, added: dict[str, Any]
    ) -> dict[str, Any]:
        """What the UNet's skip connections and middle block receive, as keyword arguments of its call.

        A batch that is twice as long as the edges holds both halves of classifier-free guidance.
        """
        halves = len(inputs) // len(self.edges)
        own = torch.as_tensor(self.scale, dtype=inputs.dtype, device=inputs.device)
        scale = own if halves == 1 else torch.cat([self.unguided * own, own])
        if not scale.any():
            return {}
        down, middle = self.network(
            inputs,
            time,
            encoder_hidden_states=text,
            controlnet_cond=self.edges.to(inputs.device, inputs.dtype).repeat(halves, 1, 1, 1),
            added_cond_kwargs={key: added[key] for key in ("text_embeds", "time_ids")},
            return_dict=False,
        )
        rows = scale.view(-1, 1, 1, 1)
        return {
            "down_block_additional_residuals": [rows * residual for residual in down],
            "mid_block_additional_residual": rows * middle,
        }


def controlnet_of(pipe: Any) -> Any:
    """The Canny ControlNet that belongs to `pipe`, frozen; loaded on the first call and kept beside it.

    `load_pipeline` says where it lies (`pipe.controlnet_source`).

    Raises:
        UserError: the model has none, or it does not fit the model's UNet.
    """
    kept = getattr(pipe, "loaded_controlnet", None)
    if kept is not None:
        return kept
    source: Place | None = getattr(pipe, "controlnet_source", None)
    if source is None:
        raise UserError(
            "expected a model with a Canny ControlNet for structure=canny, got none; "
            "set stylizer.structure=none or model.controlnet=FOLDER"
        )
    network = _load(source, pipe.unet.dtype)
    ours, theirs = network.config, pipe.unet.config
    for key in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        if not np.array_equal(ours[key], theirs[key]):  # lists or tuples
            raise UserError(
                f"expected a ControlNet with {key}={theirs[key]} as the model's UNet, got {ours[key]} in "
                f"{source.name}; set model.controlnet=FOLDER"
            )
    pipe.loaded_controlnet = network.to(pipe.device).requires_grad_(False).eval()
    return pipe.loaded_controlnet


def _load(source: Place, dtype: torch.dtype) -> Any:
    if source.folder is not None:
        verify_folder(source.folder)
    try:
        # From the hub half the download where half the precision is wanted; in a folder what is there.
        plain = dtype is torch.float32 if source.folder is None else source.file(WHOLE_FILE) is not None
        half = not plain and source.file(HALF_FILE) is not None
        with quiet():
            return ControlNetModel.from_pretrained(
                source.name, torch_dtype=dtype, variant="fp16" if half else None, **source.options
            )
    except (*DAMAGED, *UNREACHABLE) as error:
        raise source.refusal(error, "a ControlNet", "model.controlnet") from error


# (latents as the scheduler scales them, their time, steps done before) -> prediction.
Denoiser = Callable[[Tensor, Tensor, int], Tensor]
BaseModel = Callable[[], AbstractContextManager[None]]  # inside its context the pipeline is the base model


def time_ids(pipe: Any, size: int | tuple[int, int], count: int) -> Float[Tensor, "B 6"]:
    """`size_ids` for the UNet of `pipe`: on its device and in its precision."""
    return size_ids(count, size, pipe.device).to(pipe.unet.dtype)


def image_size(pipe: Any) -> int:
    """The side in pixels that the model was made for."""
    return int(pipe.default_sample_size * pipe.vae_scale_factor)


def drawn_together(size: int, most: int = TOGETHER) -> int:
    """How many pictures of `size` pixels are drawn at a time; the pictures do not depend on it."""
    return max(1, min(most, TOGETHER, TOGETHER * 256**2 // size**2))


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

    `prompts`: the subjects in words that the base model knows; None for the prompts of the personalised model.
    """

    share: float
    base: BaseModel
    prompts: Sequence[str] | None = None


@dataclass(frozen=True)
class Features:
    """What takes part in the drawing besides prompt and style; by default nothing.

    `structure`: edges to follow, one for all rows or B of them. `contrast`: a push from another look to the style, at
    the price of a second prediction for two pictures a row. `handover`: the share of the steps after which the base
    model goes on, without a `contrast`. `scheduler`: instead of the pipeline's own. `replace`: called with the number
    of steps done, from 0, and the latents BChw; what it returns goes on instead. `size`: the side in pixels that SDXL's
    size conditioning names, that of the training of what is drawn with; None for the picture's own.
    """

    structure: Structure | None = None
    contrast: StyleContrast | None = None
    handover: Handover | None = None
    scheduler: Any = None
    replace: Callable[[int, Tensor], Tensor] | None = None
    size: int | None = None


PLAIN = Features()


@torch.no_grad()
def sample(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 30,
    guidance: float = 5.0,
    style: StyleEmbeds | None = None,
    features: Features = PLAIN,
    on_step: Callable[[int, Callable[[], Tensor]], None] = lambda done, so_far: None,
) -> Float[Tensor, "B 3 S S"]:
    """One picture per prompt, in [0, 1]; row i depends on prompt, seed and style i only (to float tolerance).

    Args:
        pipe: a StableDiffusionXLPipeline; learned tokens, LoRA and adapter scales are used as they are set.
        prompts: B texts.
        seeds: B numbers; the start noise of row i is `torch.Generator().manual_seed(seeds[i])`, as in diffusers.
        steps: denoising steps, at least 1.
        guidance: weight of classifier-free guidance; 1 or less switches it off.
        style: one style for all rows or B of them; None for no style.
        on_step: called with the number of steps done, and with what draws the last picture as it looks so far.

    Raises:
        UserError: a style, and the model has no adapter; or a model that does not draw.
    """
    require_drawing(pipe)
    assert prompts
    assert len(prompts) == len(seeds)
    assert steps >= 1
    denoise = _denoiser(pipe, prompts, steps, guidance, style, features)
    # A scheduler remembers where it is; a copy keeps two calls apart.
    original = features.scheduler or pipe.scheduler
    scheduler = type(original).from_config(original.config)
    scheduler.set_timesteps(steps, device=pipe.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    side = image_size(pipe) // pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, side, side)
    precision = pipe.unet.dtype  # asked for once, because the answer takes a walk through all its layers
    noise = [torch.randn(shape, generator=g, dtype=precision) for g in generators]
    latents = torch.cat(noise).to(pipe.device) * scheduler.init_noise_sigma
    extra = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for done, t in enumerate(scheduler.timesteps):
        if features.replace is not None:
            latents = features.replace(done, latents)
        predicted = denoise(scheduler.scale_model_input(latents, t), t, done)
        latents, *clean = scheduler.step(predicted, t, latents, return_dict=False, **extra)
        on_step(done + 1, partial(_last_picture, pipe.vae, clean[0] if clean else latents))
        latents = latents.to(precision)
    return decode(pipe.vae, latents.float())


def _last_picture(vae: Any, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "3 S S"]:
    """Of the clean latents that a scheduler expects, or of the noisy ones where it does not say."""
    return decode(vae, latents[-1:].float())[0]


def _denoiser(
    pipe: Any,
    prompts: Sequence[str],
    steps: int,
    guidance: float,
    style: StyleEmbeds | None,
    features: Features,
) -> Denoiser:
    """The pipeline under its conditions, wrapped by whatever is asked for."""
    count, contrast, handover = len(prompts), features.contrast, features.handover
    followed = None if features.structure is None else features.structure.expand(count)

    def as_it_is(texts: Sequence[str], size: int | None = None) -> Denoiser:
        conditions = conditions_of(pipe, texts, style=style, guided=guidance > 1, size=size)
        return guided(network(pipe, conditions, followed), guidance)

    denoise = as_it_is(prompts, features.size)
    if contrast is not None:
        assert style is not None, "a push needs the look to push to"
        denoise = style_guided(denoise, pipe, contrast, style.expand(count))
    if handover is not None and handover.share < 1:
        with handover.base():
            base = as_it_is(handover.prompts or prompts)
        denoise = handed_over(denoise, inside(handover.base, base), round(handover.share * steps))
    return denoise


# What the UNet is given besides the latents: token states N T D, and SDXL's added conditions.
Conditions = tuple[Tensor, dict[str, Any]]


def conditions_of(
    pipe: Any,
    prompts: Sequence[str],
    *,
    style: StyleEmbeds | None = None,
    guided: bool = False,
    size: int | None = None,
) -> Conditions:
    """The conditions of `prompts` and `style`; with `guided` the rows without prompt and style stand before them.

    `size` is the side that the size conditioning names; None: of the pictures that `pipe` draws.

    Raises:
        UserError: a style, and the model has no adapter.
    """
    count = len(prompts)
    text, no_text, pooled, no_pooled = pipe.encode_prompt(
        list(prompts), device=pipe.device, do_classifier_free_guidance=guided
    )
    added: dict[str, Any] = {
        "text_embeds": pooled,
        "time_ids": time_ids(pipe, size or image_size(pipe), count),
    }
    if guided:
        text, added["text_embeds"] = torch.cat([no_text, text]), torch.cat([no_pooled, pooled])
        added["time_ids"] = added["time_ids"].repeat(2, 1)
    if has_adapter(pipe):
        given = (style or blank_style(pipe, 1)).expand(count)
        images = torch.cat([given.negative, given.positive]) if guided else given.positive
        added["image_embeds"] = [images.to(pipe.device, pipe.unet.dtype)]
    elif style is not None:
        require_adapter(pipe)
    return text, added


def network(pipe: Any, conditions: Conditions, structure: Structure | None = None) -> Denoiser:
    """The UNet as the pipeline holds it; with a `structure` its ControlNet steers it. One row per condition."""
    states, added = conditions

    def denoise(latents: Tensor, t: Tensor, done: int) -> Tensor:
        residuals = {}
        if structure is not None:
            residuals = structure.residuals(latents, t, states, added)
        return pipe.unet(
            latents,
            t,
            encoder_hidden_states=states,
            added_cond_kwargs=added,
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


def style_guided(denoise: Denoiser, pipe: Any, contrast: StyleContrast, wanted: StyleEmbeds) -> Denoiser:
    """`denoise` plus the push of `contrast` from its own look to the `wanted` ones."""
    count = len(wanted)
    looks = torch.cat([wanted.positive, contrast.own.expand(count).positive])
    with contrast.base():
        conditions = conditions_of(pipe, [""] * 2 * count, style=StyleEmbeds(looks, looks))
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
