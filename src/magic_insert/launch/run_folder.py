"""The folder of a run: its resolved configuration, and one small record that says how the run is doing.

`config.yaml` is what the run was started with; `run.json` holds job, state, times and process. Both appear whole or
not at all. A run that is refused for bad input leaves nothing that was not there before, and both files as they were.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from magic_insert import __version__
from magic_insert.config.freeze import thaw, to_yaml
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_bytes, write_json, write_text
from magic_insert.core.ranks import is_alive, start_ticks

RECORD = "run.json"
CONFIG = "config.yaml"


@contextmanager
def recorded_run(folder: Path, job: str, target: str, frozen: Any) -> Iterator[None]:
    """Keeps `folder`/run.json true while the body runs: running, then done, failed or stopped.

    `target` is the function that does the job's work, by name; ranks read it there.

    Raises:
        UserError: the folder cannot be written, or a live run holds it.
    """
    _require_free(folder)
    record = {
        "job": job,
        "target": target,
        "state": "running",
        "started": now(),
        "ended": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pid_start_ticks": start_ticks(os.getpid()),
        "version": __version__,
        "config": digest(thaw(frozen)),
    }
    with _as_before_if_refused(folder):
        write_text(folder / CONFIG, to_yaml(frozen))
        write_json(folder / RECORD, record)
        try:
            yield
        except Exception:
            write_json(folder / RECORD, {**record, "state": "failed", "ended": now()})
            raise
        except BaseException:  # SystemExit of a signal, KeyboardInterrupt
            write_json(folder / RECORD, {**record, "state": "stopped", "ended": now()})
            raise
        write_json(folder / RECORD, {**record, "state": "done", "ended": now()})


def _require_free(folder: Path) -> None:
    """Raises `UserError` where a run holds `folder`, or may hold it from a machine that cannot be asked."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    if record is None or state_of(record) != "running":
        return
    if record["host"] == socket.gethostname():
        raise UserError(
            f"expected {folder} to be free, got a run that is still running there; wait or set out=..."
        )
    raise UserError(
        f"expected {folder} to be free, got a run that {record['host']} started at {record['started']} and has not "
        f"ended; wait or set out=..., or if that machine is gone, delete {folder / RECORD}"
    )


@contextmanager
def _as_before_if_refused(folder: Path) -> Iterator[None]:
    """Where the body raises `UserError`, the two files are again what they were, to the byte.

    Files and folders that are new are taken away, unless the job put something of its own into a new folder first: then
    its record stays beside that.
    """
    files = (folder / CONFIG, folder / RECORD)
    before = {path: path.read_bytes() for path in files if path.is_file()}
    new_folders = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except UserError:
        if new_folders and folder.is_dir() and any(path not in files for path in folder.iterdir()):
            raise
        for path in files:
            if path in before:
                write_bytes(path, before[path])
            else:
                path.unlink(missing_ok=True)
        for place in new_folders:
            if place.is_dir():
                place.rmdir()
        raise


def now() -> str:
    """The time in UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def state_of(record: dict[str, Any]) -> str:
    """The state of a run; one that was killed without a word counts as stopped, if it ran on this host."""
    if record.get("state") != "running" or record["host"] != socket.gethostname():
        return str(record.get("state", "unknown"))
    return "running" if is_alive(record["pid"], record.get("pid_start_ticks")) else "stopped"


def list_runs(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder under `root` with its record, in the order of their start; none where there is no `root`.

    A record without a state was written by hand for ranks to read (docs/launch.md) and tells of no run.

    Raises:
        UserError: a record is damaged.
    """
    found = [(path.parent, read_json(path)) for path in root.rglob(RECORD)]
    runs = [(folder, record) for folder, record in found if "state" in record]
    return sorted(runs, key=lambda run: (run[1]["started"], str(run[0])))
