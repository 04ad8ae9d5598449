"""The insert job on real files with a tiny model: what it writes, what it leaves alone, what it refuses."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import frozen, oval
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from random_micro import build_micro
from torch import Tensor

from magic_insert.cli.insert import run_insert
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json
from magic_insert.core.rand import generator
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.paths import effect_weights
from magic_insert.training.personalize import run_personalize

pytestmark = pytest.mark.usefixtures("one_model")
LEARN = [
    "model.image_size=64", "model.device=cpu", "personalization.steps=1", "personalization.batch_size=1",
    "personalization.targets=[to_q]", "personalization.views=1",
]  # fmt: skip
FAST = [*LEARN, "sampling.steps=2", "inserter.name=diffusion", "inserter.steps=2"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an opaque and a cut-out subject and a noisy background in two formats."""
    rgba = oval()
    save_png(tmp_path / "cut.png", rgba)
    save_png(tmp_path / "opaque.png", rgba[:3])
    save_png(tmp_path / "clear.png", torch.cat([rgba[:3], torch.zeros(1, 80, 80)]))
    scene = torch.rand(3, 150, 200, generator=generator(0, "scene"))
    save_png(tmp_path / "scene.png", scene)
    with Image.open(tmp_path / "scene.png") as picture:
        picture.save(tmp_path / "scene.jpg", quality=90)
    (tmp_path / "broken.png").write_bytes((tmp_path / "scene.png").read_bytes()[:2000])
    return tmp_path


def run(
    folder: Path, model: Path, *overrides: str, subject: str = "cut.png", background: str = "scene.png"
) -> Path:
    out = folder / "result" / "out.png"
    words = [f"subject={folder / subject}", f"background={folder / background}", f"out={out}", *overrides]
    words.append(f"subjects={folder / 'subjects'}")
    return run_insert(frozen("insert", f"model.source={model}", *FAST, *words))


@cache
def base() -> DictConfig:
    """The job as it composes; not to be changed."""
    return compose_job("insert", ["subject=s", "background=b", "out=o.png", *FAST])


def levels(path: Path) -> Tensor:
    return (load_rgb(path) * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_micro: Path) -> Path:
    """A folder with the subject `cut.png` and, in `run`, its personalisation with a saved step."""
    folder = tmp_path_factory.mktemp("learned")
    save_png(folder / "cut.png", oval())
    build_micro(folder / "other", seed=1, size="tiny")
    words = [f"subject={folder / 'cut.png'}", f"out={folder / 'run'}", f"model.source={tiny_micro}", *LEARN]
    look = ["every=1", "seeds=1", "steps=1", "scorer=none", "edits=[]"]
    run_personalize(frozen("personalize", *words, *(f"personalization.validation.{word}" for word in look)))
    return folder


def known(learned: Path) -> list[str]:
    """The words for a subject that is personalised already."""
    return [f"run={learned / 'run'}", f"subject={learned / 'cut.png'}"]


def test_a_picture_its_record_and_a_personalisation_kept_for_the_next(files: Path, tiny_micro: Path) -> None:
    out = run(files, tiny_micro, "box=[20,30,60,90]")
    first = out.read_bytes()
    assert levels(out).shape == (3, 150, 200)
    story = json.loads(out.with_suffix(".json").read_text())
    assert story["pair_id"] == "cut__scene"
    assert story["result"]["box"] == [20, 30, 60, 90]
    assert set(story["seconds"]) == {
        "cut", "load", "personalise", "stylise", "segment", "paste", "insert", "composite",
    }  # fmt: skip
    assert len(story["inputs"]["subject"]["sha256"]) == 64
    assert story["config"]["seed"] == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.json", "out.png"]

    (folder,) = (files / "subjects" / "subject").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(files, tiny_micro, "box=[20,30,60,90]").read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    quick = ["stylizer.style_mode=none", "inserter.name=copy_paste", "style.outline=0", "style.detail=0"]
    other = run(files, tiny_micro, "seed=1", "personalization.rank=2", *quick, background="scene.jpg")
    assert other.read_bytes() != first
    assert len(list(folder.parent.iterdir())) == 2


def test_pixels_beyond_the_reach_are_the_backgrounds(files: Path, tiny_micro: Path, learned: Path) -> None:
    background = "scene.jpg"
    words = ["box=[20,90,40,50]", "inserter.reach=0.2", "keep_intermediate=true"]
    out = run(files, tiny_micro, *known(learned), *words, background=background)
    before, after = levels(files / background), levels(out)
    untouched = (before == after).all(dim=0)
    assert untouched[:75].all()
    assert untouched[:, 75:].all()
    assert not untouched[90:140, 20:60].all()
    parts = out.parent / "out_parts"
    changed = load_rgb(parts / "effect_region.png")[0] > 0.5
    pasted = (before != levels(parts / "pasted.png")).any(dim=0)
    assert untouched[~changed & ~pasted].all()
    assert changed.any()


def test_many_backgrounds_are_done_as_each_alone(files: Path, tiny_micro: Path, learned: Path) -> None:
    save_png(files / "places" / "here.png", torch.rand(3, 90, 120, generator=generator(1, "scene")))
    save_png(files / "places" / "there.webp.png", torch.rand(3, 150, 100, generator=generator(2, "scene")))
    words = [*known(learned), "keep_intermediate=true"]
    folder = run(files, tiny_micro, *words, f"out={files / 'many'}", background="places")
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "here.json", "here.png", "manifest.json", "there.webp.json", "there.webp.png",
    ]  # fmt: skip
    for name, size in (("here", (3, 90, 120)), ("there.webp", (3, 150, 100))):
        story = json.loads((folder / f"{name}.json").read_text())
        assert story["pair_id"] == f"cut__{name}"
        assert set(story["seconds"]) == {
            "cut", "load", "stylise", "segment", "paste", "insert", "composite",
        }  # fmt: skip
        assert story["weights"][TOKENS_FILE] == sha256_file(learned / "run" / TOKENS_FILE)
        # The run was learned with samples at every step, which this job was not told.
        assert story["config"]["personalization"]["validation"]["every"] == 1
        assert levels(folder / f"{name}.png").shape == size
        alone = run(files, tiny_micro, *words, background=f"places/{name}.png")
        for batch, single in (
            (folder / f"{name}_parts" / "stylised.png", alone.parent / "out_parts" / "stylised.png"),
            (folder / f"{name}.png", alone),
        ):
            # The rows of a batch are those of single calls to float tolerance, and so to a level.
            apart = (levels(batch).int() - levels(single).int()).abs()
            assert (apart > 1).float().mean() < 0.01, batch.name
    drawn = [levels(folder / f"{name}_parts" / "stylised.png") for name in ("here", "there.webp")]
    assert not torch.equal(*drawn)


REFUSED = {
    "no run": (["run=nowhere"], "finished personalisation"),
    "another model": (["run=RUN", "model.source=OTHER"], "personalisation of this model"),
    "another subject": (["run=RUN", "subject=opaque.png"], "a picture that"),
    "no need of a run": (["run=RUN", "stylizer.name=adain"], "stylizer=personalized"),
    "a picture for many": (["background=[scene.png,places/a.png]", "out=new/out.png"], "a folder for several"),
    "the name of the record": (["background=[places/run.png]", "out=new"], "none called run or manifest"),
    "no pictures": (["background=empty", "out=new"], "got none"),
    "a pose for many": (["background=[scene.png]", "out=new", "pose.name=rules"], "pose=none"),
    "truncated file": (["background=broken.png"], "damaged"),
    "alpha zero everywhere": (["subject=clear.png"], "alpha below a half"),
    "no model": (["model.source=nowhere"], "a model folder or hub id"),
    "no block at all": (["style.blocks=[]"], "block for the adapter"),
    "a folder for the sidecar": (["out=taken.png"], "folder taken.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_left(
    files: Path, tiny_micro: Path, learned: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    overrides, message = REFUSED[case]
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    (files / "taken.json").mkdir()
    for name in ("places/a.png", "places/run.png"):
        save_png(files / name, torch.rand(3, 60, 60))
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    words = [f"subject={learned / 'cut.png'}", "background=scene.png", "out=new/folder/out.png"]
    places = {"RUN": str(learned / "run"), "OTHER": str(learned / "other")}
    overrides = [re.sub("RUN|OTHER", lambda found: places[found[0]], word) for word in overrides]
    changes = OmegaConf.from_dotlist([*words, f"model.source={tiny_micro}", *overrides])
    with pytest.raises(UserError, match=message):
        run_insert(freeze(OmegaConf.merge(base(), changes)))
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before
    assert not (files / "new").exists()


def test_bad_backgrounds_of_a_batch_are_left_out_and_named_and_the_others_are_done(
    files: Path, tiny_micro: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(files / "small.png", torch.rand(3, 60, 60))
    reasons = {
        "scene.jpg": "different names", "broken.png": "damaged", "nowhere.png": "no such file",
        "small.png": "inside the 60 x 60", "b" * 251 + ".png": "at most 255 bytes", "caf\udce9.png": "UTF-8",
    }  # fmt: skip
    backgrounds = ",".join(f"'{files / name}'" for name in ("scene.png", *reasons))
    words = [*known(learned), f"background=[{backgrounds}]"]
    with pytest.raises(UserError, match="6 of the backgrounds were left out"):
        run(files, tiny_micro, *words, "box=[100,80,40,40]", f"out={files / 'many'}")
    written = sorted(path.name for path in (files / "many").iterdir())
    assert written == ["manifest.json", "scene.json", "scene.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert all(reason in line for reason, line in zip(reasons.values(), lines, strict=True))
    with pytest.raises(UserError, match="got one with other seed, personalization, sampling; set out=FOLDER"):
        run(files, tiny_micro, *words, "box=[100,80,40,40]", "seed=1", f"out={files / 'many'}")


def test_a_baseline_needs_no_personalisation_and_a_pose_is_told(files: Path, tiny_micro: Path) -> None:
    save_png(files / "beach.png", torch.rand(3, 120, 160))
    words = [
        "stylizer.name=instantstyle",
        "subject_text=a red bunny",
        "pose=rules",
        "inserter.name=copy_paste",
    ]
    out = run(files, tiny_micro, *words, background="beach.png")
    story = read_json(out.with_suffix(".json"))
    assert story["pose"] == "sitting down on the floor"
    assert "personalise" not in story["seconds"]
    assert "learned_embeds.safetensors" not in story["weights"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["inserter.reference=unmasked"], {"inserter": "diffusion"}),
        (["inserter.reference=input"], {"inserter": "diffusion"}),
        (["inserter.name=bootstrapped", "inserter.run=MODEL"], {"inserter": "bootstrapped"}),
        (["inserter.name=effect", "inserter.sun=90"], {"inserter": "effect", "inserter_sun": "90"}),
    ],
)
def test_every_reference_and_inserter_can_be_asked_for_and_is_named(
    files: Path, tiny_micro: Path, learned: Path, words: list[str], found: dict[str, str]
) -> None:
    words = [word.replace("MODEL", str(tiny_micro)) for word in words]
    out = run(files, tiny_micro, *known(learned), *words)
    result = json.loads(out.with_suffix(".json").read_text())["result"]
    assert found.items() <= result.items()
    if found["inserter"] == "effect":
        assert result["inserter_sha256"] == sha256_file(effect_weights())
