"""A subject learned while the image adapter hears its own picture: who hears what, and what it must not change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from magic_insert.config.schema.training import PersonalizationConfig, ValidationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.style import listeners, style_embeds
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.training.personalize import personalize
from magic_insert.training.subject_views import subject_cache

CONFIG = PersonalizationConfig(
    steps=2,
    batch_size=2,
    rank=2,
    alpha=4.0,
    targets=["to_q", "to_k", "to_v", "to_out.0"],
    lr_unet=3e-2,
    wd_unet=0.1,
    lr_tokens=3e-2,
    wd_tokens=0.1,
    views=3,
    own_style="up0",
)


def subject() -> Subject:
    alpha = torch.zeros(1, 50, 40)
    alpha[:, 10:40, 10:30] = 1
    return Subject(torch.rand(3, 50, 40, generator=generator(0, "subject")), alpha, "block")


def train(pipe: Any, out: Path, cfg: PersonalizationConfig = CONFIG, **more: Any) -> list[bytes]:
    run = personalize(pipe, subject(), cfg, seed=3, out=out, progress=False, **more)
    return [(run / name).read_bytes() for name in (LORA_FILE, TOKENS_FILE)]


def loudness(unet: Any) -> dict[str, float]:
    return {name: layer.scale[0] for name, layer in listeners(unet).items()}


@pytest.fixture(scope="module")
def product(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return train(tiny_pipe, tmp_path_factory.mktemp("runs") / "own")


def test_the_named_blocks_hear_the_view_that_is_trained_on_and_afterwards_none_hears_anything(
    tiny_pipe: Any, tmp_path: Path
) -> None:
    seen: list[tuple[torch.Tensor, dict[str, float]]] = []

    def note(unet: Any, args: Any, told: dict[str, Any]) -> None:
        seen.append((told["added_cond_kwargs"]["image_embeds"][0].clone(), loudness(unet)))

    hook = tiny_pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        train(tiny_pipe, tmp_path / "run")
    finally:
        hook.remove()
    views = subject_cache(tiny_pipe, [subject()], CONFIG, seed=0, out=tmp_path).styles
    assert views is not None
    assert len({view.numpy().tobytes() for view in views}) == 3
    assert len(seen) == CONFIG.steps
    for styles, scales in seen:
        assert styles.shape[0] == CONFIG.batch_size
        assert styles.abs().sum() > 0
        assert {name for name, scale in scales.items() if scale} == {
            name for name in scales if name.startswith("up_blocks.0.")
        }
    assert not any(loudness(tiny_pipe.unet).values())


def test_a_view_is_heard_as_the_pipeline_encodes_its_picture(tiny_pipe: Any, tmp_path: Path) -> None:
    from magic_insert.data.subject_images import place
    from magic_insert.models.sampling import image_size

    cfg = replace(CONFIG, views=1, augment_scale=0.0, augment_shift=0.0)
    for where in ("memory", "disk"):
        cache = subject_cache(tiny_pipe, [subject()], replace(cfg, latent_cache=where), seed=0, out=tmp_path)
        picture = place(subject(), image_size(tiny_pipe))[0]
        assert cache.styles is not None
        assert torch.equal(cache.styles, style_embeds(tiny_pipe, [picture]).positive)


@pytest.mark.parametrize("blocks", ["none", "all", "instantstyle"])
def test_who_hears_the_own_look_decides_what_is_learned(
    tiny_pipe: Any, product: list[bytes], tmp_path: Path, blocks: str
) -> None:
    assert train(tiny_pipe, tmp_path / "run", replace(CONFIG, own_style=blocks)) != product


@pytest.mark.parametrize(
    "other",
    [
        {"gradient_checkpointing": True},
        {"latent_cache": "disk"},
        {"validation": ValidationConfig(every=1, seeds=1, edits=[], steps=1)},
    ],
    ids=str,
)
def test_savers_of_memory_and_looks_in_between_change_no_bit(
    tiny_pipe: Any, product: list[bytes], tmp_path: Path, other: dict[str, Any]
) -> None:
    assert train(tiny_pipe, tmp_path / "run", replace(CONFIG, **other)) == product


def test_a_run_that_breaks_within_a_step_leaves_the_adapter_silent(tiny_pipe: Any, tmp_path: Path) -> None:
    class PowerCut(Callback):
        def on_before_backward(self, trainer: pl.Trainer, module: Any, loss: Any) -> None:
            assert any(loudness(tiny_pipe.unet).values())
            raise ConnectionError("power cut")

    with pytest.raises(ConnectionError):
        train(tiny_pipe, tmp_path / "run", callbacks=[PowerCut()])
    assert not any(loudness(tiny_pipe.unet).values())


def test_a_model_without_an_adapter_is_refused_before_anything_is_written(
    stock_pipe: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"personalization\.own_style=none"):
        train(stock_pipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
