"""The command line as a user meets it: quick without torch, one line and code 2 for bad input, tidy run folders."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from helpers import exit_code
from PIL import Image

from magic_insert.cli import main as cli
from magic_insert.cli.jobs import JOBS, Job
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.launch import run as launch
from magic_insert.launch.run import RunRecord, list_runs

HEAVY = ("torch", "diffusers", "transformers", "wandb", "pytorch_lightning", "numpy", "cv2")
# One fresh interpreter for many command lines, each in an empty folder: exit code, both outputs, what was left there,
# and which heavy modules have been imported so far.
SPY = f"""
import contextlib, io, json, os, sys, tempfile
from magic_insert.cli.main import main
answers = {{}}
for name, words in json.load(sys.stdin).items():
    out, err, code = io.StringIO(), io.StringIO(), 0
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(words)
            except SystemExit as stop:
                code = stop.code
        left = os.listdir(place)
    answers[name] = [code, out.getvalue(), err.getvalue(), left, [m for m in {HEAVY!r} if m in sys.modules]]
json.dump(answers, sys.stdout)
"""
LOOKING = {
    "the help": ["--help"],
    "nothing": [],
    "the version": ["--version"],
    "the help of a job": ["insert", "--help"],
    "the configuration of a job": ["demo", "--cfg", "job"],
    "a changed configuration": ["toybox", "--cfg", "job", "seed=5"],
    "the status of an empty place": ["status", "root=nowhere"],
}
INSERT = ["insert", "subject={here}/subject.png", "background={here}/scene.png"]
PREVIEW = [*INSERT, "out=o.png", "mode=preview"]
REMOVE = ["remove", "image={here}/scene.png"]
BAD_INPUT = {
    "a wrong job": (["insrt"], "insert"),
    "nothing set": (["insert"], "subject=..."),
    "an unknown key": (["insert", "subjct=a.png"], "subjct"),
    "an unknown key in a group": (["insert", "style.scael=1"], "style.scael"),
    "a wrong type": (["insert", "seed=abc"], "seed"),
    "an unknown choice": (["insert", "model=huge"], "micro, sdxl"),
    "a group without a choice": ([*INSERT, "out=o.png", "sampling=null"], "got sampling=null"),
    "broken grammar": (["insert", "seed=["], "seed=["),
    "an unknown flag": (["insert", "--fast"], "--fast"),
    "no UTF-8": (["insert", "subject=caf\udce9.png"], "in UTF-8, got subject=caf?.png"),
    "a missing file": (["insert", "subject=no.png", "background=b.png", "out=o.png"], "no.png"),
    "a missing picture of several": (["personalize", "subject=[a.png,no.png]", "out=o"], "no file at a.png"),
    "one picture twice": (
        ["personalize", "subject=[{here}/scene.png,{here}/scene.png]", "out=o"],
        "different names",
    ),
    "several pictures as a sweep": (
        ["personalize", "subject=a.png,b.png", "out=o"],
        "subject='[a.png,b.png]'",
    ),
    "too many pictures": (["personalize", "subject=[a,b,c,d,e,f]", "out=o"], "1 to 5"),
    "a number for a picture": (["personalize", "subject=12", "out=o"], "subject=PATH"),
    "a box outside": ([*INSERT, "out=o.png", "box=[50,50,40,40]"], "64 x 48"),
    "a folder for a picture": ([*INSERT, "out={here}"], "ending in .png"),
    "a folder named like a picture": ([*INSERT, "out={here}/folder.png"], "got the folder"),
    "a picture for a folder": (["toybox", "out=o.png"], "a folder and no picture"),
    "a closed place for a picture": ([*INSERT, "out=/proc/nowhere/o.png"], "/proc/nowhere"),
    "a closed place": (["demo", "out=/proc/nowhere/demo"], "/proc/nowhere"),
    "a name too long": (["toybox", f"out={'x' * 300}"], "at most 255 bytes, got 300"),
    "a subject's name too long": (["personalize", f"subject={'x' * 300}", "out=o"], "File name too long"),
    "a loop of links": (["toybox", "out={here}/loop"], "Too many levels of symbolic links"),
    "an output over an input": ([*INSERT, "out={here}/scene.png"], "not one of the inputs"),
    "text for a picture": (
        ["insert", "subject={here}/text", "background=b.png", "out=o.png"],
        "something else",
    ),
    "an unknown run of inserters": (
        [*INSERT, "out=o.png", "inserter=bootstrapped", "inserter.run=no"],
        "no/inserter",
    ),
    "a mask of another size": ([*REMOVE, "mask={here}/subject.png", "out=o.png"], "32 x 32"),
    "occluders of another size": (
        [*INSERT, "out=o.png", "occluders={here}/subject.png"],
        "expected a mask of 64 x 48",
    ),
    "an empty mask": ([*REMOVE, "mask={here}/black.png", "out=o.png"], "got no white"),
    "a full mask": ([*REMOVE, "mask={here}/white.png", "out=o.png"], "got no black"),
    "no remover": ([*REMOVE, "mask={here}/half.png", "out=o.png", "run=no"], "no/remover"),
    "no place for pairs": (["insertion", "out=o", "data=pairs"], "data.path"),
    "pairs that are not there": (["insertion", "out=o", "data=pairs", "data.path=no"], "nothing at no"),
    "pairs that keep the object": (["insertion", "out=o", "data=desoba", "data.path=no"], "task=insert"),
    "a start that is not there": (["insertion", "out=o", "train.init=no"], "train.init"),
    "a model's stylizer in a preview": ([*PREVIEW, "stylizer=instantstyle"], "mode=full"),
    "a model's structure in a preview": ([*PREVIEW, "stylizer=personalized_canny"], "mode=full"),
    "a model's inserter in a preview": ([*PREVIEW, "inserter=diffusion"], "mode=full"),
    "a pose in a preview": ([*PREVIEW, "pose=rules"], "mode=full"),
    "a place for SubjectPlop that is taken": (["subjectplop", "fetch", "out={here}"], "new folder"),
    "SubjectPlop nowhere": (["subjectplop", "check"], "root=FOLDER"),
    "another verb for SubjectPlop": (["subjectplop", "steal", "out={here}"], "fetch, check"),
    "pictures made nowhere": (["evaluate", "inserter=images", "inserter.dir=nowhere"], "nowhere"),
    "judges from nowhere": (["evaluate", "encoders.root=nowhere"], "nowhere"),
    "a model from nowhere": (["evaluate", "model.source=nowhere"], "nowhere"),
    "a study of nothing": (["study", "out=o"], "rows=PATH"),
    "a study of too much": (["study", "out=o", "rows=r", "folders=[a,b]"], "both"),
    "a study against nobody": (["study", "out=o", "rows=r"], "against"),
    "a study of one folder": (["study", "out=o", "folders=[a]"], "two folders"),
    "a bootstrap judged by nobody": (
        ["bootstrap", "evaluate.lpips=nowhere"],
        "evaluate.lpips to be null or a folder",
    ),
    "a filter without weights": (["bootstrap", "filter=learned"], "filter.rules.learned.weights"),
    "a filter without verdicts": (["bootstrap", "filter=people"], "filter.rules.people.verdicts"),
    "a pool from nowhere": (["bootstrap", "pool=folder", "pool.dir=nowhere"], "pool.dir"),
    "out of range": (["insert", "subject=a", "background=b", "out=o", "style.scale=9"], "style.scale"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    here = tmp_path_factory.mktemp("pictures")
    for name, size, colour in (
        ("subject", (32, 32), 200), ("scene", (64, 48), 90), ("black", (64, 48), 0), ("white", (64, 48), 255),
    ):  # fmt: skip
        Image.new("L", size, colour).save(here / f"{name}.png")
    half = Image.new("L", (64, 48), 0)
    half.paste(255, (20, 10, 40, 40))
    half.save(here / "half.png")
    (here / "folder.png").mkdir()
    (here / "text").write_text("no picture")
    (here / "loop").symlink_to("loop")
    asked = LOOKING | {name: words for name, (words, _) in BAD_INPUT.items()}
    lines = {name: [word.replace("{here}", str(here)) for word in words] for name, words in asked.items()}
    done = subprocess.run(
        [sys.executable, "-c", SPY], input=json.dumps(lines), capture_output=True, text=True, check=True
    )
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", LOOKING)
def test_looking_around_needs_no_torch_and_leaves_no_trace(answers: dict[str, list[Any]], name: str) -> None:
    code, out, errors, left, heavy = answers[name]
    assert (code, errors, left, heavy) == (0, "", [], [])
    assert out
    assert ("seed: 5\n" in out) == (name == "a changed configuration")


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_costs_one_line_and_code_two_and_no_torch(answers: dict[str, list[Any]], name: str) -> None:
    code, out, errors, left, heavy = answers[name]
    assert (code, out, left, heavy) == (2, "", [], [])
    assert errors.count("\n") == 1
    assert BAD_INPUT[name][1] in errors


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_early_ends_the_help_quietly(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from magic_insert.cli.main import program; program()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], stdout=writing, stderr=subprocess.PIPE, timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_closed_standard_output_is_no_traceback() -> None:
    line = f"{sys.executable} -c 'from magic_insert.cli.main import program; program()' --version >&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; the handlers of signals are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_interrupted", [])
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield tmp_path
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def run(job: str, *words: str) -> int:
    """The exit code of `magic-insert card` with the function `job` of `toy_jobs` in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(JOBS, "card", Job("", f"toy_jobs:{job}", lambda cfg: None))  # type: ignore[misc]
        return exit_code("card", *words)


def test_a_finished_run_leaves_its_configuration_and_a_true_record(toy: Path) -> None:
    assert run("finish", "out=runs/a", "seed=3") == 0
    assert (toy / "runs/a/result").read_text() == "3"
    assert "seed: 3\n" in (toy / "runs/a/config.yaml").read_text()
    record = read_json(toy / "runs/a/run.json")
    assert (record["job"], record["state"]) == ("card", "done")
    assert record["started"] <= record["ended"]
    assert [path.name for path in toy.iterdir()] == ["runs"]


def test_a_refused_run_leaves_what_was_there(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "runs/b").mkdir(parents=True)
    (toy / "runs/b/mine.txt").write_text("keep")
    assert [run("refuse", "out=runs/deep/a"), run("refuse", "out=runs/b")] == [2, 2]
    assert capsys.readouterr().err == "magic-insert: expected a toy, got none\n" * 2
    left = [str(path.relative_to(toy)) for path in sorted(toy.rglob("*"))]
    assert left == ["runs", "runs/b", "runs/b/mine.txt"]


def test_a_fault_of_ours_shows_its_traceback_and_is_recorded(toy: Path) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("break_down", "out=runs/a")
    assert read_json(toy / "runs/a/run.json")["state"] == "failed"


MACHINE_FAULTS = {
    "No space left on device": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.png"),
    "Permission denied": PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.png"),
    "Too many levels of symbolic links": OSError(errno.ELOOP, os.strerror(errno.ELOOP), "a.png"),
    "a loop of symbolic links": RuntimeError("Symlink loop from 'a'"),
    "enough memory": MemoryError(),
    "enough memory for this": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "got too little": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
}


@pytest.mark.parametrize("line", MACHINE_FAULTS)
def test_what_the_machine_refuses_is_one_line_and_code_two(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    def refused(cfg: Any) -> None:
        raise ValueError("a library's own words") from MACHINE_FAULTS[line]

    monkeypatch.setattr("toy_jobs.finish", refused)
    assert run("finish", "out=a") == 2
    errors = capsys.readouterr().err
    assert (errors.count("\n"), line in errors) == (1, True)


def test_a_folder_to_work_in_that_was_deleted_is_one_line(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy / "gone").mkdir()
    monkeypatch.chdir(toy / "gone")
    (toy / "gone").rmdir()
    assert run("finish", "out=a") == 2
    assert "one that was deleted" in capsys.readouterr().err


def test_sigterm_unwinds_the_job_and_ends_with_143(toy: Path) -> None:
    code = (
        "from magic_insert.cli import jobs, main\n"
        "jobs.JOBS['card'] = jobs.Job('', 'toy_jobs:wait', lambda cfg: None)\n"
        "main.main(['card', 'out=runs/a'])"
    )
    process = processes.launch([], code=code)
    processes.wait_until((toy / "runs/a/started").exists, process)
    assert run("finish", "out=runs/a") == 2  # still running there
    process.send_signal(signal.SIGTERM)
    processes.finish(process, 143)
    assert (toy / "runs/a/tidied").exists()
    assert read_json(toy / "runs/a/run.json")["state"] == "stopped"


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_is_130_and_one_line_even_where_a_library_makes_an_exit_of_it(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], swallowed: bool
) -> None:
    def job(cfg: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise (SystemExit(1) if swallowed else KeyboardInterrupt) from None

    monkeypatch.setattr("toy_jobs.finish", job)
    assert run("finish", "out=a") == 130
    assert capsys.readouterr().err == "magic-insert: stopped\n"


def test_status_knows_a_dead_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    late = RunRecord("card", "toy:run", "done", "2030-01-02", None, "elsewhere", 1)
    early = RunRecord("card", "toy:run", "running", "2030-01-01", None, os.uname().nodename, dead.pid)
    write_json(tmp_path / "late" / "run.json", asdict(late))
    write_json(tmp_path / "early" / "run.json", asdict(early))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_bytes(b'{"state": \xff')
    found = [(path.name, record.state_now) for path, record in list_runs(tmp_path)[0]]
    assert found == [("early", "stopped"), ("late", "done")]
    cli.main(["status", f"root={tmp_path}", "states=[stopped]"])
    first, damaged = capsys.readouterr().out.splitlines()
    assert first.endswith("early")
    assert "damaged/run.json" in damaged
