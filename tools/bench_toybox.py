"""Measures the Toybox: subject pictures and scene pairs a second, traced only and drawn in a mix of styles.

Run as `python tools/bench_toybox.py --device cuda --size 128`.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import TRAIN_STYLES
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.world import render_pairs, render_subjects, trace_scenes, trace_subjects


def rate(work: Callable[[], object], pictures: int, device: torch.device, seconds: float) -> float:
    """Pictures a second: `work` makes `pictures`; it is repeated for about `seconds` after a warm-up."""

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    work()
    start, done, spent = finish(), 0, 0.0
    while spent < seconds:
        work()
        done += pictures
        spent = finish() - start
    return done / spent


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line a product."""
    parser = argparse.ArgumentParser(description="How fast the Toybox renders.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    count, size, device = options.batch, options.size, torch.device(options.device)
    subjects = [sample_subject(seed) for seed in range(count)]
    scenes = [sample_scene(seed) for seed in range(count)]
    styles = [TRAIN_STYLES[seed % len(TRAIN_STYLES)] for seed in range(count)]
    complexity, seeds = [0.5] * count, list(range(count))
    products: dict[str, Callable[[], object]] = {
        "subjects, traced": lambda: trace_subjects(subjects, size, device),
        "subjects, drawn (antialiased)": lambda: render_subjects(
            subjects, styles, complexity, seeds, size, device
        ),
        "scene pairs, traced": lambda: trace_scenes(scenes, subjects, size, device),
        "scene pairs, drawn (antialiased)": lambda: render_pairs(
            scenes, subjects, styles, complexity, seeds, size, device
        ),
    }
    print(f"{size} x {size} pixels, batches of {count}, {device}, {options.threads} threads")
    for name, work in products.items():
        print(f"{name:34s} {rate(work, count, device, options.seconds):8.1f} a second", flush=True)


if __name__ == "__main__":
    main()
