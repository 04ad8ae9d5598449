"""Jobs in process groups of two real ranks: the files of one process, and an end within a minute if one dies."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import frozen
from safetensors.torch import load_file

from magic_insert.bootstrap.job import STAGES, Execute, run_plan
from magic_insert.config.schema.jobs import BootstrapConfig
from magic_insert.config.schema.shared import ExecConfig
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.core.store import MANIFEST, WORK, flaw_of
from magic_insert.launch.executor import execute
from magic_insert.launch.run import JobPlan, StageFailed, load_function, run_job
from magic_insert.models.folders import WEIGHTS

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
TWO = ExecConfig(name="torchrun", devices=2)
SETTINGS = (
    "debug=fast", "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2", "bootstrap.num_samples=4",
    "harvest.batch_size=1", "fit.steps=4",
)  # fmt: skip
HARVEST = STAGES["harvest"][0]


def configure(store: Path, model: Path) -> BootstrapConfig:
    cfg: BootstrapConfig = frozen("bootstrap", *SETTINGS)
    return replace(
        cfg, out=str(store) + ".out", store=str(store), model=replace(cfg.model, source=str(model))
    )


def on_two(target: str, payload: Path) -> None:
    execute(target, payload, TWO)


def run(store: Path, model: Path, run_stage: Execute) -> list[str]:
    """The stages that were really made."""
    made: list[str] = []

    def noted(target: str, payload: Path) -> None:
        made.append(target)
        run_stage(target, payload)

    run_plan(configure(store, model), noted, announce=lambda line: None, progress=False)
    return made


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, tiny_micro: Path) -> dict[str, Path]:
    """Stores of the same run by one process and by two ranks."""
    place = tmp_path_factory.mktemp("bootstrap-ranks")
    torch.set_num_threads(1)
    run(place / "one", tiny_micro, lambda target, payload: load_function(target)(payload))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        run(place / "two", tiny_micro, on_two)
    return {"one": place / "one", "two": place / "two"}


def files(store: Path, kind: str) -> dict[str, dict[str, str]]:
    """Key of every published stage of a kind -> checksums of its files."""
    return {
        path.parent.name: read_json(path)["files"] for path in sorted((store / kind).glob(f"*/{MANIFEST}"))
    }


@pytest.mark.parametrize("kind", ["render", "harvest", "measure", "select"])
def test_two_ranks_write_the_files_of_one_process(stores: dict[str, Path], kind: str) -> None:
    assert files(stores["two"], kind) == files(stores["one"], kind)
    assert len(files(stores["one"], kind)) == (3 if kind == "render" else 1)


def test_two_ranks_train_the_network_of_one_process(stores: dict[str, Path], tiny_micro: Path) -> None:
    """To rounding: far nearer to each other than either is to the start."""
    assert list(files(stores["two"], "fit")) == list(files(stores["one"], "fit"))
    (key,) = files(stores["one"], "fit")
    one, two = (load_file(stores[n] / "fit" / key / "inserter" / WEIGHTS) for n in ("one", "two"))
    start = load_file(tiny_micro / "inserter" / WEIGHTS)
    apart = sum(float((two[name] - one[name]).square().sum()) for name in one) ** 0.5
    moved = sum(float((one[name] - start[name]).square().sum()) for name in one) ** 0.5
    assert moved > 0
    assert apart < 1e-2 * moved
    assert all(torch.allclose(two[name], one[name], atol=5e-4) for name in one)


def test_a_rank_killed_in_harvest_ends_the_run_within_a_minute_and_the_next_one_ends_the_same(
    stores: dict[str, Path], tiny_micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = tmp_path / "killed"
    shutil.copytree(stores["two"], store)
    for kind in ("harvest", "measure"):
        shutil.rmtree(store / kind)

    def with_a_death(target: str, payload: Path) -> None:
        on_two("rank_targets:lose_a_rank_in_harvest" if target == HARVEST else target, payload)

    with pytest.raises(StageFailed, match=r"rank 1 of .* was ended by SIGKILL; log: "):
        run(store, tiny_micro, with_a_death)
    (dying,) = store.glob(f"staging/harvest-*/{WORK}/dying")
    assert time.time() - dying.stat().st_mtime < 60
    assert files(store, "harvest") == {}
    # Harvest and measurements come out as they were: what was made from them is found again under its old key.
    assert run(store, tiny_micro, on_two) == [HARVEST, STAGES["measure"][0]]
    for kind in ("harvest", "measure"):
        assert files(store, kind) == files(stores["two"], kind)
    assert all(flaw_of(path.parent) is None for path in store.glob(f"*/*/{MANIFEST}"))


TARGET = "magic_insert.foundation.job:run_foundation"


def losses(out: Path, *overrides: str) -> dict[tuple[str, int], float]:
    cfg: Any = frozen("foundation", "debug=fast", f"out={out}", *overrides)
    run_job(JobPlan("foundation", TARGET), cfg)
    return {(row["stage"], row["step"]): row["loss"] for row in read_jsonl(out / "metrics.jsonl")}


def test_two_ranks_train_every_part_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    common = ("trainer.precision=32-true", "trainer.device=cpu")
    one = losses(tmp_path / "one", *common)
    two = losses(tmp_path / "two", "trainer=ddp", "exec.devices=2", *common)
    assert two.keys() == one.keys()
    assert two == {key: pytest.approx(loss, rel=2e-3) for key, loss in one.items()}
    for name in ("unet", "vae", "encoders/clip"):
        assert (tmp_path / "two" / "micro" / name).is_dir()
    assert [read_json(tmp_path / name / "run.json")["state"] for name in ("one", "two")] == ["done", "done"]
    record, other = (read_json(tmp_path / name / "micro" / "training.json") for name in ("one", "two"))
    assert record["config_digest"] == other["config_digest"]
