"""Sweeps of any job: jobs in processes of their own, failures told and run again, results in tables, never NaN."""

import contextlib
import csv
import io
import re
import signal
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import exit_code
from processes import finish, launch, wait_until
from toy_jobs import check_luck

from magic_insert.cli.jobs import JOBS, Job
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_json, read_jsonl, read_record
from magic_insert.launch.results import Outcome, Sweep, read_sweep, write_sweep
from magic_insert.launch.run import RunRecord
from magic_insert.launch.sweep import job_name, settings_of


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN_TOY = """
import sys
from toy_jobs import check_luck
from magic_insert.cli import jobs, main
jobs.JOBS["card"] = jobs.Job("", "toy_jobs:" + sys.argv[1], check_luck)
main.main(["card", *sys.argv[2:]])
"""


def run(job: str, *words: str, name: str = "card") -> tuple[int, str, str]:
    """A sweep of `magic-insert card` with the function `job` of `toy_jobs` in its place: exit code and both outputs."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setitem(JOBS, name, Job("", f"toy_jobs:{job}", check_luck))  # type: ignore[misc]
        code = exit_code(name, "-m", *words)
    return code, out.getvalue(), errors.getvalue()


def ran(folder: Path) -> list[int]:
    return [row["seed"] for row in read_jsonl(folder / "ran.jsonl")]


def test_a_failed_job_stops_no_other_is_told_with_its_log_and_run_again_alone(toy: Path) -> None:
    words = ("out=runs/s", "seed=1,2", "num_samples=5,7", "sweep.workers=2")
    code, told, _ = run("climb", *words)
    assert code == 1
    assert "2 of 4 jobs failed" in told
    failed = next(line for line in told.splitlines() if "seed=2,num_samples=5: FAILED" in line)
    assert "RuntimeError: the second is broken" in failed
    log = toy / failed.split("log: ")[1]
    assert "Traceback" in log.read_text()
    assert told.index(failed) < told.index("table:")
    assert sorted(ran(toy)) == [1, 1, 2, 2]
    assert read_jsonl(toy / "ran.jsonl")[0]["group"] == "card s"
    assert read_json(toy / "runs/s/seed=2,num_samples=5/run.json")["state"] == "failed"

    (toy / "mended").touch()
    code, told, errors = run("climb", *words)
    assert (code, errors) == (0, "")
    assert "4 jobs, 2 done before" in told
    assert sorted(ran(toy)[4:]) == [2, 2]
    assert "best: seed=2,num_samples=7 (2.07)" in told
    table = list(csv.DictReader((toy / "runs/s/sweep.csv").open()))
    assert [
        (row["seed"], row["num_samples"], float(row["value"]), float(row["height"])) for row in table
    ] == [
        (str(seed), str(samples), seed + samples / 100, 10.0 * seed) for seed in (1, 2) for samples in (5, 7)
    ]
    assert "| 2 | 7 | done | **2.07** | 20 |" in re.sub(" +", " ", (toy / "runs/s/sweep.md").read_text())
    assert "next: magic-insert dashboard sweep=runs/s out=runs/s/dashboard.html" in told
    assert read_json(toy / "runs/s/seed=2,num_samples=7/run.json")["command"] == [
        "magic-insert", "card", "seed=2", "num_samples=7", "out=runs/s/seed=2,num_samples=7",
    ]  # fmt: skip
    assert load_rgb(toy / "runs/s/heatmap.png").std() > 0.05

    # A metric that no job measured is named with what there is, after the table; another one ranks what is done.
    code, told, errors = run("climb", *words, "sweep.metric=heigth")
    assert (code, errors.count("\n")) == (2, 1)
    assert "got heigth; set one that was, such as height, or leave it out" in errors
    assert "table:" in told
    assert [row.value for row in read_sweep(toy / "runs/s").jobs] == [None] * 4
    _, told, _ = run("climb", *words, "sweep.metric=height", "sweep.direction=min")
    assert "best: seed=1,num_samples=5 (10)" in told
    assert len(ran(toy)) == 6


def test_a_changed_setting_runs_a_job_again_and_nothing_measured_is_no_metric(toy: Path) -> None:
    for more in ([], [], ["num_samples=9"]):
        assert run("climb", "out=runs/s", "seed=1", *more)[0] == 0
    assert ran(toy) == [1, 1]
    assert not (toy / "runs/s/heatmap.png").exists()
    code, _, errors = run("lose", "out=runs/t", "seed=1", "sweep.metric=heigth")
    assert code == 2
    assert "got heigth; leave it out" in errors


@pytest.mark.slow
def test_a_sweep_of_pictures_keeps_its_books_beside_them(toy: Path) -> None:
    assert run("draw", "image=i", "mask=m", "out=runs/a.png", "seed=1,2", name="remove")[0] == 0
    written = sorted(path.name for path in (toy / "runs").glob("a*"))
    assert written == ["a__seed=1.png", "a__seed=2.png", "a__sweep"]
    (toy / "runs/a__seed=2.png").unlink()
    assert run("draw", "image=i", "mask=m", "out=runs/a.png", "seed=1,2", name="remove")[0] == 0
    assert ran(toy) == [1, 2, 2]


@pytest.mark.parametrize(
    ("words", "named"),
    [(["seed=1,2", "num_samples=5,13"], "bad luck"), (["num_samples=5,0"], "num_samples"),
     (["seed=1,2", "sweep.workers=0"], "sweep.workers"), (["seed=1,2", "sweep.direction=up"], "sweep.direction"),
     (["seed=1,x"], "seed"), (["seed=interval(1,6)"], "set sweep.trials=N")],
)  # fmt: skip
def test_one_job_that_does_not_fit_stops_a_sweep_at_once(toy: Path, words: list[str], named: str) -> None:
    code, told, errors = run("climb", "out=runs/s", *words)
    assert (code, told, errors.count("\n")) == (2, "", 1)
    assert named in errors
    assert not (toy / "ran.jsonl").exists()


@pytest.mark.slow
def test_a_sweep_that_was_killed_leaves_no_job_behind_and_goes_on(toy: Path) -> None:
    words = ("out=runs/s", "seed=1,2,3")
    process = launch(["wait_for_mending", "-m", *words], code=RUN_TOY)
    record = toy / "runs/s/seed=2/run.json"
    try:
        wait_until(lambda: (toy / "ran.jsonl").exists() and ran(toy) == [1, 2], process)
        assert [row.state for row in read_sweep(toy / "runs/s").jobs] == ["done", "running", "waiting"]
    finally:
        process.kill()
    finish(process, -signal.SIGKILL)
    wait_until(lambda: read_record(record, RunRecord).state_now != "running")
    (toy / "mended").touch()
    assert run("wait_for_mending", *words)[0] == 0
    assert ran(toy) == [1, 2, 2, 3]


@pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")
def test_optuna_finds_the_top_and_the_same_command_repeats_its_search(toy: Path) -> None:
    (toy / "mended").touch()
    words = ["out=runs/s", "seed=range(1,6)", "num_samples=int(interval(1,9))", "sweep.trials=4",
             "sweep.workers=2"]  # fmt: skip
    assert run("climb", *words)[0] == 0
    first = ran(toy)
    assert run("climb", *words)[0] == 0
    assert ran(toy) == first
    assert len({row["samples"] for row in read_jsonl(toy / "ran.jsonl")}) > 1


def outcome(value: float | None, **settings: str) -> Outcome:
    return Outcome(
        job_name(settings), settings, "failed" if value is None else "done", value, {}, "o", "l", 1.0, ""
    )


def test_a_heat_map_is_the_mean_over_everything_else_that_was_swept() -> None:
    rows = [
        outcome(float(r) * t + s, rounds=r, threshold=str(t), seed=str(s))
        for r in ("1", "2") for t in (1, 3) for s in (0, 4)
    ]  # fmt: skip
    found = Sweep("bootstrap", ["rounds", "threshold", "seed"], None, "max", rows).grid()
    assert found is not None
    assert found.to_numpy().tolist() == [[3.0, 5.0], [4.0, 8.0]]


def test_the_best_job_is_the_largest_or_the_smallest_and_never_a_failed_one(tmp_path: Path) -> None:
    rows = [outcome(2.0, a="1"), outcome(None, a="2"), outcome(1.0, a="3")]
    names = [getattr(Sweep("x", ["a"], None, way, rows).best, "name", None) for way in ("max", "min")]
    assert names == ["a=1", "a=3"]
    nothing = Sweep("x", ["a", "b"], None, "max", rows[1:2])
    assert nothing.best is None
    assert "best:" not in write_sweep(tmp_path, nothing)
    assert "**" not in (tmp_path / "sweep.md").read_text()


def test_jobs_are_named_by_what_was_swept_alone() -> None:
    settings = settings_of(["bootstrap.rounds=2", "seed=1", "subject=a/b.png", "lr=1"])
    assert job_name({**settings, "subject": "b.png"}) == "bootstrap.rounds=2,seed=1,subject=b.png,lr=1"
    name, _, digest = job_name(settings).partition("~")
    assert name == "bootstrap.rounds=2,seed=1,subject=a-b.png,lr=1"
    assert len(digest) == 16


@pytest.mark.parametrize(
    ("one", "other"),
    [({"pool.dir": "/tmp/p/a"}, {"pool.dir": "/tmp/p-a"}), ({"a": "1,b=2", "b": "3"}, {"a": "1", "b": "2,b=3"})],
)  # fmt: skip
def test_different_settings_never_share_a_name(one: dict[str, str], other: dict[str, str]) -> None:
    assert job_name(one) != job_name(other)
    assert "/" not in job_name(one)


SHARED = ("render", "harvest", "measure")


@pytest.mark.slow
def test_bootstraps_share_stages(tmp_path: Path, tiny_micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [
        "bootstrap", "-m", "debug=fast", "out=sweep", "store=store", f"model.source={tiny_micro}",
        "model.image_size=64", "model.device=cpu", "evaluate.num_scenes=2", "bootstrap.num_samples=3",
        "pool.styles=[cartoon]", "filter.keep_at_most_per_style=1", "fit.steps=2,3", "sweep.workers=2", "logger=wandb",
    ]  # fmt: skip
    finish(launch(words, tmp_path))

    jobs = read_sweep(tmp_path / "sweep").jobs
    assert [job.settings for job in jobs] == [{"fit.steps": "2"}, {"fit.steps": "3"}]
    rounds = [read_jsonl(tmp_path / job.out / "rounds.jsonl") for job in jobs]
    assert all(rows[1]["accepted"] == 1 for rows in rounds)
    for job in jobs:
        assert job.numbers["round"] == read_json(tmp_path / job.out / "card.json")["round"]
        assert job.value == job.numbers["metrics.inserter.seen.effect_psnr"]
    logs = [(tmp_path / job.log).read_text() for job in jobs]
    for kind in SHARED:
        keys = [path.name for path in (tmp_path / "store" / kind).iterdir()]
        for key in keys:
            # Both ask for it equally often; whoever made it found it made once less.
            found = sorted(len(re.findall(f"{kind} {key}: reused", log)) for log in logs)
            assert found[1] - found[0] == 1, f"{kind} {key}: {found}"
    stages = [rows[1]["stages"] for rows in rounds]
    assert stages[0]["select"] == stages[1]["select"]

    for job in jobs:
        (page,) = (tmp_path / job.out).glob("wandb/offline-run-*")
        (table,) = page.rglob("media/table/bootstrap/rejected samples*.json")
        assert len(read_json(table)["data"]) == 2
        assert {"id", "score", "with", "without"} <= set(read_json(table)["columns"])
        assert list(page.rglob("media/images/bootstrap/accepted*.png"))
        assert list(page.rglob("media/images/bootstrap/rejected*.png"))
        (written,) = page.glob("*.wandb")
        assert b"bootstrap sweep" in written.read_bytes()
