"""Personalisation end to end on a tiny model: exact resume, a product for plain diffusers, every knob."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers import block, noise, plain_pipe, tiny_config
from PIL import Image
from pytorch_lightning.callbacks import Callback
from random_micro import build_micro
from safetensors.torch import load_file

from magic_insert.config.schema.jobs import ExportConfig
from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.config.schema.training import PersonalizationConfig, ValidationConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.core.rand import fold_in, generator
from magic_insert.data.subject_images import Augment, make_view, place
from magic_insert.models.ip_adapter import adapter_processors, style_embeds
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import use_lora
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.text import ENCODERS, attached, load_tokens
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.stylizers.draws import Draw
from magic_insert.stylizers.personalized import PersonalizedStylizer
from magic_insert.stylizers.style_aligned import clean_and_noise
from magic_insert.training.checkpoint import list_checkpoints
from magic_insert.training.export import run_export
from magic_insert.training.model_card import model_card
from magic_insert.training.personalize import RunOptions, personalize, step_folder
from magic_insert.training.personalize_module import diffuse, min_snr_weight, subject_cache

CONFIG = PersonalizationConfig(
    steps=4,
    batch_size=1,
    rank=2,
    alpha=4.0,
    targets=["to_q", "to_k", "to_v", "to_out.0"],
    lr_unet=3e-2,
    wd_unet=0.1,
    lr_tokens=3e-2,
    wd_tokens=0.1,
    views=3,
    checkpoint_every=1,
)
# Every layer that the micro recipe reaches, every part that can learn, every memory that a resume must restore.
EVERYTHING = replace(
    CONFIG,
    targets=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
             "conv1", "conv2", "conv_shortcut", "time_emb_proj"],
    text_rank=2,
    lr_text=1e-2,
    accumulate=2,
    ema_decay=0.9,
    prior_images=3,
    class_noun="bunny",
    token_fraction=0.5,
    noise_offset=0.1,
    min_snr_gamma=5.0,
    lr_schedule="linear",
    warmup_steps=1,
    mask_loss=True,
    own_style="up0",
    augment_ground="colors",
    augment_flip=True,
    latent_cache="disk",
    gradient_checkpointing=True,
    validation=ValidationConfig(every=2, seeds=1, edits=["sitting"], steps=2, scorer="model", pick="best"),
)  # fmt: skip
PRODUCTS = (LORA_FILE, TOKENS_FILE)


def train(pipe: Any, out: Path, cfg: PersonalizationConfig = CONFIG, **more: Any) -> Path:
    return personalize(pipe, block(), cfg, seed=3, out=out, **more)


def stylizer_of(pipe: Any, run: Path, mode: str = "none", **how: Any) -> PersonalizedStylizer:
    sampling = SamplingConfig(**{"steps": 1, "guidance": 1.0, **how})
    subject, style = replace(block(), run=run), StyleConfig(mode, prompt="as a pencil drawing")
    return PersonalizedStylizer(StylizerConfig(), pipe, subject, style, sampling)


def product(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in PRODUCTS]


def largest_change(one: Path, other: Path) -> float:
    a, b = ({**load_file(run / LORA_FILE), **load_file(run / TOKENS_FILE)} for run in (one, other))
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def redraw(stylizer: PersonalizedStylizer, seed: int, name: str) -> torch.Tensor:
    return stylizer([Draw(noise(), seed, name)])[0]


@pytest.fixture(scope="module")
def run(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_pipe, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def stylizer(tiny_pipe: Any, run: Path) -> Iterator[PersonalizedStylizer]:
    made = stylizer_of(tiny_pipe, run, "ip_adapter", steps=3, guidance=3.0)
    yield made
    made.close()


class After(Callback):
    """Does something after update `step`."""

    def __init__(self, step: int, action: Any, accumulate: int = 1) -> None:
        self.batch, self.action = step * accumulate - 1, action

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.batch:
            self.action()


def power_cut() -> None:
    raise ConnectionError("power cut")


def test_the_card_of_the_shipped_model_finds_it_without_an_edit(run: Path) -> None:
    finished = read_json(run / "card.json")
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
    told = {"instance_prompt": "A <v1> <v2>.", "license": "other", "library_name": "diffusers"}
    assert told.items() <= header.items()
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
    numbers = torch.Generator().manual_seed(fold_in(1, "stylise", "pair", 0))
    how = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    drawn = stock_pipe("A <v1> <v2>.", ip_adapter_image=centre, generator=numbers, **how).images[0]
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
        train(tiny_pipe, tmp_path / "run", callbacks=[After(2, power_cut)])
    assert list_checkpoints(tmp_path / "run")
    looks: list[Any] = []  # what is learned does not depend on who looks on
    train(tiny_pipe, tmp_path / "run", on_step=lambda done, total, sketch: looks.append(sketch().size))
    assert looks == [(64, 64)] * 2
    assert product(tmp_path / "run") == product(run)
    assert read_json(tmp_path / "run" / "card.json")["resumed_from"] == 2
    assert not list_checkpoints(tmp_path / "run")


def test_training_moves_lora_and_tokens_with_the_seed(tiny_pipe: Any, run: Path, tmp_path: Path) -> None:
    start = train(tiny_pipe, tmp_path / "start", replace(CONFIG, steps=0))
    other = personalize(tiny_pipe, block(), CONFIG, seed=4, out=tmp_path / "other")
    for name in PRODUCTS:
        first, last, elsewhere = (load_file(folder / name) for folder in (start, run, other))
        assert any(not torch.equal(first[key], last[key]) for key in first)
        assert any(not torch.equal(elsewhere[key], last[key]) for key in first)


def test_a_finished_run_is_returned_and_another_refused(tiny_pipe: Any, run: Path, tmp_path: Path) -> None:
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

    cfg = replace(CONFIG, steps=8, mask_loss=True, batch_size=4)
    train(tiny_pipe, tmp_path / "run", cfg, callbacks=[Watch()])
    assert losses[1] < 0.99 * losses[0]


def test_a_run_beside_another_subject_in_the_same_pipeline_writes_the_same_bytes(
    tiny_pipe: Any, run: Path, stylizer: PersonalizedStylizer, tmp_path: Path
) -> None:
    before = redraw(stylizer, 0, "x")
    train(tiny_pipe, tmp_path / "again")
    assert product(tmp_path / "again") == product(run)
    assert torch.equal(redraw(stylizer, 0, "x"), before)


def test_words_are_added_before_the_full_stop(tiny_pipe: Any, run: Path) -> None:
    made = stylizer_of(tiny_pipe, run, "prompt", prompt_suffix="wearing a crown")
    assert made.prompt() == "A <v1> <v2> wearing a crown, as a pencil drawing."
    assert made.prompt("in watercolour") == "A <v1> <v2> wearing a crown, in watercolour."
    made.close()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_noisy_latents_and_their_target_give_the_clean_ones_and_the_noise_back(prediction: str) -> None:
    numbers = generator(0, "diffuse")
    clean, noise = (torch.randn(3, 4, 5, 5, generator=numbers) for _ in range(2))
    kept = torch.tensor([0.9, 0.5, 0.1])
    noisy, target = diffuse(clean, noise, kept, prediction)
    known = {"epsilon": noise, "sample": clean}
    assert torch.equal(target, known.get(prediction, target))
    for i, share in enumerate(kept):
        found = clean_and_noise(noisy[i : i + 1], target[i : i + 1], share, prediction)
        torch.testing.assert_close(found, (clean[i : i + 1], noise[i : i + 1]))


def test_min_snr_weights_all_say_the_same_about_the_clean_image() -> None:
    """An error e in the clean image weighs min(snr, gamma) e^2 whatever the model predicts (Hang et al. 2023)."""
    kept = torch.tensor([0.99, 0.7, 0.2, 0.01])
    snr = kept / (1 - kept)
    expected = snr.clamp(max=5.0)
    # d(clean) = d(epsilon) / sqrt(snr) and d(clean) = d(v) / sqrt(snr + 1).
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "epsilon") * snr, expected)
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "v_prediction") * (snr + 1), expected)
    torch.testing.assert_close(min_snr_weight(kept, 5.0, "sample"), expected)


@pytest.fixture(scope="module")
def two_steps(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_pipe, tmp_path_factory.mktemp("runs") / "short", replace(CONFIG, steps=2))


@pytest.fixture(scope="module")
def everything(tiny_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_pipe, tmp_path_factory.mktemp("runs") / "everything", EVERYTHING)


@pytest.mark.slow
def test_every_option_goes_on_to_the_same_bytes(tiny_pipe: Any, everything: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        train(tiny_pipe, tmp_path / "run", EVERYTHING, callbacks=[After(2, power_cut, 2)])
    assert not (tmp_path / "run" / LORA_FILE).exists()
    train(tiny_pipe, tmp_path / "run", EVERYTHING)
    assert read_json(tmp_path / "run" / "card.json")["resumed_from"] == 2
    assert product(tmp_path / "run") == product(everything)
    for name in ("curve.csv", "curve.png", "samples/step-000002.png", "samples/step-000004.png"):
        assert (tmp_path / "run" / name).read_bytes() == (everything / name).read_bytes(), name


STOPPED = KeyboardInterrupt("stopped after step 2 of 3; the same command goes on from there")


def test_a_signal_is_obeyed_after_the_step_with_a_checkpoint(tiny_pipe: Any, tmp_path: Path) -> None:
    cfg = replace(CONFIG, steps=3, checkpoint_every=1000, accumulate=2)
    whole = product(train(tiny_pipe, tmp_path / "whole", cfg))
    for number, ending in ((signal.SIGTERM, SystemExit(143)), (signal.SIGINT, STOPPED)):
        handler, run = signal.getsignal(number), tmp_path / number.name
        # In the first part of the second step.
        ask = After(3, lambda number=number: os.kill(os.getpid(), number))
        with pytest.raises(type(ending)) as ended:
            train(tiny_pipe, run, cfg, callbacks=[ask])
        assert ended.value.args == ending.args
        assert [path.name for path in list_checkpoints(run)] == ["checkpoint-00000002.safetensors"]
        assert signal.getsignal(number) is handler
        assert product(train(tiny_pipe, run, cfg)) == whole


def test_n_small_batches_accumulated_are_one_large_batch(hub_pipe: Any, tmp_path: Path) -> None:
    large = train(hub_pipe, tmp_path / "large", replace(CONFIG, batch_size=2, steps=2))
    small = train(hub_pipe, tmp_path / "small", replace(CONFIG, accumulate=2, steps=2))
    # The first AdamW steps divide by gradients that may be near zero, so a few numbers differ visibly.
    one, other = load_file(large / TOKENS_FILE), load_file(small / TOKENS_FILE)
    assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)


class Savers(Callback):
    """What of the memory savers is on at the first step: checkpointing, latents on disk, where the VAE was sent."""

    def __init__(self, pipe: Any, out: Path, sent: list[str]) -> None:
        self.pipe, self.out, self.sent, self.seen = pipe, out, sent, {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not self.seen:
            self.seen = {
                "gradient_checkpointing": self.pipe.unet.is_gradient_checkpointing,
                "latents": (self.out / "64x64-latents.safetensors").is_file(),
                "vae": self.sent[-1:],
            }


@pytest.mark.parametrize(
    "saver",
    [{"gradient_checkpointing": True}, pytest.param({"latent_cache": "disk"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_what_only_saves_memory_is_on_in_training_and_changes_no_bit(
    hub_pipe: Any, tmp_path: Path, saver: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = hub_pipe.vae.to
    monkeypatch.setattr(hub_pipe.vae, "to", lambda place: sent.append(str(place)) or send(place))
    savers, short = Savers(hub_pipe, tmp_path / "run", sent), replace(CONFIG, steps=2)
    found = train(hub_pipe, tmp_path / "run", replace(short, **saver), callbacks=[savers])
    assert savers.seen == {
        "gradient_checkpointing": "gradient_checkpointing" in saver,
        "latents": "latent_cache" in saver,
        "vae": ["cpu"],
    }
    assert product(found) == product(train(hub_pipe, tmp_path / "plain", short))
    assert not hub_pipe.unet.is_gradient_checkpointing
    assert not list(found.glob("*latents*"))


@pytest.mark.parametrize(
    "option",
    [
        {"mask_loss": True},
        {"augment_scale": 0.0},
        {"augment_shift": 0.0},
        {"augment_flip": True},
        {"clip_norm": 1e-3},
        {"initial_word": "bunny"},
        {"noise_offset": 0.5},
        {"min_snr_gamma": 1.0},
        {"augment_ground": "colors"},
        {"lr_schedule": "linear"},
        {"ema_decay": 0.9},
        {"class_noun": "bunny"},
        {"dora": True, "lr_unet": 0.0},
        {"own_style": "up0"},
        {"own_style": "all"},
        {"buckets": True},
    ],
    ids=str,
)
def test_every_option_of_the_recipe_reaches_the_weights(
    tiny_pipe: Any, two_steps: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    run = train(tiny_pipe, tmp_path / "run", replace(CONFIG, steps=2, **option))
    assert product(run) != product(two_steps)


@pytest.mark.slow
def test_samples_follow_style_and_blocks_and_the_weights_do_not(tiny_pipe: Any, tmp_path: Path) -> None:
    look = ValidationConfig(every=1, seeds=1, edits=[], steps=2, style_blocks="all")
    save_png(tmp_path / "style.png", torch.rand(3, 64, 64, generator=generator(1, "style")))
    sheets, products = [], []
    for number, change in enumerate(({}, {"style": str(tmp_path / "style.png")}, {"style_blocks": "up0"})):
        cfg = replace(CONFIG, steps=1, validation=replace(look, **change))
        run = train(tiny_pipe, tmp_path / str(number), cfg)
        sheets.append((run / "samples" / "step-000001.png").read_bytes())
        products.append(tuple(product(run)))
    assert len(set(sheets)) == 3
    assert len(set(products)) == 1


def test_with_mask_loss_the_ground_weighs_nothing_in_every_view(tiny_pipe: Any, tmp_path: Path) -> None:
    (without,), (masked,) = (
        subject_cache(tiny_pipe, [block()], replace(CONFIG, mask_loss=mask), seed=3, out=tmp_path)
        for mask in (False, True)
    )
    assert torch.equal(without.weights, torch.ones_like(without.weights))
    assert torch.equal(without.latents, masked.latents)
    side = masked.weights.shape[-1]
    for i, weights in enumerate(masked.weights):
        alpha = make_view([block()], i, 64, seed=3, augment=Augment(CONFIG.augment_scale))[1]
        covered = alpha.view(side, 64 // side, side, 64 // side).amax(dim=(1, 3)) > 0
        assert torch.equal(weights[0] > 0, covered)
        assert 0 < covered.float().mean() < 1
        assert float(weights.mean()) == pytest.approx(1)


@pytest.mark.slow
def test_the_class_is_drawn_once_and_its_loss_has_its_weight(tiny_pipe: Any, tmp_path: Path) -> None:
    cfg = replace(CONFIG, class_noun="bunny", prior_images=2, validation=ValidationConfig(steps=1))
    options = RunOptions(class_root=tmp_path)
    heavy = train(tiny_pipe, tmp_path / "a", cfg, options=options)
    (folder,) = tmp_path.glob("class-*")
    drawn = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert load_rgb(next(iter(drawn))).shape == (3, 64, 64)
    light = train(tiny_pipe, tmp_path / "b", replace(cfg, prior_weight=0.0), options=options)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == drawn
    without = train(tiny_pipe, tmp_path / "c", replace(cfg, prior_images=0))
    assert largest_change(light, without) < 1e-3 < largest_change(heavy, without)


@pytest.mark.slow  # tracing the network takes half a minute
def test_the_compiled_network_learns_what_the_plain_one_learns(tiny_pipe: Any, tmp_path: Path) -> None:
    run = train(tiny_pipe, tmp_path / "run", replace(CONFIG, steps=1, compile="aot_eager"))
    assert largest_change(run, train(tiny_pipe, tmp_path / "plain", replace(CONFIG, steps=1))) < 1e-3


def test_looks_leave_sheets_scores_a_curve_and_the_best_step(everything: Path) -> None:
    rows = read_jsonl(everything / "validation.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert all(-1 <= row[name] <= 1 for row in rows for name in ("identity", "prompt"))
    card = read_json(everything / "card.json")
    assert card["scores"] == rows
    assert product(everything) == product(step_folder(everything, card["picked_step"]))
    assert (everything / "curve.csv").read_text().splitlines()[0] == "step,identity,prompt"
    sheet = load_rgb(everything / "samples" / "step-000004.png")
    assert sheet.shape[2] > 3.5 * 128  # subject, plain, sitting, styled
    assert load_rgb(everything / "curve.png").std() > 0.01


def our_picture(pipe: Any, run: Path) -> torch.Tensor:
    made = stylizer_of(pipe, run, steps=2, guidance=3.0)
    with made.active():
        picture = sample(pipe, [made.prompt()], [5], steps=2, guidance=3.0)[0]
    made.close()
    return picture


def stock_picture(pipe: Any, lora: Path, tokens: Path, prompt: str) -> torch.Tensor:
    """What a user of diffusers would write; none of our code."""
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    rows = load_file(tokens)
    for key, (encoder, tokenizer) in ENCODERS.items():
        parts = {"text_encoder": getattr(pipe, encoder), "tokenizer": getattr(pipe, tokenizer)}
        pipe.load_textual_inversion(rows[key], token=["<v1>", "<v2>"], **parts)
    noise = torch.Generator().manual_seed(5)
    drawn = pipe(prompt, num_inference_steps=2, guidance_scale=3.0, generator=noise, output_type="pt")
    return drawn.images[0]


def exported(run: Path, out: Path, form: str) -> tuple[Path, Path]:
    return run_export(ExportConfig(run=str(run), out=str(out), format=form, name="block"))


@pytest.mark.slow
def test_plain_diffusers_draws_a_run_with_dora(tiny_pipe: Any, stock_pipe: Any, tmp_path: Path) -> None:
    cfg = replace(CONFIG, targets=["to_q", "conv1"], dora=True, text_rank=2, lr_text=1e-2, steps=2)
    run = train(tiny_pipe, tmp_path / "run", cfg)
    theirs = stock_picture(stock_pipe, run / LORA_FILE, run / TOKENS_FILE, "A <v1> <v2>.")
    torch.testing.assert_close(theirs, our_picture(tiny_pipe, run), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_an_export_in_kohyas_names_draws_the_same_picture_in_plain_diffusers(tmp_path: Path) -> None:
    """In blocks as deep as SDXL's, which these names count."""
    model = build_micro(tmp_path / "deep", size="deep")
    pipe = load_pipeline(tiny_config(model))
    cfg = replace(CONFIG, targets=EVERYTHING.targets, text_rank=2, lr_text=1e-2, steps=1)
    run = train(pipe, tmp_path / "run", cfg)
    theirs = stock_picture(plain_pipe(model), *exported(run, tmp_path / "out", "kohya"), "A <v1> <v2>.")
    torch.testing.assert_close(theirs, our_picture(pipe, run), atol=1e-4, rtol=0)


def test_an_exported_saved_step_draws_the_same_picture_in_plain_diffusers(
    tiny_pipe: Any, stock_pipe: Any, everything: Path, tmp_path: Path
) -> None:
    run = step_folder(everything, 2)
    theirs = stock_picture(stock_pipe, *exported(run, tmp_path, "diffusers"), "A <v1> <v2> bunny.")
    torch.testing.assert_close(theirs, our_picture(tiny_pipe, run), atol=1e-4, rtol=0)


def test_text_lora_is_off_between_calls_and_off_at_scale_zero(tiny_pipe: Any, everything: Path) -> None:
    base = sample(tiny_pipe, ["a red bunny"], [0], steps=1)
    made = stylizer_of(tiny_pipe, everything)
    assert torch.equal(sample(tiny_pipe, ["a red bunny"], [0], steps=1), base)
    with attached(tiny_pipe, load_tokens(everything / TOKENS_FILE)):
        use_lora(tiny_pipe, made.adapter)
        assert not torch.equal(sample(tiny_pipe, ["a red bunny"], [0], steps=1), base)
        use_lora(tiny_pipe, made.adapter, 0.0)
        assert torch.equal(sample(tiny_pipe, ["a red bunny"], [0], steps=1), base)
    made.close()
    assert not hasattr(tiny_pipe.text_encoder, "peft_config")


OWN = replace(CONFIG, own_style="up0", batch_size=2, steps=2)


def scales_of(unet: Any) -> dict[str, float]:
    return {name: layer.scale[0] for name, layer in adapter_processors(unet).items()}


def test_the_named_blocks_attend_to_the_view_in_training_alone(tiny_pipe: Any, tmp_path: Path) -> None:
    seen: list[tuple[torch.Tensor, dict[str, float]]] = []

    def note(unet: Any, args: Any, told: dict[str, Any]) -> None:
        seen.append((told["added_cond_kwargs"]["image_embeds"][0].clone(), scales_of(unet)))

    hook = tiny_pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        train(tiny_pipe, tmp_path / "run", OWN)
    finally:
        hook.remove()
    views = subject_cache(tiny_pipe, [block()], OWN, seed=0, out=tmp_path)[0].styles
    assert views is not None
    assert len({view.numpy().tobytes() for view in views}) == 3
    assert len(seen) == OWN.steps
    for styles, scales in seen:
        assert styles.shape[0] == OWN.batch_size
        assert styles.abs().sum() > 0
        assert {name for name, scale in scales.items() if scale} == {
            name for name in scales if name.startswith("up_blocks.0.")
        }
    assert not any(scales_of(tiny_pipe.unet).values())


def test_a_view_is_encoded_as_its_picture_and_a_model_without_an_adapter_refused_at_once(
    tiny_pipe: Any, tmp_path: Path, stock_pipe: Any
) -> None:
    cfg = replace(OWN, views=1, augment_scale=0.0, augment_shift=0.0)
    for where in ("memory", "disk"):
        (cache,) = subject_cache(tiny_pipe, [block()], replace(cfg, latent_cache=where), seed=0, out=tmp_path)
        picture = place(block(), image_size(tiny_pipe))[0]
        assert cache.styles is not None
        assert torch.equal(cache.styles, style_embeds(tiny_pipe, [picture]).positive)
    with pytest.raises(UserError, match=r"personalization\.own_style=none"):
        train(stock_pipe, tmp_path / "run", OWN)
    assert not (tmp_path / "run").exists()
