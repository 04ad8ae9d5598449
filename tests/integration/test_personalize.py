"""Personalisation end to end on a tiny model: exact resume, a product for plain diffusers, nothing left behind."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers import block, noise
from PIL import Image
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in, generator
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.stylizers.draws import Draw
from magic_insert.stylizers.personalized import PersonalizedStylizer
from magic_insert.training.checkpoint import list_checkpoints
from magic_insert.training.model_card import model_card
from magic_insert.training.personalize import personalize
from magic_insert.training.personalize_module import diffuse, min_snr_weight

CONFIG = PersonalizationConfig(
    steps=6,
    batch_size=2,
    rank=2,
    alpha=4.0,
    targets=["to_q", "to_k", "to_v", "to_out.0"],
    lr_unet=3e-2,
    wd_unet=0.1,
    lr_tokens=3e-2,
    wd_tokens=0.1,
    mask_loss=True,
    lr_schedule="cosine",
    warmup_steps=2,
    views=4,
    checkpoint_every=2,
)
PRODUCTS = (LORA_FILE, TOKENS_FILE)


def train(pipe: Any, out: Path, cfg: PersonalizationConfig = CONFIG, **more: Any) -> Path:
    return personalize(pipe, block(), cfg, seed=3, out=out, **more)


def stylizer_of(
    pipe: Any, run: Path, style: StyleConfig, sampling: SamplingConfig, lora_scale: float = 1.0
) -> PersonalizedStylizer:
    settings = StylizerConfig(lora_scale=lora_scale)
    return PersonalizedStylizer(settings, pipe, replace(block(), run=run), style, sampling)


def redraw(stylizer: PersonalizedStylizer, seed: int, name: str) -> torch.Tensor:
    return stylizer([Draw(noise(), seed, name)])[0]


@pytest.fixture(scope="module")
def run(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_pipe, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def stylizer(tiny_pipe: Any, run: Path) -> Iterator[PersonalizedStylizer]:
    made = stylizer_of(tiny_pipe, run, StyleConfig(), SamplingConfig(steps=3, guidance=3.0))
    yield made
    made.close()


class Interrupt(Callback):
    """Kills the run after `step` updates, as a lost machine would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == self.step:
            raise ConnectionError("power cut")


def test_the_card_of_the_shipped_model_finds_it_without_an_edit(run: Path) -> None:
    finished = json.loads((run / "card.json").read_text())
    finished["base_model"] = {"name": "micro", "source": "micro"}
    code = model_card(finished, "cat", lora="a.safetensors", tokens="b.safetensors").split("```python")[1]
    names: dict[str, Any] = {}
    exec(code.split("pipe =")[0].replace("from diffusers", "# from diffusers"), names)
    assert (Path(names["base"]) / "model_index.json").is_file()


def test_plain_diffusers_loads_the_product_as_its_model_card_says_and_draws_the_same_picture(
    stylizer: PersonalizedStylizer, tiny_micro: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = redraw(stylizer, 1, "pair")
    # From here on none of our code draws: this is what a user of diffusers would write.
    card = (run / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["instance_prompt"], header["license"], header["library_name"]) == (
        "A <v1> <v2>.",
        "other",
        "diffusers",
    )
    assert (run / header["widget"][0]["output"]["url"]).is_file()
    base = f'base = "{header["base_model"]}"'
    code = card.split("```python")[1].split("image =")[0]
    assert code.count(base) == 1
    monkeypatch.chdir(run)
    names: dict[str, Any] = {}
    exec(code.replace(base, f"base = {str(tiny_micro)!r}"), names)
    stock_pipe = names["pipe"]
    stock_pipe.set_progress_bar_config(disable=True)
    stock_pipe.load_ip_adapter(tiny_micro, subfolder="ip_adapter", weight_name="ip_adapter_micro.safetensors")
    stock_pipe.set_ip_adapter_scale({"up": {"block_0": [0.0, 1.0]}})
    centre = Image.fromarray((noise()[:, :, 10:70] * 255).round().byte().permute(1, 2, 0).numpy())
    drawn = stock_pipe(
        "A <v1> <v2>.",
        ip_adapter_image=centre,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(fold_in(1, "stylise", "pair", 0)),
        output_type="pt",
    ).images[0]
    torch.testing.assert_close(drawn, ours, atol=1e-4, rtol=0)


def test_after_training_the_pipeline_is_what_it_was(tiny_pipe: Any, tmp_path: Path) -> None:
    def state() -> dict[str, torch.Tensor]:
        parts = ("unet", "text_encoder", "text_encoder_2")
        return {f"{p}.{k}": v.clone() for p in parts for k, v in getattr(tiny_pipe, p).state_dict().items()}

    before, words = state(), len(tiny_pipe.tokenizer)
    train(tiny_pipe, tmp_path / "run", replace(CONFIG, steps=2))
    after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert len(tiny_pipe.tokenizer) == words


def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny_pipe: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        train(tiny_pipe, tmp_path / "run", callbacks=[Interrupt(3)])
    assert len(list_checkpoints(tmp_path / "run")) == 1
    looks: list[Any] = []  # what is learned does not depend on who looks on
    train(tiny_pipe, tmp_path / "run", on_step=lambda done, total, sketch: looks.append(sketch().size))
    assert looks == [(64, 64)] * 4
    for name in PRODUCTS:
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["resumed_from"] == 2
    assert not list_checkpoints(tmp_path / "run")


def test_training_moves_lora_and_tokens_and_another_seed_moves_them_elsewhere(
    tiny_pipe: Any, run: Path, tmp_path: Path
) -> None:
    start = train(tiny_pipe, tmp_path / "start", replace(CONFIG, steps=0))
    other = personalize(tiny_pipe, block(), CONFIG, seed=4, out=tmp_path / "other")
    for name in PRODUCTS:
        first, last, elsewhere = (load_file(folder / name) for folder in (start, run, other))
        assert any(not torch.equal(first[key], last[key]) for key in first)
        assert any(not torch.equal(elsewhere[key], last[key]) for key in first)


def test_a_finished_run_is_returned_at_once_and_another_run_is_refused(
    tiny_pipe: Any, run: Path, tmp_path: Path
) -> None:
    before = (run / "card.json").stat().st_mtime_ns
    assert train(tiny_pipe, run) == run
    with pytest.raises(UserError, match="another out"):
        train(tiny_pipe, run, replace(CONFIG, rank=3))
    with pytest.raises(UserError, match="another out"):
        personalize(tiny_pipe, block(1), CONFIG, seed=3, out=run)
    assert (run / "card.json").stat().st_mtime_ns == before


def test_a_loss_that_is_no_number_stops_before_the_weights_move(tiny_pipe: Any, tmp_path: Path) -> None:
    spoilt = block()
    spoilt.rgb[:, 20, 20] = float("nan")
    with pytest.raises(UserError, match="step 0"):
        personalize(tiny_pipe, spoilt, CONFIG, seed=0, out=tmp_path / "run")
    assert not (tmp_path / "run" / LORA_FILE).exists()


def test_training_lowers_the_loss_of_a_draw_it_keeps_seeing(tiny_pipe: Any, tmp_path: Path) -> None:
    losses: list[float] = []
    seen: list[Any] = []

    class Watch(Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int
        ) -> None:
            seen.append(batch)
            if index in (0, 7):
                with torch.no_grad():
                    losses.append(float(module.training_step(seen[0])))

    cfg = replace(CONFIG, steps=8, lr_schedule="constant", warmup_steps=0, batch_size=4)
    train(tiny_pipe, tmp_path / "run", cfg, callbacks=[Watch()])
    assert losses[1] < 0.99 * losses[0]


def test_a_run_beside_another_subject_in_the_same_pipeline_writes_the_same_bytes(
    tiny_pipe: Any, run: Path, stylizer: PersonalizedStylizer, tmp_path: Path
) -> None:
    before = redraw(stylizer, 0, "x")
    train(tiny_pipe, tmp_path / "again")
    assert all((tmp_path / "again" / name).read_bytes() == (run / name).read_bytes() for name in PRODUCTS)
    assert torch.equal(redraw(stylizer, 0, "x"), before)


def test_words_are_added_before_the_full_stop(tiny_pipe: Any, run: Path) -> None:
    style = StyleConfig(mode="prompt", prompt="as a pencil drawing")
    made = stylizer_of(
        tiny_pipe, run, style, SamplingConfig(steps=1, guidance=1.0, prompt_suffix="wearing a crown")
    )
    assert made.prompt() == "A <v1> <v2> wearing a crown, as a pencil drawing."
    assert made.prompt("in watercolour") == "A <v1> <v2> wearing a crown, in watercolour."
    made.close()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_target_and_the_noisy_latents_give_the_clean_ones_back(prediction: str) -> None:
    numbers = generator(0, "diffuse")
    clean, noise = (torch.randn(3, 4, 5, 5, generator=numbers) for _ in range(2))
    kept = torch.tensor([0.9, 0.5, 0.1])
    noisy, target = diffuse(clean, noise, kept, prediction)
    a, s = kept.sqrt().view(-1, 1, 1, 1), (1 - kept).sqrt().view(-1, 1, 1, 1)
    recovered = {
        "epsilon": (noisy - s * target) / a,
        "v_prediction": a * noisy - s * target,
        "sample": target,
    }
    torch.testing.assert_close(recovered[prediction], clean)


def test_min_snr_weights_all_say_the_same_about_the_clean_image() -> None:
    """An error e in the clean image weighs min(snr, gamma) e^2 whatever the model predicts (Hang et al. 2023)."""
    kept = torch.tensor([0.99, 0.7, 0.2, 0.01])
    snr = kept / (1 - kept)
    expected = snr.clamp(max=5.0)
    # d(clean) = d(epsilon) / sqrt(snr) and d(clean) = d(v) / sqrt(snr + 1).
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "epsilon") * snr, expected)
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "v_prediction") * (snr + 1), expected)
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "sample"), expected)
