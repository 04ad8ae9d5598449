"""A training that is killed from outside: the same command goes on and writes the same bytes."""

import re
import signal
from pathlib import Path

import pytest
import torch
from processes import Process, finish, launch, wait_until

from magic_insert.core.images import save_png
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.core.rand import generator
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.tracking import METRICS
from magic_insert.training.checkpoint import list_checkpoints
from magic_insert.training.personalize import CARD_FILE

STEPS = 60
PERIOD = 5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the picture of a subject."""
    folder = tmp_path_factory.mktemp("killed")
    picture = torch.rand(4, 40, 40, generator=generator(0, "subject"))
    picture[3] = 0
    picture[3, 8:32, 8:32] = 1
    save_png(folder / "toy.png", picture)
    return folder


def start(place: Path, model: Path, out: str) -> Process:
    words = (
        f"personalize subject=toy.png out={out} model.source={model} model.image_size=64 model.device=cpu "
        f"personalization.steps={STEPS} personalization.checkpoint_every={PERIOD} personalization.batch_size=2 "
        "personalization.rank=2 personalization.views=4 personalization.ema_decay=0.9 "
        "personalization.validation.every=20 personalization.validation.steps=2"
    )
    return launch(words.split(), place)


@pytest.fixture(scope="module")
def whole(place: Path, tiny_micro: Path) -> Path:
    """The folder of a run that nobody disturbed."""
    finish(start(place, tiny_micro, "whole"))
    return place / "whole"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_run_ended_by_a_signal_goes_on_to_the_same_bytes(
    place: Path, tiny_micro: Path, whole: Path, number: signal.Signals, code: int
) -> None:
    out = place / number.name
    process = start(place, tiny_micro, number.name)
    wait_until(lambda: len(list_checkpoints(out)) >= 2, process)
    process.send_signal(number)
    _, errors = finish(process, code)
    assert "Traceback" not in errors
    assert number != signal.SIGINT or re.search("magic-insert: stopped after step .* goes on", errors)
    assert not (out / CARD_FILE).exists()
    finish(start(place, tiny_micro, number.name))
    assert PERIOD <= read_json(out / CARD_FILE)["resumed_from"] < STEPS
    for file in (LORA_FILE, TOKENS_FILE):
        assert (out / file).read_bytes() == (whole / file).read_bytes()
    assert read_jsonl(out / METRICS) == read_jsonl(whole / METRICS)
    assert read_json(out / "run.json")["state"] == "done"


def test_an_insertion_ended_by_ctrl_c_goes_on_to_the_same_bytes(place: Path, tiny_micro: Path) -> None:
    words = ["insertion", "task=insert", f"model.source={tiny_micro}", "model.image_size=64", "model.device=cpu",
             "data.num_pairs=2", "data.held_out=0", "data.workers=0", "train.steps=30", "train.batch_size=2",
             "train.views=1", "train.save_every=5"]  # fmt: skip

    def begin(out: str) -> Process:
        return launch([*words, f"out={out}"], place)

    finish(begin("inserted"))
    process = begin("stopped")
    wait_until(lambda: len(list_checkpoints(place / "stopped" / "inserter.fit")) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 130)
    assert "Traceback" not in errors
    assert re.search("magic-insert: stopped after step .* goes on", errors)
    finish(begin("stopped"))
    whole, resumed = (place / out for out in ("inserted", "stopped"))
    file = "inserter/diffusion_pytorch_model.safetensors"
    assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    assert read_jsonl(resumed / METRICS) == read_jsonl(whole / METRICS)
