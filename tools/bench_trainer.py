"""Measures the trainer: a step of `PersonalizeModule` against a bare PyTorch loop over the same graph and data.

Run as `python tools/bench_trainer.py`, with `--size sdxl --device cuda` for SDXL's shape and random weights.
Blocks of both loops alternate in one process, so that a busy machine is unkind to both. Each loop has a peak of memory
of its own, the model included.
"""

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import build_full_size, peak_gigabytes, reset_peak
from pytorch_lightning.callbacks import Callback
from random_micro import build_micro
from torch import nn

from magic_insert.config.schema.shared import LoggerConfig, ModelConfig
from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.rand import generator
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.text import initial_tokens
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints
from magic_insert.training.personalize import options_of
from magic_insert.training.personalize_module import (
    CachedViews,
    PersonalizeModule,
    checkpointed,
    diffuse,
    subject_batches,
    trainables_of,
)
from magic_insert.training.trainer import Batch, fit

WARM_UP = 2  # steps of a block that are not counted: memory is taken, Lightning sets itself up


@dataclass
class Cost:
    """Seconds of every counted step of a loop, and the most memory held while it ran, in 10^9 bytes."""

    seconds: list[float] = field(default_factory=list)
    peak_gb: float = 0.0

    def add(self, device: torch.device, block: Callable[[], Sequence[float]]) -> None:
        """Runs a block, which returns the ends of its steps, and counts it."""
        reset_peak(device)
        self.seconds += spans(block())
        self.peak_gb = max(self.peak_gb, peak_gigabytes(device))


class Clock(Callback):
    """The end of every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Notes the time, after the device is done."""
        self.ends.append(finished(self.device))


def finished(device: torch.device) -> float:
    """The time when `device` has nothing left to do, in seconds; on a CPU of the time that this process was given."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def bare_steps(module: PersonalizeModule, batch_at: Callable[[int], Batch], count: int) -> list[float]:
    """The ends of `count` steps of a loop as a notebook would have it."""
    cfg, device = module.cfg, module.unet_device
    parameters = list(module.trained().values())
    optimizer = module.configure_optimizers()
    ends = []
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16-mixed")
    for step in range(count):
        batch = batch_at(step)
        kept = module.kept[batch["times"]].to(device)
        with mixed:
            noisy, target = diffuse(
                batch["latents"].to(device), batch["noise"].to(device), kept, module.prediction
            )
            error = (module.forward(noisy, batch["times"].to(device)) - target).square()
            loss = error.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, cfg.clip_norm)
        optimizer.step()
        ends.append(finished(device))
    return ends


def spans(ends: Sequence[float]) -> list[float]:
    """Seconds between consecutive ends, without the warm-up."""
    return [b - a for a, b in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]


def compare(pipe: Any, cfg: PersonalizationConfig, blocks: int) -> tuple[Cost, Cost]:
    """What a step of the module in our trainer and of the bare loop costs, in alternating blocks of `cfg.steps`."""
    ours, bare = Cost(), Cost()
    side = pipe.default_sample_size
    shape = (2, pipe.unet.config.in_channels, side, side)
    cache = CachedViews(
        torch.randn(shape, generator=generator(0, "bench")), torch.ones(shape[0], 1, side, side)
    )
    tokens = initial_tokens(pipe, cfg.num_tokens)
    with (
        tempfile.TemporaryDirectory() as scratch,
        trainables_of(pipe, tokens, cfg, seed=0) as trainables,
        checkpointed(pipe.unet, cfg.gradient_checkpointing),
        open_tracker(scratch, "bench", LoggerConfig(), {}) as tracker,
    ):
        module = PersonalizeModule(trainables, cfg)
        batch_at = subject_batches([cache], cfg, seed=0, num_times=len(module.kept))

        def under_lightning() -> list[float]:
            clock = Clock(module.unet_device)
            fit(
                module,
                batch_at,
                options_of(cfg, pipe),
                Path(scratch),
                log=tracker.log,
                callbacks=[clock],
            )
            clear_checkpoints(Path(scratch))
            return clock.ends

        for _ in range(blocks):
            ours.add(module.unet_device, under_lightning)
            bare.add(module.unet_device, partial(bare_steps, module, batch_at, cfg.steps))
    return ours, bare


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints seconds a step of both loops, their ratio and the peak of memory."""
    parser = argparse.ArgumentParser(description="What the trainer costs beside the bare loop.")
    parser.add_argument("--size", choices=("micro", "sdxl"), default="micro")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    full = options.size == "sdxl"
    size = options.image_size or (1024 if full else 128)
    cfg = PersonalizationConfig(
        steps=options.steps,
        batch_size=options.batch,
        rank=32,
        alpha=32.0,
        targets=["to_q", "to_k", "to_v", "to_out.0"],
        lr_unet=1e-4,
        wd_unet=0.01,
        lr_tokens=1e-3,
        wd_tokens=0.1,
        precision="bf16-mixed" if full else "32-true",
        gradient_checkpointing=full,
        checkpoint_every=1_000_000,
    )
    with tempfile.TemporaryDirectory() as scratch:
        if full:
            pipe = build_full_size(
                Path(scratch), image_size=size, device=options.device, dtype=torch.bfloat16
            )
        else:
            folder = build_micro(Path(scratch) / "micro", size="micro")
            model = ModelConfig(name="micro", source=str(folder), image_size=size, device=options.device)
            pipe = load_pipeline(model, device=options.device)
        ours, bare = compare(pipe, cfg, options.blocks)
    device = pipe.unet.device
    # A busy machine lengthens some steps; the fastest quarter is what the code itself takes.
    one, other = (statistics.quantiles(cost.seconds, n=4)[0] for cost in (ours, bare))
    print(f"personalisation step, {options.size}, {size} pixels, batch {options.batch}, {device}")
    for name, time_s, cost in (("PersonalizeModule", one, ours), ("bare PyTorch loop", other, bare)):
        counted = f"fastest quarter of {len(cost.seconds)} steps"
        print(f"{name}   {time_s * 1e3:9.1f} ms   peak {cost.peak_gb:6.2f} GB   ({counted})")
    print(f"overhead            {100 * (one / other - 1):+9.1f} %")


if __name__ == "__main__":
    main()
