"""StyleAligned (Hertz et al. 2024): the subject is drawn beside the scene's own picture, found back by DDIM inversion.

The scene is the reference of a shared batch: it retraces its inverted path (Song et al. 2021, section 4.3) while the
subject, given in words, attends to it through shared attention. Nothing is personalised and no adapter acts.

While the UNet is `aligned`, its batch holds references and targets, [references, targets], twice over with
classifier-free guidance. In self-attention a target's queries and keys take the channel statistics of its reference's
(AdaIN), and it attends to its own tokens and to the reference's. Group norms may pool both pictures' statistics.
Layer norms have nothing to share: theirs are the statistics of one token.

Shape letters: S side of the model's square, B scenes, K steps, C h w latents; R rows of the UNet's batch, L tokens, h
heads, d width of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.compositing import adain, area_resize
from magic_insert.core.events import OnStep, no_step
from magic_insert.models.ip_adapter import square_style_image
from magic_insert.models.pipeline import ddim, encode
from magic_insert.models.sampling import (
    Features,
    conditions_of,
    drawn_together,
    image_size,
    network,
    sample,
)
from magic_insert.stylizers.base import DiffusionStylizer, counted, draw_seeds, join_words
from magic_insert.stylizers.draws import Draw

BATCH = 4  # scenes drawn together at most, each with its reference


class StyleAlignedStylizer(DiffusionStylizer):
    """Draws the subject of `subject.text` aligned with any scene; DDIM on the model's noise schedule is the sampler."""

    def prompts(self, style_text: str = "") -> tuple[str, str]:
        """What the reference shows, its style in words, and what is drawn: the subject in those words."""
        words = style_text or self.style.prompt
        return words, join_words(self.words, self.sampling.prompt_suffix, words)

    @torch.no_grad()
    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene; row i depends on `draws[i]` only."""
        steps, together = self.sampling.steps, drawn_together(image_size(self.pipe), BATCH)
        batches = [draws[start : start + together] for start in range(0, len(draws), together)]
        total = steps * len(batches)
        pictures = [self._draw(some, counted(on_step, n * steps, total)) for n, some in enumerate(batches)]
        return torch.cat(pictures)

    def _draw(self, draws: Sequence[Draw], on_step: Callable[..., None]) -> Float[Tensor, "B 3 S S"]:
        count, size = len(draws), image_size(self.pipe)
        shown, drawn = zip(*(self.prompts(draw.style_text) for draw in draws), strict=True)
        squares = [area_resize(square_style_image(draw.scene), size, size) for draw in draws]
        trail = invert(self.pipe, torch.stack(squares), shown, steps=self.sampling.steps)

        def retrace(done: int, latents: Tensor) -> Tensor:
            return torch.cat([trail[done].to(latents.dtype), latents[count:]])

        structure = None
        if self.structure is not None:
            # The scene is its own structure.
            scales = [0.0] * count + [self.settings.structure_scale] * count
            edges = self.structure.edges.expand(2 * count, -1, -1, -1)
            structure = replace(self.structure, edges=edges, scale=scales)
        with aligned(
            self.pipe.unet,
            halves=2 if self.sampling.guidance > 1 else 1,
            score_shift=self.settings.score_shift,
            share_norms=self.settings.share_norms,
        ):
            pictures = sample(
                self.pipe,
                [*shown, *drawn],
                draw_seeds(draws, self.sampling) * 2,
                steps=self.sampling.steps,
                guidance=self.sampling.guidance,
                features=Features(structure, scheduler=ddim(self.pipe), replace=retrace),
                on_step=on_step,
            )
        return pictures[count:].cpu()


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
    conditions = conditions_of(pipe, prompts)
    denoise = network(pipe, conditions)
    levels = scheduler.timesteps.flip(0)
    kept = scheduler.alphas_cumprod.to(pipe.device)
    latents = encode(pipe.vae, images)
    trail: list[Tensor] = []
    # A clean picture is taken for one at the first level of noise, which the eye cannot see.
    for here, there in zip([torch.zeros_like(levels[0]), *levels[:-1]], levels, strict=True):
        predicted = denoise(latents.to(conditions[0].dtype), here, len(trail)).float()
        clean, noise = clean_and_noise(latents, predicted, kept[here], scheduler.config["prediction_type"])
        latents = kept[there].sqrt() * clean + (1 - kept[there]).sqrt() * noise
        trail.append(latents)
    return torch.stack(trail[::-1])


def own_reference(rows: Float[Tensor, "R ..."], halves: int) -> Float[Tensor, "R ..."]:
    """For each row of [references, targets] x `halves` its reference; a reference is its own."""
    references = rows.unflatten(0, (halves, 2, -1))[:, :1]
    return references.expand(-1, 2, *references.shape[2:]).flatten(0, 2)


class SharedAttention:
    """A self-attention processor in diffusers' sense."""

    def __init__(self, halves: int, score_shift: float) -> None:
        self.halves, self.score_shift = halves, score_shift

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "R L D"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Float[Tensor, "R L D"]:
        """What `attn` makes of its tokens; SDXL's self-attention has neither mask nor norm nor residual of its own."""

        def heads(projected: Tensor) -> Float[Tensor, "R h L d"]:
            return projected.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        query, key, value = (heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        query = adain(query, own_reference(query, self.halves), dim=2)
        key = adain(key, own_reference(key, self.halves), dim=2)
        both_keys = torch.cat([key, own_reference(key, self.halves)], dim=2)
        both_values = torch.cat([value, own_reference(value, self.halves)], dim=2)
        shift = query.new_zeros(1, 1, 1, both_keys.shape[2])
        shift[..., key.shape[2] :] = self.score_shift
        mixed = functional.scaled_dot_product_attention(
            query, both_keys, both_values, attn_mask=shift.expand(1, 1, query.shape[2], -1)
        )
        for layer in attn.to_out:
            mixed = layer(mixed.transpose(1, 2).flatten(2) if mixed.ndim == 4 else mixed)
        return mixed / attn.rescale_output_factor


@contextmanager
def aligned(unet: Any, *, halves: int, score_shift: float, share_norms: bool) -> Iterator[None]:
    """Inside this block every row of the UNet's batch is aligned with its reference; afterwards nothing is left.

    Args:
        unet: any UNet of diffusers.
        halves: 2 with classifier-free guidance, else 1.
        score_shift: added to the scores of the reference's tokens; log 2 counts each of them twice.
        share_norms: group norms see a row and its reference as one picture, set side by side.
    """
    before = dict(unet.attn_processors)
    shared = SharedAttention(halves, score_shift)
    unet.set_attn_processor({n: shared if ".attn1." in n else p for n, p in before.items()})
    hooks = []
    for module in unet.modules() if share_norms else ():
        if isinstance(module, nn.GroupNorm):
            hooks.append(module.register_forward_pre_hook(_beside(halves)))
            hooks.append(module.register_forward_hook(_own_part))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        unet.set_attn_processor(before)


def _beside(halves: int) -> Any:
    """A hook that sets each row and its reference one above the other."""

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (torch.cat([inputs[0], own_reference(inputs[0], halves)], dim=-2),)

    return hook


def _own_part(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Takes the reference's half off again."""
    return output[..., : output.shape[-2] // 2, :]
