"""What a tracker and a sweep are told of an evaluation: the numbers of its tables, all of them."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from evaluation_rows import FACTS, synthetic_rows

from magic_insert.cli.jobs import methods_side_by_side as rewrite
from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze, thaw
from magic_insert.core.jsonl import read_json
from magic_insert.evaluation.evaluate import RESULT_FILE, command_of, log_tables, paired_cells
from magic_insert.evaluation.statistics import paired_table
from magic_insert.evaluation.tables import main_table, value_rows
from magic_insert.launch.results import RESULT, read_numbers
from magic_insert.tracking import wandb_id

ROWS: Any = synthetic_rows(num_subjects=3, num_backgrounds=2)


def config(out: Path, *more: str) -> Any:
    return freeze(compose_job("evaluate", rewrite([f"out={out}", *more])))


def test_every_mean_of_the_tables_is_a_number_that_a_sweep_can_name(tmp_path: Path) -> None:
    assert RESULT_FILE == RESULT
    log_tables(config(tmp_path), tmp_path, ROWS, FACTS)
    numbers = read_numbers(tmp_path)
    expected = {
        f"{track}.{line.method}.{key}": estimate.mean
        for track in ("stylize", "insert")
        for line in main_table(ROWS, track, FACTS).lines
        if line.kind != "printed"
        for key, estimate in line.estimates.items()
    }
    assert numbers == expected
    assert "insert.personalized+diffusion.truth_effect_psnr" in numbers


def test_cells_carry_counts_intervals_differences_and_win_rates() -> None:
    table = main_table(ROWS, "stylize", FACTS)
    line = next(line for line in table.lines if line.method == "personalized")
    found = line.estimates["subject_dino"]
    (cells,) = [
        row for row in value_rows([table], FACTS)
        if (row["method"], row["column"]) == ("personalized", "subject_dino")
    ]  # fmt: skip
    assert (cells["kind"], cells["n"]) == ("method", 6)
    assert [cells[part] for part in ("mean", "low", "high")] == [found.mean, found.low, found.high]
    (paired,) = [
        row for row in paired_table(ROWS, "stylize") if (row.method, row.column) == ("adain", "style_mean")
    ]
    (told,) = [
        row for row in paired_cells([paired]) if (row["reference"], row["pairs"]) == ("personalized", 6)
    ]
    assert paired.win_rate is not None
    assert (told["difference"], told["win rate"]) == (paired.difference.mean, paired.win_rate.mean)
    assert told["win rate low"] <= told["win rate"] <= told["win rate high"]


@pytest.mark.slow
def test_wandb_without_an_account_keeps_the_tables_of_both_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    cfg = config(tmp_path, "logger=wandb")
    log_tables(cfg, tmp_path, ROWS, FACTS)
    (folder,) = tmp_path.glob(f"wandb/offline-run-*-{wandb_id(tmp_path, 'evaluate', thaw(cfg))}")
    for track in ("stylize", "insert"):
        for name, rows in (
            (track, value_rows([main_table(ROWS, track, FACTS)], FACTS)),
            (f"{track}_paired", paired_cells(paired_table(ROWS, track))),
        ):
            (file,) = folder.rglob(f"media/table/evaluate/{name}_[0-9]*.json")
            written = read_json(file)
            assert written["columns"] == list(rows[0])
            assert written["data"] == [list(row.values()) for row in rows]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["stylizer=[faint:personalized,one:personalized_1token,adain]", "stylizers.faint.lora_scale=0.5",
         "stylizers.adain.weights=some folder", "inserter=copy_paste", "track=insert", "num_draws=3"],
        ["benchmark=folder", "root=my pictures", "stylizer=images", "stylizer.dir='a,b'", "inserter=inpaint",
         "personalization.steps=7", "style.scale=0.5", "exec=torchrun", "exec.devices=2", "benchmark.pairs=[a__b]"],
    ],
)  # fmt: skip
def test_the_command_of_a_report_makes_the_same_configuration(tmp_path: Path, more: list[str]) -> None:
    cfg = config(tmp_path / "a folder", *more)
    program, job, *words = shlex.split(command_of(cfg))
    assert (program, job) == ("magic-insert", "evaluate")
    assert thaw(freeze(compose_job("evaluate", rewrite(words)))) == thaw(cfg)
