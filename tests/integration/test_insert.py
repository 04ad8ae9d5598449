"""The insert job on real files with a tiny model: what it writes, what it leaves alone, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from magic_insert.cli.insert import run_insert
from magic_insert.cli.main import main
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import generator
from magic_insert.models.micro import build_micro
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.paths import effect_weights
from magic_insert.training.personalize import run_personalize

FAST = [
    "model.image_size=64",
    "model.device=cpu",
    "personalization.steps=1",
    "personalization.batch_size=1",
    "personalization.views=1",
    "sampling.steps=2",
    "inserter.name=diffusion",
    "inserter.steps=2",
]


def subject_picture(size: int = 80) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = (((x / 0.5) ** 2 + (y / 0.8) ** 2) < 1).float()[None]
    colour = torch.stack([0.8 + 0.1 * x, 0.3 + 0.1 * y, 0.2 + 0 * x])
    return torch.cat([colour * inside + (1 - inside), inside])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an opaque and a cut-out subject and a noisy background in three formats."""
    rgba = subject_picture()
    save_png(tmp_path / "cut.png", rgba)
    save_png(tmp_path / "opaque.png", rgba[:3])
    save_png(tmp_path / "clear.png", torch.cat([rgba[:3], torch.zeros(1, 80, 80)]))
    scene = torch.rand(3, 150, 200, generator=generator(0, "scene"))
    save_png(tmp_path / "scene.png", scene)
    with Image.open(tmp_path / "scene.png") as picture:
        picture.save(tmp_path / "scene.jpg", quality=90)
        picture.save(tmp_path / "scene.webp", quality=90)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "broken.png").write_bytes((tmp_path / "scene.png").read_bytes()[:2000])
    return tmp_path


def run(
    folder: Path, model: Path, *overrides: str, subject: str = "cut.png", background: str = "scene.png"
) -> Path:
    out = folder / "result" / "out.png"
    words = [f"subject={folder / subject}", f"background={folder / background}", f"out={out}", *overrides]
    words.append(f"subjects={folder / 'subjects'}")
    return run_insert(freeze(compose_job("insert", [f"model.source={model}", *FAST, *words])))


def levels(path: Path) -> Tensor:
    return (load_rgb(path) * 255).round().to(torch.uint8)


def test_the_job_writes_a_picture_of_the_backgrounds_size_and_its_story(
    files: Path, tiny_micro: Path
) -> None:
    out = run(files, tiny_micro, "box=[20,30,60,90]")
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


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(files: Path, tiny_micro: Path) -> None:
    first = run(files, tiny_micro).read_bytes()
    assert run(files, tiny_micro).read_bytes() == first
    assert run(files, tiny_micro, "seed=1").read_bytes() != first


@pytest.mark.parametrize("background", ["scene.png", "scene.jpg", "scene.webp"])
def test_pixels_beyond_the_reach_of_the_subject_are_the_backgrounds_own(
    files: Path, tiny_micro: Path, background: str
) -> None:
    out = run(
        files,
        tiny_micro,
        "box=[20,90,40,50]",
        "inserter.reach=0.2",
        "keep_intermediate=true",
        background=background,
    )
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


def test_copy_paste_changes_nothing_but_the_subject(files: Path, tiny_micro: Path) -> None:
    out = run(files, tiny_micro, "inserter.name=copy_paste", "keep_intermediate=true")
    assert torch.equal(levels(out), levels(out.parent / "out_parts" / "pasted.png"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_micro: Path) -> Path:
    """A folder with the subject `cut.png` and, in `run`, its personalisation with a saved step."""
    folder = tmp_path_factory.mktemp("learned")
    save_png(folder / "cut.png", subject_picture())
    words = [
        f"subject={folder / 'cut.png'}",
        f"out={folder / 'run'}",
        f"model.source={tiny_micro}",
        *FAST[:5],
    ]
    look = ["every=1", "seeds=1", "steps=1", "scorer=none", "edits=[]"]
    run_personalize(
        freeze(compose_job("personalize", [*words, *(f"personalization.validation.{word}" for word in look)]))
    )
    return folder


def test_one_personalisation_serves_many_backgrounds_as_it_serves_each_alone(
    files: Path, tiny_micro: Path, learned: Path
) -> None:
    save_png(files / "places" / "here.png", torch.rand(3, 90, 120, generator=generator(1, "scene")))
    save_png(files / "places" / "there.webp.png", torch.rand(3, 150, 100, generator=generator(2, "scene")))
    words = [f"run={learned / 'run'}", f"subject={learned / 'cut.png'}", "keep_intermediate=true"]
    folder = run(files, tiny_micro, *words, f"out={files / 'many'}", background="places")
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "here.json", "here.png", "there.webp.json", "there.webp.png",
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


def test_a_saved_step_is_a_run_for_the_job_too(files: Path, tiny_micro: Path, learned: Path) -> None:
    step = learned / "run" / "steps" / "000001"
    out = run(files, tiny_micro, f"run={step}", f"subject={learned / 'cut.png'}")
    story = json.loads(out.with_suffix(".json").read_text())
    assert "personalise" not in story["seconds"]
    assert story["weights"][TOKENS_FILE] == sha256_file(step / TOKENS_FILE)


REFUSED_OF_MANY = {
    "no run": (["run=nowhere"], "finished personalisation"),
    "another subject": (["run=RUN", "subject=opaque.png"], "a picture that"),
    "no need of a run": (["run=RUN", "stylizer.name=adain"], "stylizer=personalized"),
    "a picture for many": (["background=[scene.png,places/a.png]", "out=new/out.png"], "a folder for several"),
    "a folder for one": (["out=new"], "ending in .png"),
    "the name of the record": (["background=[places/run.png]", "out=new"], "none called run"),
    "no pictures": (["background=empty", "out=new"], "got none"),
    "over an input": (["background=[places/a.png]", "out=places"], "not one of the inputs"),
    "a pose for many": (["background=[scene.png]", "out=new", "pose=rules"], "pose=none"),
    "no background": (["background=[]", "out=new"], "background=PATH"),
    "a name too long": ([f"out=new/{'a' * 300}.png"], "at most 236 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_OF_MANY)
def test_bad_input_of_many_backgrounds_or_a_run_is_refused_before_anything_is_made(
    files: Path, tiny_micro: Path, learned: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    overrides, message = REFUSED_OF_MANY[case]
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    for name in ("a.png", "places/a.png", "places/run.png"):
        save_png(files / name, torch.rand(3, 60, 60))
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    words = [f"subject={learned / 'cut.png'}", "background=scene.png", "out=new/folder/out.png"]
    overrides = [word.replace("RUN", str(learned / "run")) for word in overrides]
    with pytest.raises(UserError, match=message):
        run_insert(freeze(compose_job("insert", [*words, f"model.source={tiny_micro}", *FAST, *overrides])))
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before
    assert not (files / "new").exists()


def test_bad_backgrounds_of_a_batch_are_left_out_and_named_and_the_others_are_done(
    files: Path, tiny_micro: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(files / "small.png", torch.rand(3, 60, 60))
    names = ["scene.png", "scene.jpg", "broken.png", "nowhere.png", "small.png", "b" * 237 + ".png"]
    backgrounds = ",".join(str(files / name) for name in names)
    words = [f"run={learned / 'run'}", f"subject={learned / 'cut.png'}", f"background=[{backgrounds}]"]
    with pytest.raises(UserError, match="5 of the backgrounds were left out"):
        run(files, tiny_micro, *words, "box=[100,80,40,40]", f"out={files / 'many'}")
    assert sorted(path.name for path in (files / "many").iterdir()) == ["scene.json", "scene.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    reasons = ("different names", "damaged", "no such file", "inside the 60 x 60", "at most 236 bytes")
    assert all(reason in line for reason, line in zip(reasons, lines, strict=True))


def test_a_second_background_takes_the_personalisation_of_the_first(files: Path, tiny_micro: Path) -> None:
    first = run(files, tiny_micro).read_bytes()
    kept = files / "subjects" / "subject"
    (folder,) = kept.iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = run(files, tiny_micro)
    assert again.read_bytes() == first
    run(files, tiny_micro, background="scene.jpg")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    run(files, tiny_micro, "personalization.rank=2")
    assert len(list(kept.iterdir())) == 2


def test_a_run_of_another_model_is_refused_and_nothing_is_written(
    files: Path, learned: Path, tmp_path: Path
) -> None:
    other = build_micro(tmp_path / "other", seed=1, size="tiny")
    with pytest.raises(UserError, match="personalisation of this model"):
        run(files, other, f"run={learned / 'run'}", f"subject={learned / 'cut.png'}")
    assert not (files / "result").exists()


@pytest.mark.parametrize("reference", ["unmasked", "input"])
def test_every_reference_can_be_asked_for(files: Path, tiny_micro: Path, reference: str) -> None:
    run(files, tiny_micro, f"inserter.reference={reference}", subject="opaque.png")


def test_the_default_inserter_takes_nothing_from_the_model(files: Path, tiny_micro: Path) -> None:
    out = run(files, tiny_micro, "inserter.name=effect", "inserter.sun=90")
    result = json.loads(out.with_suffix(".json").read_text())["result"]
    assert (result["inserter"], result["inserter_sun"]) == ("effect", "90")
    assert result["inserter_sha256"] == sha256_file(effect_weights())


def test_an_inserter_of_a_run_is_used_and_named(files: Path, tiny_micro: Path) -> None:
    out = run(files, tiny_micro, "inserter.name=bootstrapped", f"inserter.run={tiny_micro}")
    assert json.loads(out.with_suffix(".json").read_text())["result"]["inserter"] == "bootstrapped"


REFUSED = {
    "missing file": (["subject=nowhere.png"], "no such file"),
    "not an image": (["background=text.png"], "something else"),
    "truncated file": (["background=broken.png"], "damaged"),
    "alpha zero everywhere": (["subject=clear.png"], "alpha below a half"),
    "box outside": (["box=[180,100,40,40]"], "inside the 200 x 150"),
    "output over an input": (["out=scene.png"], "not one of the inputs"),
    "output under a file": (["out=text.png/out.png"], "able to write"),
    "no model": (["model.source=nowhere"], "model_index.json"),
    "no inserter": (["inserter.name=bootstrapped", "inserter.run=nowhere"], "inserter"),
    "cut-out wanted": (["subject=opaque.png", "segmenter=alpha"], "transparent ground"),
    "no rembg": (["segmenter=rembg"], "rembg"),
    "no such block": (["style.blocks=[nowhere]"], "UNet block that hears"),
    "no block at all": (["style.blocks=[]"], "block for the adapter"),
    "a folder for the sidecar": (["out=taken.png"], "folder taken.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_left(
    files: Path, tiny_micro: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    overrides, message = REFUSED[case]
    monkeypatch.chdir(files)
    (files / "taken.json").mkdir()
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    words = [
        "subject=cut.png",
        "background=scene.png",
        "out=new/folder/out.png",
        f"model.source={tiny_micro}",
    ]
    with pytest.raises(UserError, match=message):
        run_insert(freeze(compose_job("insert", [*words, *FAST, *overrides])))
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before
    assert not (files / "new").exists()


def test_the_command_line_answers_bad_input_with_one_line_and_code_two(
    files: Path, tiny_micro: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    words = ["subject=clear.png", "background=scene.png", "out=new/out.png", f"model.source={tiny_micro}"]
    with pytest.raises(SystemExit) as stop:
        main(["insert", *words])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "alpha below a half" in lines[0]
    assert not (files / "new").exists()


@pytest.mark.parametrize(
    "word", ["personalization.steps=3", "+personalization.seed=1", "personalization=paper"]
)
def test_settings_of_a_personalisation_that_is_there_already_are_refused(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["insert", "run=somewhere", "subject=cut.png", "background=scene.png", "out=out.png", word])
    assert stop.value.code == 2
    assert "personalised already" in capsys.readouterr().err
