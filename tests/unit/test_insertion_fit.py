"""Edit models: views of pairs, what a fit starts from and changes; what was killed ends with the same weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from helpers import frozen, rectangle
from torch import Tensor, nn

from magic_insert.bootstrap.networks import run_blend
from magic_insert.bootstrap.stages import BlendSettings, Payload
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json
from magic_insert.core.rand import generator
from magic_insert.data.pairs import Pair
from magic_insert.models.edit_unet import edit_start, load_edit_unet, start_digest
from magic_insert.models.micro import TINY, build_unet
from magic_insert.training import insertion_job
from magic_insert.training.checkpoint import read_last_checkpoint
from magic_insert.training.insertion import (
    CARD,
    CLEAR_CHANGE,
    EditFit,
    EditLatents,
    InsertionModule,
    edit_batches,
    effect_weights,
    fit_edit,
    shifted_times,
)
from magic_insert.training.insertion_job import ViewConfig, edit_data, view_of
from magic_insert.training.trainer import MEAN

C = TINY.latent_channels


def noise(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(0, name))


def predict(unet: Any, inputs: Tensor) -> Tensor:
    width = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
    added = {"text_embeds": noise(1, width, name="pooled"), "time_ids": torch.full((1, 6), 64.0)}
    states = noise(1, 4, unet.config["cross_attention_dim"], name="states")
    with torch.no_grad():
        return unet(inputs, 500, encoder_hidden_states=states, added_cond_kwargs=added).sample


@pytest.fixture
def latents() -> EditLatents:
    """Three pairs, two views."""
    values = np.random.default_rng(0)

    def array(channels: int) -> np.ndarray:
        return values.standard_normal((3, 2, channels, 8, 8)).astype(np.float16)

    return EditLatents(array(C), array(C), np.abs(array(1)).clip(0, 1))


def fit(start: Any, pipe: Any, data: EditLatents, folder: Path, steps: int = 3, **options: Any) -> Path:
    fit_edit(start, pipe, data, EditFit("insert", steps, 2, 1e-3, 5, save_every=1, **options), folder)
    return folder / "inserter"


def batches(data: EditLatents, batch_size: int = 4, **options: Any) -> dict[str, Tensor]:
    return edit_batches(data, EditFit("insert", 1, batch_size, 1e-3, 0, **options))(3)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_edit_unet(folder).state_dict()


def test_a_widened_unet_predicts_as_before_and_drops_an_adapter(stock_pipe: Any, tiny_pipe: Any) -> None:
    noisy = noise(1, C, 8, 8)
    shown = torch.cat([noisy, noise(1, C + 1, 8, 8, name="shown")], dim=1)
    assert torch.allclose(
        predict(edit_start(stock_pipe.unet), shown), predict(stock_pipe.unet, noisy), atol=1e-5
    )
    ours, plain = edit_start(tiny_pipe.unet).state_dict(), edit_start(stock_pipe.unet).state_dict()
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[key], plain[key]) for key in plain)


def test_an_inpainting_unet_gives_the_same_answers_in_our_order_of_channels() -> None:
    unet = build_unet(TINY, in_channels=2 * C + 1)
    noisy, masked, mask = noise(1, C, 8, 8), noise(1, C, 8, 8, name="masked"), noise(1, 1, 8, 8, name="mask")
    theirs = predict(unet, torch.cat([noisy, mask, masked], dim=1))
    ours = predict(edit_start(unet), torch.cat([noisy, masked, mask], dim=1))
    assert torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(UserError, match="input channels, got 7"):
        edit_start(build_unet(TINY, in_channels=7))


def test_an_edit_lora_knows_its_start_in_another_precision(tiny_micro: Path) -> None:
    unet = build_unet(TINY)
    assert start_digest(unet) == start_digest(unet.half()) == start_digest(unet.bfloat16())
    assert start_digest(unet) != start_digest(build_unet(TINY))


class Fuse(np.ndarray):
    """An array that breaks when it was read so many times: a process that dies in the middle of its work."""

    left = 5

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, tuple):  # one row of a batch; digests read whole rows
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("pulled the plug")
        return np.asarray(self)[place]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"ema_decay": 0.9}, marks=pytest.mark.slow, id="full"),
        pytest.param({"ema_decay": 0.9, "lora_rank": 2}, id="lora"),
    ],
)
def test_a_killed_fit_ends_with_the_weights_of_an_unbroken_one(
    options: dict[str, Any], hub_pipe: Any, latents: EditLatents, tmp_path: Path
) -> None:
    start = hub_pipe.unet
    whole = fit(start, hub_pipe, latents, tmp_path / "whole", **options)
    with pytest.raises(RuntimeError, match="plug"):
        fit(start, hub_pipe, replace(latents, target=latents.target.view(Fuse)), tmp_path / "cut", **options)
    work = tmp_path / "cut" / "inserter.fit"
    kept = read_last_checkpoint(work, read_json(work / CARD)["key"])
    assert kept is not None
    means = [name for name in kept.values if name.startswith(MEAN)]
    learned = [name for name in means if "lora_" in name or "conv_in." in name]
    assert 0 < len(learned) <= len(means)
    assert (len(learned) == len(means)) == ("lora_rank" in options), "a mean of what is not trained"
    resumed = weights(fit(start, hub_pipe, latents, tmp_path / "cut", **options))
    expected, before = weights(whole), edit_start(start).state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in expected.items())
    assert any(not torch.equal(before[key], value) for key, value in expected.items())
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["inserter"]


def test_a_finished_fit_is_left_alone_and_another_one_in_its_place_refused(
    tiny_pipe: Any, tiny_micro: Path, latents: EditLatents, tmp_path: Path
) -> None:
    folder = fit(tiny_micro / "inserter", tiny_pipe, latents, tmp_path, steps=1)
    card = folder / "fit.json"
    written = card.stat().st_mtime_ns
    fit(tiny_micro / "inserter", tiny_pipe, latents, tmp_path, steps=1)
    assert card.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="choose another out"):
        fit(tiny_micro / "inserter", tiny_pipe, latents, tmp_path, steps=2)
    other = replace(latents, mask=latents.mask * 0)
    with pytest.raises(UserError, match="choose another out"):
        fit(tiny_micro / "inserter", tiny_pipe, other, tmp_path, steps=1)


def test_a_lora_fit_changes_the_attentions_and_the_input_layer_and_nothing_else(
    tiny_pipe: Any, latents: EditLatents, tmp_path: Path
) -> None:
    before = edit_start(tiny_pipe.unet).state_dict()
    after = weights(fit(tiny_pipe.unet, tiny_pipe, latents, tmp_path, lora_rank=2))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {"conv_in.weight", "conv_in.bias"} <= changed
    assert any(".attn1." in key for key in changed)
    assert all(".attn" in key or key.startswith("conv_in.") for key in changed)


def test_a_fit_kept_as_a_lora_is_the_merged_one(tiny_pipe: Any, latents: EditLatents, tmp_path: Path) -> None:
    merged = weights(fit(tiny_pipe.unet, tiny_pipe, latents, tmp_path / "a", lora_rank=2))
    small = fit(tiny_pipe.unet, tiny_pipe, latents, tmp_path / "b", lora_rank=2, merged=False)
    assert sorted(p.name for p in small.iterdir()) == ["edit_lora.json", "edit_lora.safetensors", "fit.json"]
    loaded = load_edit_unet(small, base=tiny_pipe.unet).state_dict()
    assert all(torch.allclose(loaded[key], value, atol=1e-6) for key, value in merged.items())
    with pytest.raises(UserError, match="was trained on"):
        load_edit_unet(small, base=build_unet(TINY))
    for start, rank, expected in ((small, 3, "lora_rank=2"), (build_unet(TINY), 2, "save=merged")):
        with pytest.raises(UserError, match=expected):
            fit(start, tiny_pipe, latents, tmp_path / "c", lora_rank=rank, merged=False)


@pytest.mark.slow
def test_a_blend_begins_at_a_network_that_was_kept_as_a_lora(
    tiny_pipe: Any, tiny_micro: Path, latents: EditLatents, tmp_path: Path
) -> None:
    small = fit(tiny_pipe.unet, tiny_pipe, latents, tmp_path / "small", lora_rank=2, merged=False)
    start, trained = load_edit_unet(small, base=tiny_pipe.unet).state_dict(), weights(tiny_micro / "inserter")
    model = frozen("insertion", "out=runs/x", f"model.source={tiny_micro}", "model.device=cpu").model
    inputs = {"start": small, "trained": tiny_micro / "inserter"}
    payload = Payload(BlendSettings("insert", 0.5), inputs, model, tmp_path / "out", tmp_path / "work")
    payload.write(tmp_path / "payload.json")
    run_blend(tmp_path / "payload.json")
    assert "_name_or_path" not in read_json(tmp_path / "out" / "inserter" / "config.json")
    for name, value in weights(tmp_path / "out" / "inserter").items():
        assert torch.allclose(value, 0.5 * start[name] + 0.5 * trained[name], atol=1e-6), name


def test_dropout_and_noise_change_what_is_shown_and_nothing_else(latents: EditLatents) -> None:
    shown, hidden = (batches(latents, dropout=share) for share in (0.0, 1.0))
    assert not hidden["condition"].any()
    assert not hidden["mask"].any()
    assert shown["condition"].any()
    for key in ("latents", "noise", "timesteps"):
        assert torch.equal(shown[key], hidden[key])
    plain, noisy = (batches(latents, 64, condition_noise=most) for most in (0.0, 2.0))
    spread = noisy.pop("condition_noise").std(dim=(1, 2, 3))
    assert 0.8 < float(spread.mean()) < 1.2  # uniform from 0 to 2
    assert float(spread.min()) < 0.3
    assert float(spread.max()) < 2.5
    assert plain.keys() == noisy.keys()
    assert all(torch.equal(plain[key], noisy[key]) for key in plain)


def test_the_network_sees_the_noise_and_the_weights_of_the_loss_do_not() -> None:
    seen: list[Tensor] = []

    class Seer(nn.Module):
        def forward(self, images: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
            seen.append(images[:, C : 2 * C])
            return (images[:, :C] * 0,)

    empty = torch.zeros(1, 1, 2), torch.zeros(1, 2)
    module = InsertionModule(
        Seer(), DDPMScheduler(), empty, EditFit("insert", 1, 2, 1e-3, 0, effect_weight=12.0), image_size=32
    )
    batch = {
        "latents": noise(2, C, 4, 4), "condition": noise(2, C, 4, 4, name="condition"),
        "mask": torch.zeros(2, 1, 4, 4), "noise": noise(2, C, 4, 4, name="noise"), "timesteps": torch.tensor([10, 900]),
    }  # fmt: skip
    extra = noise(2, C, 4, 4, name="extra")
    losses = [module.denoising_loss(batch), module.denoising_loss({**batch, "condition_noise": extra})]
    assert torch.equal(seen[0], batch["condition"])
    assert torch.equal(seen[1], batch["condition"] + extra)
    assert torch.equal(losses[0], losses[1])


def test_a_time_shift_keeps_both_ends_and_draws_noisy_times_more_often() -> None:
    uniform = torch.arange(1000) / 1000
    plain, shifted = shifted_times(uniform, 1.0, 1000), shifted_times(uniform, 3.0, 1000)
    assert torch.equal(plain, (uniform * 1000).long())
    assert shifted[0] == 0
    assert shifted[-1] == 999
    assert shifted[500] == 750  # 3 u / (1 + 2 u) at one half
    assert (shifted.diff() >= 0).all()


def test_an_edit_batch_pairs_condition_target_and_mask_of_one_scene() -> None:
    number = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1, 1)
    full = np.ones((5, 2, 1, 4, 4), np.float32) * number
    batch = batches(EditLatents(condition=full, target=full + 100, mask=full + 200), 8)
    assert torch.equal(batch["latents"], batch["condition"] + 100)
    assert torch.equal(batch["mask"], batch["condition"] + 200)


def test_changed_cells_count_more_and_every_picture_as_much_as_any_other() -> None:
    condition = torch.zeros(2, C, 4, 4)
    target = condition.clone()
    target[0, :, 0, 0] = 2 * CLEAR_CHANGE
    weights = effect_weights(condition, target, 12.0)
    assert torch.allclose(weights.mean(dim=(1, 2, 3)), torch.ones(2))
    assert torch.allclose(weights[0, 0, 0, 0] / weights[0, 0, 3, 3], torch.tensor(13.0))
    assert torch.equal(weights[1], torch.ones(1, 4, 4))
    assert torch.equal(effect_weights(condition, target, 0.0), torch.ones(2, 1, 4, 4))


CONFIG = ViewConfig(views=4, context=2.2, dilate=0.1, seed=0)


def scene(number: int = 0, height: int = 90, width: int = 120) -> Pair:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    without = torch.stack([x, y, 0.5 + 0 * x])
    mask = rectangle(height, width, (40, 70), (20 + 5 * number, 44 + 5 * number))
    return Pair(f"scene-{number}", torch.where(mask > 0, 1.0, without), without, mask)


class Scenes:
    """Three pairs in memory."""

    ids = ("scene-0", "scene-1", "scene-2")
    digests = ("a", "b", "c")

    def load(self, index: int) -> Pair:
        return scene(index)


def test_the_second_view_is_the_first_mirrored_and_a_loose_mask_only_grows() -> None:
    first, second = (view_of(scene(), number, 32, CONFIG) for number in (0, 1))
    assert torch.equal(first.pasted.flip(-1), second.pasted)
    assert torch.equal(first.mask.flip(-1), second.mask)
    masks = [view_of(scene(), number, 48, CONFIG) for number in range(8)]
    assert all((view.loose_mask >= view.mask).all() for view in masks)
    assert any(view.loose_mask.sum() > view.mask.sum() for view in masks)
    tight = view_of(scene(), 3, 48, ViewConfig(4, 2.2, 0.0, 0))
    assert torch.equal(tight.loose_mask, tight.mask)


@pytest.mark.parametrize("number", range(12))
def test_every_window_holds_the_whole_subject(number: int) -> None:
    view = view_of(scene(), number, 48, CONFIG)
    border = torch.cat([view.mask[:, 0], view.mask[:, -1], view.mask[:, :, 0], view.mask[:, :, -1]], dim=-1)
    assert float(border.max()) == 0
    assert 0.05 < float(view.mask.mean()) < 0.7


@pytest.mark.parametrize("task", ["remove", "insert"])
def test_latents_that_were_interrupted_are_those_of_one_go(task: Any, tiny_pipe: Any, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    config = ViewConfig(2, 2.2, 0.1, 0)
    whole = edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "b", on_step=stop)
    resumed = edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "b")
    for name in ("condition", "target", "mask"):
        first, second = getattr(whole, name), getattr(resumed, name)
        assert first.shape[:2] == (3, 2)
        assert (first == second).all()
        assert first[2].any()


def test_two_ranks_encode_as_one(hub_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViewConfig(1, 2.2, 0.1, 0)
    whole = edit_data(Scenes(), hub_pipe, config, "insert", tmp_path / "one")
    monkeypatch.setattr(insertion_job, "wait_for_all", lambda: None)  # one after the other, so nobody waits
    monkeypatch.setattr(insertion_job, "first_rank_first", lambda work: work())
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    # Both read the books before either writes, so each takes every second pair of three.
    monkeypatch.setattr(insertion_job, "read_jsonl", lambda file: [])
    counts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        seen: list[tuple[int, int]] = []
        note = lambda *step, seen=seen: seen.append(step)  # noqa: E731
        both = edit_data(Scenes(), hub_pipe, config, "insert", tmp_path / "two", on_step=note)
        counts.append(seen[-1])
    assert counts == [(2, 2), (1, 1)]
    assert (both.target == whole.target).all()
    assert (both.condition == whole.condition).all()
