"""SDXL at full size with random weights, from its public configuration: what a job takes without a download.

Run as `python tools/full_size.py personalize --image-size 256` (or `insertion`, `shard`, `bootstrap`, `insert`): two
steps on a CPU in float32, and the most memory that the process held for it beside what `magic-insert plan` counts.
Needs up to 17 GB. With `--device cuda --image-size 1024` the steps are those of the recipe, in half precision, and the
memory the GPU's. Every weight takes part whatever the size of the picture. Pictures drawn with it are noise.

`shard` trains all weights of an edit UNet as one of eight ranks does (FSDP2), without the other seven: what they would
send is this rank's own, so its memory and its work are a rank's and its numbers mean nothing.
"""

import argparse
import ctypes
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from torch import distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.jobs import PlanConfig
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.models.edit_unet import EditSampling, edit, open_for_lora
from magic_insert.models.memory_plan import CONTEXT, COUNTS, TEXT, TEXT_2, UNET, VAE, WORDS
from magic_insert.models.micro import build_tokenizer, load_tokenizers
from magic_insert.models.pipeline import HALF, PRECISIONS, quiet
from magic_insert.models.sampling import sample
from magic_insert.training.insertion import EditFit, EditLatents, InsertionModule, edit_batches
from magic_insert.training.personalize import personalize
from magic_insert.training.trainer import TrainerOptions, fit

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
EDIT_CHANNELS = 9
# The recipes of model=sdxl in two steps of one picture, one where it is drawn; on a CPU in float32, because half
# precision is slow there.
WHOLE = ("model=sdxl", "model.ip_adapter=null")
RANKS = 8
STEPS = 2  # the first makes the moments, the second has them while it computes
RECIPES = {
    "personalize": ("job=personalize", f"personalization.steps={STEPS}", "personalization.batch_size=1"),
    "insertion": ("job=insertion", "train.lora_rank=64", "train.batch_size=1"),
    "shard": ("job=insertion", "train.strategy=fsdp2", f"gpus={RANKS}", f"train.batch_size={RANKS}"),
    "bootstrap": ("job=bootstrap", "fit.lora_rank=64", "fit.batch_size=1", "harvest.batch_size=1"),
    "insert": ("job=insert",),
}
GROUPS = ("personalization", "train", "fit")
SLOW = ("model.dtype=float32", *(f"{group}.precision=32-true" for group in GROUPS))
MMAP_THRESHOLD = -3  # of mallopt(3)
DRAWN = 2**20  # random numbers that weights are made of, again and again: drawing 3.5 billion takes minutes


def build_full_size(
    tokenizer_folder: Path,
    *,
    image_size: int = 1024,
    device: torch.device | str = "cpu",
    dtype: torch.dtype,
    channels: int = 4,
) -> Any:
    """A StableDiffusionXLPipeline of SDXL's shape; its tokenizer is a small one that is written to a folder.

    Args:
        tokenizer_folder: where the tokenizer goes.
        image_size: side in pixels that it draws.
        device: where the weights are made.
        dtype: their precision.
        channels: what its UNet reads.
    """
    build_tokenizer(tokenizer_folder, ["a photo of a cat, sitting"], context=CONTEXT)
    tokenizer, tokenizer_2 = load_tokenizers(tokenizer_folder)
    shared = {
        **WORDS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.device("meta"):
        parts = {
            "unet": UNet(**{**UNET, "in_channels": channels}),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT, **shared)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2, **shared)),
        }
    for part in parts.values():
        with quiet():
            part.to(dtype)
        fill(part.to_empty(device=device))
        part.requires_grad_(False).eval()
    pipe = StableDiffusionXLPipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        add_watermarker=False,
    )
    pipe.default_sample_size = image_size // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Small random weights, norms at rest, and positions counted anew: `to_empty` leaves whatever memory held."""
    drawn = 0.02 * torch.randn(DRAWN, generator=generator(0, "weights"))
    drawn = drawn.to(next(network.parameters()))
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            for part in parameter.view(-1).split(DRAWN):
                part.copy_(drawn[: len(part)])
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    for buffer in network.buffers():  # of all these networks only CLIP's positions
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))


def hollow(network: nn.Module) -> None:
    """Random weights as in `fill` that all lie in the same memory: a slice of each is as large as ever."""
    large = max(parameter.numel() for parameter in network.parameters())
    drawn = 0.02 * torch.randn(large, generator=generator(0, "weights"))
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                value = drawn[: parameter.numel()].view(parameter.shape)
            else:
                value = torch.full(
                    parameter.shape, float("Norm" in type(module).__name__ and name == "weight")
                )
            setattr(module, name, nn.Parameter(value))


def built(cfg: PlanConfig, scratch: Path, **more: Any) -> Any:
    """The pipeline where `cfg` wants it and in its precision."""
    model = cfg.model
    where = {"device": model.device, "dtype": PRECISIONS[model.dtype], **more}
    pipe = build_full_size(scratch / "tokenizer", image_size=model.image_size, **where)
    with quiet():
        pipe.vae.to(torch.float32)  # as it is loaded
    return pipe


def learn_subject(cfg: PlanConfig, scratch: Path) -> None:
    """Two steps of `personalize` into `scratch`/run."""
    pipe = built(cfg, scratch)
    picture = torch.rand(3, 64, 64, generator=generator(0, "subject"))
    subject = Subject(picture, torch.ones(1, 64, 64), "noise")
    personalize(pipe, subject, cfg.personalization, seed=0, out=scratch / "run")


def learn_to_insert(cfg: PlanConfig, scratch: Path) -> None:
    """Two steps of `insertion`, whose edit UNet has the device for itself; the checkpoint goes into `scratch`."""
    recipe = cfg.fit if cfg.job == "bootstrap" else cfg.train
    with torch.device("meta"):
        unet = UNet(**{**UNET, "in_channels": EDIT_CHANNELS})
    if cfg.gpus > 1:
        hollow(unet)
    else:
        with quiet():
            unet.to(HALF.get(recipe.precision, torch.float32))
        fill(unet.to_empty(device=cfg.model.device))
    unet.train()
    if recipe.lora_rank:
        open_for_lora(unet, rank=recipe.lora_rank, seed=0)
    unet.enable_gradient_checkpointing()
    empty = torch.zeros(1, CONTEXT, UNET["cross_attention_dim"]), torch.zeros(1, TEXT_2["projection_dim"])
    size, side = cfg.model.image_size, cfg.model.image_size // 8
    settings = EditFit("insert", STEPS, recipe.batch_size, 1e-4, 0)
    module = InsertionModule(unet, DDIMScheduler(**SCHEDULER), empty, settings, image_size=size)
    pairs = np.random.default_rng(0).standard_normal((2, 1, 1, 4, side, side)).astype(np.float16)
    latents = EditLatents(*pairs, (pairs[0, :, :, :1] > 0).astype(np.float16))
    options = TrainerOptions(
        steps=STEPS,
        device=cfg.model.device,
        precision=recipe.precision,
        ema_decay=recipe.ema_decay or None,
        strategy=cfg.train.strategy,
    )
    with one_rank_of(cfg.gpus) if cfg.gpus > 1 else nullcontext():
        fit(module, edit_batches(latents, settings), options, scratch)


@contextmanager
def one_rank_of(count: int) -> Iterator[None]:
    """Inside this block this process is a rank of `count` whose others are not there; not the first, which writes."""
    told = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": "1"}
    told |= {"GROUP_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    keep = mock.patch.object(distributed, "broadcast_object_list")
    with mock.patch.dict(os.environ, told), keep:
        distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=count)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def harvest_and_fit(cfg: PlanConfig, scratch: Path) -> None:
    """What a round of `bootstrap` takes: a step of a removal, which needs no UNet but its own, and two of its fit."""
    pipe = built(cfg, scratch, channels=EDIT_CHANNELS)
    picture = torch.rand(1, 3, cfg.model.image_size, cfg.model.image_size, generator=generator(0, "picture"))
    picture = picture.to(pipe.device)
    assert edit(pipe, pipe.unet, picture, picture[:, :1], EditSampling(0, ["a"], 1)).isfinite().all()
    del pipe
    gc.collect()
    learn_to_insert(cfg, scratch)


def draw(cfg: PlanConfig, scratch: Path) -> None:
    """A step of drawing one picture with guidance, and its decoding."""
    pipe = built(cfg, scratch)
    assert sample(pipe, ["a cat"], [0], steps=1, guidance=5.0).isfinite().all()


JOBS: dict[str, Callable[[PlanConfig, Path], None]] = {
    "personalize": learn_subject,
    "insertion": learn_to_insert,
    "shard": learn_to_insert,
    "bootstrap": harvest_and_fit,
    "insert": draw,
}


@dataclass(frozen=True)
class Outcome:
    """What was counted and what was held, in 10^9 bytes, and how long the steps and their preparation took."""

    planned_gb: float
    held_gb: float
    seconds: float


def run_job(job: str, image_size: int, scratch: Path, device: str = "cpu") -> Outcome:
    """The steps of `job`. On a CPU what the plan leaves there, the autoencoder of a training, is counted too."""
    words = [*WHOLE, *RECIPES[job], f"model.image_size={image_size}", f"model.device={device}"]
    cfg = freeze(compose_job("plan", [*words, *(SLOW if device == "cpu" else ())]))
    planned, place = sum(COUNTS[cfg.job](cfg, device=device).values()) / 1e9, torch.device(device)
    if job == "personalize" and device == "cpu":
        with torch.device("meta"):
            planned += 4 * sum(p.numel() for p in AutoencoderKL(**VAE).parameters()) / 1e9
    if place.type == "cpu":  # what is freed goes back at once: nothing is held because the heap has holes
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**18)
    reset_peak(place)
    before, began = peak_gigabytes(place), time.perf_counter()
    JOBS[job](cfg, scratch)
    held = peak_gigabytes(place) - before
    return Outcome(planned, held, time.perf_counter() - began)


def reset_peak(device: torch.device) -> None:
    """From here on `peak_gigabytes` speaks of what comes. On a CPU that takes Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gigabytes(device: torch.device) -> float:
    """The most memory held since the last reset, in 10^9 bytes: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what was counted, what was held, and how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        made = run_job(options.job, options.image_size, Path(scratch), options.device)
    print(
        f"{options.job}, {options.image_size} pixels: counted {made.planned_gb:.2f} GB, held {made.held_gb:.2f} GB, "
        f"{made.seconds:.0f} s with the building of the weights"
    )


if __name__ == "__main__":
    main()
