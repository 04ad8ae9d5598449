"""Running the jobs of a sweep as processes, a few at a time; none of them outlives the sweep."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.config.freeze import thaw
from magic_insert.core.digest import digest
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.launch.executor import end, visible_gpus
from magic_insert.launch.launcher import is_picture
from magic_insert.launch.results import read_numbers
from magic_insert.launch.run_folder import RECORD
from magic_insert.launch.signals import die_with_parent
from magic_insert.launch.sweep_table import Outcome
from magic_insert.tracking import SWEEP

POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """One job of a sweep, checked: `settings` is what sets it apart, `payload` the file that its process reads."""

    job: str
    target: str
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
        if not self.result.is_file() or read_json(self.result)["config"] != self.digest:
            return False
        if is_picture(str(self.out)):
            return self.out.is_file()
        record = self.out / RECORD
        return record.is_file() and read_json(record)["state"] == "done"

    def outcome(self, metric: str | None, error: str, seconds: float = 0.0) -> Outcome:
        """Its row; `error` is empty for a job that is done, whose result says how long it took."""
        result: dict[str, Any] = {"value": None, "seconds": seconds} if error else read_json(self.result)
        numbers = read_numbers(self.out) if self.out.is_dir() and not error else {}
        return Outcome(
            name=self.name,
            settings=self.settings,
            state="failed" if error else "done",
            value=result["value"] if metric is None else numbers.get(metric),
            numbers=numbers,
            out=str(self.out),
            log=str(self.log),
            seconds=round(result["seconds"], 1),
            error=error,
        )


def run_jobs(jobs: Sequence[Job], workers: int, metric: str | None, group: str) -> list[Outcome]:
    """The rows of `jobs` in their order, `workers` processes at a time; those done before are not run again.

    `metric` is as in `JobLauncherConfig`, `group` the name of the sweep for W&B. A failure is told at once.
    """
    rows = {job.name: job.outcome(metric, "") for job in jobs if job.is_done()}
    waiting = [job for job in jobs if job.name not in rows]
    print(f"{group}: {len(jobs)} jobs, {len(rows)} done before, {workers} at a time", flush=True)
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            for slot in range(workers):
                if slot not in running and waiting:
                    job = waiting.pop(0)
                    running[slot] = (job, start(job, slot, workers, group), time.monotonic())
                    print(f"  {job.name}: started, log: {job.log}", flush=True)
            for slot, (job, process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                error = "" if process.returncode == 0 else last_words(job.log, process.returncode)
                row = job.outcome(metric, error, time.monotonic() - began)
                rows[job.name] = row
                said = f"FAILED: {error}; log: {job.log}" if error else f"done in {row.seconds:.0f} s"
                number = "" if row.value is None else f", {row.value:.4g}"
                print(f"[{len(rows)}/{len(jobs)}] {job.name}: {said}{number}", flush=True)
            time.sleep(POLL_S)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            end(process)
    return [rows[job.name] for job in jobs]


def start(job: Job, slot: int, workers: int, group: str) -> "subprocess.Popen[bytes]":
    """The job's process: its share of the cores, its GPU where there are several, its words in its log."""
    job.result.unlink(missing_ok=True)
    content = {"job": job.job, "target": job.target, "digest": job.digest, "config": thaw(job.frozen)}
    write_json(job.payload, content)
    env = {**os.environ, SWEEP: group}
    if workers > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        if gpus := visible_gpus():
            env["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    command = [sys.executable, "-m", "magic_insert.launch.sweep_job", str(job.payload), str(job.result)]
    with open(job.log, "wb") as log:
        # A session of its own: Ctrl-C reaches it through us alone.
        return subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def last_words(log: Path, code: int) -> str:
    """Why a job failed, in one line: the last line of its log, or the signal that ended it."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("magic-insert: ") if lines else f"exit code {code}"
