"""One rank of a stage: `python -m magic_insert.launch.worker TARGET PAYLOAD`, with the environment of torchrun.

TARGET is "package.module:function", PAYLOAD a file that the function is called with. Rank, world size and the place
where the ranks meet come from RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, so plain torchrun starts it as
well. Nothing is composed here: every rank reads the same frozen file.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.ranks import local_rank, rank, world_size
from magic_insert.launch.run_folder import RECORD
from magic_insert.launch.signals import die_with_parent, stop_on_sigterm
from magic_insert.launch.target import load_function

REPORTS = "MAGIC_INSERT_REPORTS"  # folder for the reports of failed ranks
TIMEOUT = "MAGIC_INSERT_TIMEOUT_MIN"
INPUT_EXIT, FAULT_EXIT = 2, 1


def report_path(folder: Path, number: int) -> Path:
    """Where rank `number` tells why it failed."""
    return folder / f"rank-{number}.failed.json"


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
            load_function(target)(payload)
    except UserError as error:
        print("magic-insert: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
        _report("input", str(error), "")
        return INPUT_EXIT
    except Exception as error:
        traceback.print_exc()
        _report("fault", f"{type(error).__name__}: {error}", traceback.format_exc())
        return FAULT_EXIT
    return 0


def _report(kind: str, message: str, trace: str) -> None:
    if folder := os.environ.get(REPORTS):
        row = {
            "rank": rank(),
            "kind": kind,
            "message": " ".join(message.split()),
            "time": time.time(),
            "trace": trace,
        }
        write_json(report_path(Path(folder), rank()), row)


def run_recorded(payload: Path) -> None:
    """A rank's part of a job that has a run folder; `payload` is its config.yaml, run.json beside it names the job."""
    from magic_insert.config.compose import read_frozen

    record = read_json(payload.with_name(RECORD))
    load_function(record["target"])(read_frozen(payload, record["job"]))


def main() -> None:
    """Reads TARGET and PAYLOAD from the command line; exit code 0, 2 for input that does not fit, 1 for a fault."""
    die_with_parent()
    signal.signal(signal.SIGTERM, stop_on_sigterm)
    target, payload = sys.argv[1:]
    code = run_target(target, Path(payload))
    sys.stdout.flush()
    sys.stderr.flush()
    if code and world_size() > 1:
        # The interpreter's orderly end would wait for threads of the process group that wait for other ranks.
        os._exit(code)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
