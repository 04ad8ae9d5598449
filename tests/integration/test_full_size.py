"""SDXL at full size with random weights on a CPU: one training step and one sampling step in bfloat16."""

from pathlib import Path

import pytest
import torch
from full_size import build_full_size
from safetensors.torch import load_file

from magic_insert.config.schema.training import PersonalizationConfig
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import load_lora, use_lora
from magic_insert.models.sampling import sample
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, initial_tokens, load_tokens
from magic_insert.training.personalize import personalize

FREE_GIGABYTES = 16
SIZE = 256  # pixels; every weight takes part whatever the size


def free_gigabytes() -> float:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) / 1e6


@pytest.mark.slow
def test_full_size_sdxl_takes_a_training_step_and_draws_with_it(tmp_path: Path) -> None:
    if free_gigabytes() < FREE_GIGABYTES:
        pytest.skip(f"needs {FREE_GIGABYTES} GB of free memory")
    pipe = build_full_size(tmp_path / "tokenizer", image_size=SIZE, dtype=torch.bfloat16)
    parts = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.vae)
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert 3.4e9 < count < 3.6e9  # SDXL base: 3.5 billion
    cfg = PersonalizationConfig(
        steps=1,
        batch_size=1,
        rank=4,
        alpha=4.0,
        targets=["to_q", "to_k", "to_v", "to_out.0"],
        lr_unet=1e-4,
        wd_unet=0.01,
        lr_tokens=1e-3,
        wd_tokens=0.1,
        views=1,
        precision="bf16-mixed",
        gradient_checkpointing=True,
    )
    subject = Subject(
        torch.rand(3, 64, 64, generator=generator(0, "subject")), torch.ones(1, 64, 64), "noise"
    )
    run = personalize(pipe, subject, cfg, seed=0, out=tmp_path / "run")
    learned = load_file(run / LORA_FILE)
    outputs = {name: tensor for name, tensor in learned.items() if "lora_B" in name}
    assert len(outputs) == len(learned) / 2
    assert all(tensor.any() for tensor in outputs.values())  # they start at zero
    load_lora(pipe, run / LORA_FILE, "subject")
    tokens = load_tokens(run / TOKENS_FILE)
    start = initial_tokens(pipe, 2)
    assert all(not torch.equal(tokens.rows[key], start.rows[key]) for key in start.rows)
    assert tokens.rows["clip_g"].shape == (2, 1280)
    with attached(pipe, tokens):
        use_lora(pipe, "subject")
        picture = sample(pipe, ["A <v1> <v2>."], [0], steps=1, guidance=1.0)
    assert picture.shape == (1, 3, SIZE, SIZE)
    assert picture.isfinite().all()
