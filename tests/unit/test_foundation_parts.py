"""Laws of the foundation's parts on the tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models.micro import (
    TINY,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    load_tokenizers,
    widen_input,
)
from magic_insert.models.micro_adapter import collect_ip_adapter
from magic_insert.models.micro_controlnet import build_controlnet
from magic_insert.models.micro_parts import new_adapter
from magic_insert.training.foundation.adapter import AdapterModule
from magic_insert.training.foundation.controlnet import ControlNetModule
from magic_insert.training.foundation.denoiser import DenoiserModule
from magic_insert.training.foundation.module import velocity_loss
from magic_insert.training.foundation.vae import PatchCode, VaeModule
from magic_insert.training.insertion import EditLatents, edit_batches, mask_cells
from magic_insert.training.trainer import TrainerOptions, fit, lr_factor


def conditioning(unet: Any, count: int) -> dict[str, Any]:
    return {
        "encoder_hidden_states": torch.randn(count, 5, unet.config.cross_attention_dim),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(count, TINY.embed_dim),
            "time_ids": torch.ones(count, 6),
        },
    }


def test_a_widened_unet_predicts_what_the_narrow_one_predicts_whatever_the_new_channels_hold() -> None:
    unet = build_unet(TINY).eval()
    wide = widen_input(unet, 2 * TINY.latent_channels + 1).eval()
    noisy, extra = torch.randn(2, TINY.latent_channels, 8, 8), torch.randn(2, TINY.latent_channels + 1, 8, 8)
    words = conditioning(unet, 2)
    with torch.no_grad():
        narrow = unet(noisy, 7, **words).sample
        wider = wide(torch.cat([noisy, extra], 1), 7, **words).sample
    assert torch.allclose(narrow, wider, atol=1e-6)


def test_the_velocity_loss_is_zero_for_the_true_velocity() -> None:
    scheduler = build_scheduler()
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([10, 500, 999])

    class Oracle(torch.nn.Module):
        def forward(self, inputs: torch.Tensor, timesteps: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
            alpha = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            # v = sqrt(a) noise - sqrt(1 - a) x (Salimans and Ho 2022)
            return (alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,)

    loss = velocity_loss(Oracle(), scheduler, latents, noise, steps, states=torch.zeros(1), added={})
    assert float(loss) < 1e-10


def test_the_schedule_ends_in_pure_noise() -> None:
    scheduler = build_scheduler()
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)


def test_the_learning_rate_rises_then_falls_and_never_leaves_zero_to_one() -> None:
    factors = [lr_factor(step, 100, "cosine", warmup=10, floor=0.02) for step in range(100)]
    assert factors.index(max(factors)) in (9, 10)
    assert all(0 < f <= 1 for f in factors)
    assert factors[-1] < 0.05


def adapter_module(folder: Path, steps: int) -> tuple[AdapterModule, dict[str, torch.Tensor]]:
    """A tiny adapter and one batch whose style is told to the teacher in words."""
    build_tokenizer(folder, ["a red bunny, a crayon drawing"], context=TINY.context)
    tokenizer, tokenizer_2 = load_tokenizers(folder)
    torch.manual_seed(0)
    unet = build_unet(TINY)
    new_adapter(unet, TINY.embed_dim)
    module = AdapterModule(
        unet,
        build_text_encoder(TINY, tokenizer, second=False),
        build_text_encoder(TINY, tokenizer_2, second=True),
        build_scheduler(),
        image_size=TINY.image_size,
        lr=1e-2,
        steps=steps,
    )
    plain, styled = (
        tokenizer([text] * 2, padding="max_length", return_tensors="pt").input_ids
        for text in ("a red bunny", "a red bunny, a crayon drawing")
    )
    draw = generator(0, "adapter test")
    batch = {
        "latents": torch.randn(2, TINY.latent_channels, 8, 8, generator=draw),
        "noise": torch.randn(2, TINY.latent_channels, 8, 8, generator=draw),
        "timesteps": torch.tensor([100, 900]),
        "ids": plain,
        "ids_2": plain,
        "styled_ids": styled,
        "styled_ids_2": styled,
        "style": torch.randn(2, TINY.embed_dim, generator=draw),
        "step": torch.tensor(0),
    }
    return module, batch


def test_the_pooled_text_can_say_less_than_the_token_states(tmp_path: Path) -> None:
    module, batch = adapter_module(tmp_path, 1)
    plain, styled = ({"ids": batch[name], "ids_2": batch[name]} for name in ("ids", "styled_ids"))
    with torch.no_grad():
        said, spoken = DenoiserModule.conditioning(module, {**styled, "pooled_ids": batch["ids"]})
        states, _ = DenoiserModule.conditioning(module, styled)
        _, quiet = DenoiserModule.conditioning(module, plain)
    assert torch.equal(said, states)
    assert torch.equal(spoken["text_embeds"], quiet["text_embeds"])


def test_the_adapter_alone_is_trained(tmp_path: Path) -> None:
    module, batch = adapter_module(tmp_path, 2)
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    assert trained == {id(p) for p in module.adapter_parameters()}
    before = {k: v.clone() for k, v in collect_ip_adapter(module.unet).items()}
    fit(module, lambda step: batch, TrainerOptions(steps=2, progress=False), tmp_path / "fit")
    after = collect_ip_adapter(module.unet)
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_the_adapter_comes_to_say_with_a_picture_what_the_model_says_with_words(tmp_path: Path) -> None:
    module, batch = adapter_module(tmp_path, 40)
    before = float(module.unlike_words(batch))
    fit(module, lambda step: batch, TrainerOptions(steps=40, progress=False), tmp_path / "fit")
    after = float(module.unlike_words(batch))
    assert after < before / 2


def vae_module(steps: int) -> VaeModule:
    torch.manual_seed(0)
    return VaeModule(
        build_vae(TINY), PatchCode(vae_batch(99)["image"], TINY.latent_channels), lr=1e-3, steps=steps
    )


def vae_batch(step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    noise = torch.randn(2, TINY.latent_channels, 2, 2, generator=draw)
    return {
        "image": torch.rand(2, 3, 16, 16, generator=draw) * 2 - 1,
        "noise": noise,
        "step": torch.tensor(step),
    }


def test_a_stopped_fit_goes_on_to_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def dying(step: int) -> dict[str, torch.Tensor]:
        if step == 5:
            raise Stop
        return vae_batch(step)

    options = TrainerOptions(steps=8, save_every=2, ema_decay=0.9, progress=False)
    whole = vae_module(8)
    fit(whole, vae_batch, options, tmp_path / "whole")
    with pytest.raises(Stop):
        fit(vae_module(8), dying, options, tmp_path / "broken")
    resumed = vae_module(8)
    fit(resumed, vae_batch, options, tmp_path / "broken")
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_loss_that_is_not_a_number_stops_before_the_weights_move(tmp_path: Path) -> None:
    module = vae_module(2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    bad = {**vae_batch(0), "image": torch.full((2, 3, 16, 16), torch.nan)}
    with pytest.raises(UserError, match="step 0"):
        fit(module, lambda step: bad, TrainerOptions(steps=2, progress=False), tmp_path)
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value), name


def test_an_edit_batch_pairs_condition_target_and_mask_of_one_scene() -> None:
    number = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1)
    full = np.ones((5, 2, 1, 4, 4), np.float32) * number
    data = EditLatents(condition=full, target=full + 100, mask=full + 200)
    batch = edit_batches(data, task="remove", seed=0, batch_size=8)(3)
    assert torch.equal(batch["latents"], batch["condition"] + 100)
    assert torch.equal(batch["mask"], batch["condition"] + 200)


def test_a_batch_is_a_function_of_its_number() -> None:
    data = EditLatents(
        *(np.random.default_rng(0).normal(size=(9, 2, 4, 4, 4)).astype(np.float32) for _ in range(3))
    )
    batch_at = edit_batches(data, task="insert", seed=1, batch_size=4)
    first, again, other = batch_at(2), batch_at(2), batch_at(3)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["noise"], other["noise"])


def test_a_mask_cell_is_the_covered_share_of_its_pixels() -> None:
    mask = np.zeros((1, 1, 16, 16), np.uint8)
    mask[..., :8, :4] = 255
    assert mask_cells(mask, 2).tolist() == [[[[0.5, 0.0], [0.0, 0.0]]]]


def test_the_controlnet_alone_is_trained_and_learns_from_the_first_step(tmp_path: Path) -> None:
    build_tokenizer(tmp_path, ["a red bunny"], context=TINY.context)
    tokenizer, tokenizer_2 = load_tokenizers(tmp_path)
    torch.manual_seed(0)
    unet = build_unet(TINY)
    network = build_controlnet(unet)
    module = ControlNetModule(
        unet,
        network,
        build_text_encoder(TINY, tokenizer, second=False),
        build_text_encoder(TINY, tokenizer_2, second=True),
        build_scheduler(),
        image_size=TINY.image_size,
        lr=1e-2,
        steps=2,
    )
    before = {k: v.clone() for k, v in module.state_dict().items()}
    ids = tokenizer(["a red bunny"] * 2, padding="max_length", return_tensors="pt").input_ids
    batch = {
        "latents": torch.randn(2, TINY.latent_channels, 8, 8),
        "noise": torch.randn(2, TINY.latent_channels, 8, 8),
        "timesteps": torch.tensor([100, 900]),
        "edges": (torch.rand(2, 3, 64, 64) > 0.9).float(),
        "ids": ids,
        "ids_2": ids,
    }
    fit(module, lambda step: batch, TrainerOptions(steps=2, progress=False), tmp_path / "fit")
    moved = {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}
    assert moved
    assert all(key.startswith("unet.network.") for key in moved)
    assert "unet.network.controlnet_cond_embedding.conv_in.weight" in moved


def test_one_corpus_gives_one_tokenizer_whatever_is_equally_frequent(tmp_path: Path) -> None:
    phrases = ["ab ba cd dc ef fe gh hg", "abcd efgh ijkl", "mnop qrst uvwx yz"]
    files = set()
    for number in range(6):
        build_tokenizer(tmp_path / str(number), phrases, context=TINY.context)
        files.add((tmp_path / str(number) / "tokenizer.json").read_bytes())
    assert len(files) == 1
