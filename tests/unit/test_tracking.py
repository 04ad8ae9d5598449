"""Measurements always reach the JSONL file; W&B is an addition that needs no account."""

from pathlib import Path

import pytest

from magic_insert.config.schema.shared import LoggerConfig
from magic_insert.core.jsonl import read_jsonl
from magic_insert.tracking import METRICS, has_wandb_account, open_tracker, wandb_id


def test_rows_carry_their_stage_and_step_and_later_runs_append(tmp_path: Path) -> None:
    for stage in ("vae", "clip"):
        with open_tracker(tmp_path, stage, LoggerConfig(), {}) as tracker:
            tracker.log(20, {"loss": 0.5})
    assert read_jsonl(tmp_path / METRICS) == [
        {"stage": "vae", "step": 20, "loss": 0.5},
        {"stage": "clip", "step": 20, "loss": 0.5},
    ]


def test_a_row_that_a_resumed_run_computes_again_is_not_written_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with open_tracker(tmp_path, "vae", LoggerConfig(), {}) as tracker:
            tracker.log(20, {"loss": 0.5})
            tracker.log(20, {"identity": 0.7})
    rows = read_jsonl(tmp_path / METRICS)
    assert [set(row) - {"stage", "step"} for row in rows] == [{"loss"}, {"identity"}]


def test_the_run_id_is_a_function_of_folder_name_stage_and_configuration(tmp_path: Path) -> None:
    one = wandb_id(tmp_path / "a", "vae", {"seed": 1})
    assert one == wandb_id(Path("elsewhere/a"), "vae", {"seed": 1})
    others = [(Path("b"), "vae", 1), (Path("a"), "clip", 1), (Path("a"), "vae", 2)]
    assert one not in [wandb_id(folder, stage, {"seed": seed}) for folder, stage, seed in others]


def test_without_key_or_netrc_there_is_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert not has_wandb_account()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_wandb_account()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not has_wandb_account()


def test_ranks_other_than_the_first_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with open_tracker(tmp_path, "vae", LoggerConfig(name="wandb"), {}) as tracker:
        tracker.log(1, {"loss": 0.5})
        tracker.table(1, "samples", [{"id": "a"}])
    assert not list(tmp_path.iterdir())
