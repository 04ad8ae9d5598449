"""Measures what `threads=auto` costs: a personalisation with one thread, with all, and with the measured number.

Run as `python tools/bench_threads.py`; `--busy` takes one core away by a process that counts, as a neighbour on a
laptop or a shared node does. Each training is a process of its own, because threads that were started stay.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from magic_insert.core.threads import CHOSEN, allowed_threads


def count_for_ever() -> None:
    """A neighbour that never rests."""
    while True:
        pass


def train(steps: int) -> None:
    """Prints the seconds of a personalisation at micro size with random weights, without its start."""
    import torch

    from magic_insert.config.compose import compose_job
    from magic_insert.config.freeze import freeze
    from magic_insert.core.records import Subject
    from magic_insert.models.pipeline import load_pipeline
    from magic_insert.training.personalize import personalize

    words = ["subject=a", "out=b", f"personalization.steps={steps}", "personalization.validation.every=0"]
    cfg = freeze(compose_job("personalize", words))
    pipe = load_pipeline(cfg.model)
    subject = Subject(torch.rand(3, 96, 96), torch.ones(1, 96, 96), "noise")
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        personalize(pipe, subject, cfg.personalization, seed=0, out=Path(scratch) / "run")
        print(f"{time.perf_counter() - began:.1f}")


def seconds(steps: int, threads: str) -> float:
    """Seconds of a training in a process with so many threads."""
    env = {key: value for key, value in os.environ.items() if key != CHOSEN}
    if threads != "auto":
        env[CHOSEN] = threads
    command = [sys.executable, __file__, "--train", "--steps", str(steps)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints a table of seconds."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--busy", action="store_true", help="beside a process that holds one core")
    parser.add_argument("--threads", nargs="+", default=["1", "auto", str(allowed_threads())])
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.steps)
        return
    neighbour = multiprocessing.Process(target=count_for_ever, daemon=True)
    if options.busy:
        neighbour.start()
    print(f"{options.steps} steps on {allowed_threads()} cores, {'one busy' if options.busy else 'quiet'}")
    for threads in options.threads:
        print(f"{threads:>5} threads   {seconds(options.steps, threads):7.1f} s", flush=True)
    if options.busy:
        neighbour.terminate()


if __name__ == "__main__":
    main()
