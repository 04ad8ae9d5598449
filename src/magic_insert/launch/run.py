"""From a frozen configuration to a running job, and the folder of a run.

The parent stays light: it freezes the configuration (all ranges checked), lets the job's entry look at its input files,
records the run, and only then imports the job, which brings torch; or starts the ranks, which read the frozen file.

`config.yaml` in a run's folder is what it was started with; `run.json` holds job, state, times, process and command.
Both appear whole or not at all. A run that is refused for bad input leaves both files as they were.
"""

import atexit
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from magic_insert import __version__
from magic_insert.config.freeze import thaw, to_yaml
from magic_insert.config.schema.shared import ExecConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import as_record, read_object, read_record, write_bytes, write_json, write_text
from magic_insert.core.picture_files import SUFFIXES
from magic_insert.core.ranks import is_alive, start_ticks

RECORD, CONFIG = "run.json", "config.yaml"
# Jobs that fill their folder: none writes where another has.
MAKERS = {"insert", "personalize", "insertion", "bootstrap", "evaluate", "toybox", "export", "foundation"}
# These run in the parent and start a process group per stage.
STAGED_JOBS = ("bootstrap",)
INTERRUPT_EXIT, SIGTERM_EXIT = 128 + signal.SIGINT, 128 + signal.SIGTERM
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class StageFailed(RuntimeError):
    """A process of a job failed; the text is one line that says which, why and where its log is."""


@dataclass(frozen=True)
class JobPlan:
    """A job of the command line: its name, the function that does it ("package.module:function"), the look at its
    input files before that is imported, and the words it was started with."""

    job: str
    target: str
    check: Callable[[Any], Any] = lambda frozen: None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: what runs in a folder, or how it ended. Times are UTC in ISO 8601; `config` is a digest."""

    job: str
    target: str
    state: str
    started: str
    ended: str | None
    host: str
    pid: int
    pid_start_ticks: int | None = None
    version: str = ""
    config: str = ""
    command: list[str] | None = None

    @property
    def state_now(self) -> str:
        """The state; a run that was killed without a word counts as stopped, if it ran on this host."""
        if self.state != "running" or self.host != socket.gethostname():
            return self.state
        return "running" if is_alive(self.pid, self.pid_start_ticks) else "stopped"


def load_function(target: str) -> Callable[..., Any]:
    """The function that `target` ("package.module:function") names; its module is imported here, and torch with it.

    The garbage collector rests meanwhile: a million objects come to stay, and it would look through them many times.
    """
    module, _, function = target.partition(":")
    collecting = gc.isenabled()
    gc.disable()
    try:
        loaded: Callable[..., Any] = getattr(import_module(module), function)
    finally:
        if collecting:
            gc.enable()
    return loaded


def run_job(plan: JobPlan, frozen: Any, inputs: Any = None) -> Any:
    """Runs a job with a frozen configuration that was checked, and keeps the record of its folder `frozen.out`.

    What the check found (`inputs`), if anything, is handed to a function that runs in this process.
    Where `out` is a picture there is no folder: the picture's sidecar is the record. Returns what the job's function
    returned; None where other processes did the work.

    Raises:
        UserError: a value, an input file or the place of the output does not fit.
    """
    where: ExecConfig = getattr(frozen, "exec", ExecConfig())
    given = () if inputs is None else (inputs,)
    spread = where.name != "inline" and plan.job not in STAGED_JOBS
    if is_picture(frozen.out):
        if spread:
            raise UserError(
                f"expected exec=inline for a picture, got {where.name}; set out=FOLDER or exec=inline"
            )
        return load_function(plan.target)(frozen, *given)
    folder = Path(frozen.out)
    with recorded_run(folder, plan, frozen):
        if not spread:
            return load_function(plan.target)(frozen, *given)
        from magic_insert.launch.executor import execute

        execute("magic_insert.launch.worker:run_recorded", folder / CONFIG, where)
    return None


def is_picture(out: str) -> bool:
    """Whether `out` names a picture and not a folder, by its suffix."""
    return out.lower().endswith(SUFFIXES)


def named_output(frozen: Any, name: str) -> Any:
    """`frozen` with the output of one run of a sweep: `runs/a` -> `runs/a/seed=1`, `a.png` -> `a__seed=1.png`."""
    out = Path(frozen.out)
    named = out.with_name(f"{out.stem}__{name}{out.suffix}") if is_picture(frozen.out) else out / name
    return replace(frozen, out=str(named))


@contextmanager
def recorded_run(folder: Path, plan: JobPlan, frozen: Any) -> Iterator[None]:
    """Keeps `folder`/run.json true while the body runs: running, then done, failed or stopped.

    Raises:
        UserError: the folder cannot be written, or a live run holds it.
    """
    _require_free(folder, plan.job)
    record = RunRecord(
        job=plan.job,
        target=plan.target,
        state="running",
        started=now(),
        ended=None,
        host=socket.gethostname(),
        pid=os.getpid(),
        pid_start_ticks=start_ticks(os.getpid()),
        version=__version__,
        config=digest(thaw(frozen)),
        command=["magic-insert", plan.job, *plan.words],
    )

    def end(state: str) -> None:
        write_json(folder / RECORD, asdict(replace(record, state=state, ended=now())))

    with _as_before_if_refused(folder):
        write_text(folder / CONFIG, to_yaml(frozen))
        write_json(folder / RECORD, asdict(record))
        try:
            yield
        except Exception:
            end("failed")
            raise
        except BaseException:  # SystemExit of a signal, KeyboardInterrupt
            end("stopped")
            raise
        end("done")


def _require_free(folder: Path, job: str) -> None:
    """Raises `UserError` where another job has filled `folder`, or a run holds it, or may hold it from a machine that
    cannot be asked."""
    if not (folder / RECORD).is_file() or "state" not in read_object(folder / RECORD):
        return  # without a state it was written by hand for ranks to read
    record = read_record(folder / RECORD, RunRecord)
    if record.job != job and {record.job, job} <= MAKERS:
        raise UserError(
            f"expected {folder} to be free or to hold a run of {job}, got one of {record.job}; set out=..."
        )
    if record.state_now != "running":
        return
    if record.host == socket.gethostname():
        running = "is still running there; wait or set out=..."
    else:
        running = (
            f"{record.host} started at {record.started} and has not ended; wait or set out=..., or if that machine is "
            f"gone, delete {folder / RECORD}"
        )
    raise UserError(f"expected {folder} to be free, got a run that {running}")


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
            if place.is_dir() and not any(place.iterdir()):  # a store may lie beside the run
                place.rmdir()
        raise


def now() -> str:
    """The time in UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def list_runs(root: Path) -> tuple[list[tuple[Path, RunRecord]], list[str]]:
    """Every run folder under `root` with its record, in the order of their start; and a line for each damaged record.

    A record without a state was written by hand for ranks to read (docs/launch.md) and tells of no run.
    """
    runs, damaged = [], []
    for path in sorted(root.rglob(RECORD)):
        try:
            if "state" in (found := read_object(path)):
                runs.append((path.parent, as_record(found, RunRecord, path)))
        except UserError as error:
            damaged.append(str(error))
    return sorted(runs, key=lambda run: (run[1].started, str(run[0]))), damaged


def one_line(error: BaseException | str) -> str:
    """What a user is told of `error`."""
    return "magic-insert: " + " ".join(str(error).split())


def stop_on_signals() -> None:
    """From here on SIGTERM unwinds the stack, so that records and temporary files are put in order, and exits with 143.

    Ctrl-C raises `KeyboardInterrupt`; `was_interrupted` remembers it where a library turns it into an exit of its own.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(SIGTERM_EXIT)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        _interrupted.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, interrupt)


_interrupted: list[bool] = []


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since `stop_on_signals`."""
    return bool(_interrupted)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """The program of a process: it ends when this block has, and what was registered with `atexit` within it.

    Output is flushed and the exit code kept; the modules of torch and diffusers are not taken apart one by one, which
    takes seconds. After a fault, any exception but `SystemExit` with a number, the interpreter ends as ever.
    """
    codes: list[int] = []

    def end() -> None:
        if codes:
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(codes[0])

    atexit.register(end)  # first, so that it is called last
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            codes.append(stop.code or 0)
        raise
    codes.append(0)


def die_with_parent() -> None:
    """Asks the kernel for a SIGTERM when the parent of this process ends, however it ends; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
