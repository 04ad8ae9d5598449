"""The bench of the trainer measures both loops on the same number of steps, each with a peak of its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.training.bench import WARM_UP, compare, peak_gigabytes, reset_peak

CPU = torch.device("cpu")
CONFIG = PersonalizationConfig(
    steps=WARM_UP + 2, batch_size=1, rank=2, alpha=2.0, targets=["to_q"],
    lr_unet=1e-3, wd_unet=0.0, lr_tokens=1e-3, wd_tokens=0.0, checkpoint_every=1000,
)  # fmt: skip


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_loops_are_timed_step_by_step_and_leave_the_model_as_it_was(
    tiny_pipe: Any, precision: str
) -> None:
    ours, bare = compare(tiny_pipe, replace(CONFIG, precision=precision), blocks=2)
    for cost in (ours, bare):
        assert len(cost.seconds) == 2 * 2  # two counted steps in each of two blocks
        assert min(cost.seconds) > 0
        assert cost.peak_gb > 0.1  # torch alone takes as much
    assert not hasattr(tiny_pipe.unet, "peft_config")


def test_a_peak_is_forgotten_when_the_next_loop_begins() -> None:
    held = torch.ones(100_000_000)  # 0.4 GB
    del held
    before = peak_gigabytes(CPU)
    reset_peak(CPU)
    assert peak_gigabytes(CPU) < before - 0.2
