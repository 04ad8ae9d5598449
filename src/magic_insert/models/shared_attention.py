"""StyleAligned's shared attention (Hertz et al. 2024, section 4): pictures look at a reference of their own.

While the UNet is `aligned`, its batch holds references and targets, [references, targets], twice over with
classifier-free guidance. In self-attention a target's queries and keys take the channel statistics of its reference's
(AdaIN), and it attends to its own tokens and to the reference's. Group norms may pool both pictures' statistics.
Layer norms have nothing to share: theirs are the statistics of one token.

Shape letters: R rows, L tokens, h heads, d width of a head, B references.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-5


def adain(content: Tensor, style: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """`content` with the mean and deviation of `style` along `dim` (Huang and Belongie 2017, eq. 8)."""
    mean, deviation = content.mean(dim, keepdim=True), (content.var(dim, keepdim=True) + EPS).sqrt()
    style_mean, style_deviation = style.mean(dim, keepdim=True), (style.var(dim, keepdim=True) + EPS).sqrt()
    return (content - mean) / deviation * style_deviation + style_mean


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
