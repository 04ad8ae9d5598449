"""Laws of StyleAligned's parts: AdaIN, shared attention and norms, and the way back from a picture to its noise."""

from typing import Any

import pytest
import torch
from torch import nn

from magic_insert.core.compositing import adain
from magic_insert.core.rand import generator
from magic_insert.models import sampling
from magic_insert.models.micro import TINY, build_unet
from magic_insert.models.pipeline import encode
from magic_insert.models.sampling import Features, sample
from magic_insert.stylizers.style_aligned import aligned, ddim, invert

ROWS = 4  # two references, then their two targets


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    torch.manual_seed(0)
    return build_unet(TINY).eval()


def inputs(seed: int = 0, rows: int = ROWS) -> dict[str, Any]:
    draw = generator(seed, "unet inputs")
    return {
        "sample": torch.randn(rows, TINY.latent_channels, 8, 8, generator=draw),
        "encoder_hidden_states": torch.randn(rows, 5, TINY.cross_dim, generator=draw),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, TINY.embed_dim, generator=draw),
            "time_ids": torch.ones(rows, 6),
        },
    }


@torch.no_grad()
def predict(unet: Any, words: dict[str, Any], **how: Any) -> torch.Tensor:
    if not how:
        return unet(timestep=300, **words).sample
    with aligned(unet, **{"halves": 1, "score_shift": 0.7, "share_norms": True, **how}):
        return unet(timestep=300, **words).sample


def test_adain_gives_the_statistics_of_the_style_and_keeps_a_picture_in_its_own() -> None:
    content, style = torch.randn(2, 3, 50) * 2 + 1, torch.randn(2, 3, 50) * 0.3 - 4
    moved = adain(content, style, dim=2)
    torch.testing.assert_close(moved.mean(2), style.mean(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.std(2), style.std(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(adain(content, content, dim=2), content, atol=1e-5, rtol=0)


def test_a_reference_is_drawn_as_if_alone_and_a_target_hears_its_own_and_no_other(unet: Any) -> None:
    words = inputs()
    torch.testing.assert_close(
        predict(unet, words, halves=1)[:2], predict(unet, words)[:2], atol=1e-4, rtol=0
    )
    words, before = inputs(), predict(unet, inputs(), halves=1)
    words["sample"][0] += 1
    after = predict(unet, words, halves=1)
    assert (after[2] - before[2]).abs().max() > 1e-3
    torch.testing.assert_close(after[3], before[3], atol=1e-5, rtol=0)


def test_both_halves_of_guidance_are_aligned_alike(unet: Any) -> None:
    one, two = inputs(0), inputs(1)

    def joined(a: Any, b: Any) -> Any:
        return {k: joined(a[k], b[k]) for k in a} if isinstance(a, dict) else torch.cat([a, b])

    both = predict(unet, joined(one, two), halves=2)
    alone = torch.cat([predict(unet, words, halves=1) for words in (one, two)])
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=0)


def test_nothing_is_left_of_the_alignment_even_after_an_error(unet: Any) -> None:
    words, processors = inputs(), dict(unet.attn_processors)
    before = predict(unet, words)
    with (
        pytest.raises(RuntimeError, match="stop"),
        aligned(unet, halves=1, score_shift=0.0, share_norms=True),
    ):
        raise RuntimeError("stop")
    assert unet.attn_processors == processors
    assert torch.equal(predict(unet, words), before)


def test_the_way_back_leads_to_the_noise_and_back(tiny_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.rand(2, 3, 64, 64, generator=generator(0, "pictures"))
    words, steps = ["a red bunny", "as an oil painting"], 8
    clean = encode(tiny_pipe.vae, pictures)
    noise = torch.randn(clean.shape, generator=generator(0, "noise"))
    scheduler = ddim(tiny_pipe)
    scheduler.set_timesteps(steps)

    def predict_from_knowledge(inputs: torch.Tensor, time: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        """What a UNet would say that knows both the pictures' latents and the noise they were drawn from."""
        kept = scheduler.alphas_cumprod[time]
        return (kept.sqrt() * noise - (1 - kept).sqrt() * clean,)

    monkeypatch.setattr(tiny_pipe.unet, "forward", predict_from_knowledge)
    ends: list[torch.Tensor] = []

    def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
        ends.append(latents)
        return torch.zeros_like(pictures)

    monkeypatch.setattr(sampling, "decode", decode)
    trail = invert(tiny_pipe, pictures, words, steps=steps)
    assert trail.shape[:2] == (steps, 2)
    for latents, time in zip(trail, scheduler.timesteps, strict=True):
        kept = scheduler.alphas_cumprod[time]
        # A clean picture is taken for one at the first level of noise: an error of that level, 3 %.
        torch.testing.assert_close(
            latents, kept.sqrt() * clean + (1 - kept).sqrt() * noise, atol=0.15, rtol=0.05
        )

    features = Features(scheduler=scheduler, replace=lambda done, latents: trail[done])
    sample(tiny_pipe, words, [0, 1], steps=steps, guidance=1.0, features=features)
    torch.testing.assert_close(ends[0], clean, atol=0.15, rtol=0.05)
