"""The whole foundation by two ranks: a model that loads, with the losses of one rank, and one of every file."""

from pathlib import Path
from typing import Any

import pytest

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.launch.run import JobPlan, run_job

TARGET = "magic_insert.foundation.job:run_foundation"
pytestmark = pytest.mark.slow


def losses(out: Path, *overrides: str) -> dict[tuple[str, int], float]:
    cfg: Any = freeze(compose_job("foundation", ["debug=fast", f"out={out}", *overrides]))
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
