"""Laws of sampling: the stock pipeline's pictures, whatever the neighbours; push and hand-over."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from magic_insert.models import ip_adapter
from magic_insert.models.sampling import Features, Handover, StyleContrast, sample

THREE = ("a red bunny", "a striped car, sitting", "")


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_stock_pipeline_draws_the_same_pictures(tiny_pipe: Any, stock_pipe: Any, guidance: float) -> None:
    ours = sample(tiny_pipe, THREE, (3, 4, 5), steps=3, guidance=guidance)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5)]
    stock = stock_pipe(
        list(THREE), num_inference_steps=3, guidance_scale=guidance, generator=generators, output_type="pt"
    ).images
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)


PROMPTS, SEEDS = ["a red bunny", "a blue car"], [3, 4]


def looks(pipe: Any, seed: int, count: int = 2) -> ip_adapter.StyleEmbeds:
    width = pipe.image_encoder.config.projection_dim
    drawn = torch.randn(count, 1, width, generator=torch.Generator().manual_seed(seed))
    return ip_adapter.StyleEmbeds(drawn, torch.zeros_like(drawn))


@contextmanager
def without_adapter(pipe: Any) -> Iterator[None]:
    """Another model than the one outside: what a base model is to a personalised one."""
    ip_adapter.disable_adapter(pipe.unet)
    try:
        yield
    finally:
        ip_adapter.adapter_switch(pipe.unet, "all")(True)


def trail(
    pipe: Any, share: float | None = None, *, steps: int = 4, rows: slice = slice(0, 2), contrast: Any = None
) -> list[Tensor]:
    """The latents before each step, handed over after `share` of the steps, and the picture."""
    seen: list[Tensor] = []

    def note(done: int, latents: Tensor) -> Tensor:
        seen.append(latents.clone())
        return latents

    style = looks(pipe, 1)
    handover = None if share is None else Handover(share, lambda: without_adapter(pipe))
    with ip_adapter.adapter_at(pipe, "all", 1.0):
        picture = sample(
            pipe,
            PROMPTS[rows],
            SEEDS[rows],
            steps=steps,
            guidance=3.0,
            style=ip_adapter.StyleEmbeds(style.positive[rows], style.negative[rows]),
            features=Features(contrast=contrast, handover=handover, replace=note),
        )
    return [*seen, picture]


def first_step(pipe: Any, contrast: StyleContrast | None, rows: slice = slice(0, 2)) -> Tensor:
    """The latents after the first of two steps: they depend on the first prediction in a straight line."""
    return trail(pipe, steps=2, rows=rows, contrast=contrast)[1]


def contrast(pipe: Any, weight: float, seed: int = 2) -> StyleContrast:
    return StyleContrast(looks(pipe, seed, 1), weight, nullcontext)


def test_twice_the_weight_pushes_twice_as_far_and_no_weight_not_at_all(tiny_pipe: Any) -> None:
    plain, none, one, two = (
        first_step(tiny_pipe, None if weight is None else contrast(tiny_pipe, weight))
        for weight in (None, 0.0, 1.0, 2.0)
    )
    assert torch.equal(plain, none)
    assert (one - plain).abs().max() > 1e-4
    assert torch.allclose(two - plain, 2 * (one - plain), atol=1e-5)
    to_itself = StyleContrast(looks(tiny_pipe, 1), 5.0, nullcontext)
    assert torch.allclose(first_step(tiny_pipe, to_itself), plain, atol=1e-5)


def test_a_row_is_pushed_and_handed_over_as_it_would_be_alone(tiny_pipe: Any) -> None:
    together = first_step(tiny_pipe, contrast(tiny_pipe, 3.0))
    alone = first_step(tiny_pipe, contrast(tiny_pipe, 3.0), rows=slice(1, 2))
    assert torch.allclose(together[1:], alone, atol=1e-5)
    together, alone = trail(tiny_pipe, 0.5)[-1], trail(tiny_pipe, 0.5, rows=slice(1, 2))[-1]
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)


def test_the_base_model_alone_is_asked_and_told_no_word_of_the_prompt(tiny_pipe: Any) -> None:
    inside: list[bool] = []
    asked: list[tuple[bool, Tensor]] = []

    @contextmanager
    def base() -> Iterator[None]:
        inside.append(True)
        try:
            yield
        finally:
            inside.pop()

    def note(unet: Any, args: Any, told: dict[str, Any]) -> None:
        asked.append((bool(inside), told["encoder_hidden_states"]))

    hook = tiny_pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        first_step(tiny_pipe, StyleContrast(looks(tiny_pipe, 2, 1), 1.0, base))
    finally:
        hook.remove()
    assert [at_base for at_base, _ in asked] == [False, True] * 2
    words = asked[1][1]
    assert torch.equal(words, words[:1].expand_as(words))


def test_the_base_model_takes_over_after_its_share_of_the_steps_and_ends_the_push(tiny_pipe: Any) -> None:
    shares = (None, 0.75, 0.5, 1.0, 0.0)
    ours, three_quarters, half, late, early = (trail(tiny_pipe, share) for share in shares)
    assert all(torch.equal(a, b) for a, b in zip(ours[:4], three_quarters[:4], strict=True))
    assert not torch.equal(ours[4], three_quarters[4])
    assert torch.equal(ours[2], half[2])
    assert not torch.equal(ours[3], half[3])
    assert torch.equal(ours[-1], late[-1])
    base = sample(tiny_pipe, PROMPTS, SEEDS, steps=4, guidance=3.0)  # at rest the adapter is off
    assert torch.equal(early[-1], base)
    assert torch.equal(trail(tiny_pipe, 0.0, contrast=contrast(tiny_pipe, 5.0))[-1], base)
