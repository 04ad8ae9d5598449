"""The insertion and remove jobs on tiny models: what they write, that they go on, what they refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from magic_insert.cli.insert import run_remove
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, load_rgba, save_png
from magic_insert.core.jsonl import read_jsonl
from magic_insert.core.rand import generator
from magic_insert.inserters import build_inserter
from magic_insert.paths import effect_weights, relight_weights
from magic_insert.training.insertion_job import open_pairs, run_insertion

pytestmark = pytest.mark.usefixtures("one_model")


def insertion(model: Path, out: Path, *overrides: str) -> Path:
    words = [f"model.source={model}", "model.image_size=64", "model.device=cpu", f"out={out}", "debug=fast"]
    return run_insertion(freeze(compose_job("insertion", [*words, "data.workers=0", *overrides])))


def write_pairs(root: Path, count: int) -> None:
    for number in range(count):
        without = torch.rand(3, 80, 90, generator=generator(number, "scene")) * 0.5
        mask = torch.zeros(1, 80, 90)
        mask[:, 30:60, 20 + number : 40 + number] = 1
        shadow = torch.ones(1, 80, 90)
        shadow[:, 60:66, 20:50] = 0.5
        save_png(root / "with" / f"p{number}.png", torch.where(mask > 0, 1.0, without * shadow))
        save_png(root / "without" / f"p{number}.png", without)
        save_png(root / "mask" / f"p{number}.png", mask)


def test_both_models_come_with_numbers_pictures_and_a_log(tiny_micro: Path, tmp_path: Path) -> None:
    out = insertion(tiny_micro, tmp_path / "run", "data.num_pairs=2", "data.held_out=1")
    for task, product in (("remove", "remover"), ("insert", "inserter")):
        assert (out / product / "diffusion_pytorch_model.safetensors").is_file()
        report = json.loads((out / f"validation-{task}.json").read_text())
        assert report["pairs"] == 1
        assert set(report["all"]) >= {"effect_psnr", "effect_psnr_nothing", "rest_psnr"}
        assert report["styles"] == {"photo": report["all"]}
        assert load_rgb(out / f"validation-{task}.png").shape[0] == 3
        rows = [row for row in read_jsonl(out / "metrics.jsonl") if row["stage"] == f"insertion-{task}"]
        assert rows[-1]["effect_psnr"] == report["all"]["effect_psnr"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    insertion(tiny_micro, out, "data.num_pairs=2", "data.held_out=1")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_a_folder_of_pairs_trains_a_remover_that_removes(tiny_micro: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 3)
    save_png(tmp_path / "pairs" / "mask" / "p0.png", torch.zeros(1, 80, 90))
    words = ["task=remove", "data=pairs", f"data.path={tmp_path / 'pairs'}", "train.init=shipped"]
    words.append("data.held_out=1")
    with pytest.raises(UserError, match=r"p0: the mask is empty.*data\.on_error=skip"):
        insertion(tiny_micro, tmp_path / "run", *words)
    out = insertion(tiny_micro, tmp_path / "run", *words, "data.on_error=skip")
    assert not (out / "inserter").exists()
    assert json.loads((out / "pairs.json").read_text())["ids"] == ["p1", "p2"]
    result = remove(tmp_path, tiny_micro, f"run={out}")
    assert json.loads(result.with_suffix(".json").read_text())["config"]["run"] == str(out)


def test_every_setting_of_a_fit_reaches_it_and_a_lora_is_measured(tiny_micro: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 1, "batch_size": 3, "lr": 0.002, "dropout": 0.5, "effect_weight": 3, "time_shift": 2, "clip_norm": 0.5,
        "condition_noise": 0.5, "ema_decay": 0.9, "lora_rank": 2, "precision": "bf16-mixed",
    }  # fmt: skip
    words = [f"train.{key}={value}" for key, value in settings.items()]
    cache = tmp_path / "cache"
    out = insertion(
        tiny_micro, tmp_path / "run", "task=insert", "data.num_pairs=1", "data.held_out=1", f"data.cache={cache}",
        "train.save=lora", "train.views=2", "train.save_every=1", "train.dilate=0",
        "logger=jsonl", "exec=inline", *words,
    )  # fmt: skip
    card = json.loads((out / "inserter" / "fit.json").read_text())
    assert {key: card[key] for key in settings} == settings
    assert card["merged"] is False
    assert (out / "inserter" / "edit_lora.safetensors").is_file()
    assert json.loads((out / "validation-insert.json").read_text())["validation_steps"] == 2
    assert list(cache.rglob("*.npy"))
    assert not (out / "renders").exists()


def test_pairs_are_limited_held_out_and_chosen_as_asked(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 5)

    def opened(*words: str) -> Any:
        cfg = freeze(compose_job("insertion", [f"out={tmp_path / str(len(words))}", *words]))
        return open_pairs(cfg, 32)

    folder = ["data=pairs", f"data.path={tmp_path / 'pairs'}"]
    training, held_out = opened(*folder, "data.held_out=2")
    assert len(training.ids) == 3
    assert sorted([*training.ids, *held_out.ids]) == [f"p{i}" for i in range(5)]
    assert opened(*folder, "data.held_out=2", "seed=1")[1].ids != held_out.ids
    training, held_out = opened(*folder, "data.limit=2", "data.held_out=0", "data.context=3")
    assert (training.ids, held_out) == (["p0", "p1"], None)
    toybox, _ = opened("data.num_pairs=4", "data.limit=2", "data.styles=[oil,ink]", "data.occlusion=0.5",
                       "data.workers=0", "data.held_out=0")  # fmt: skip
    assert toybox.styles == ["oil", "ink"]
    assert toybox.plan.occlusion == 0.5
    assert toybox.load(0).mask.shape == (1, 32, 32)


@pytest.mark.parametrize("source", ["toybox", pytest.param("composites", marks=pytest.mark.slow)])
def test_the_effect_network_is_trained_by_the_job_and_inserts(tmp_path: Path, source: str) -> None:
    alpha = torch.zeros(1, 60, 40)
    alpha[:, 8:56, 10:30] = 1
    save_png(tmp_path / "cut-outs" / "box.png", torch.rand(3, 60, 40, generator=generator(0, "box")), alpha)
    for name in ("a", "b"):
        photograph = torch.rand(3, 96, 120, generator=generator(0, name))
        save_png(tmp_path / "photographs" / f"{name}.png", photograph)
    words = ["train=effect", "debug=fast", "model.device=cpu", "data.workers=0", f"out={tmp_path / 'run'}"]
    words += ["data.num_pairs=1", "data.held_out=1"] if source == "toybox" else [
        "data=composites", f"data.path={tmp_path / 'cut-outs'}", f"data.backgrounds={tmp_path / 'photographs'}",
        "data.num_pairs=2", "data.held_out=1", "train.init=shipped",
    ]  # fmt: skip
    out = run_insertion(freeze(compose_job("insertion", words)))
    report = json.loads((out / "validation-effect.json").read_text())
    assert report["pairs"] == 3  # three windows on the one that is held out
    assert set(report["all"]) >= {"effect_psnr", "effect_psnr_nothing", "rest_psnr"}
    assert load_rgb(out / "validation-effect.png").shape[0] == 3
    before, after = load_file(effect_weights()), load_file(out / "effect.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in after.values())
    inserter = build_inserter(InserterConfig(name="effect"), None, out)
    assert inserter.provenance["inserter_sha256"] == sha256_file(out / "effect.safetensors")
    assert inserter.provenance["relight_sha256"] == sha256_file(relight_weights())


def test_the_relighting_network_is_trained_beside_an_effect_network_and_shades(tmp_path: Path) -> None:
    words = ["train=relight", "debug=fast", "model.device=cpu", "data.workers=0", f"out={tmp_path / 'run'}"]
    out = run_insertion(freeze(compose_job("insertion", [*words, "data.num_pairs=1", "data.held_out=1"])))
    report = json.loads((out / "validation-relight.json").read_text())
    assert report["pairs"] == 3
    # The one region that it changes is the subject; an untrained network changes little.
    assert report["all"]["effect_psnr"] == pytest.approx(report["all"]["effect_psnr_nothing"], abs=0.3)
    inserter = build_inserter(InserterConfig(name="effect"), None, out)
    assert inserter.provenance["inserter_sha256"] == sha256_file(effect_weights())
    assert inserter.provenance["relight_sha256"] == sha256_file(out / "relight.safetensors")
    with pytest.raises(UserError, match=r"expected train\.init to name an effect network"):
        freeze(compose_job("insertion", [*words, "train.init=base"]))
    (tmp_path / "other").mkdir()
    shutil.copy(relight_weights(), tmp_path / "other" / "effect.safetensors")
    frozen = freeze(
        compose_job("insertion", [*words, f"train.init={tmp_path / 'other'}", f"out={tmp_path / 'no'}"])
    )
    with pytest.raises(UserError, match="the weights of an effect network at"):
        run_insertion(frozen)
    assert not (tmp_path / "no").exists()


def picture(height: int = 120, width: int = 150) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(1, height, width)
    mask[:, 70:100, 20:45] = 1
    return torch.rand(3, height, width, generator=generator(1, "picture")), mask


def remove(folder: Path, model: Path, *overrides: str, alpha: Tensor | None = None, seed: int = 0) -> Path:
    image, mask = picture()
    save_png(folder / "image.png", image if alpha is None else torch.cat([image, alpha]))
    save_png(folder / "mask.png", mask)
    words = [
        f"image={folder / 'image.png'}", f"mask={folder / 'mask.png'}", f"out={folder / 'out.png'}",
        f"model.source={model}", "model.image_size=64", "model.device=cpu", "steps=2", f"seed={seed}",
    ]  # fmt: skip
    return run_remove(freeze(compose_job("remove", [*words, *overrides])))


def levels(path: Path) -> Tensor:
    return (load_rgb(path) * 255).round()


def test_removing_leaves_what_is_out_of_reach_and_transparency(tiny_micro: Path, tmp_path: Path) -> None:
    out = remove(tmp_path, tiny_micro, "reach=0.5")
    first = out.read_bytes()
    same = (levels(out) == levels(tmp_path / "image.png")).all(dim=0)
    assert float(same[70:100, 20:45].float().mean()) < 0.1
    assert same[:40].all()
    assert same[:, 90:].all()
    story = json.loads(out.with_suffix(".json").read_text())
    assert story["result"]["masked_share"] == pytest.approx(30 * 25 / (120 * 150))
    assert 0 < story["result"]["changed_share"] < 0.6
    assert len(story["weights"]["remover_sha256"]) == 64
    assert remove(tmp_path, tiny_micro, "reach=0.5").read_bytes() == first
    alpha = torch.linspace(0.2, 1, 150).expand(1, 120, 150)
    assert remove(tmp_path, tiny_micro, "reach=0.5", seed=1).read_bytes() != first
    _, kept = load_rgba(remove(tmp_path, tiny_micro, alpha=alpha))
    assert kept is not None
    assert (kept - alpha).abs().max() < 0.01
