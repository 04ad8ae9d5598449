"""Laws of the LoRA: it starts at nothing, is nothing at scale 0, and leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from magic_insert.core.rand import generator
from magic_insert.models import lora
from magic_insert.models.ip_adapter import blank_style, has_adapter


@torch.no_grad()
def predict(pipe: Any) -> torch.Tensor:
    numbers = generator(7, "input")
    unet = pipe.unet
    added = {
        "text_embeds": torch.randn(1, pipe.text_encoder_2.config.projection_dim, generator=numbers),
        "time_ids": torch.full((1, 6), 64.0),
    }
    if has_adapter(pipe):
        added["image_embeds"] = [blank_style(pipe, 1).negative]
    text = torch.randn(1, 32, unet.config.cross_attention_dim, generator=numbers)
    latents = torch.randn(1, unet.config.in_channels, 8, 8, generator=numbers)
    return unet(latents, 500, encoder_hidden_states=text, added_cond_kwargs=added).sample


def disturb(unet: Any, name: str = "subject", seed: int = 1) -> None:
    """Stands in for training: every LoRA number becomes a random one."""
    for key, parameter in unet.named_parameters():
        if f".{name}." in key:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator(seed, key)))


@pytest.fixture
def pipe(tiny_pipe: Any) -> Iterator[Any]:
    yield tiny_pipe
    for name in list(getattr(tiny_pipe.unet, "peft_config", {})):
        lora.remove_lora(tiny_pipe.unet, name)


def test_a_lora_starts_at_nothing_acts_when_trained_and_leaves_nothing_behind(pipe: Any) -> None:
    before, names = predict(pipe), list(pipe.unet.state_dict())
    trained = lora.add_lora(pipe.unet, rank=2, alpha=2, seed=0)
    assert {id(p) for p in pipe.unet.parameters() if p.requires_grad} == {id(p) for p in trained}
    assert torch.equal(predict(pipe), before)
    disturb(pipe.unet)
    assert (predict(pipe) - before).abs().max() > 1e-3
    lora.use_lora(pipe.unet, "subject", 0.0)
    assert torch.equal(predict(pipe), before)
    lora.remove_lora(pipe.unet, "subject")
    assert torch.equal(predict(pipe), before)
    assert list(pipe.unet.state_dict()) == names


def test_plain_diffusers_reads_the_file_with_its_scale(pipe: Any, stock_pipe: Any, tmp_path: Path) -> None:
    lora.add_lora(pipe.unet, rank=2, alpha=7, seed=0)
    disturb(pipe.unet)
    lora.save_lora(tmp_path / lora.FILE, pipe.unet)
    stock_pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(predict(stock_pipe), predict(pipe), atol=1e-5, rtol=0)


def test_the_start_depends_on_the_seed_alone_and_takes_nothing_from_the_global_stream(pipe: Any) -> None:
    states = []
    for global_seed, seed in ((0, 3), (1, 3), (0, 4)):
        torch.manual_seed(global_seed)
        expected = torch.rand(1)
        torch.manual_seed(global_seed)
        lora.add_lora(pipe.unet, rank=2, alpha=2, seed=seed)
        assert torch.equal(torch.rand(1), expected)
        states.append(lora.lora_state(pipe.unet))
        lora.remove_lora(pipe.unet, "subject")
    down = next(key for key in states[0] if "lora_A" in key)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][down], states[2][down])


@pytest.mark.parametrize("dora", [False, True])
def test_one_weight_computes_what_two_paths_compute_with_the_same_gradients(pipe: Any, dora: bool) -> None:
    targets = ["to_q", "ff.net.2", "conv1", "conv2", "conv_shortcut"]
    trained = lora.add_lora(pipe.unet, rank=2, alpha=3.0, targets=targets, seed=0, dora=dora)
    disturb(pipe.unet)
    alone = predict(pipe)

    def gradients() -> list[torch.Tensor]:
        with torch.enable_grad():
            return list(torch.autograd.grad(predict.__wrapped__(pipe).square().mean(), trained))

    expected = gradients()
    with lora.as_one_weight(pipe.unet):
        assert torch.allclose(predict(pipe), alone, atol=1e-5)
        for found, other in zip(gradients(), expected, strict=True):
            assert torch.allclose(found, other, rtol=1e-3, atol=1e-6)
        lora.use_lora(pipe.unet, None)
        off = predict(pipe)
    assert torch.equal(predict(pipe), off)
    lora.use_lora(pipe.unet, "subject")
    assert torch.equal(predict(pipe), alone)
