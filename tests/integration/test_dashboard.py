"""The dashboard: one page that needs no other file, whose marks are really drawn by a browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from rounds_sample import write_run

from magic_insert.config.schema import DashboardConfig, LoggerConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import append_jsonl, read_json, write_json
from magic_insert.launch.dashboard import write_dashboard
from magic_insert.launch.svg import COLOURS, SCALE, bar_chart, number, ticks
from magic_insert.launch.sweep_table import Outcome, Sweep, read_sweep, write_sweep

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def page_of(out: Path, **place: str) -> str:
    cfg = DashboardConfig(**place, out=str(out), logger=LoggerConfig())
    return write_dashboard(cfg).read_text()


def count(text: str, mark: str) -> int:
    return len(re.findall(rf'class="{mark}"', text))


def write_sample_sweep(folder: Path) -> Sweep:
    """Two rounds by two thresholds, one of which failed."""
    outcomes = []
    for rounds in (1, 2):
        for threshold in (0.3, 0.7):
            name = f"bootstrap.rounds={rounds},filter.threshold={threshold}"
            failed = (rounds, threshold) == (2, 0.7)
            if not failed:
                write_run(folder / name, rounds, threshold)
            outcomes.append(
                Outcome(
                    name=name,
                    settings={"bootstrap.rounds": str(rounds), "filter.threshold": str(threshold)},
                    state="failed" if failed else "done",
                    value=None if failed else 20 + rounds * threshold,
                    numbers={} if failed else {"accepted": 10.0},
                    out=str(folder / name),
                    log=str(folder / "jobs" / f"{name}.log"),
                    seconds=1.5,
                    error="boom" if failed else "",
                )
            )
    sweep = Sweep("bootstrap", ["bootstrap.rounds", "filter.threshold"], None, "max", outcomes)
    write_sweep(folder, sweep)
    return sweep


def test_a_page_of_a_bootstrap_shows_every_round_style_and_sheet(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rounds=3)
    text = page_of(tmp_path / "page.html", run=str(tmp_path / "run"))
    # Quality: 2 networks x 2 measures x 3 groups; counts 2; filter 3.
    assert count(text, "curve") == 12 + 2 + 3
    assert count(text, "point") == 12 * 4 + 2 * 3 + 3 * 3
    assert count(text, "band") == 12
    assert count(text, "bar") == 3 * 3 + 2
    assert count(text, "sheet") == 6
    assert "&lt;oil &amp; ink&gt;" in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_losses_of_a_bootstraps_fits_have_a_chart_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rounds=1)
    before = page_of(tmp_path / "before.html", run=str(tmp_path / "run"))
    for step in (1, 2):
        append_jsonl(
            tmp_path / "run" / "metrics.jsonl", {"stage": "fit-insert-1", "step": step, "loss": 0.5 / step}
        )
    after = page_of(tmp_path / "after.html", run=str(tmp_path / "run"))
    assert "Training" not in before
    assert "Training" in after
    assert "fit-insert-1" in after


def test_a_page_of_a_sweep_has_a_cell_per_measured_pair_and_names_the_failure(tmp_path: Path) -> None:
    write_sample_sweep(tmp_path / "sweep")
    text = page_of(tmp_path / "page.html", sweep_dir=str(tmp_path / "sweep"))
    assert count(text, "cell") == 3
    assert "failed: boom" in text
    assert "best: bootstrap.rounds=1,filter.threshold=0.7 (20.7)" in text


def test_any_other_job_gets_a_chart_per_number_and_the_last_word_of_a_step(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 2.0), (20, 1.5)):
        append_jsonl(tmp_path / "metrics.jsonl", {"stage": "personalize", "step": step, "loss": loss})
    text = page_of(tmp_path / "page.html", run=str(tmp_path))
    assert (count(text, "curve"), count(text, "point")) == (1, 2)
    assert "personalize: 1.5 at 20" in text


def test_a_folder_without_measurements_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        page_of(tmp_path / "page.html", run=str(tmp_path))


def test_an_empty_file_of_rounds_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").touch()
    with pytest.raises(
        UserError, match=re.escape(f"expected rounds in {tmp_path / 'rounds.jsonl'}, got an empty")
    ):
        page_of(tmp_path / "page.html", run=str(tmp_path))


@pytest.mark.parametrize("damage", ["no jobs", "a list", "a row of other fields", "a row with one more"])
def test_a_record_of_a_sweep_with_other_fields_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    write_sample_sweep(tmp_path)
    content = read_json(tmp_path / "sweep.json")
    rows = content.pop("jobs")
    damaged = {
        "no jobs": content,
        "a list": rows,
        "a row of other fields": {**content, "jobs": [{"name": "a"}]},
        "a row with one more": {**content, "jobs": [{**rows[0], "colour": "red"}]},
    }
    write_json(tmp_path / "sweep.json", damaged[damage])
    with pytest.raises(UserError, match=re.escape(f"in {tmp_path / 'sweep.json'}, got other fields")):
        page_of(tmp_path / "page.html", sweep_dir=str(tmp_path))


def test_a_sweep_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert write_sample_sweep(tmp_path) == read_sweep(tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (17.3, 27.9), (-3, 0.2), (0.001, 0.0042), (0, 12345)])
def test_ticks_are_few_round_and_enclose_the_values(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 3 <= len(marks) <= 9
    assert all(len(number(mark)) <= 6 for mark in marks)


def test_rounds_are_marked_by_whole_numbers() -> None:
    assert ticks(0, 2, whole=True) == [0, 1, 2]
    assert ticks(0, 2) == [0, 0.5, 1, 1.5, 2]


def test_a_bar_is_as_long_as_its_share() -> None:
    widths = [
        float(w)
        for w in re.findall(r'width="([\d.]+)" height="15"', bar_chart("t", [("a", 1), ("b", 0.5)], 1))
    ]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)


@needs_chromium
def test_a_browser_draws_the_marks_in_their_colours(tmp_path: Path) -> None:
    write_sample_sweep(tmp_path / "sweep")
    page_of(tmp_path / "page.html", sweep_dir=str(tmp_path / "sweep"))
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--window-size=1280,3000",
            f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-500:]
    shot = (load_rgb(tmp_path / "page.png") * 255).round().to(torch.int)

    def pixels(red: int, green: int, blue: int) -> int:
        return int((shot == torch.tensor([red, green, blue]).view(3, 1, 1)).all(dim=0).sum())

    for colour in COLOURS[:3]:  # curves, points and bars
        assert pixels(*bytes.fromhex(colour[1:])) > 200
    assert pixels(*SCALE[0]) > 2000  # the least cell of the heat map
    assert pixels(*SCALE[-1]) > 2000  # and the most
    assert pixels(204, 0, 0) > 1000  # the sheet of accepted pictures
