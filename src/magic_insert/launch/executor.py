"""One stage of work in one process group: in this process, on every GPU of this machine, or as a Slurm job.

`execute` returns when every rank is done and raises when one failed; the next call starts from a clean slate. The
parent imports no torch. What the ranks wrote lies in `<payload's name>.logs` beside the payload.

A Slurm job goes through submitit: one task per rank, torchrun's environment made from Slurm's. `exec.cluster=local`
runs the same tasks as processes of this machine, without Slurm.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from magic_insert.config.schema.shared import ExecConfig
from magic_insert.core.errors import UserError, expecting, needing
from magic_insert.core.jsonl import read_object, read_record
from magic_insert.launch.run import StageFailed, die_with_parent, load_function
from magic_insert.launch.worker import AGENT_RECORD, REPORTS, TIMEOUT, Failure, run_target

GRACE_S = 45.0  # the agent itself gives its ranks 30 s between SIGTERM and SIGKILL
POLL_S, NOTICE_S = 0.5, 3.0


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
    run = run_slurm if cfg.name == "slurm" else run_torchrun
    if (deaths := run(target, payload, cfg, logs)) is not None:
        raise_failure(target, logs, deaths)


def run_torchrun(target: str, payload: Path, cfg: ExecConfig, logs: Path) -> dict[int, int] | None:
    """Runs the ranks under torch's elastic agent; None, or exit codes of the ranks that failed (negative: signal)."""
    ranks = cfg.devices or len(visible_gpus())
    if ranks == 0:
        raise UserError(
            "expected a GPU for exec=torchrun with exec.devices=0, got none; set exec.devices=N for N CPU processes"
        )
    env = {**os.environ, REPORTS: str(logs), TIMEOUT: str(cfg.timeout_min)}
    env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    words = ["--ranks", str(ranks), str(logs), target, str(payload)]
    agent = start_module("magic_insert.launch.worker", words, env)
    try:
        code = agent.wait()
    except BaseException:  # SystemExit of a signal, KeyboardInterrupt
        end(agent)
        raise
    if code == 0:
        return None
    record = logs / AGENT_RECORD
    return {int(number): code for number, code in read_object(record).items()} if record.is_file() else {}


def start_module(
    module: str, words: list[str], env: dict[str, str], log: Path | None = None
) -> "subprocess.Popen[bytes]":
    """`python -m MODULE WORDS`, which ends when this process does; with a `log` it writes there and reads nothing."""
    output: dict[str, Any] = {}
    if log is not None:
        output = {"stdin": subprocess.DEVNULL, "stdout": log.open("wb"), "stderr": subprocess.STDOUT}
    # A session of its own: Ctrl-C reaches it through us alone.
    process = subprocess.Popen(
        [sys.executable, "-m", module, *words],
        env=env,
        start_new_session=True,
        preexec_fn=die_with_parent,
        **output,
    )
    if log is not None:
        output["stdout"].close()
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
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
    if killed:
        number, sign = min(killed.items())
        raise StageFailed(f"rank {number} of {target} was ended by {signal.Signals(sign).name}; log: {logs}")
    reports = sorted(
        (read_record(path, Failure) for path in logs.glob("rank-*.failed.json")), key=lambda row: row.time
    )
    if not reports:
        raise StageFailed(f"the processes of {target} ended without a report; log: {logs}")
    first = reports[0]
    if first.kind == "input":
        raise UserError(first.message)
    report = logs / f"rank-{first.rank}.failed.json"
    raise StageFailed(f"rank {first.rank} of {target} failed with {first.message}; log: {report}")


def visible_gpus() -> list[str]:
    """The GPUs that a child process would see, by the names that CUDA_VISIBLE_DEVICES takes; found without torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name and name != "-1"]
    return [str(i) for i, _ in enumerate(sorted(Path("/dev").glob("nvidia[0-9]*")))]


def run_slurm(target: str, payload: Path, cfg: ExecConfig, logs: Path) -> dict[int, int] | None:
    """Submits the job and waits; None when all tasks are done, an empty dict when one failed.

    Raises:
        UserError: submitit is not installed, there is no Slurm here, or Slurm refuses the job.
    """
    with needing("submitit", "exec=slurm", "slurm"):
        import submitit
    elsewhere = "set exec.cluster=local or exec=torchrun"
    with expecting("Slurm on this machine for exec=slurm", RuntimeError, do=elsewhere):
        executor = submitit.AutoExecutor(folder=logs, cluster=cfg.cluster)
    own: dict[str, Any] = {}
    if cfg.cluster == "slurm":
        own["slurm_additional_parameters"] = {"gpus_per_node": cfg.devices, **cfg.sbatch}
        own["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    limit = max(1, round(cfg.timeout_min))
    executor.update_parameters(
        name="magic-insert", nodes=cfg.nodes, tasks_per_node=cfg.devices, timeout_min=limit, **own
    )
    words = target, str(payload.absolute()), str(logs.absolute()), cfg.timeout_min
    with expecting("Slurm to take the job", submitit.core.utils.FailedJobError, do="look at exec.sbatch"):
        job = executor.submit(run_task, *words)
    try:
        while not job.done():
            if any(logs.glob("rank-*.failed.json")):
                time.sleep(NOTICE_S)  # the other ranks may end by themselves, with reports of their own
                job.cancel(check=False)
                return {}
            time.sleep(POLL_S)
        job.results()
    except submitit.core.utils.UncompletedJobError:  # a task was ended from outside
        return {}
    except BaseException:  # SystemExit of a signal, KeyboardInterrupt
        job.cancel(check=False)
        raise
    return None


def run_task(target: str, payload: str, logs: str, timeout_min: float) -> None:
    """What each task of a Slurm job does: becomes a rank and works."""
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    os.environ |= {REPORTS: logs, TIMEOUT: str(timeout_min)}
    if code := run_target(target, Path(payload)):
        os._exit(code)  # an orderly end would wait for threads of the process group
