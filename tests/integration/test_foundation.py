"""The foundation job end to end at tiny size: what it assembles loads in plain diffusers, and its card is measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import flip, frozen
from PIL import Image
from processes import finish, launch, wait_until

from magic_insert.config.schema.jobs import CardConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError


def run(out: Path, *overrides: str) -> Path:
    from magic_insert.foundation.job import run_foundation

    cfg: Any = frozen("foundation", "debug=fast", f"out={out}", "trainer.precision=32-true", *overrides)
    return run_foundation(cfg)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("foundation"))


def weights(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*.safetensors"))}


def test_plain_diffusers_loads_the_assembled_folder_and_its_adapter(model: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(model, local_files_only=True)
    pipe.load_ip_adapter(str(model), subfolder="ip_adapter", weight_name="ip_adapter_micro.safetensors")
    pipe.set_progress_bar_config(disable=True)
    edge = pipe.image_encoder.config.image_size
    draw = {"num_inference_steps": 2, "height": edge, "width": edge, "output_type": "np"}
    pictures = []
    for scale in (0.0, 1.0):
        pipe.set_ip_adapter_scale(scale)
        generator = torch.Generator().manual_seed(0)
        style = Image.new("RGB", (edge, edge), (200, 40, 40))
        pictures.append(pipe("a red bunny", ip_adapter_image=style, generator=generator, **draw).images[0])
    assert abs(pictures[0] - pictures[1]).max() > 0


def test_weights_are_half_precision_safetensors_and_nothing_says_where_they_were_made(model: Path) -> None:
    from safetensors import safe_open

    assert not [p for p in model.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    for name in ("unet", "controlnet", "remover", "inserter", "vae", "ip_adapter"):
        (path,) = (model / name).glob("*.safetensors")
        with safe_open(path, framework="pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}, name  # noqa: SIM118
    for path in model.rglob("*.json"):
        assert str(model.parent) not in path.read_text(), path


@pytest.mark.slow
def test_the_card_measures_every_style(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from magic_insert.foundation.card import run_card

    known, new = ("photo", "ink"), ("neon",)
    styles = {"TRAIN_STYLES": known, "HELD_OUT_STYLES": new, "ALL_STYLES": (*known, *new)}
    for name, value in {**styles, "DRAW_STEPS": 2}.items():
        monkeypatch.setattr(f"magic_insert.foundation.card.{name}", value)
    card = json.loads(run_card(CardConfig(source=str(model), out=str(tmp_path), num_samples=2)).read_text())
    rows = card["measured"]["styles"]
    assert tuple(rows) == styles["ALL_STYLES"]
    assert all(5 < row["vae_psnr"] < 60 for row in rows.values())
    gain = rows["photo"]["remove_psnr"] - rows["photo"]["remove_nothing_psnr"]
    assert card["measured"]["summary"]["remove_gain_db_photo"] == pytest.approx(gain, abs=0.02)
    assert card["weights_sha256"] == weights(model)


def test_a_finished_part_is_not_made_again_and_a_damaged_one_is_to_the_same_bits(model: Path) -> None:
    def dates() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (model.parent / "parts").rglob("*.safetensors")}

    before, expected = dates(), weights(model)
    damaged = next((model.parent / "parts" / "controlnet").rglob("*.safetensors"))
    flip(damaged)
    assert weights(run(model.parent)) == expected
    assert {path for path, date in dates().items() if date != before[path]} == {damaged}


def test_a_part_of_no_steps_is_taken_over_from_a_finished_model(model: Path, tmp_path: Path) -> None:
    names = ["vae", "clip", "generator", "remover", "inserter", "metric_clip", "metric_identity",
             "metric_style"]  # fmt: skip
    shutil.copytree(model.parent / "store", tmp_path / "run" / "store")  # the pool, rendered
    made = run(tmp_path / "run", f"start={model}", *(f"{name}.steps=0" for name in names))
    before, after = weights(model), weights(made)
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("/")[0] for name in changed} == {"controlnet"}
    facts = {part["part"]: part for part in json.loads((made / "training.json").read_text())["parts"]}
    assert facts["vae"]["taken_over"]
    assert facts["vae"]["steps"] == 2


def test_other_settings_and_no_steps_without_a_model_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other generator; set out"):
        run(model.parent, "generator.steps=3")
    with pytest.raises(UserError, match=r"start=MODEL or vae\.steps"):
        run(tmp_path / "run", "vae.steps=0")


@pytest.mark.slow
def test_a_job_killed_again_and_again_ends_with_the_same_weights(model: Path, tmp_path: Path) -> None:
    words = ["foundation", "debug=fast", f"out={tmp_path / 'run'}", "trainer.precision=32-true"]
    for number in (1, 3, 6):  # as soon as so many parts have begun
        process = launch(words)
        wait_until(lambda n=number: len(list((tmp_path / "run" / "parts").glob("*"))) >= n, process)
        process.kill()
        process.communicate()
    finish(launch(words))
    assert weights(tmp_path / "run" / "micro") == weights(model)
