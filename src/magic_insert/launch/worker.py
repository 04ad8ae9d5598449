"""One rank of a stage: `python -m magic_insert.launch.worker TARGET PAYLOAD`, with the environment of torchrun.

TARGET is "package.module:function", PAYLOAD a file that the function is called with. Rank, world size and the place
where the ranks meet come from RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, so plain torchrun starts it as
well. Nothing is composed here: every rank reads the same frozen file.

`--ranks N LOGS` before TARGET makes it the process between a job and its N ranks instead: torch's elastic agent, as
torchrun starts it. Rank 0 writes to the terminal, the others into LOGS. When one rank ends badly the agent ends the
others, and `agent.json` in LOGS holds the exit codes, negative for signals.

`--job PAYLOAD RESULT` makes it one job of a sweep: PAYLOAD holds the job's name, function and frozen configuration;
RESULT is written when it is done: the number it returned, if any, and its seconds.
"""

import math
import os
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError, mendable
from magic_insert.core.jsonl import read_object, read_record, write_json
from magic_insert.core.ranks import local_rank, rank, world_size
from magic_insert.launch import run

REPORTS = "MAGIC_INSERT_REPORTS"  # folder for the reports of failed ranks
TIMEOUT = "MAGIC_INSERT_TIMEOUT_MIN"
AGENT_RECORD = "agent.json"
SHUTDOWN_S = 30
INPUT_EXIT, FAULT_EXIT = 2, 1


@dataclass(frozen=True)
class Failure:
    """Why a rank failed: `kind` is input (a `UserError`) or fault, `time` in seconds since the epoch."""

    rank: int
    kind: str
    message: str
    time: float
    trace: str


@dataclass(frozen=True)
class Payload:
    """What the process of a sweep's job reads."""

    job: str
    target: str
    words: list[str]
    digest: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What it leaves: `config` is the digest of all that was configured."""

    config: str
    value: float | None
    seconds: float


@contextmanager
def process_group() -> Iterator[None]:
    """The torch process group of all ranks: gloo for CPU tensors, NCCL for CUDA; nothing for a single rank."""
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    minutes = float(os.environ.get(TIMEOUT, "120"))
    distributed.init_process_group(backend, timeout=timedelta(minutes=minutes))
    yield
    # Only after success: a rank that failed must not wait for the others.
    distributed.barrier()
    distributed.destroy_process_group()


def run_target(target: str, payload: Path) -> int:
    """Calls `target` with `payload` in the process group; the exit code of this rank, its failure reported."""
    try:
        with process_group():
            run.load_function(target)(payload)
    except Exception as error:
        if (line := mendable(error)) is None:
            traceback.print_exc()
            _report("fault", f"{type(error).__name__}: {error}", traceback.format_exc())
            return FAULT_EXIT
        print(run.one_line(line), file=sys.stderr, flush=True)
        _report("input", line, "" if isinstance(error, UserError) else traceback.format_exc())
        return INPUT_EXIT
    return 0


def _report(kind: str, message: str, trace: str) -> None:
    if folder := os.environ.get(REPORTS):
        failure = Failure(rank(), kind, " ".join(message.split()), time.time(), trace)
        write_json(Path(folder) / f"rank-{rank()}.failed.json", asdict(failure))


def run_recorded(payload: Path) -> None:
    """A rank's part of a job that has a run folder; `payload` is its config.yaml, run.json beside it names the job."""
    from magic_insert.config.compose import read_frozen

    record = read_object(payload.with_name(run.RECORD))
    run.load_function(record["target"])(read_frozen(payload, record["job"]))


def run_ranks(ranks: int, logs: Path, target: str, payload: str) -> int:
    """Starts the ranks and waits for them; the exit code of the agent's process."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=SHUTDOWN_S,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=dict.fromkeys(range(1, ranks), Std.ALL)),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "magic_insert.launch.worker", target, payload)
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in error.failures.items()}
        write_json(logs / AGENT_RECORD, codes)
        return FAULT_EXIT
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def run_payload(payload: Path, result: Path) -> None:
    """Runs the job of `payload` and writes `result`; an error of the user or of a stage is one line."""
    from magic_insert.config.compose import frozen_from

    job = read_record(payload, Payload)
    began = time.monotonic()
    plan = run.JobPlan(job.job, job.target, words=tuple(job.words))
    try:
        returned = run.run_job(plan, frozen_from(job.config, job.job))
    except Exception as error:
        line = str(error) if isinstance(error, run.StageFailed) else mendable(error)
        if line is None:
            raise
        print(run.one_line(line), file=sys.stderr)
        raise SystemExit(1 if isinstance(error, run.StageFailed) else 2) from None
    number = float(returned) if isinstance(returned, int | float) and math.isfinite(returned) else None
    write_json(result, asdict(Result(job.digest, number, round(time.monotonic() - began, 1))))


def main(words: list[str]) -> None:
    """Exit code 0, 2 for input that does not fit, 1 for a fault."""
    if words[0] == "--ranks":
        raise SystemExit(run_ranks(int(words[1]), Path(words[2]), *words[3:]))
    run.die_with_parent()
    run.stop_on_signals()
    if words[0] == "--job":
        run_payload(Path(words[1]), Path(words[2]))
        return
    target, payload = words
    code = run_target(target, Path(payload))
    sys.stdout.flush()
    sys.stderr.flush()
    if code and world_size() > 1:
        # The interpreter's orderly end would wait for threads of the process group that wait for other ranks.
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    with run.ending_at_once():
        main(sys.argv[1:])
