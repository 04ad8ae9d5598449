"""Laws of the foundation's parts on the tiny model: what each trains, and what its batches hold."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magic_insert.core.store import Store
from magic_insert.data.renders import PoolPlan, ToyboxPool, render
from magic_insert.foundation.generator import (
    NOWHERE,
    PLACES,
    Batches,
    ControlNetModule,
    Drawings,
    GeneratorModule,
    Sources,
    photo_edges,
    set_adapter_blocks,
    toning,
    velocity_loss,
)
from magic_insert.models import micro
from magic_insert.models.edit_unet import without_adapter
from magic_insert.toybox.captions import corpus
from magic_insert.toybox.styles import TRAIN_STYLES, style_phrase
from magic_insert.toybox.styles.view import LOOK_NAMES, apply_look
from magic_insert.training.insertion import mask_cells
from magic_insert.training.trainer import TrainerOptions, fit

PLAN = PoolPlan(
    num_identities=6, poses_per_identity=1, drawings_per_subject=3, num_scenes=6, drawings_per_scene=3,
    num_photo_scenes=1, size=32,
)  # fmt: skip
WITHOUT = PLACES.index(NOWHERE)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ToyboxPool:
    torch.set_num_threads(1)
    return ToyboxPool(render(Store(tmp_path_factory.mktemp("pool")), PLAN, workers=1), PLAN)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("words")
    micro.build_tokenizer(folder, corpus(), context=micro.TINY.context)
    return micro.load_tokenizers(folder)


def coded_sources(pool: ToyboxPool) -> Sources:
    """Values that say which picture they are, in which style and look."""

    def of(style: np.ndarray, look: np.ndarray) -> Drawings:
        number = np.broadcast_to(np.arange(len(style))[:, None], style.shape)
        return Drawings(np.stack([style + 1, look + 1, number], -1).astype(np.float32), style, look)

    def latents(drawn: Drawings) -> Drawings:
        values = np.broadcast_to(
            drawn.values[:, :, None, :, None, None], (*drawn.values.shape[:2], 2, 3, 8, 8)
        )
        return Drawings(values, drawn.style, drawn.look)

    def toned(styles: np.ndarray) -> Drawings:
        kept = toning(styles, seed=0)
        return of(kept.style, kept.look)

    none_s, none_c = np.full_like(pool.subject_styles, -1), np.full_like(pool.scene_styles, -1)
    subjects, scenes = of(pool.subject_styles, none_s), of(pool.scene_styles, none_c)
    return Sources(
        subjects=latents(subjects),
        scenes=latents(scenes),
        toned_subjects=latents(toned(pool.subject_styles)),
        style_of_scenes=scenes,
        style_of_subjects=subjects,
        style_of_toned_scenes=toned(pool.scene_styles),
        edges=np.stack([photo_edges(picture[0]) for picture in pool.subjects]),
    )


@pytest.fixture(scope="module")
def batches(pool: ToyboxPool, tokenizers: Any) -> Batches:
    return Batches(pool, coded_sources(pool), tokenizers, seed=0, batch_size=16)


@pytest.mark.parametrize("name", LOOK_NAMES)
def test_a_look_changes_colours_and_nothing_else(name: str) -> None:
    picture = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    changed = apply_look(picture, name)
    assert changed.shape == picture.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, picture)
    assert torch.equal(apply_look(picture.flip(-1), name), changed.flip(-1))
    assert torch.equal(apply_look(picture[:, :4], name), changed[:, :4])


def test_toned_pictures_are_drawings_of_the_pool_in_the_look_that_is_named(pool: ToyboxPool) -> None:
    chosen = toning(pool.subject_styles, seed=3)
    pictures = chosen.pictures(pool.subjects)
    for i, t in np.ndindex(chosen.look.shape):
        drawing = list(pool.subject_styles[i]).index(chosen.style[i, t])
        own = torch.from_numpy(pool.subjects[i, drawing].copy())
        assert np.array_equal(pictures[i, t], apply_look(own, LOOK_NAMES[chosen.look[i, t]]).numpy())
    assert len(set(chosen.look.flatten().tolist())) > 2


def test_a_style_picture_has_the_style_and_the_look_of_what_is_drawn(batches: Batches) -> None:
    shown = in_a_look = 0
    for step in range(24):
        batch = batches(step)
        for drawn, style in zip(batch["latents"][:, :, 0, 0], batch["style"], strict=True):
            if style.any():
                assert torch.equal(drawn[:2], style[:2])
                shown, in_a_look = shown + 1, in_a_look + int(style[1] > 0)
    assert shown > 100
    assert in_a_look > 10


def test_pooled_text_names_a_style_only_where_token_states_do(batches: Batches, tokenizers: Any) -> None:
    words = tuple(style_phrase(name) for name in TRAIN_STYLES)
    named = {"ids": 0, "pooled_ids": 0}
    for step in range(24):
        batch = batches(step)
        texts = {name: tokenizers[0].batch_decode(batch[name], skip_special_tokens=True) for name in named}
        for text, pooled in zip(*texts.values(), strict=True):
            found = [any(word in t for word in words) for t in (text, pooled)]
            assert found[0] >= found[1]
            named["ids"] += found[0]
            named["pooled_ids"] += found[1]
    assert named["ids"] > named["pooled_ids"] > 20


def test_a_batch_is_a_function_of_its_number_with_photo_edges(pool: ToyboxPool, tokenizers: Any) -> None:
    with_edges = Batches(pool, coded_sources(pool), tokenizers, seed=0, batch_size=6, edges=True)
    first, again, other = with_edges(2), with_edges(2), with_edges(3)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["noise"], other["noise"])
    drawn = first["latents"][:, 2, 0, 0].long()
    for row, edges in zip(drawn, first["edges"], strict=True):
        true = torch.from_numpy(photo_edges(pool.subjects[row, 0])).float()
        assert torch.equal(edges[0], true) or torch.equal(edges[0], true.flip(-1))


def generator_module(tokenizers: Any, steps: int) -> GeneratorModule:
    torch.manual_seed(0)
    unet = micro.build_unet(micro.TINY)
    micro.new_adapter(unet, micro.TINY.embed_dim)
    return GeneratorModule(
        unet,
        micro.build_text_encoder(micro.TINY, tokenizers[0], second=False),
        micro.build_text_encoder(micro.TINY, tokenizers[1], second=True),
        micro.build_scheduler(),
        image_size=micro.TINY.image_size,
        lr=1e-3,
        steps=steps,
    )


def generator_batch(tokenizers: Any, step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    ids = tokenizers[0](["a red bunny"] * 2, padding="max_length", return_tensors="pt").input_ids
    return {
        "latents": torch.randn(2, micro.TINY.latent_channels, 8, 8, generator=draw),
        "noise": torch.randn(2, micro.TINY.latent_channels, 8, 8, generator=draw),
        "timesteps": torch.tensor([100, 900]),
        "ids": ids,
        "ids_2": ids,
        "pooled_ids": ids,
        "style": torch.randn(2, micro.TINY.embed_dim, generator=draw),
        "step": torch.tensor(step),
    }


def test_unet_and_adapter_learn_and_text_encoders_stay(tokenizers: Any, tmp_path: Path) -> None:
    module = generator_module(tokenizers, 2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    fit(module, partial(generator_batch, tokenizers), TrainerOptions(steps=2), tmp_path)
    moved = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert all(name.startswith("unet.") for name in moved)
    assert any("to_k_ip" in name for name in moved)
    assert any("resnets" in name for name in moved)


def test_a_style_picture_acts_in_every_turn_but_the_one_without_the_adapter(tokenizers: Any) -> None:
    module = generator_module(tokenizers, 1)
    for turn, place in enumerate(PLACES):
        set_adapter_blocks(module.unet, place)
        batch = generator_batch(tokenizers, turn)
        losses = []
        for style in (batch["style"], -batch["style"]):
            states, added = module.conditioning({**batch, "style": style})
            with torch.no_grad():
                predicted = module.unet(batch["latents"], 500, states, added_cond_kwargs=added).sample
            losses.append(predicted)
        assert torch.equal(*losses) == (turn == WITHOUT)


def test_a_unet_without_its_adapter_is_one_with_the_adapter_off(tokenizers: Any, tmp_path: Path) -> None:
    unet = generator_module(tokenizers, 1).unet
    micro.save_ip_adapter(tmp_path, micro.collect_ip_adapter(unet))
    bare = without_adapter(unet)
    batch = generator_batch(tokenizers, 0)
    added = {
        "text_embeds": torch.randn(2, micro.TINY.embed_dim),
        "time_ids": torch.ones(2, 6),
        "image_embeds": [batch["style"][:, None]],
    }
    words = torch.randn(2, 5, micro.TINY.cross_dim)
    set_adapter_blocks(unet, None)
    with torch.no_grad():
        off = unet(batch["latents"], 500, words, added_cond_kwargs=added).sample
        assert torch.allclose(
            bare(batch["latents"], 500, words, added_cond_kwargs=added).sample, off, atol=1e-6
        )
        micro.load_adapter(bare, tmp_path)
        set_adapter_blocks(unet, "")
        set_adapter_blocks(bare, "")
        on = [u(batch["latents"], 500, words, added_cond_kwargs=added).sample for u in (unet, bare)]
    assert torch.allclose(*on, atol=1e-6)
    assert not torch.allclose(on[0], off)


def test_the_controlnet_alone_learns_from_the_first_step(tokenizers: Any, tmp_path: Path) -> None:
    generator = generator_module(tokenizers, 2)
    network = micro.build_controlnet(without_adapter(generator.unet))
    others = generator.text_encoder, generator.text_encoder_2, micro.build_scheduler()
    module = ControlNetModule(
        generator.unet, network, *others, image_size=micro.TINY.image_size, lr=1e-2, steps=2
    )
    before = {k: v.clone() for k, v in module.state_dict().items()}
    edges = (torch.rand(2, 3, 64, 64) > 0.9).float()
    options = TrainerOptions(steps=2)
    fit(module, lambda step: {**generator_batch(tokenizers, step), "edges": edges}, options, tmp_path / "fit")
    moved = {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}
    assert moved
    assert all(key.startswith("unet.controlnet.") for key in moved)
    assert "unet.controlnet.controlnet_cond_embedding.conv_in.weight" in moved


def test_the_velocity_loss_is_zero_for_the_true_velocity_and_a_cell_its_covered_share() -> None:
    scheduler = micro.build_scheduler()
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([10, 500, 999])

    class Oracle(torch.nn.Module):
        def forward(self, inputs: torch.Tensor, timesteps: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
            alpha = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            # v = sqrt(a) noise - sqrt(1 - a) x (Salimans and Ho 2022)
            return (alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,)

    loss = velocity_loss(Oracle(), scheduler, latents, noise, steps, states=torch.zeros(1), added={})
    assert float(loss) < 1e-10
    mask = np.zeros((1, 1, 16, 16), np.uint8)
    mask[..., :8, :4] = 255
    assert mask_cells(mask, 2).tolist() == [[[[0.5, 0.0], [0.0, 0.0]]]]


def test_one_corpus_gives_one_tokenizer_whatever_is_equally_frequent(tmp_path: Path) -> None:
    phrases = ["ab ba cd dc ef fe gh hg", "abcd efgh ijkl", "mnop qrst uvwx yz"]
    files = set()
    for number in range(6):
        micro.build_tokenizer(tmp_path / str(number), phrases, context=micro.TINY.context)
        files.add((tmp_path / str(number) / "tokenizer.json").read_bytes())
    assert len(files) == 1
