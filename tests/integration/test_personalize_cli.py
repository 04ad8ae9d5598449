"""`magic-insert personalize` as a user types it: odd pictures, bad input, many subjects, SDXL's layout, export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import contents, exit_code, noise
from PIL import Image

from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import generator
from magic_insert.data.subject_files import SubjectFiles
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.training.personalize import share

pytestmark = pytest.mark.usefixtures("one_model")
FAST = ("personalization.steps=1", "personalization.views=1", "personalization.rank=1",
        "personalization.targets=[to_q]", "personalization.validation.every=0", "model.device=cpu")  # fmt: skip


def pixels(height: int = 40, width: int = 32, channels: int = 3) -> np.ndarray:
    noise = torch.rand(height, width, channels, generator=generator(0, "pixels"))
    return (noise * 255).byte().numpy()


@pytest.fixture
def model(tiny_micro: Path) -> tuple[str, ...]:
    return (f"model.source={tiny_micro}", "model.image_size=64", *FAST)


def test_odd_pictures_are_subjects_too_and_each_gets_a_folder(model: tuple[str, ...], tmp_path: Path) -> None:
    """Every kind of picture that a camera, a scanner or a paint program leaves behind."""
    (odd := tmp_path / "odd").mkdir()
    Image.fromarray(pixels(channels=4), "RGBA").save(odd / "rgba.png")
    Image.fromarray(pixels(channels=4), "CMYK").save(odd / "cmyk.jpg")
    Image.fromarray(pixels()[..., 0], "L").save(odd / "grey.png")
    Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(odd / "sixteen.png")
    assert exit_code("personalize", f"subject={odd}", f"out={tmp_path / 'out'}", *model) == 0
    names = {path.stem for path in odd.iterdir()}
    assert {path.parent.name for path in (tmp_path / "out").glob("*/card.json")} == names
    learned = {name: (tmp_path / "out" / name / LORA_FILE).read_bytes() for name in names}
    assert learned.pop("sixteen") == learned["grey"]  # the same greys in twice the bits
    assert len(set(learned.values())) == len(learned)


@pytest.mark.slow
def test_ranks_share_subjects(
    model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        save_png(tmp_path / "subjects" / f"{name}.png", noise(name, 32, 32))
    words = ("personalize", f"subject={tmp_path / 'subjects'}", *model)
    assert exit_code(*words, f"out={tmp_path / 'one'}") == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    done = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert exit_code(*words, f"out={tmp_path / 'two'}") == 0
        done.append({path.parent.name for path in (tmp_path / "two").glob("*/card.json")})
    assert done == [{"b"}, {"a", "b"}]
    for name in ("a", "b"):
        one, two = (tmp_path / out / name / LORA_FILE for out in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_only_subjects_still_to_learn_are_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[Any] = [(SubjectFiles((), tmp_path / name), {}) for name in "abcdef"]
    for name in "ace":  # what one of two processes would have been left with
        write_json(tmp_path / name / "card.json", {})
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append("".join(files.out.name for files, _ in share(work)))
    assert shares == ["bfae", "dc"]


def test_bad_input_is_one_line_and_code_two_and_writes_nothing(
    model: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(tmp_path / "cat.png", torch.rand(3, 40, 40))
    save_png(tmp_path / "tiny.png", torch.rand(3, 10, 10))
    save_png(tmp_path / "ghost.png", torch.zeros(4, 40, 40))
    (tmp_path / "text.png").write_text("not a picture")
    cat = f"subject={tmp_path / 'cat.png'}"
    bad: dict[str, tuple[str, ...]] = {
        "at least 16 pixels": (f"subject={tmp_path / 'tiny.png'}",),
        "transparent everywhere": (f"subject={tmp_path / 'ghost.png'}",),
        "text.png": (f"subject={tmp_path / 'text.png'}",),
        "buckets=false": (
            cat,
            *(f"personalization.{w}" for w in ("buckets=true", "prior_images=2", "class_noun=cat")),
        ),
        "model.dtype=float32": (cat, "model.dtype=float16"),
        "already has": (cat, "personalization.token_pattern='{n}</w>'"),  # how a vocabulary spells the word 1
        "scores to pick": (cat, "personalization.validation.pick=best"),
        "LoRA targets": (cat, "personalization.targets=[no_such_layer]"),
    }
    before = contents(tmp_path)
    capsys.readouterr()
    for named, words in bad.items():
        assert exit_code("personalize", f"out={tmp_path / 'out'}", *model, *words) == 2, named
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1, errors
        assert named in errors
        assert contents(tmp_path) == before, named


def test_export_writes_two_files_with_a_modelspec_header(
    model: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import safe_open

    save_png(tmp_path / "cat.png", torch.rand(3, 40, 40))
    assert exit_code("personalize", f"subject={tmp_path / 'cat.png'}", f"out={tmp_path / 'cat'}", *model) == 0
    assert exit_code("export", f"run={tmp_path / 'cat'}", f"out={tmp_path / 'kohya'}") == 0
    assert {path.name for path in (tmp_path / "kohya").glob("*.safetensors")} == {
        "cat.safetensors",
        "cat-tokens.safetensors",
    }
    with safe_open(tmp_path / "kohya" / "cat.safetensors", framework="pt") as file:
        header = file.metadata()
        assert all(key.startswith("lora_unet_") for key in file.keys())  # noqa: SIM118
    assert header["modelspec.sai_model_spec"] == "1.0.0"
    assert header["modelspec.trigger_phrase"] == "A <v1> <v2>."
    assert header["ss_network_dim"] == "1"
    assert header["ss_base_model_version"] == "micro"
    assert "write: A embedding:cat-tokens .\n" in capsys.readouterr().err
    assert "cat.safetensors" in (tmp_path / "kohya" / "README.md").read_text()
    with safe_open(tmp_path / "kohya" / "cat-tokens.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"clip_l", "clip_g"}
    for words, named in (
        (("run=nowhere", "out=x"), "card.json"),
        ((f"run={tmp_path / 'cat'}", f"out={tmp_path / 'cat'}"), "another folder"),
        ((f"run={tmp_path / 'cat'}", "out=x", "format=onnx"), "format"),
        ((f"run={tmp_path / 'cat'}", "out=x", "name=a/b"), "name"),
    ):
        capsys.readouterr()
        assert exit_code("export", *words) == 2
        assert named in capsys.readouterr().err
