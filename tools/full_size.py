"""SDXL at full size with random weights, from its public configuration: what a job takes without a download.

Run as `python tools/full_size.py personalize --image-size 256` (or `insertion`, `insert`): one step on a CPU in
float32, and the most memory that the process held for it beside what `magic-insert plan` counts. Needs up to 17 GB.
With `--device cuda --image-size 1024` the step is that of the recipe, in half precision, and the memory the GPU's.
Every weight takes part whatever the size of the picture. Pictures drawn with it are noise.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.config.schema.jobs import PlanConfig
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.models.edit_unet import open_for_lora
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
# The recipes of model=sdxl in one step of one picture; on a CPU in float32, because half precision is slow there.
WHOLE = ("model=sdxl", "model.ip_adapter=null")
RECIPES = {
    "personalize": ("personalization.steps=1", "personalization.batch_size=1"),
    "insertion": ("train.lora_rank=64", "train.batch_size=1"),
    "insert": (),
}
SLOW = ("model.dtype=float32", "personalization.precision=32-true", "train.precision=32-true")
DRAWN = 2**20  # random numbers that weights are made of, again and again: drawing 3.5 billion takes minutes


def build_full_size(
    tokenizer_folder: Path, *, image_size: int = 1024, device: torch.device | str = "cpu", dtype: torch.dtype
) -> Any:
    """A StableDiffusionXLPipeline of SDXL's shape; its tokenizer is a small one that is written to a folder.

    Args:
        tokenizer_folder: where the tokenizer goes.
        image_size: side in pixels that it draws.
        device: where the weights are made.
        dtype: their precision.
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
            "unet": UNet(**UNET),
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


def built(cfg: PlanConfig, scratch: Path) -> Any:
    """The pipeline where `cfg` wants it and in its precision."""
    model = cfg.model
    pipe = build_full_size(
        scratch / "tokenizer", image_size=model.image_size, device=model.device, dtype=PRECISIONS[model.dtype]
    )
    with quiet():
        pipe.vae.to(torch.float32)  # as it is loaded
    return pipe


def learn_subject(cfg: PlanConfig, scratch: Path) -> None:
    """A step of `personalize` into `scratch`/run."""
    pipe = built(cfg, scratch)
    picture = torch.rand(3, 64, 64, generator=generator(0, "subject"))
    subject = Subject(picture, torch.ones(1, 64, 64), "noise")
    personalize(pipe, subject, cfg.personalization, seed=0, out=scratch / "run")


def learn_to_insert(cfg: PlanConfig, scratch: Path) -> None:
    """A step of `insertion`, whose edit UNet has the device for itself; the checkpoint goes into `scratch`."""
    with torch.device("meta"):
        unet = UNet(**{**UNET, "in_channels": 9})
    with quiet():
        unet.to(HALF.get(cfg.train.precision, torch.float32))
    fill(unet.to_empty(device=cfg.model.device))
    open_for_lora(unet.train(), rank=cfg.train.lora_rank, seed=0)
    unet.enable_gradient_checkpointing()
    empty = torch.zeros(1, CONTEXT, UNET["cross_attention_dim"]), torch.zeros(1, TEXT_2["projection_dim"])
    size, side = cfg.model.image_size, cfg.model.image_size // 8
    settings = EditFit("insert", 1, 1, 1e-4, 0)
    module = InsertionModule(unet, DDIMScheduler(**SCHEDULER), empty, settings, image_size=size)
    pairs = np.random.default_rng(0).standard_normal((2, 1, 1, 4, side, side)).astype(np.float16)
    latents = EditLatents(*pairs, (pairs[0, :, :, :1] > 0).astype(np.float16))
    options = TrainerOptions(
        steps=1,
        device=cfg.model.device,
        precision=cfg.train.precision,
        ema_decay=cfg.train.ema_decay or None,
    )
    fit(module, edit_batches(latents, settings), options, scratch)


def draw(cfg: PlanConfig, scratch: Path) -> None:
    """A step of drawing one picture with guidance, and its decoding."""
    pipe = built(cfg, scratch)
    assert sample(pipe, ["a cat"], [0], steps=1, guidance=5.0).isfinite().all()


JOBS: dict[str, Callable[[PlanConfig, Path], None]] = {
    "personalize": learn_subject,
    "insertion": learn_to_insert,
    "insert": draw,
}


@dataclass(frozen=True)
class Outcome:
    """What was counted and what was held, in 10^9 bytes, and how long the step and its preparation took."""

    planned_gb: float
    held_gb: float
    seconds: float


def run_job(job: str, image_size: int, scratch: Path, device: str = "cpu") -> Outcome:
    """One step of `job`. On a CPU what the plan leaves there, the autoencoder of a training, is counted too."""
    words = [*WHOLE, *RECIPES[job], f"job={job}", f"model.image_size={image_size}", f"model.device={device}"]
    cfg = freeze(compose_job("plan", [*words, *(SLOW if device == "cpu" else ())]))
    planned, place = sum(COUNTS[job](cfg, device=device).values()) / 1e9, torch.device(device)
    if job == "personalize" and device == "cpu":
        with torch.device("meta"):
            planned += 4 * sum(p.numel() for p in AutoencoderKL(**VAE).parameters()) / 1e9
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
