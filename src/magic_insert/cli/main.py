"""`magic-insert <job> [key=value ...]`: finds the job and hands over. Costs no import beyond the job's own entry."""

import difflib
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from magic_insert import __version__
from magic_insert.core.errors import UserError
from magic_insert.launch.run import INTERRUPT_EXIT, stop_on_signals, was_interrupted

JOBS = {
    "insert": "drop a subject from one picture into another: subject=PATH background=PATH out=PICTURE",
    "personalize": "teach the model a subject: subject=PATH (or [PATH,PATH], or a folder of many) out=FOLDER",
    "export": "a finished personalisation for other programs: run=FOLDER out=FOLDER format=kohya|diffusers",
    "insertion": "train a remover and an inserter on pairs: task=remove|insert|both data=toybox|pairs|... out=FOLDER",
    "remove": "take an object and its shadow out of a picture: image=PATH mask=PATH out=PICTURE",
    "demo": "one subject into four scenes of four styles, beside the truth",
    "evaluate": "methods on a benchmark, with a report: stylizer='[a,b]' inserter='[x,y]' benchmark=toyplop|folder|...",
    "subjectplop": "the paper's evaluation pictures: fetch out=FOLDER, check root=FOLDER",
    "bootstrap": "adapt the inserter from photographs to drawings: bootstrap.rounds=N filter=... store=FOLDER",
    "report": "tables, plots and page again from rows alone: rows=PATH out=FOLDER",
    "study": "ask people which picture is better: action=build|serve|analyse out=FOLDER",
    "review": "people judge the removals of a bootstrap: run=DIR, then run=DIR verdicts=FILE",
    "toybox": "render the world with known answers: what=subjects|pairs|benchmark|sheet",
    "foundation": "train every part of the micro model: preset=cpu|gpu",
    "card": "measure micro weights on held-out seeds",
    "status": "list run folders: root=FOLDER",
    "dashboard": "one page about a run or a sweep: run=FOLDER or sweep=FOLDER, out=PAGE",
}
SIGPIPE_EXIT = 128 + signal.SIGPIPE


def usage() -> str:
    """The text of `magic-insert --help`."""
    lines = [f"  {job:<12} {summary}" for job, summary in JOBS.items()]
    return "\n".join(
        [
            f"magic-insert {__version__}: style-aware drag-and-drop of a subject into a picture of another style.",
            "",
            "usage: magic-insert JOB [key=value ...] [group=choice ...]",
            "",
            "jobs:",
            *lines,
            "",
            "magic-insert JOB --help shows a job's keys and groups, --help KEY one of them, --cfg job the composed",
            "configuration; -m runs a sweep (seed=1,2,3). magic-insert completion bash|zsh|fish prints a completion.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script.

    Exit codes: 0 done, 1 a fault of ours, 2 input that does not fit, 130 and 143 stopped, 141 nobody reads our output.
    """
    if sys.stdout is None:  # closed by the shell, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        try:
            run_words(list(sys.argv[1:] if arguments is None else arguments))
        except (KeyboardInterrupt, SystemExit) as stop:
            sys.stdout.flush()
            asked = isinstance(stop, KeyboardInterrupt)
            if not asked and not was_interrupted():
                raise
            # A library may have turned Ctrl-C into an exit of its own.
            print(f"magic-insert: {stop if asked and str(stop) else 'stopped'}", file=sys.stderr)
            raise SystemExit(INTERRUPT_EXIT) from None
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_is_gone():
            raise  # a pipe of the job's own
        # The interpreter flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(SIGPIPE_EXIT) from None


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head -1`."""
    watch = select.poll()
    watch.register(sys.stdout, 0)  # errors are reported unasked
    return bool(watch.poll(0))


def _printed(make: Callable[[], str], job: str) -> None:
    """Prints a text whose making may meet a bad word of the user."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from magic_insert.cli.app import explain, fail

    try:
        print(make())
    except (HydraException, OmegaConfBaseException) as error:
        fail(UserError(explain(error, job)))
    except UserError as error:
        fail(error)


def run_words(words: Sequence[str]) -> None:
    """Answers the questions that need no job, or finds the job and hands over; raises `SystemExit`."""
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] == "--version":
        print(__version__)
        return
    job = words[0]
    if job == "completion":
        from magic_insert.cli.help import completion

        _printed(lambda: completion(words[1] if len(words) > 1 else "bash", JOBS), job)
        return
    if job not in JOBS:
        near = difflib.get_close_matches(job, JOBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "magic-insert --help lists them"
        print(f"magic-insert: expected a job, one of {', '.join(JOBS)}, got {job!r}; {hint}", file=sys.stderr)
        raise SystemExit(2)
    if (flag := next((word for word in words[1:] if word in ("-h", "--help")), None)) is not None:
        from magic_insert.cli.help import job_help

        place = words.index(flag)
        wanted = words[place + 1] if len(words) > place + 1 and "=" not in words[place + 1] else None
        rest = [word for word in words[1:] if "=" in word]
        _printed(lambda: job_help(job, JOBS[job], rest, wanted), job)
        return
    stop_on_signals()
    import_module(f"magic_insert.cli.{job}").main(words[1:])
