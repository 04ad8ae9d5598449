"""Laws of sampling: the stock pipeline's pictures, whatever the neighbours in the batch."""

from typing import Any

import pytest
import torch

from magic_insert.models.ip_adapter import adapter_at, style_embeds
from magic_insert.models.sampling import sample

PROMPTS = ("a red bunny", "a striped car, sitting", "")


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_stock_pipeline_draws_the_same_pictures(tiny_pipe: Any, stock_pipe: Any, guidance: float) -> None:
    ours = sample(tiny_pipe, PROMPTS, (3, 4, 5), steps=3, guidance=guidance)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5)]
    stock = stock_pipe(
        list(PROMPTS), num_inference_steps=3, guidance_scale=guidance, generator=generators, output_type="pt"
    ).images
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)


def test_with_one_style_the_stock_pipeline_draws_the_same_pictures(tiny_pipe: Any) -> None:
    style = style_embeds(tiny_pipe, [torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))])
    with adapter_at(tiny_pipe, "all", 0.8):
        ours = sample(tiny_pipe, PROMPTS[:2], (3, 4), steps=2, guidance=3.0, style=style)
        stock = tiny_pipe(
            list(PROMPTS[:2]),
            num_inference_steps=2,
            guidance_scale=3.0,
            generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
            ip_adapter_image_embeds=[torch.cat([style.negative, style.positive])],
            output_type="pt",
        ).images
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=0)
