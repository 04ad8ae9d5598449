"""The dashboard: one page that needs no other file, about a run or a sweep, finished or not."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from browser import Page
from rounds_sample import sample_row, write_run

from magic_insert.config.schema.jobs import DashboardConfig
from magic_insert.config.schema.shared import LoggerConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import append_jsonl, read_json, write_json
from magic_insert.launch.results import Outcome, Sweep, group_curve, read_sweep, write_dashboard, write_sweep


def page_of(out: Path, **place: str) -> str:
    cfg = DashboardConfig(**place, out=str(out), logger=LoggerConfig())
    return write_dashboard(cfg).read_text()


def charts(text: str) -> list[str]:
    """The titles of the charts of a page."""
    return re.findall(r'<img alt="([^"(]*[^"( ])(?: \([^"]*)?" src', text.replace("&#39;", "'"))


def write_sample_sweep(folder: Path) -> Sweep:
    """Two rounds by two thresholds, one of which failed."""
    outcomes = []
    for rounds in (1, 2):
        for threshold in (0.3, 0.7):
            name = f"bootstrap.rounds={rounds},filter.threshold={threshold}"
            failed = (rounds, threshold) == (2, 0.7)
            if not failed:
                write_run(folder / name, rounds, threshold)
            settings = {"bootstrap.rounds": str(rounds), "filter.threshold": str(threshold)}
            places = str(folder / name), str(folder / "jobs" / f"{name}.log")
            found = 20 + rounds * threshold, {"accepted": 10.0}
            outcomes.append(
                Outcome(name, settings, "failed", None, {}, *places, 1.5, "boom")
                if failed
                else Outcome(name, settings, "done", *found, *places, 1.5, "")
            )
    sweep = Sweep("bootstrap", ["bootstrap.rounds", "filter.threshold"], None, "max", outcomes)
    write_sweep(folder, sweep)
    return sweep


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished sweep and its page; not to be changed."""
    folder = tmp_path_factory.mktemp("sweep")
    assert write_sample_sweep(folder / "sweep") == read_sweep(folder / "sweep")
    page_of(folder / "page.html", sweep_dir=str(folder / "sweep"))
    return folder


@pytest.mark.slow
def test_a_page_of_a_bootstrap_shows_every_round_style_and_sheet(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rounds=3)
    text = page_of(tmp_path / "page.html", run=str(tmp_path / "run"))
    shown = charts(text)
    rows = [sample_row(number) for number in range(3)]
    curve = group_curve(rows, "inserter", "seen", "effect_psnr")
    means = [row["metrics"]["inserter"]["seen"]["effect_psnr"] for row in rows]
    assert list(curve.points) == list(enumerate(means))
    assert list(curve.band) == [(i, mean * 0.97, mean * 1.03) for i, mean in enumerate(means)]
    assert len([title for title in shown if title.startswith(("inserter: ", "remover: "))]) == 4
    assert [title for title in shown if title.startswith("acceptance")] == [
        f"acceptance by style, round {number}" for number in (1, 2, 3)
    ]
    assert {"rejected by, last round", "harvested pictures", "filter against the truth"} <= set(shown)
    assert len(re.findall(r'class="card sheet', text)) == 6
    assert "http" not in text.replace("http-equiv", "")


def test_samples_carry_their_own_scores_and_the_last_one_is_among_them(tmp_path: Path) -> None:
    for step in range(10, 310, 10):
        append_jsonl(tmp_path / "metrics.jsonl", {"stage": "personalize", "step": step, "loss": 1.0})
        append_jsonl(tmp_path / "validation.jsonl", {"step": step, "identity": step / 1000})
        save_png(tmp_path / "samples" / f"step-{step:06d}.png", torch.zeros(3, 8, 8))
    text = page_of(tmp_path / "page.html", run=str(tmp_path))
    found = re.findall(r"<figcaption>step (\d+)<small>identity ([\d.]+)</small>", text)
    assert len(found) == 12
    assert (found[0], found[-1]) == (("10", "0.010"), ("300", "0.300"))


def test_a_page_of_a_sweep_has_its_map_and_names_the_failure(finished: Path) -> None:
    text = (finished / "page.html").read_text()
    assert charts(text)[0] == "value"
    assert "failed: boom" in text
    assert "3 done, 1 failed; best: bootstrap.rounds=1,filter.threshold=0.7 (20.7)" in text
    assert "&lt;oil" not in text  # names of styles are drawn


def test_an_unfinished_sweep_shows_its_jobs_as_they_are(tmp_path: Path) -> None:
    sweep = write_sample_sweep(tmp_path)
    running = [replace(row, state="running", value=None, numbers={}) for row in sweep.jobs[:2]]
    waiting = replace(sweep.jobs[2], state="waiting", value=None, numbers={})
    write_json(tmp_path / "sweep.json", asdict(replace(sweep, jobs=[*running, waiting])))
    gone = {**read_json(Path(running[0].out) / "run.json"), "state": "stopped"}
    write_json(Path(running[0].out) / "run.json", gone)
    text = page_of(tmp_path / "page.html", sweep_dir=str(tmp_path))
    assert "1 failed, 1 done, 1 waiting" in text
    assert "stopped before the sweep ended" in text


def test_a_record_of_a_sweep_with_other_fields_is_refused_by_name(finished: Path, tmp_path: Path) -> None:
    content = read_json(finished / "sweep" / "sweep.json")
    rows = content.pop("jobs")
    wrong = ({"name": "a"}, {**rows[0], "settings": 3})
    for damaged in (content, rows, *({**content, "jobs": [row]} for row in wrong)):
        write_json(tmp_path / "sweep.json", damaged)
        with pytest.raises(UserError, match=re.escape(f"in {tmp_path / 'sweep.json'}, got ")):
            page_of(tmp_path / "page.html", sweep_dir=str(tmp_path))


def test_a_browser_shows_the_page_offline_at_any_width(finished: Path, page: Page) -> None:
    page.open((finished / "page.html").as_uri())
    assert page.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    for width in ("1280px", "420px"):
        page.ask(f"document.documentElement.style.width = '{width}'")
        assert page.ask(
            "document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth"
        )
