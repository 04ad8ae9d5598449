"""The command line as a user meets it: quick without torch, one line and code 2 for bad input, tidy run folders."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
from PIL import Image

from magic_insert.cli.jobs import JOBS
from magic_insert.config.compose import JOB_SCHEMAS
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.launch.run import list_runs

HEAVY = ("torch", "diffusers", "transformers", "wandb", "pytorch_lightning", "numpy", "cv2")
# Runs the console script in a fresh interpreter and tells on stdout's last line which heavy modules it pulled in.
SPY = textwrap.dedent(
    f"""
    import atexit, sys
    atexit.register(lambda: print("HEAVY", *[m for m in {HEAVY!r} if m in sys.modules]))
    from magic_insert.cli.main import main
    main(sys.argv[1:])
    """
)


def spied(*words: str, cwd: Path) -> tuple[int, list[str], str, list[str]]:
    """Exit code, lines of stdout, stderr, heavy modules that were imported."""
    done = subprocess.run(
        [sys.executable, "-c", SPY, *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    *lines, last = done.stdout.splitlines()
    assert last.split()[0] == "HEAVY"
    return done.returncode, lines, done.stderr, last.split()[1:]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        [],
        ["--version"],
        ["insert", "--help"],
        ["demo", "--cfg", "job"],
        ["foundation", "--cfg", "job"],
    ],
    ids=" ".join,
)
def test_looking_around_needs_no_torch_and_leaves_no_trace(words: list[str], tmp_path: Path) -> None:
    code, lines, errors, heavy = spied(*words, cwd=tmp_path)
    assert (code, errors, heavy) == (0, "", [])
    assert lines
    assert not list(tmp_path.iterdir())


PICTURES = Path(tempfile.mkdtemp(prefix="magic-insert-test-"))
atexit.register(shutil.rmtree, PICTURES)
for name, size, colour in (
    ("subject", (32, 32), 200), ("scene", (64, 48), 90), ("black", (64, 48), 0), ("white", (64, 48), 255),
):  # fmt: skip
    Image.new("L", size, colour).save(PICTURES / f"{name}.png")
half = Image.new("L", (64, 48), 0)
half.paste(255, (20, 10, 40, 40))
half.save(PICTURES / "half.png")
(PICTURES / "folder.png").mkdir()
INSERT = ["insert", f"subject={PICTURES / 'subject.png'}", f"background={PICTURES / 'scene.png'}"]
REMOVE = ["remove", f"image={PICTURES / 'scene.png'}"]
HERE = Path(__file__).resolve()  # any file that is there: only its name is looked at
BAD_INPUT = {
    "a wrong job": (["insrt"], "insert"),
    "nothing set": (["insert"], "subject=..."),
    "an unknown key": (["insert", "subjct=a.png"], "subjct"),
    "an unknown key in a group": (["insert", "style.scael=1"], "style.scael"),
    "a wrong type": (["insert", "seed=abc"], "seed"),
    "an unknown choice": (["insert", "model=huge"], "micro, sdxl"),
    "broken grammar": (["insert", "seed=["], "seed=["),
    "an unknown flag": (["insert", "--fast"], "--fast"),
    "a missing file": (["insert", "subject=no.png", "background=b.png", "out=o.png"], "no.png"),
    "a missing picture of several": (
        ["personalize", "subject=[a.png,no.png]", "out=o"],
        "got no file at a.png",
    ),
    "one picture twice": (["personalize", f"subject=[{HERE},{HERE}]", "out=o"], "different names"),
    "several pictures as a sweep": (
        ["personalize", "subject=a.png,b.png", "out=o"],
        "subject='[a.png,b.png]'",
    ),
    "too many pictures": (["personalize", "subject=[a,b,c,d,e,f]", "out=o"], "1 to 5"),
    "a number for a picture": (["personalize", "subject=12", "out=o"], "subject=PATH"),
    "a box outside": ([*INSERT, "out=o.png", "box=[50,50,40,40]"], "64 x 48"),
    "a folder for a picture": ([*INSERT, f"out={HERE.parent}"], "ending in .png"),
    "a folder named like a picture": ([*INSERT, f"out={PICTURES / 'folder.png'}"], "got the folder"),
    "a closed place for a picture": ([*INSERT, "out=/proc/nowhere/o.png"], "/proc/nowhere"),
    "an output over an input": ([*INSERT, f"out={PICTURES / 'scene.png'}"], "not one of the inputs"),
    "text for a picture": (
        ["insert", f"subject={HERE}", f"background={HERE}", "out=o.png"],
        "something else",
    ),
    "an unknown run of inserters": (
        [*INSERT, "out=o.png", "inserter=bootstrapped", "inserter.run=no"],
        "no/inserter",
    ),
    "a mask of another size": ([*REMOVE, f"mask={PICTURES / 'subject.png'}", "out=o.png"], "32 x 32"),
    "an empty mask": ([*REMOVE, f"mask={PICTURES / 'black.png'}", "out=o.png"], "got no white"),
    "a full mask": ([*REMOVE, f"mask={PICTURES / 'white.png'}", "out=o.png"], "got no black"),
    "no remover": ([*REMOVE, f"mask={PICTURES / 'half.png'}", "out=o.png", "run=no"], "no/remover"),
    "no place for pairs": (["insertion", "out=o", "data=pairs"], "data.path"),
    "pairs that are not there": (["insertion", "out=o", "data=pairs", "data.path=no"], "nothing at no"),
    "pairs that keep the object": (["insertion", "out=o", "data=desoba", "data.path=no"], "task=insert"),
    "a start that is not there": (["insertion", "out=o", "train.init=no"], "train.init"),
    "out of range": (["insert", "subject=a", "background=b", "out=o", "style.scale=9"], "style.scale"),
    "a closed place": (["demo", "out=/proc/nowhere/demo"], "/proc/nowhere"),
}


@pytest.mark.parametrize(("words", "named"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_costs_one_line_and_code_two_and_no_torch(
    words: list[str], named: str, tmp_path: Path
) -> None:
    code, lines, errors, heavy = spied(*words, cwd=tmp_path)
    assert (code, lines, heavy) == (2, [], [])
    assert errors.count("\n") == 1
    assert named in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["insert", "--help"]], ids=" ".join)
def test_a_reader_who_leaves_early_ends_the_help_quietly(
    words: list[str], unbuffered: str, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from magic_insert.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_every_job_has_an_entry_a_schema_and_a_line_of_help() -> None:
    assert set(JOBS) == set(JOB_SCHEMAS)


# Jobs small enough to run inside a test, put in place of the real ones by their dotted name.
TOY_JOBS = """
import os, signal, sys, time
from pathlib import Path
from magic_insert.core.errors import UserError

def finish(cfg):
    (Path(cfg.out) / "result").write_text(str(cfg.seed))

def refuse(cfg):
    raise UserError("expected a toy,\\n  got none")

def break_down(cfg):
    raise RuntimeError("a fault of ours")

def wait(cfg):
    (Path(cfg.out) / "started").touch()
    try:
        time.sleep(60)
    finally:
        (Path(cfg.out) / "tidied").touch()
"""
RUN_TOY = """
import sys
from magic_insert.cli import jobs, main
jobs.JOBS["card"] = jobs.Job("", "toy_jobs:" + sys.argv[1], lambda cfg: None)
main.main(["card", *sys.argv[2:]])
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy_jobs.py").write_text(TOY_JOBS)
    return tmp_path


def start(folder: Path, job: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_TOY, job, *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(folder: Path, job: str, *words: str) -> tuple[int, str]:
    process = start(folder, job, *words)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_a_finished_run_leaves_its_configuration_and_a_true_record(toy: Path) -> None:
    assert run(toy, "finish", "out=runs/a", "seed=3") == (0, "")
    assert (toy / "runs/a/result").read_text() == "3"
    assert "seed: 3\n" in (toy / "runs/a/config.yaml").read_text()
    record = read_json(toy / "runs/a/run.json")
    assert (record["job"], record["state"]) == ("card", "done")
    assert record["started"] <= record["ended"]
    assert sorted(path.name for path in toy.iterdir() if path.name != "__pycache__") == [
        "runs",
        "toy_jobs.py",
    ]


def test_a_refused_run_leaves_nothing_behind(toy: Path) -> None:
    code, errors = run(toy, "refuse", "out=runs/deep/a")
    assert (code, errors) == (2, "magic-insert: expected a toy, got none\n")
    assert not (toy / "runs").exists()


def test_a_refused_run_spares_what_stood_there_before(toy: Path) -> None:
    (toy / "runs/a").mkdir(parents=True)
    (toy / "runs/a/mine.txt").write_text("keep")
    run(toy, "refuse", "out=runs/a")
    assert [path.name for path in (toy / "runs/a").iterdir()] == ["mine.txt"]


def test_a_fault_of_ours_shows_its_traceback_and_is_recorded(toy: Path) -> None:
    code, errors = run(toy, "break_down", "out=runs/a")
    assert code == 1
    assert "RuntimeError: a fault of ours" in errors
    assert read_json(toy / "runs/a/run.json")["state"] == "failed"


def test_sigterm_unwinds_the_job_and_ends_with_143(toy: Path) -> None:
    process = start(toy, "wait", "out=runs/a")
    deadline = time.monotonic() + 30
    while not (toy / "runs/a/started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    held, errors = run(toy, "finish", "out=runs/a")
    assert (held, "still running" in errors) == (2, True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert (toy / "runs/a/tidied").exists()
    assert read_json(toy / "runs/a/run.json")["state"] == "stopped"


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_is_130_and_one_line_even_where_a_library_makes_an_exit_of_it(swallowed: bool) -> None:
    code = (
        "import signal; from magic_insert.cli import main as cli\n"
        "from magic_insert.launch.run import stop_on_signals\n"
        "def job(words):\n"
        "    stop_on_signals()\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        f"        raise SystemExit(1) if {swallowed} else KeyboardInterrupt\n"
        "cli.run_words = job; cli.main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "magic-insert: stopped\n")


def test_a_closed_standard_output_is_no_traceback() -> None:
    line = f"{sys.executable} -c 'from magic_insert.cli.main import main; main()' --version >&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_lists_runs_by_start_and_sees_through_a_dead_process(tmp_path: Path) -> None:
    record = {
        "job": "card",
        "target": "toy:run",
        "state": "done",
        "started": "2030-01-02",
        "ended": None,
        "host": "elsewhere",
        "pid": 1,
    }
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_json(tmp_path / "late" / "run.json", record)
    here = {
        **record,
        "state": "running",
        "started": "2030-01-01",
        "host": os.uname().nodename,
        "pid": dead.pid,
    }
    write_json(tmp_path / "early" / "run.json", here)
    assert [(path.name, found.state_now) for path, found in list_runs(tmp_path)[0]] == [
        ("early", "stopped"),
        ("late", "done"),
    ]
    code, lines, _, heavy = spied("status", f"root={tmp_path}", "states=[stopped]", cwd=tmp_path)
    assert (code, heavy, len(lines)) == (0, [], 1)
    assert lines[0].endswith("early")


def test_status_of_an_empty_place_says_so(tmp_path: Path) -> None:
    code, lines, errors, _ = spied("status", "root=nowhere", cwd=tmp_path)
    assert (code, lines, errors) == (0, ["no runs under nowhere"], "")


def test_the_configuration_shown_is_the_one_composed(tmp_path: Path) -> None:
    _, lines, _, _ = spied("toybox", "--cfg", "job", "seed=5", cwd=tmp_path)
    assert "seed: 5" in lines
    assert json.dumps(lines)
