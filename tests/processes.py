"""The command line in a process of its own: started, watched until something has happened, and its end."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 900  # seconds; a busy machine needs many to import torch
COMMAND = "from magic_insert.cli.main import program; program()"
Process = subprocess.Popen[str]


def launch(words: Sequence[str | Path], place: Path | None = None, code: str = COMMAND) -> Process:
    """`magic-insert WORDS` in the folder `place`, or other Python with these words."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: Process, code: int = 0) -> tuple[str, str]:
    """Both outputs of a process that ends with `code`."""
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + errors
    return out, errors


def wait_until(ready: Callable[[], object], process: Process | None = None) -> None:
    """Waits until `ready`, while `process` runs."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process is None or process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.01)
