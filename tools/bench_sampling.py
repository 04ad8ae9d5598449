"""Measures drawing: our sampler against the plain diffusers pipeline on the same weights, prompts, steps and guidance.

Run as `python tools/bench_sampling.py`, with `--model FOLDER --device cuda` for another model, or with `--size sdxl
--device cuda` for SDXL's shape and random weights at 1024 pixels in float16. The two draw by turns in one process; on a
CPU the seconds are CPU time, so that a busy machine is unkind to neither.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_trainer import finished
from diffusers import StableDiffusionXLPipeline
from full_size import build_full_size, peak_gigabytes, reset_peak

from magic_insert.config.schema.shared import ModelConfig
from magic_insert.models.ip_adapter import blank_style
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.sampling import sample
from magic_insert.paths import micro_dir

PROMPT = "a yellow striped bunny with a red hat, sitting"


def of_folder(folder: Path, size: int, device: str, dtype: str) -> tuple[Any, Any, dict[str, Any]]:
    """Our pipeline and diffusers' own of the model in `folder`, and what the latter is given besides a prompt."""
    ours = load_pipeline(ModelConfig("model", str(folder), image_size=size, device=device, dtype=dtype))
    plain = StableDiffusionXLPipeline.from_pretrained(
        folder, torch_dtype=getattr(torch, dtype), local_files_only=True, add_watermarker=False
    ).to(device)
    given: dict[str, Any] = {}
    for file in (folder / "ip_adapter").glob("*.safetensors"):  # loaded and at rest, as in ours
        plain.load_ip_adapter(folder, subfolder="ip_adapter", weight_name=file.name)
        plain.set_ip_adapter_scale(0.0)
        given = {"ip_adapter_image_embeds": [blank_style(plain, 2).negative]}
    return ours, plain, given


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the seconds of a picture by both, their ratio, and on a GPU the most memory held."""
    parser = argparse.ArgumentParser(description="Our sampler beside the plain diffusers pipeline.")
    parser.add_argument("--size", choices=("micro", "sdxl"), default="micro", help="sdxl: random weights")
    parser.add_argument("--model", type=Path, default=micro_dir(), help="folder in SDXL's format")
    parser.add_argument("--resolution", type=int, default=None, help="128, of sdxl 1024")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None, choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--pictures", type=int, default=6)
    args = parser.parse_args(arguments)
    full, device = args.size == "sdxl", torch.device(args.device)
    size, dtype = args.resolution or (1024 if full else 128), args.dtype or ("float16" if full else "float32")
    given: dict[str, Any] = {}
    if full:
        with tempfile.TemporaryDirectory() as scratch:
            ours = build_full_size(Path(scratch), image_size=size, device=device, dtype=getattr(torch, dtype))
        ours.vae.register_to_config(force_upcast=False)  # both decode in the one precision
        plain = StableDiffusionXLPipeline(**ours.components, add_watermarker=False)
    else:
        ours, plain, given = of_folder(args.model, size, args.device, dtype)
    plain.set_progress_bar_config(disable=True)
    reset_peak(device)

    def by_us(number: int) -> None:
        sample(ours, [PROMPT], [number], steps=args.steps, guidance=args.guidance)

    def by_diffusers(number: int) -> None:
        plain(
            PROMPT, height=size, width=size, num_inference_steps=args.steps,
            guidance_scale=args.guidance, generator=torch.Generator().manual_seed(number), output_type="pt",
            **given,
        )  # fmt: skip

    ways: dict[str, Callable[[int], None]] = {"magic-insert": by_us, "diffusers": by_diffusers}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.pictures + 1):
        for name, draw in ways.items():
            began = finished(device)
            draw(number)
            spent[name].append(finished(device) - began)
    # The first warms up; a busy machine lengthens some, the fastest quarter is what the code itself takes.
    quick = {name: statistics.quantiles(seconds[1:], n=4)[0] for name, seconds in spent.items()}
    for name, seconds in quick.items():
        print(f"{name:<14}{seconds:8.2f} s a picture of {args.steps} steps")
    print(f"ratio         {quick['magic-insert'] / quick['diffusers']:8.3f}")
    if device.type == "cuda":
        print(f"most memory   {peak_gigabytes(device):8.2f} GB by either")


if __name__ == "__main__":
    main()
