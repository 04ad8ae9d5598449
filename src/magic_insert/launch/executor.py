"""One stage of work in one process group: in this process, on every GPU of this machine, or as a Slurm job.

`execute` returns when every rank is done and raises when one failed; the next call starts from a clean slate. The
parent imports no torch. What the ranks said lies in `<payload's name>.logs` beside the payload.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from magic_insert.config.schema import ExecConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json
from magic_insert.launch.signals import die_with_parent
from magic_insert.launch.target import load_function
from magic_insert.launch.worker import REPORTS, TIMEOUT

AGENT_RECORD = "agent.json"
GRACE_S = 45.0  # the agent itself gives its ranks 30 s between SIGTERM and SIGKILL


class StageFailed(RuntimeError):
    """A rank failed; the text is one line that says which, why and where its log is."""


def execute(target: str, payload: Path, cfg: ExecConfig) -> None:
    """Calls `target` ("package.module:function") with `payload`, once per rank of the process group `cfg` asks for.

    Raises:
        UserError: the input does not fit, or the machine is not what `cfg` needs.
        StageFailed: a rank ended with a fault or by a signal. With `inline` its own exception comes through instead.
    """
    if cfg.name == "inline":
        load_function(target)(payload)
        return
    logs = payload.parent / f"{payload.stem}.logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    if cfg.name == "slurm":
        from magic_insert.launch.slurm import run_slurm

        deaths = run_slurm(target, payload, cfg, logs)
    else:
        deaths = run_torchrun(target, payload, cfg, logs)
    if deaths is not None:
        raise_failure(target, logs, deaths)


def run_torchrun(target: str, payload: Path, cfg: ExecConfig, logs: Path) -> dict[int, int] | None:
    """Runs the ranks under torch's elastic agent; None, or exit codes of the ranks that failed (negative: signal)."""
    ranks = cfg.devices or len(visible_gpus())
    if ranks == 0:
        raise UserError(
            "expected a GPU for exec=torchrun with exec.devices=0, got none; set exec.devices=N for N CPU processes"
        )
    threads = max(1, (os.cpu_count() or 1) // ranks)
    env = {
        **os.environ,
        REPORTS: str(logs),
        TIMEOUT: str(cfg.timeout_min),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    command = [sys.executable, "-m", "magic_insert.launch.agent", str(ranks), str(logs), target, str(payload)]
    # A session of its own: Ctrl-C reaches the agent through us alone.
    agent = subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=die_with_parent)
    try:
        code = agent.wait()
    except BaseException:  # SystemExit of a signal, KeyboardInterrupt
        end(agent)
        raise
    if code == 0:
        return None
    record = logs / AGENT_RECORD
    return {int(number): code for number, code in read_json(record).items()} if record.is_file() else {}


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to whoever is still there after the grace."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def raise_failure(target: str, logs: Path, deaths: dict[int, int]) -> None:
    """Names the rank that failed first: one ended by a signal, else the first that reported.

    Raises:
        UserError, StageFailed: always one of them.
    """
    killed = {r: -code for r, code in deaths.items() if code < 0 and -code != signal.SIGTERM}
    reports = sorted(
        (read_json(path) for path in logs.glob("rank-*.failed.json")), key=lambda row: row["time"]
    )
    if killed:
        number, sign = next(iter(sorted(killed.items())))
        raise StageFailed(f"rank {number} of {target} was ended by {signal.Signals(sign).name}; log: {logs}")
    if not reports:
        raise StageFailed(f"the processes of {target} ended without a word; log: {logs}")
    first = reports[0]
    if first["kind"] == "input":
        raise UserError(first["message"])
    report = logs / f"rank-{first['rank']}.failed.json"
    raise StageFailed(f"rank {first['rank']} of {target} failed with {first['message']}; log: {report}")


def visible_gpus() -> list[str]:
    """The GPUs that a child process would see, by the names that CUDA_VISIBLE_DEVICES takes; found without torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name and name != "-1"]
    return [str(i) for i, _ in enumerate(sorted(Path("/dev").glob("nvidia[0-9]*")))]
