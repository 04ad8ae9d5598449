"""The tour of docs/sdxl.md, command by command, on a folder as it comes from the hub."""

import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from helpers import frozen, oval, save_pair
from hub_model import Hub

from magic_insert.cli.jobs import JOBS
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.core.rand import generator
from magic_insert.launch.run import load_function
from magic_insert.models.folders import LORA_WEIGHTS, WEIGHTS
from magic_insert.paths import CHECKOUT

# What makes the commands small; nothing else is added to them but where the files lie.
SMALL = {
    "personalize": ["debug=fast", "personalization.batch_size=1", "personalization.precision=32-true"],
    "insert": ["debug=fast"],
    "export": [],
    "insertion": ["debug=fast", "train.precision=32-true", "data.held_out=1", "exec=inline"],
    "remove": ["steps=2"],
    "bootstrap": ["debug=fast", "fit.precision=32-true", "evaluate.num_scenes=2"],
    "evaluate": ["debug=fast", "personalization.precision=32-true", "personalization.batch_size=1"],
}
SIDE = 64


def picture(name: str, side: int = SIDE) -> torch.Tensor:
    """A smooth random picture."""
    coarse = torch.rand(1, 3, 5, 5, generator=generator(0, name))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]


def save_pairs(folder: Path, names: list[str]) -> None:
    for name in names:
        save_pair({layer: folder / layer / f"{name}.png" for layer in ("with", "without", "mask")}, name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    cat = torch.cat([picture("cat"), oval(SIDE)[3:]])
    save_png(Path("cat.png"), cat)
    save_png(Path("room.png"), picture("room"))
    save_png(Path("chair.png"), oval(SIDE)[3:])
    for name in ("beach", "forest"):
        save_png(Path("scenes") / f"{name}.png", picture(name))
        save_png(Path("mine/backgrounds") / f"{name}.png", picture(name))
    save_png(Path("mine/subjects/cat.png"), cat)
    save_pairs(Path("pairs"), ["a", "b", "c", "d"])
    save_pairs(Path("heldout"), ["photo/x", "oil/y"])
    for name in ("p", "q", "r"):
        save_png(Path("drawings/oil") / f"{name}.png", picture(name))
        save_png(Path("drawings/masks/oil") / f"{name}.png", oval(SIDE)[3:])
    return tmp_path


def documented(number: int, page: str = "sdxl.md", below: str = "") -> list[str]:
    """The commands of a block of a page of the documents, from 0 on; counted `below` a heading."""
    text = (CHECKOUT / "docs" / page).read_text()
    return text[text.index(below) :].split("```")[2 * number + 1].strip().splitlines()


def run(line: str, hub: Hub, *more: str) -> None:
    """Runs a command with `more` on the folders of `hub`."""
    name, *words = shlex.split(line.removeprefix("magic-insert "))
    job = JOBS[name]
    if "model=sdxl" in words:
        words = [word for word in words if word != "model=sdxl"] + hub.words(controlnet="null")
    if "model=sdxl_inpaint" in words:
        words += hub.words(source=hub.inpaint, ip_adapter="null", controlnet="null")[1:]
    cfg = frozen(name, *job.prepare([*words, *SMALL[name], *more]))
    job.look(cfg)
    load_function(job.target)(cfg)


@pytest.mark.slow
def test_the_whole_tour_runs_on_a_folder_as_it_comes_from_the_hub(hub: Hub, place: Path) -> None:
    for line in documented(0):
        run(line, hub)
    for name in ("beach", "forest"):
        assert load_rgb(place / "runs/scenes" / f"{name}.png").shape == (3, SIDE, SIDE)
    assert (place / "export/cat/cat.safetensors").is_file()
    assert read_json(place / "empty.json")["weights"]["remover_sha256"]
    rounds = read_jsonl(place / "runs/bootstrap/rounds.jsonl")
    assert set(rounds[-1]["metrics"]["inserter"]) == {"photo", "seen"}
    assert not list((place / "runs/store").glob("render/*")), "a toy among real pictures"
    assert read_jsonl(place / "runs/evaluate/rows.jsonl")
    pipe = StableDiffusionXLPipeline.from_pretrained(
        hub.base, variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    pipe.load_lora_weights(place / "export/cat/cat.safetensors")


@pytest.mark.slow
def test_loras_go_the_same_way_and_without_a_held_out_set_there_is_no_verdict(
    hub: Hub, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (documented(0)[0], *documented(1)):
        run(line, hub)
    assert "without a verdict" in capsys.readouterr().out
    assert (place / "runs/bootstrap-lora/inserter" / LORA_WEIGHTS).is_file()
    assert load_rgb(place / "cat-in-room-lora.png").shape == (3, SIDE, SIDE)


@pytest.mark.slow
def test_models_of_others_insert_and_remove_by_the_documents(
    hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_insert.models.foreign.LARGEST", SIDE)
    lines = documented(0, "insertion.md", "### Models of others")
    assert [line.split()[1] for line in lines] == ["remove", "remove", "insert"]
    for line in lines:
        words = [
            f"{word.partition('=')[0]}={hub.inpaint}" if word.partition("=")[0].endswith("run") else word
            for word in shlex.split(line)
        ]
        run(shlex.join(words), hub)
    for name in ("empty", "out"):
        assert load_rgb(place / f"{name}.png").shape == (3, SIDE, SIDE)
        record = read_json(place / f"{name}.json")
        assert str(hub.inpaint) in (record["weights"] | record["result"]).values()


@pytest.mark.slow
def test_edit_networks_are_trained_from_every_source_of_the_documents(hub: Hub, place: Path) -> None:
    """Public data, toys on photographs, and an inpainting model as the start."""
    for name in ("a", "b", "c", "d"):
        images = {
            layer: load_rgb(place / "pairs" / layer / f"{name}.png") for layer in ("with", "without", "mask")
        }
        save_png(place / "PHOTOS" / f"{name}.png", images["without"])
        for folder, layer in {"img": "with", "gt": "without", "mask": "mask"}.items():
            image = images[layer]
            save_png(place / "OBER" / f"{folder.replace('img', 'input')}_{name}.png", image)
            save_png(place / "RORD" / folder / f"{name}.png", 1 - image if layer == "mask" else image)
    from_ober, from_toys, from_inpainting = documented(0, "insertion.md", "### SDXL\n")
    run(from_ober, hub)
    run(from_toys, hub, "data.num_pairs=2", "data.workers=0")
    run(from_inpainting, hub)
    for path in ("sdxl/remover", "sdxl/inserter", "sdxl-toys/remover", "sdxl-toys/inserter"):
        assert (place / "runs" / path / WEIGHTS).is_file()
    assert (place / "runs/sdxl-remover/remover" / LORA_WEIGHTS).is_file()
    run(
        "magic-insert remove model=sdxl_inpaint run=runs/sdxl-remover image=room.png mask=chair.png out=empty.png",
        hub,
    )
    assert load_rgb(place / "empty.png").shape == (3, SIDE, SIDE)


@pytest.mark.slow
def test_what_the_plan_names_to_save_memory_trains_and_draws(hub: Hub, place: Path) -> None:
    waiting = "model.offload=true"
    for group, words in {
        "personalization": "personalize model=sdxl subject=cat.png out=runs/cat",
        "train": "insertion model=sdxl data=pairs data.path=pairs task=remove train.lora_rank=64 out=runs/edit",
    }.items():
        small = {"batch_size": 1, "accumulate": 2, "gradient_checkpointing": "true", "ema_decay": 0.9}
        small["optimizer"] = "adamw8bit" if find_spec("bitsandbytes") else "adamw"
        run(
            f"magic-insert {words}", hub, waiting, *(f"{group}.{key}={value}" for key, value in small.items())
        )
    run(
        "magic-insert insert model=sdxl run=runs/cat subject=cat.png background=room.png out=a.png",
        hub,
        waiting,
    )
    run("magic-insert remove model=sdxl run=runs/edit image=room.png mask=chair.png out=b.png", hub, waiting)
    for name in ("a", "b"):
        assert load_rgb(place / f"{name}.png").shape == (3, SIDE, SIDE)
