"""A bootstrap killed with SIGKILL anywhere: the same command goes on, and every stage ends in the same bytes.

Each kill waits until the process at hand has itself written something of a stage. The processes that are killed are
forked from a server that has imported torch, so that no kill falls into an import and twenty of them take minutes.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE, Process, finish, launch

from magic_insert.core.digest import digest
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.core.store import MANIFEST, flaw_of

SETTINGS = (
    "debug=fast", "pool=imagine", "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2",
    "bootstrap.num_samples=4", "bootstrap.retrain=both", "bootstrap.rounds=2", "bootstrap.early_stop=false",
    "fit.steps=8", "fit.save_every=1", "fit.blend=0.5", "harvest.batch_size=1",
)  # fmt: skip
# How many kills inside each kind of stage the test asks for, in parts of some minutes each.
KILLS = (
    {"imagine": 3, "render": 3, "select": 1},
    {"harvest": 4, "measure": 4},
    {"fit": 5, "blend": 1, "evaluate": 4},
)
CHECKPOINT = "checkpoint-"
WORKSHOP = [f"magic_insert.bootstrap.{name}" for name in ("pool", "networks")]


def start(place: Path, model: Path, name: str, store: str | None = None) -> Process:
    """The job as a user starts it, with a store of its own or another."""
    words = [*SETTINGS, f"model.source={model}", f"out={name}/out", f"store={store or name + '/store'}"]
    return launch(["bootstrap", *words], place)


def stages(store: Path) -> dict[str, str]:
    """Every published stage and the digest of its files."""
    published = sorted(store.glob(f"*/*/{MANIFEST}"))
    return {
        f"{path.parent.parent.name}-{path.parent.name}": digest(read_json(path)["files"])
        for path in published
        if path.parent.parent.name != "staging"
    }


def marks(store: Path) -> dict[str, int]:
    """Files of stages being made that tell of progress, with the time of their last change.

    What a stage is told tells of none, and of a fit only its checkpoint does.
    """
    found: dict[str, int] = {}
    for folder, _, names in os.walk(store / "staging"):
        for name in names:
            path = os.path.join(folder, name)
            counts = name.startswith(CHECKPOINT) if "staging/fit-" in path else name != "payload.json"
            try:
                if counts and not name.endswith(".tmp"):
                    found[path] = os.stat(path).st_mtime_ns
            except FileNotFoundError:
                continue  # published in this moment
    return found


def progressed(store: Path, before: dict[str, int]) -> str | None:
    """The kind of the unpublished stage in which something has appeared or changed since `before`."""
    fresh = [path for path, changed in marks(store).items() if before.get(path) != changed]
    return Path(fresh[0]).relative_to(store / "staging").parts[0].partition("-")[0] if fresh else None


def work(place: Path, words: list[str], log: Path) -> None:
    """The job in a forked process; what it says goes to `log`."""
    import torch

    from magic_insert.cli.main import main

    os.chdir(place)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["magic-insert", "bootstrap", *words]
    main()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def whole(place: Path, tiny_micro: Path) -> Path:
    """A run that nobody disturbed."""
    finish(start(place, tiny_micro, "whole"))
    return place / "whole"


@pytest.fixture(scope="module")
def workshop() -> Any:
    """Makes processes from a server that has torch and the stages imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WORKSHOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        process = context.Process(target=int)
        process.start()
        process.join(PATIENCE)
    return context


def kill_until_done(
    workshop: Any, place: Path, model: Path, name: str, left: Counter[str], rng: random.Random
) -> list[str]:
    """Starts the job again and again and kills it soon after it got on with a stage that `left` still asks for; at last
    lets it end. What it was in the middle of each time; `left` is counted down."""
    caught: list[str] = []
    store, log = place / name / "store", place / f"{name}.log"
    words = [*SETTINGS, f"model.source={model}", f"out={name}/out", f"store={name}/store"]
    while True:
        before, chosen = marks(store), set(store.glob("select/*"))
        process = workshop.Process(target=work, args=(place, words, log))
        process.start()
        deadline = time.monotonic() + PATIENCE
        while process.exitcode is None:
            at = progressed(store, before) or ("select" if set(store.glob("select/*")) - chosen else None)
            if at is not None and left[at] > 0:
                time.sleep(rng.choice((0.0, 0.0, 0.005, 0.02, 0.05)))
                process.kill()
                break
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.join(PATIENCE)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, log.read_text()
            return caught
        # Where it really died: the delay may have led into the next stage, or between two.
        inside = progressed(store, before)
        if inside is None and set(store.glob("select/*")) - chosen:
            inside = "select"  # over in a moment: just published is as good
        if inside is not None:
            caught.append(inside)
            left[inside] -= 1


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
@pytest.mark.parametrize("kinds", KILLS, ids="-".join)
def test_kills_spread_over_every_stage_change_not_one_byte(
    workshop: Any, place: Path, tiny_micro: Path, whole: Path, kinds: dict[str, int]
) -> None:
    left, rng, caught = Counter(kinds), random.Random(0), []
    first = next(iter(kinds))
    for number in range(8):
        caught += kill_until_done(workshop, place, tiny_micro, f"killed-{first}-{number}", left, rng)
        compare(whole, place / f"killed-{first}-{number}")
        if max(left.values()) <= 0:
            break
    print(f"killed in {dict(Counter(caught))}, {number + 1} runs")
    assert max(left.values()) <= 0, f"kills that never came: {left}"


@pytest.mark.slow
def test_two_processes_on_one_store_make_each_stage_once(place: Path, tiny_micro: Path, whole: Path) -> None:
    (place / "pair").mkdir()
    both = [start(place, tiny_micro, f"pair/{i}", store="pair/store") for i in range(2)]
    for process in both:
        finish(process)
    assert stages(place / "pair" / "store") == stages(whole / "store")
    weights = "out/inserter/diffusion_pytorch_model.safetensors"
    compared = [(place / "pair" / str(i) / weights).read_bytes() for i in range(2)]
    assert compared[0] == compared[1]
