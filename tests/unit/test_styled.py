"""Laws of the training in which the model learns to take the style from a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magic_insert.data.toybox_pool import PoolPlan, ToyboxPool, write_pool
from magic_insert.models.micro import (
    TINY,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    load_tokenizers,
)
from magic_insert.models.micro_parts import load_adapter, new_adapter, publish_adapter, without_adapter
from magic_insert.toybox.captions import corpus
from magic_insert.toybox.styles import ALL_STYLES, style_phrase
from magic_insert.toybox.styles.view import luminance
from magic_insert.training.foundation.adapter import act_in
from magic_insert.training.foundation.looks import LOOK_NAMES, apply_look
from magic_insert.training.foundation.styled import (
    TURNS,
    Seen,
    StyledModule,
    StyledSources,
    styled_batches,
    tonings,
)
from magic_insert.training.trainer import TrainerOptions, fit

PLAN = PoolPlan(
    num_identities=6,
    poses_per_identity=1,
    drawings_per_subject=3,
    num_scenes=6,
    drawings_per_scene=3,
    num_photo_scenes=1,
    size=32,
)
WITHOUT = TURNS.index(None)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ToyboxPool:
    torch.set_num_threads(1)
    return ToyboxPool(write_pool(tmp_path_factory.mktemp("pool"), PLAN, workers=1))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("words")
    build_tokenizer(folder, corpus(), context=TINY.context)
    return load_tokenizers(folder)


def coded(style: np.ndarray, look: np.ndarray, number: np.ndarray, *shape: int) -> np.ndarray:
    """Values that say which picture they are, in which style and look."""
    code = np.stack([style + 1, look + 1, number], axis=-1).astype(np.float32)
    return np.broadcast_to(code.reshape(*style.shape, 3, *[1] * (len(shape))), (*style.shape, 3, *shape))


def sources(pool: ToyboxPool) -> StyledSources:
    def of(style: np.ndarray, look: np.ndarray, *shape: int) -> Seen:
        number = np.broadcast_to(np.arange(len(style))[:, None], style.shape)
        return Seen(coded(style, look, number, *shape), style, look)

    bright = tonings(pool.subject_styles, 2, seed=0)
    tones = tonings(pool.scene_styles, 3, seed=0)
    none_s, none_c = np.full_like(pool.subject_styles, -1), np.full_like(pool.scene_styles, -1)
    return StyledSources(
        subjects=of(pool.subject_styles, none_s, 8, 8),
        scenes=of(pool.scene_styles, none_c, 8, 8),
        toned_subjects=of(bright.style, bright.look, 8, 8),
        said_by_scenes=of(pool.scene_styles, none_c),
        said_by_subjects=of(pool.subject_styles, none_s),
        said_by_toned_scenes=of(tones.style, tones.look),
    )


@pytest.mark.parametrize("name", LOOK_NAMES)
def test_a_look_changes_colours_and_nothing_else(name: str) -> None:
    picture = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    changed = apply_look(picture, name)
    assert changed.shape == picture.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, picture)
    assert torch.equal(apply_look(picture.flip(-1), name), changed.flip(-1))
    assert torch.equal(apply_look(picture[:, :4], name), changed[:, :4])


def test_grey_keeps_the_brightness_and_inverting_twice_changes_nothing() -> None:
    picture = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    grey = apply_look(picture, "grey").float()
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[1], grey[2])
    assert (grey[:1] - luminance(picture.float())).abs().max() <= 0.51
    assert torch.equal(apply_look(apply_look(picture, "inverted"), "inverted"), picture)


def test_toned_pictures_are_drawings_of_the_pool_in_the_look_that_is_named(pool: ToyboxPool) -> None:
    chosen = tonings(pool.subject_styles, 2, seed=3)
    seen = chosen.seen(chosen.pictures(pool.subjects))
    for i, t in np.ndindex(seen.look.shape):
        drawing = list(pool.subject_styles[i]).index(seen.style[i, t])
        own = torch.from_numpy(pool.subjects[i, drawing].copy())
        assert np.array_equal(seen.values[i, t], apply_look(own, LOOK_NAMES[seen.look[i, t]]).numpy())
    assert len(set(seen.look.flatten().tolist())) > 2


def test_a_style_picture_has_the_style_and_the_look_of_what_is_drawn(
    pool: ToyboxPool, tokenizers: Any
) -> None:
    batch_at = styled_batches(pool, sources(pool), *tokenizers, seed=0, batch_size=16)
    heard, in_a_look = 0, 0
    for step in range(24):
        batch = batch_at(step)
        for drawn, said in zip(batch["latents"][:, :, 0, 0], batch["style"], strict=True):
            if said.any():
                assert torch.equal(drawn[:2], said[:2])
                heard, in_a_look = heard + 1, in_a_look + int(said[1] > 0)
    assert heard > 100
    assert in_a_look > 10


def test_where_a_picture_says_the_style_no_word_says_it(pool: ToyboxPool, tokenizers: Any) -> None:
    batch_at = styled_batches(pool, sources(pool), *tokenizers, seed=0, batch_size=16)
    words = tuple(map(style_phrase, ALL_STYLES))
    by_picture = by_words = 0
    for step in range(24):
        batch = batch_at(step)
        for name in ("ids", "pooled_ids"):
            texts = tokenizers[0].batch_decode(batch[name], skip_special_tokens=True)
            for text, said in zip(texts, batch["style"], strict=True):
                named = any(word in text for word in words)
                assert not (named and said.any()), text
                by_picture, by_words = by_picture + int(said.any()), by_words + int(named)
    assert by_picture > 100
    assert by_words > 50


def test_nothing_is_said_by_a_picture_in_the_turn_without_the_adapter(
    pool: ToyboxPool, tokenizers: Any
) -> None:
    batch_at = styled_batches(pool, sources(pool), *tokenizers, seed=0, batch_size=16)
    assert not batch_at(WITHOUT)["style"].any()
    assert batch_at(WITHOUT + 1)["style"].any()


def styled_module(tokenizers: Any, steps: int) -> StyledModule:
    torch.manual_seed(0)
    unet = build_unet(TINY)
    new_adapter(unet, TINY.embed_dim)
    return StyledModule(
        unet,
        build_text_encoder(TINY, tokenizers[0], second=False),
        build_text_encoder(TINY, tokenizers[1], second=True),
        build_scheduler(),
        image_size=TINY.image_size,
        lr=1e-3,
        steps=steps,
    )


def styled_batch(tokenizers: Any, step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    ids = tokenizers[0](["a red bunny"] * 2, padding="max_length", return_tensors="pt").input_ids
    return {
        "latents": torch.randn(2, TINY.latent_channels, 8, 8, generator=draw),
        "noise": torch.randn(2, TINY.latent_channels, 8, 8, generator=draw),
        "timesteps": torch.tensor([100, 900]),
        "ids": ids,
        "ids_2": ids,
        "pooled_ids": ids,
        "style": torch.randn(2, TINY.embed_dim, generator=draw),
        "step": torch.tensor(step),
    }


def test_unet_and_adapter_learn_and_the_text_encoders_stay_as_they_are(
    tokenizers: Any, tmp_path: Path
) -> None:
    module = styled_module(tokenizers, 2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    fit(
        module, lambda step: styled_batch(tokenizers, step), TrainerOptions(steps=2, progress=False), tmp_path
    )
    moved = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert all(name.startswith("unet.") for name in moved)
    assert any("to_k_ip" in name for name in moved)
    assert any("resnets" in name for name in moved)


def test_a_picture_is_heard_in_every_turn_but_the_one_without_the_adapter(tokenizers: Any) -> None:
    module = styled_module(tokenizers, 1)
    for turn in range(len(TURNS)):
        batch = styled_batch(tokenizers, turn)
        losses = []
        for style in (batch["style"], -batch["style"]):
            states, added = module.conditioning({**batch, "style": style})
            with torch.no_grad():
                said = module.unet(batch["latents"], 500, states, added_cond_kwargs=added).sample
            losses.append(said)
        assert torch.equal(*losses) == (turn == WITHOUT)


def test_the_unet_without_its_adapter_says_what_it_says_with_the_adapter_silent(
    tokenizers: Any, tmp_path: Path
) -> None:
    unet = styled_module(tokenizers, 1).unet
    publish_adapter(tmp_path, unet)
    bare = without_adapter(unet)
    batch = styled_batch(tokenizers, 0)
    told = {
        "text_embeds": torch.randn(2, TINY.embed_dim),
        "time_ids": torch.ones(2, 6),
        "image_embeds": [batch["style"][:, None]],
    }
    words = torch.randn(2, 5, TINY.cross_dim)
    act_in(unet, None)
    with torch.no_grad():
        silent = unet(batch["latents"], 500, words, added_cond_kwargs=told).sample
        assert torch.allclose(
            bare(batch["latents"], 500, words, added_cond_kwargs=told).sample, silent, atol=1e-6
        )
        load_adapter(bare, tmp_path)
        act_in(unet, "")
        act_in(bare, "")
        loud = [u(batch["latents"], 500, words, added_cond_kwargs=told).sample for u in (unet, bare)]
    assert torch.allclose(*loud, atol=1e-6)
    assert not torch.allclose(loud[0], silent)
