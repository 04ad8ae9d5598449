"""The folder of a run: its resolved configuration, and one small record that says how the run is doing.

`config.yaml` is what the run was started with; `run.json` holds job, state, times and process. Both appear whole or
not at all. A run that is refused for bad input leaves nothing that was not there before.
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
from magic_insert.core.jsonl import read_json, write_json, write_text

RECORD = "run.json"
CONFIG = "config.yaml"


@contextmanager
def recorded_run(folder: Path, job: str, target: str, frozen: Any) -> Iterator[None]:
    """Keeps `folder`/run.json true while the body runs: running, then done, failed or stopped.

    `target` is the function that does the job's work, by name; ranks read it there.

    Raises:
        UserError: the folder cannot be written, or a live run holds it.
    """
    if (folder / RECORD).is_file() and state_of(read_json(folder / RECORD)) == "running":
        raise UserError(
            f"expected {folder} to be free, got a run that is still running there; wait or set out=..."
        )
    new_folders = [place for place in (folder, *folder.parents) if not place.exists()]
    new_files = [place for place in (folder / CONFIG, folder / RECORD) if not place.exists()]
    record = {
        "job": job,
        "target": target,
        "state": "running",
        "started": now(),
        "ended": None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
        "config": digest(thaw(frozen)),
    }
    write_text(folder / CONFIG, to_yaml(frozen))
    write_json(folder / RECORD, record)
    try:
        yield
    except UserError:
        write_json(folder / RECORD, {**record, "state": "failed", "ended": now()})
        _forget(new_files, new_folders)
        raise
    except Exception:
        write_json(folder / RECORD, {**record, "state": "failed", "ended": now()})
        raise
    except BaseException:  # SystemExit of a signal, KeyboardInterrupt
        write_json(folder / RECORD, {**record, "state": "stopped", "ended": now()})
        raise
    write_json(folder / RECORD, {**record, "state": "done", "ended": now()})


def _forget(files: list[Path], folders: list[Path]) -> None:
    """Takes back `files`, and those of `folders` (innermost first) that are empty without them."""
    if folders and any(path not in files for path in folders[0].iterdir()):
        return  # the job wrote something of its own before it refused; its record stays beside it
    for path in files:
        path.unlink(missing_ok=True)
    for path in folders:
        path.rmdir()


def now() -> str:
    """The time in UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def state_of(record: dict[str, Any]) -> str:
    """The state of a run; one that was killed without a word counts as stopped, if it ran on this host."""
    if record["state"] != "running" or record["host"] != socket.gethostname():
        return str(record["state"])
    return "running" if _is_alive(record["pid"]) else "stopped"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, of another user
        return True
    return True


def list_runs(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every run folder under `root` with its record, in the order of their start; none where there is no `root`.

    Raises:
        UserError: a record is damaged.
    """
    runs = [(path.parent, read_json(path)) for path in root.rglob(RECORD)]
    return sorted(runs, key=lambda run: (run[1]["started"], str(run[0])))
