"""Stages in process groups of two CPU ranks: results come back, failures are told at once, nobody stays behind."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import PATIENCE, wait_until

from magic_insert.config.schema.shared import ExecConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.ranks import shard
from magic_insert.launch.executor import execute

TWO = ExecConfig(name="torchrun", devices=2)
LOCAL = ExecConfig(name="slurm", cluster="local", devices=2)
needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="submitit is not installed")


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_json(tmp_path / "stage.json", {"items": ["a", "b", "c"]})
    return tmp_path / "stage.json"


def shares(payload: Path) -> list[dict]:
    return [read_json(path) for path in sorted(payload.parent.glob("share-*.json"))]


def test_inline_runs_the_function_here_and_every_gpu_of_a_machine_without_one_is_refused(
    payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute("rank_targets:share", payload, ExecConfig())
    assert shares(payload) == [{"items": ["a", "b", "c"], "total": 1.0, "threads": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"exec\.devices=N"):
        execute("rank_targets:share", payload, ExecConfig(name="torchrun", devices=0))


@pytest.mark.slow
@needs_submitit
def test_a_slurm_job_without_slurm_runs_the_same_ranks(payload: Path) -> None:
    execute("rank_targets:share", payload, LOCAL)
    assert [share["items"] for share in shares(payload)] == [["a", "c"], ["b"]]
    assert [share["total"] for share in shares(payload)] == [3.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize("where", [TWO, pytest.param(LOCAL, marks=needs_submitit)], ids=["torchrun", "slurm"])
def test_input_that_does_not_fit_comes_back_as_the_users_error(payload: Path, where: ExecConfig) -> None:
    with pytest.raises(UserError, match="expected a toy, got none"):
        execute("rank_targets:refuse", payload, where)
    assert time.time() - (payload.parent / "refusing").stat().st_mtime < 60


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_ranks_end_with_their_parent_however_it_ends(payload: Path, number: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from magic_insert.launch.executor import execute; "
        "from magic_insert.launch.run import stop_on_signals; stop_on_signals(); "
        "from magic_insert.config.schema.shared import ExecConfig; "
        f"execute('rank_targets:wait', Path({str(payload)!r}), ExecConfig(name='torchrun', devices=2))"
    )
    notes = [payload.parent / f"pid-{rank}.json" for rank in range(2)]
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            wait_until(lambda: all(note.exists() for note in notes))
        finally:
            parent.send_signal(number)
        assert parent.wait(PATIENCE) == (143 if number == signal.SIGTERM else -number)
    wait_until(lambda: not any(alive(read_json(note)) for note in notes))
    assert all((payload.parent / f"tidied-{rank}").exists() for rank in range(2))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child of a container's first process may stay as a zombie that nobody collects.
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


@needs_submitit
def test_slurm_that_is_not_there_is_told_in_one_line(payload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(payload.parent))
    with pytest.raises(UserError, match=r"exec\.cluster=local"):
        execute("rank_targets:share", payload, ExecConfig(name="slurm"))


@needs_submitit
def test_slurm_is_asked_for_what_the_settings_say(payload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in `sbatch` keeps the script it is given and refuses; the script is what Slurm would have read."""
    folder = payload.parent / "bin"
    folder.mkdir()
    for name, body in (
        ("srun", "exit 0"),
        ("sbatch", f'cp "$1" {folder}/script; echo no such partition >&2; exit 1'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    cfg = ExecConfig(
        name="slurm", nodes=2, devices=4, timeout_min=90, sbatch={"partition": "gpu", "mem": "64G"}
    )
    with pytest.raises(UserError, match="no such partition"):
        execute("rank_targets:share", payload, cfg)
    script = (folder / "script").read_text()
    for line in ("nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "time=90", "partition=gpu", "mem=64G"):
        assert f"#SBATCH --{line}\n" in script
    assert "--kill-on-bad-exit=1" in script


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_of_all_ranks_hold_every_item_once(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    held = []
    for number in range(world):
        monkeypatch.setenv("RANK", str(number))
        held += shard(list(range(5)))
    assert sorted(held) == list(range(5))
