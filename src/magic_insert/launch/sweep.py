"""A sweep of any job: composed here, once for all; then each job a process of its own, a few at a time.

The same command after a kill or a failure goes on: finished jobs are skipped, the others run again and resume from
their own checkpoints and from the store they share. A failed job never stops the rest, and none outlives the sweep. For
a job with `out=DIR` the runs are `DIR/<name>`, and `DIR` gets the files of `launch.results` and `jobs/<name>.log`.
"""

import difflib
import itertools
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from magic_insert.config.compose import Compose, composer
from magic_insert.config.fields import check
from magic_insert.config.freeze import freeze, thaw
from magic_insert.config.schema.jobs import SweepConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError, needing
from magic_insert.core.jsonl import read_jsonl, read_record, write_json
from magic_insert.launch.executor import end, start_module, visible_gpus
from magic_insert.launch.results import SHOWN_OF_ROUNDS, SWEEP_FILE, Outcome, Sweep, read_numbers, write_sweep
from magic_insert.launch.run import (
    RECORD,
    JobPlan,
    RunRecord,
    is_picture,
    named_output,
)
from magic_insert.launch.worker import Payload, Result
from magic_insert.tracking import METRICS, SWEEP

LONGEST_NAME = 120  # a file name may have 255 bytes, and needs room for suffixes
MOST_NAMED = 12  # numbers in a message
POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One job of a sweep, checked: `settings` is what sets it apart, `payload` the file that its process reads."""

    plan: JobPlan
    name: str
    settings: dict[str, str]
    frozen: Any
    payload: Path

    @property
    def out(self) -> Path:
        return Path(self.frozen.out)

    @property
    def log(self) -> Path:
        return self.payload.with_suffix(".log")

    @property
    def result(self) -> Path:
        return self.payload.with_suffix(".result")

    @property
    def digest(self) -> str:
        """Of all that was configured."""
        return digest(thaw(self.frozen))

    def is_done(self) -> bool:
        """Whether it was finished before, with just this configuration, and its output is still there."""
        if not self.result.is_file() or read_record(self.result, Result).config != self.digest:
            return False
        if is_picture(str(self.out)):
            return self.out.is_file()
        record = self.out / RECORD
        return record.is_file() and read_record(record, RunRecord).state == "done"

    def outcome(self, metric: str | None, state: str, *, error: str = "", seconds: float = 0.0) -> Outcome:
        """Its row; for a job that is done, its result says how long it took."""
        result = read_record(self.result, Result) if state == "done" else Result("", None, seconds)
        numbers = read_numbers(self.out) if state == "done" and self.out.is_dir() else {}
        return Outcome(
            name=self.name,
            settings=self.settings,
            state=state,  # type: ignore[arg-type]
            value=result.value if metric is None else numbers.get(metric),
            numbers=numbers,
            out=str(self.out),
            log=str(self.log),
            seconds=round(result.seconds, 1),
            error=error,
        )


@dataclass
class SweepRun:
    """Runs jobs of one sweep, a batch at a time, and keeps `sweep.json` true meanwhile.

    `fixed`: the words that all jobs have in common.
    """

    plan: JobPlan
    settings: SweepConfig
    keys: list[str]
    fixed: list[str]
    compose: Compose
    rows: dict[str, Outcome] = field(default_factory=dict)
    folder: Path = Path()

    def prepare(self, words: Sequence[str]) -> Job:
        """The job that sets `words` beside the words that all have in common.

        Raises:
            UserError: its configuration or an input file does not fit.
        """
        frozen = freeze(self.compose([*self.fixed, *words], False))
        out = Path(frozen.out)
        self.folder = out.with_name(f"{out.stem}__sweep") if is_picture(frozen.out) else out
        settings = settings_of(words)
        name = job_name(settings) or "only"
        placed = named_output(frozen, name)
        self.plan.check(placed)
        own = [word for word in self.fixed if not word.startswith(("hydra.", "sweep=", "out="))]
        alone = ["hydra.mode=RUN"] if any(word.startswith("experiment=") for word in own) else []
        plan = replace(self.plan, words=(*own, *words, *alone, f"out={placed.out}"))
        return Job(plan, name, settings, placed, self.folder / "jobs" / f"{name}.json")

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The rows of `jobs` in their order, a few at a time; those done before are not run again."""
        metric, workers = self.settings.metric, self.settings.workers
        distinct = {job.name: job for job in jobs}  # an optimizer may ask for the same job twice
        for name, job in distinct.items():
            self.rows[name] = job.outcome(metric, "done" if job.is_done() else "waiting")
        waiting = [job for name, job in distinct.items() if self.rows[name].state == "waiting"]
        group, done = f"{self.plan.job} {self.folder.name}", len(distinct) - len(waiting)
        print(f"{group}: {len(distinct)} jobs, {done} done before, {workers} at a time", flush=True)
        running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
        with bars(len(distinct)) as show:
            try:
                while waiting or running:
                    for slot in range(workers):
                        if slot not in running and waiting:
                            job = waiting.pop(0)
                            running[slot] = (job, start(job, slot, workers, group), time.monotonic())
                            self.keep(job.outcome(metric, "running"))
                            print(f"  {job.name}: started, log: {job.log}", flush=True)
                    for slot, (job, process, began) in list(running.items()):
                        if process.poll() is not None:
                            del running[slot]
                            self.keep(self.ended(job, process.returncode, time.monotonic() - began))
                    show([job for job, _, _ in running.values()], len(distinct) - len(waiting) - len(running))
                    time.sleep(POLL_S)
            finally:
                for _, process, _ in running.values():
                    process.terminate()
                for _, process, _ in running.values():
                    end(process)
        return [self.rows[job.name] for job in jobs]

    def ended(self, job: Job, code: int, seconds: float) -> Outcome:
        """The row of a job whose process ended with `code`; a failure is printed at once."""
        error = "" if code == 0 else f"ended by signal {-code}"
        if code > 0:
            error = last_line(job.log) or f"exit code {code}"
        row = job.outcome(self.settings.metric, "failed" if error else "done", error=error, seconds=seconds)
        told = f"FAILED: {error}; log: {job.log}" if error else f"done in {row.seconds:.0f} s"
        number = "" if row.value is None else f", {row.value:.4g}"
        over = sum(other.state in ("done", "failed") for other in self.rows.values()) + 1
        print(f"[{over}/{len(self.rows)}] {job.name}: {told}{number}", flush=True)
        return row

    def keep(self, row: Outcome) -> None:
        """Puts a row into the table, and the table onto the disk."""
        self.rows[row.name] = row
        write_json(self.folder / SWEEP_FILE, asdict(self.table))

    @property
    def table(self) -> Sweep:
        """All jobs so far."""
        direction: Any = self.settings.direction
        return Sweep(self.plan.job, self.keys, self.settings.metric, direction, list(self.rows.values()))

    def finish(self) -> None:
        """Writes the tables and prints what failed and what to do next.

        Raises:
            UserError: no job that is done measured `sweep.metric`.
            SystemExit: with code 1 where jobs failed.
        """
        rows = list(self.rows.values())
        print(write_sweep(self.folder, self.table), flush=True)
        failed = [row for row in rows if row.state == "failed"]
        if failed:
            print(f"{len(failed)} of {len(rows)} jobs failed; the same command runs them again:", flush=True)
            for row in failed:
                print(f"  {row.name}: {row.error}; log: {row.log}", flush=True)
        page = self.folder / "dashboard.html"
        print(
            f"next: {shlex.join(['magic-insert', 'dashboard', f'sweep={self.folder}', f'out={page}'])}",
            flush=True,
        )
        require_measured(self.settings.metric, rows)
        if failed:
            raise SystemExit(1)


def run_sweep(plan: JobPlan, words: Sequence[str]) -> None:
    """Runs the sweep that `words` ask for: every combination of the swept values, or `sweep.trials` chosen by optuna.

    Raises:
        UserError: a job's configuration or input does not fit, and nothing was started; or as `SweepRun.finish`.
        SystemExit: with code 1, at the end, if jobs failed.
    """
    with composer(plan.job) as compose:
        overrides = _parsed(words)
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        swept = [o for o in overrides if o.is_sweep_override()]
        hydra = compose(fixed, True).hydra
        settings: SweepConfig = OmegaConf.to_object(hydra.launcher)  # type: ignore[assignment]
        check(settings, "sweep.")
        given = {override.get_key_element() for override in _parsed(fixed)}
        params = _parsed([f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()])
        axes = {o.get_key_element(): o for o in (*params, *swept) if o.get_key_element() not in given}
        run = SweepRun(plan, settings, list(axes), fixed, compose)
        if settings.trials is not None:
            optimise(run, axes)
        else:
            run.run(
                [
                    run.prepare(words)
                    for words in itertools.product(*(values_of(axis) for axis in axes.values()))
                ]
            )
        run.finish()


def _parsed(words: Sequence[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(words))


def values_of(axis: Override) -> list[str]:
    """Every value of a swept key as an override; raises `UserError` for an interval, which has no end of values."""
    if not axis.is_sweep_override():
        return [str(axis.input_line)]
    if isinstance(axis.value(), IntervalSweep):
        raise UserError(
            f"expected values for {axis.get_key_element()}, got {axis.input_line}; set sweep.trials=N"
        )
    return [f"{axis.get_key_element()}={value}" for value in axis.sweep_string_iterator()]


def optimise(run: SweepRun, axes: Mapping[str, Override]) -> None:
    """Lets optuna's TPE choose `sweep.trials` jobs, as many at a time as there are workers; failed ones teach nothing.

    Raises:
        UserError: optuna is not installed.
    """
    with needing("optuna", "sweep.trials", "optuna"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def distribution(axis: Override) -> Any:
        value: Any = axis.value()
        found = optuna.distributions
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            whole = isinstance(low, int) and isinstance(high, int)
            kind = found.IntDistribution if whole else found.FloatDistribution
            return kind(low, high, log="log" in value.tags)
        if isinstance(value, RangeSweep) and all(
            isinstance(n, int) for n in (value.start, value.stop, value.step)
        ):
            numbers: Any = range(*map(int, (value.start, value.stop, value.step)))  # type: ignore[arg-type]
            return found.IntDistribution(numbers[0], numbers[-1], step=numbers.step)
        return found.CategoricalDistribution([word.partition("=")[2] for word in values_of(axis)])

    settings = run.settings
    sampler = optuna.samplers.TPESampler(seed=settings.seed)
    study = optuna.create_study(direction=f"{settings.direction}imize", sampler=sampler)
    space = {key: distribution(axis) for key, axis in axes.items()}
    for left in range(settings.trials or 0, 0, -settings.workers):
        trials = [study.ask(space) for _ in range(min(settings.workers, left))]
        rows = run.run(
            [run.prepare([f"{key}={value}" for key, value in trial.params.items()]) for trial in trials]
        )
        for trial, row in zip(trials, rows, strict=True):
            failed = None if row.value is not None else optuna.trial.TrialState.FAIL
            study.tell(trial, row.value, state=failed)


def require_measured(metric: str | None, rows: Sequence[Outcome]) -> None:
    """That a job of `rows` measured `metric`, where any is done; null is what jobs return, and always fits.

    Raises:
        UserError: none did; it names the nearest of the numbers there are.
    """
    done = [row for row in rows if row.state == "done"]
    if metric is None or not done or any(metric in row.numbers for row in done):
        return
    if metric in SHOWN_OF_ROUNDS:
        return  # a number of the filter: jobs that kept the base have none, later ones may
    names = list(dict.fromkeys(name for row in done for name in [*row.shown, *row.numbers]))
    near = difflib.get_close_matches(metric, names, n=3) or names[:MOST_NAMED]
    hint = f"set one that was, such as {', '.join(near)}, or " if names else ""
    raise UserError(
        f"expected sweep.metric to be a number measured by a finished job, got {metric}; {hint}leave it out to "
        "rank by what jobs return"
    )


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """What the overrides `words` of one job set, as text by key."""
    return {o.get_key_element(): o.get_value_element_as_str() for o in _parsed(words)}


def job_name(settings: Mapping[str, str]) -> str:
    """A file name such as `seed=1,style.scale=0.5`; different settings of the same keys have different names.

    Where the words alone do not tell settings apart, a digest does: a `/` became `-`, a value holds `=`, or the name
    was cut.
    """
    words = ",".join(f"{key}={value}" for key, value in settings.items())
    name = words.replace("/", "-")[:LONGEST_NAME]
    # A value such as "1,b=2" reads like two settings.
    plain = name == words and words.count("=") == len(settings)
    return name if plain else f"{name}~{digest(dict(settings))}"


@contextmanager
def bars(total: int) -> Iterator[Callable[[Sequence[Job], int], None]]:
    """A bar for the sweep with the time left, and a line for each running job: what it does, and for how long."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    text, quiet = TextColumn("{task.description}"), not console.is_terminal
    with Progress(text, *columns, console=console, transient=True, disable=quiet) as progress:
        whole = progress.add_task("jobs", total=total)
        lines: dict[str, TaskID] = {}

        def show(running: Sequence[Job], done: int) -> None:
            if quiet:
                return
            progress.update(whole, completed=done)
            for name in lines.keys() - {job.name for job in running}:
                progress.remove_task(lines.pop(name))
            for job in running:
                if job.name not in lines:
                    lines[job.name] = progress.add_task("", total=None)
                progress.update(lines[job.name], description=f"{job.name}: {doing(job)}")

        yield show


def doing(job: Job) -> str:
    """What a running job does, from its newest measurement or the end of its log."""
    if rows := read_jsonl(job.out / METRICS, begun=False):
        return f"{rows[-1].get('stage')} step {rows[-1].get('step')}"
    return last_line(job.log)[:60]


def start(job: Job, slot: int, workers: int, group: str) -> "subprocess.Popen[bytes]":
    """The job's process: its share of the cores, its GPU where there are several, its output in its log."""
    job.result.unlink(missing_ok=True)
    plan = job.plan
    write_json(
        job.payload, asdict(Payload(plan.job, plan.target, list(plan.words), job.digest, thaw(job.frozen)))
    )
    env = {**os.environ, SWEEP: group}
    if workers > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        if gpus := visible_gpus():
            env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return start_module(
        "magic_insert.launch.worker", ["--job", str(job.payload), str(job.result)], env, job.log
    )


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("magic-insert: ") if lines else ""
