"""Measurements always reach the JSONL file; W&B is an addition; its view and a table of runs name what is logged."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import frozen
from rounds_sample import sample_row, write_run

from magic_insert.bootstrap.job import flat
from magic_insert.config.schema.shared import LoggerConfig
from magic_insert.core.jsonl import read_jsonl, write_json
from magic_insert.launch.results import SHOWN_OF_ROUNDS, build_view, flat_numbers, read_numbers
from magic_insert.tracking import METRICS, has_wandb_account, open_tracker, wandb_id


def test_rows_carry_their_stage_and_step_and_one_that_is_computed_again_stands_once(tmp_path: Path) -> None:
    for stage in ("vae", "clip", "vae"):  # at last a resumed run
        with open_tracker(tmp_path, stage, LoggerConfig(), {}) as tracker:
            tracker.log(20, {"loss": 0.5})
            tracker.log(20, {"identity": 0.7})
    numbers: tuple[dict[str, float], ...] = ({"loss": 0.5}, {"identity": 0.7})
    assert read_jsonl(tmp_path / METRICS) == [
        {"stage": stage, "step": 20, **values} for stage in ("vae", "clip") for values in numbers
    ]


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


INSTALLED = find_spec("wandb_workspaces") is not None
needs_workspaces = pytest.mark.skipif(
    not INSTALLED, reason="wandb-workspaces is not installed: pip install 'magic-insert[workspaces]'"
)


@needs_workspaces
def test_every_panel_draws_something_that_is_logged() -> None:
    view = build_view(frozen("dashboard", "run=runs/mine"), "somebody")._to_model()
    stored = view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]
    (section,) = stored["panelBankConfig"]["sections"]
    logged = {f"bootstrap/{name}" for name in flat(sample_row(1))} | {"fit-insert-1/loss"}
    for panel in (panel["config"] for panel in section["panels"]):
        if panel.get("useMetricRegex"):
            assert any(re.fullmatch(panel["metricRegex"], name) for name in logged), panel["chartTitle"]
        else:
            assert set(panel["metrics"]) <= logged
            assert len(panel["metrics"]) == 3
    assert [panel["config"]["chartTitle"] for panel in section["panels"]][2:] == ["acceptance", "loss"]
    (runs,) = stored["runSets"]
    (rule,) = runs["filters"]["filters"]
    assert (rule["key"]["name"], rule["value"]) == ("group", ["mine", "bootstrap mine"])


def test_a_bootstraps_numbers_are_those_of_the_round_it_kept_and_say_which(tmp_path: Path) -> None:
    write_run(tmp_path, rounds=3)
    assert read_numbers(tmp_path) == flat_numbers(sample_row(3))
    for kept in (1, 0):
        write_json(tmp_path / "card.json", {"round": kept})
        numbers = read_numbers(tmp_path)
        assert numbers == flat_numbers(sample_row(kept))
        assert numbers["round"] == kept
    assert set(SHOWN_OF_ROUNDS) <= set(read_numbers(tmp_path)) | {"filter.precision", "filter.recall"}
