"""The table over seeds: a known gain is found, seeds are averaged and never counted as settings."""

import json
import math
import shutil
from pathlib import Path

import pytest

from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import write_json, write_text
from magic_insert.launch.seed_table import grid_of, lines_of, main, markdown
from magic_insert.launch.sweep_table import Outcome, Sweep, write_sweep

GROUPS = ("photo", "seen", "unseen")
PIXELS = 100.0


def stored(store: Path, key: str, error: float) -> float:
    """An evaluation of four scenes a group with the same mean squared error everywhere; returns its decibels."""
    for group in GROUPS:
        for scene in range(4):
            row = {f"{name}_error": error * PIXELS for name in ("effect", "nothing", "hole", "outside")}
            row |= {f"{name}_pixels": PIXELS for name in ("effect", "hole", "outside")}
            write_json(
                store / "evaluate" / key / "values" / f"{scene:04d}-{group}.json", {**row, "shadow_iou": 0.5}
            )
    return -10 * math.log10(error)


def run(place: Path, name: str, errors: list[float]) -> Path:
    """A run folder whose round k left `errors[k]`."""
    rows = []
    for number, error in enumerate(errors):
        key = f"{name}-{number}"
        decibel = stored(place / "store", key, error)
        rows.append(
            {
                "round": number, "store": str(place / "store"), "accepted": 3, "harvested": 4,
                "stages": {"evaluate_inserter": key, "evaluate_remover": key},
                "metrics": {"inserter": {group: {"effect_psnr": decibel} for group in GROUPS}},
                "filter": {"precision": 0.75, "recall": 1.0} if number else None,
            }
        )  # fmt: skip
    write_text(place / name / "rounds.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return place / name


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    outcomes = [
        Outcome(
            name, {"bootstrap.retrain": retrain, "seed": seed}, "done", 1.0, {},
            str(run(tmp_path, name, [0.1, error])), "", 1.0, "",
        )
        for name, retrain, seed, error in (
            ("a", "insertion", "0", 0.05), ("b", "insertion", "1", 0.03), ("c", "both", "0", 0.1),
        )
    ]  # fmt: skip
    write_sweep(tmp_path, Sweep("bootstrap", ["bootstrap.retrain", "seed"], None, "max", outcomes))
    return tmp_path


def test_errors_are_averaged_over_seeds_before_they_become_decibels(sweep: Path) -> None:
    lines = {(line.setting, line.round): line for line in lines_of(sweep, resamples=20)}
    line = lines["bootstrap.retrain=insertion", 1]
    expected = -10 * math.log10((0.05 + 0.03) / 2 / 0.1)
    assert line.seeds == 2
    for group in GROUPS:
        for number in line.change["inserter"][group]["effect_psnr"]:
            assert number == pytest.approx(expected, abs=1e-3)
    assert line.range == pytest.approx((-10 * math.log10(0.5), -10 * math.log10(0.3)))
    assert (line.precision, line.recall) == (0.75, 1.0)
    unchanged = lines["bootstrap.retrain=both", 1]
    assert unchanged.seeds == 1
    assert unchanged.change["remover"]["seen"]["effect_psnr"] == [0, 0, 0]


def test_the_table_has_a_row_a_setting_and_later_round_and_curves_beside_it(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "heatmap.png").write_bytes(b"the sweep's own")
    assert main([str(sweep)]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed == markdown(lines_of(sweep))
    assert [line.split(" | ")[:3] for line in printed.splitlines()[2:]] == [
        ["| bootstrap.retrain=insertion", "1", "3 of 4"], ["| bootstrap.retrain=both", "1", "3 of 4"],
    ]  # fmt: skip
    assert (sweep / "rounds.png").stat().st_size > 5000
    assert load_rgb(sweep / "rounds_heatmap.png").std() > 0.05
    assert (sweep / "heatmap.png").read_bytes() == b"the sweep's own"


def test_several_sweeps_stand_in_one_table_under_their_names(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = Outcome(
        "long", {"seed": "0"}, "done", 1.0, {}, str(run(tmp_path, "long", [0.1, 0.05, 0.02])), "", 1.0, ""
    )
    write_sweep(tmp_path / "more", Sweep("bootstrap", ["seed"], None, "max", [longer]))
    grid = grid_of(lines_of(sweep, tmp_path / "more", resamples=20))
    assert grid.rows == [f"{sweep.name}: bootstrap.retrain={name}" for name in ("insertion", "both")] + [
        "more"
    ]
    assert grid.columns == ["1", "2"]
    assert grid.cells[0][1] is None
    assert grid.cells[2][1] == pytest.approx(-10 * math.log10(0.02 / 0.1), abs=1e-3)
    assert main([str(sweep), str(tmp_path / "more"), "--out", str(tmp_path / "both")]) == 0
    assert "| more | 2 | 3 of 4 |" in capsys.readouterr().out
    assert (tmp_path / "both" / "rounds_heatmap.png").is_file()


def test_two_sweeps_of_one_name_are_refused_and_not_taken_for_seeds_of_one(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    namesake = tmp_path / "elsewhere" / sweep.name
    shutil.copytree(sweep, namesake)
    assert main([str(sweep), str(namesake)]) == 2
    errors = capsys.readouterr().err
    assert f"got {sweep} and {namesake}, " in errors
    assert errors.count("\n") == 1


def test_rounds_that_not_every_seed_has_are_left_out_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {"0": [0.1, 0.05, 0.02], "1": [0.1, 0.06], "2": [0.1, 0.04, 0.03]}
    outcomes = [
        Outcome(seed, {"fit.steps": "9", "seed": seed}, "done", 1.0, {}, str(run(tmp_path, seed, left)), "", 1.0, "")
        for seed, left in errors.items()
    ]  # fmt: skip
    write_sweep(tmp_path, Sweep("bootstrap", ["fit.steps", "seed"], None, "max", outcomes))
    assert [line.round for line in lines_of(tmp_path, resamples=20)] == [0, 1]
    said = "seed_table: fit.steps=9: rounds after 1 left out, 1 of 3 seeds stopped there\n"
    assert capsys.readouterr().err == said


def test_a_folder_without_bootstraps_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, Sweep("bootstrap", ["seed"], None, "max", []))
    assert main([str(tmp_path)]) == 2
    assert "expected finished bootstraps" in capsys.readouterr().err
