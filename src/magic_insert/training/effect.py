"""Fits the effect network to Toybox scenes that are rendered while it learns.

Run as `python -m magic_insert.training.effect --minutes 3 --workers 14 --device cuda --out FOLDER`. Workers render
fresh scenes into a buffer; every batch is drawn from it anew and randomised (`effect_looks`). What it writes every half
minute is a complete weights file; `--start FILE` goes on from one.
Shape letters: B rows of a batch, H, W the network's rows and columns.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from magic_insert.core.fidelity import psnr_pooled, region_sums
from magic_insert.data.relit_pairs import RelitPairs, training_chunk
from magic_insert.models.effect_net import SIDE, Effect, EffectNet, EffectNetConfig, load_effect_net
from magic_insert.training.effect_looks import Batch, Dice, randomised

STORED, TRACED, CHUNK = (
    144,
    192,
    4,
)  # side of buffered pictures, of traced ones, scenes a worker renders at once
VISIBLE = 0.04  # a change of this size is an effect without doubt


@dataclass(frozen=True)
class EffectOptions:
    """What a run of the training is asked for."""

    minutes: float = 3.0
    workers: int = 2
    device: str = "cpu"
    batch: int = 64
    drawings: int = 3
    lr: float = 1e-3
    seed: int = 0
    buffer: int = 24_000
    first: int = 256  # drawings before the first step
    invent: float = 0.3
    scene_lit: float = 0.2
    warm: int = 100  # steps until the full rate
    ema: float = 0.998
    refine: int = 0  # 1: the encoder and what reads the sun stay as they are


def effect_loss(effect: Effect, batch: Batch) -> dict[str, Tensor]:
    """The parts of the loss; only what lies outside the subject counts."""
    free = 1.0 - batch.mask
    found = batch.scene * torch.exp(effect.log_shade) + effect.light
    change = (batch.truth - batch.scene).abs().amax(1, keepdim=True)
    sure = (change / VISIBLE).clamp(0, 1) * free
    weight = free * (1.0 + 2.0 * sure)
    error = found - batch.truth
    dark = torch.log(batch.truth.clamp_min(0.02) / batch.scene.clamp_min(0.02)).clamp(-2.5, 0.0)
    seen = weight * (batch.scene > 0.08).float()
    gate = torch.nn.functional.binary_cross_entropy_with_logits(effect.gate_logit, sure, reduction="none")
    sun_error = (effect.sun - batch.sun).square()
    share = batch.sun[:, 4:]
    sun = (sun_error[:, :3] * share).sum(1) + sun_error[:, 3:].sum(1)
    return {
        "picture": 20.0 * (weight * error.square()).mean() + 0.5 * (weight * error.abs()).mean(),
        "layer": 0.5 * (seen * (effect.log_shade - dark).square()).mean(),
        "gate": 0.15 * (gate * free).mean(),
        "sun": 0.2 * (sun * batch.known).mean(),
    }


class EffectModule(pl.LightningModule):
    """The effect network, its loss, and the moving average of its weights, which is what is shipped."""

    def __init__(self, net: EffectNet, options: EffectOptions) -> None:
        super().__init__()
        self.net, self.options = net, options
        self.average = {k: v.detach().clone().float() for k, v in net.state_dict().items()}
        if options.refine:
            for part in (net.stem, net.down, net.encoder, net.read_sun, net.sun, net.middle):
                part.requires_grad_(False)
        self.began = time.monotonic()
        self.generator = torch.Generator(options.device).manual_seed(options.seed)

    @property
    def share(self) -> float:
        """How much of the time is over, in [0, 1]."""
        return min(1.0, (time.monotonic() - self.began) / (60.0 * self.options.minutes))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        options = self.options
        dice = Dice(self.generator)
        with torch.autocast(self.device.type, enabled=False):
            batch = randomised(batch, dice, SIDE, invent=options.invent, scene_lit=options.scene_lit)
        given = dice.chance(len(batch.scene), 0.4).view(-1) * batch.known
        effect = self.net(batch.scene, batch.pasted, batch.mask, batch.sun, given)
        parts = effect_loss(effect, batch)
        loss = torch.stack(list(parts.values())).sum()
        if index % 50 == 0:
            self._report(effect, batch, parts)
        return loss

    @torch.no_grad()
    def _report(self, effect: Effect, batch: Batch, parts: dict[str, Tensor]) -> None:
        """One line: the parts of the loss, and how far the batch's effects came from doing nothing."""
        region = (1.0 - batch.mask) * ((batch.truth - batch.scene).abs().amax(1, keepdim=True) > VISIBLE)
        found = batch.scene * torch.exp(effect.log_shade) + effect.light
        nothing, made = (psnr_pooled(region_sums(p, batch.truth, region)) for p in (batch.scene, found))
        text = " ".join(f"{name} {float(part):.4f}" for name, part in parts.items())
        gain = 0.0 if nothing is None or made is None else made - nothing
        print(f"step {self.global_step} {self.share:.2f} {text} gain {gain:.2f} dB", flush=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        warm = min(1.0, (self.global_step + 1) / self.options.warm)
        rate = self.options.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.share)))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def on_train_batch_end(self, *_: Any) -> None:
        keep = min(self.options.ema, (1 + self.global_step) / (10 + self.global_step))
        state = self.net.state_dict()
        names = list(state)
        old = [self.average[n].to(state[n].device) for n in names]
        torch._foreach_lerp_(old, [state[n].float() for n in names], 1 - keep)
        self.average = dict(zip(names, old, strict=True))
        if self.share >= 1.0:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            [p for p in self.net.parameters() if p.requires_grad],
            lr=self.options.lr,
            weight_decay=0.02,
            betas=(0.9, 0.98),
        )


class Buffer(IterableDataset):
    """Drawings as uint8 on the training device, filled while it is read; the oldest are overwritten."""

    def __init__(self, options: EffectOptions) -> None:
        self.options = options
        self.filled, self.written, self.lock = 0, 0, threading.Lock()
        self.pictures = torch.empty(
            options.buffer, 10, STORED, STORED, dtype=torch.uint8, device=options.device
        )
        self.suns = torch.empty(options.buffer, 5, device=options.device)
        self.generator = torch.Generator(options.device).manual_seed(options.seed + 1)

    def add(self, pairs: RelitPairs) -> None:
        stack = np.concatenate([pairs.without, pairs.own, pairs.mask, pairs.with_subject], 1)
        with self.lock:
            place = (torch.arange(len(stack)) + self.written) % self.options.buffer
            self.pictures[place.to(self.pictures.device)] = torch.from_numpy(stack).to(self.pictures.device)
            self.suns[place.to(self.suns.device)] = torch.from_numpy(pairs.sun).to(self.suns.device)
            self.written += len(stack)
            self.filled = min(self.written, self.options.buffer)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            pick = torch.rand(self.options.batch, generator=self.generator, device=self.generator.device)
            index = (pick * self.filled).long()
            scene, own, mask, truth = (self.pictures[index].float() / 255.0).split([3, 3, 1, 3], 1)
            known = torch.ones(len(index), device=index.device)
            yield Batch(scene, own, mask, truth, self.suns[index], known)


def _render(options: EffectOptions, number: int, out: Any) -> None:
    """A worker: renders every `workers`-th chunk of scenes until it is stopped."""
    torch.set_num_threads(1)
    for chunk in itertools.count(number, options.workers):
        pairs = training_chunk(
            options.seed, chunk * CHUNK, CHUNK, drawings=options.drawings, side=STORED, traced=TRACED
        )
        out.put(asdict(pairs))


def _drain(out: Any, buffer: Buffer, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            buffer.add(RelitPairs(**out.get(timeout=0.5)))
        except queue.Empty:
            continue


def write_weights(module: EffectModule, path: Path, card: dict[str, Any]) -> None:
    """The averaged weights in half precision, with what is needed to build the network in the metadata."""
    from safetensors.torch import save_file

    config = module.net.config
    shape = {
        "widths": ",".join(map(str, config.widths)),
        "blocks": str(config.blocks),
        "fine": str(config.fine),
    }
    tensors = {k: v.to("cpu", torch.float16).contiguous() for k, v in module.average.items()}
    partial = path.with_suffix(".tmp")
    save_file(tensors, partial, metadata={**shape, "card": json.dumps(card)})
    os.replace(partial, path)


def fit_effect(options: EffectOptions, folder: Path, *, start: Path | None, pool: Path | None) -> Path:
    """Trains for the given minutes and writes `effect.safetensors` and `card.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Workers fork before the device is touched: they cost no second import of torch.
    context, stop = multiprocessing.get_context("fork"), threading.Event()
    out = context.Queue(64)
    workers = [
        context.Process(target=_render, args=(options, number, out), daemon=True)
        for number in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    torch.manual_seed(options.seed)
    net = (
        EffectNet(EffectNetConfig()) if start is None else load_effect_net(start).train().requires_grad_(True)
    )
    module = EffectModule(net.to(memory_format=torch.channels_last), options)
    buffer = Buffer(options)
    for file in sorted(pool.glob("*.npz")) if pool else []:
        with np.load(file) as saved:
            buffer.add(RelitPairs(**{name: saved[name] for name in saved.files}))
    drain = threading.Thread(target=_drain, args=(out, buffer, stop), daemon=True)
    drain.start()
    while buffer.filled < options.first:
        time.sleep(0.1)
    print(f"{buffer.filled} drawings after {time.monotonic() - module.began:.0f} s", flush=True)
    trainer = pl.Trainer(
        accelerator="gpu" if options.device.startswith("cuda") else "cpu",
        devices=1,
        max_epochs=-1,
        precision="bf16-mixed" if options.device.startswith("cuda") else "32-true",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[_Keep(folder, buffer)],
    )
    trainer.fit(module, DataLoader(buffer, batch_size=None))
    stop.set()
    for worker in workers:
        worker.terminate()
    return _keep(module, folder, buffer)


def _keep(module: EffectModule, folder: Path, buffer: Buffer) -> Path:
    card = {
        **asdict(module.options),
        "steps": module.global_step,
        "drawings_rendered": buffer.written,
        "parameters": sum(p.numel() for p in module.net.parameters()),
    }
    write_weights(module, folder / "effect.safetensors", card)
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return folder / "effect.safetensors"


class _Keep(pl.Callback):
    """Writes the weights every half minute."""

    def __init__(self, folder: Path, buffer: Buffer) -> None:
        self.folder, self.buffer, self.last = folder, buffer, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            assert isinstance(module, EffectModule)
            _keep(module, self.folder, self.buffer)
            print(f"kept at step {module.global_step}, {self.buffer.written} drawings", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the effect network on fresh Toybox scenes.")
    for name, value in asdict(EffectOptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--pool", type=Path, help="a folder of rendered chunks (.npz) to begin with")
    given = vars(parser.parse_args(arguments))
    folder, start, pool = given.pop("out"), given.pop("start"), given.pop("pool")
    print(fit_effect(EffectOptions(**given), folder, start=start, pool=pool))


if __name__ == "__main__":
    main()
