"""A bootstrap killed with SIGKILL anywhere: the same command goes on, and every stage ends in the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from magic_insert.bootstrap.store import MANIFEST, flaw_of
from magic_insert.core.digest import digest
from magic_insert.core.jsonl import read_json, read_jsonl

PATIENCE = 900  # seconds; a busy machine needs many to import torch
SETTINGS = (
    "debug=fast", "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2", "bootstrap.num_samples=2",
    "bootstrap.retrain=both", "bootstrap.rounds=2", "bootstrap.early_stop=false", "fit.steps=12", "fit.save_every=1",
    "harvest.batch_size=1",
)  # fmt: skip
KINDS = ("render", "harvest", "measure", "select", "fit", "evaluate")


def start(place: Path, model: Path, name: str) -> subprocess.Popen[str]:
    """The job as a user starts it, with a store of its own."""
    code = "from magic_insert.cli.main import main; main()"
    words = [*SETTINGS, f"model.source={model}", f"out={name}/out", f"store={name}/store"]
    return subprocess.Popen(
        [sys.executable, "-c", code, "bootstrap", *words],
        cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return out


def stages(store: Path) -> dict[str, str]:
    """Every published stage and the digest of its files."""
    published = sorted(store.glob(f"*/*/{MANIFEST}"))
    return {
        f"{path.parent.parent.name}-{path.parent.name}": digest(read_json(path)["files"])
        for path in published
        if path.parent.parent.name != "staging"
    }


def working_on(store: Path) -> str | None:
    """The stage that is being made: the one whose staging folder was touched last."""
    folders = sorted((store / "staging").glob("*"), key=lambda path: path.stat().st_mtime)
    return folders[-1].name if folders else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def whole(place: Path, tiny_micro: Path) -> Path:
    """A run that nobody disturbed."""
    finish(start(place, tiny_micro, "whole"))
    return place / "whole"


def kill_until_done(place: Path, model: Path, name: str, kills: int) -> list[str]:
    """Starts the job again and again, kills it after random delays, at last lets it end; what it was at when killed."""
    rng = random.Random(0)
    caught: list[str] = []
    while len(caught) < kills:
        process = start(place, model, name)
        store = place / name / "store"
        before = len(stages(store))
        # Wait until it works on something new, so that kills do not all fall into the import of torch.
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and working_on(store) is None and len(stages(store)) == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(rng.choice((0.0, 0.1, 0.4, 1.5)))
        at = working_on(store)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            break
        caught.append(at or "between stages")
    finish(start(place, model, name))
    return caught


def compare(whole: Path, killed: Path) -> None:
    expected, found = stages(whole / "store"), stages(killed / "store")
    assert found == expected
    assert all(flaw_of(path.parent) is None for path in (killed / "store").glob(f"[!s]*/*/{MANIFEST}"))
    rows = [
        [
            {k: v for k, v in row.items() if k not in ("minutes", "store")}
            for row in read_jsonl(r / "out/rounds.jsonl")
        ]
        for r in (whole, killed)
    ]
    assert rows[0] == rows[1]
    for name in ("inserter", "remover"):
        file = f"out/{name}/diffusion_pytorch_model.safetensors"
        assert (whole / file).read_bytes() == (killed / file).read_bytes()


@pytest.mark.slow
def test_twenty_kills_in_every_stage_change_not_one_byte(place: Path, tiny_micro: Path, whole: Path) -> None:
    caught = kill_until_done(place, tiny_micro, "killed", kills=24)
    compare(whole, place / "killed")
    assert len(caught) >= 20
    assert {name.split("-")[0] for name in caught} >= {"render", "fit", "evaluate"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_in_this_stage_changes_not_one_byte(
    place: Path, tiny_micro: Path, whole: Path, kind: str
) -> None:
    process = start(place, tiny_micro, kind)
    store, deadline = place / kind / "store", time.monotonic() + PATIENCE
    while not any((store / "staging").glob(f"{kind}-*/*")):
        # Choosing is over in a moment: catching it just published is as good.
        if kind == "select" and any(store.glob("select/*")):
            break
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    finish(start(place, tiny_micro, kind))
    compare(whole, place / kind)


@pytest.mark.slow
def test_two_processes_on_one_store_make_each_stage_once(place: Path, tiny_micro: Path, whole: Path) -> None:
    (place / "pair").mkdir()
    code = "from magic_insert.cli.main import main; main()"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, "bootstrap", *SETTINGS, f"model.source={tiny_micro}",
             f"out=pair/{i}", "store=pair/store"],
            cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in both:
        finish(process)
    assert stages(place / "pair" / "store") == stages(whole / "store")
    compared = [
        (place / "pair" / str(i) / "inserter" / "diffusion_pytorch_model.safetensors").read_bytes()
        for i in range(2)
    ]
    assert compared[0] == compared[1]
