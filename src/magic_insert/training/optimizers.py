"""The optimizers a user may choose, over groups that carry their base learning rate.

`lr` of a group is set anew at every step (schedule times `base_lr`), so a schedule needs no state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from magic_insert.config.extras import require_optimizer
from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.errors import UserError
from magic_insert.training.schedule import lr_factor


def check_device(cfg: PersonalizationConfig, device: torch.device) -> None:
    """That `device` can do what `cfg` asks for and the optimizer is installed.

    Raises:
        UserError: 8-bit states or float16 were asked for without a GPU, or a package is missing.
    """
    require_optimizer(cfg.optimizer)
    if device.type == "cuda":
        return
    if cfg.optimizer == "adamw8bit":
        raise UserError(
            f"expected a GPU for personalization.optimizer=adamw8bit, got {device}; "
            "set personalization.optimizer=adamw"
        )
    if cfg.precision == "16-mixed":
        raise UserError(
            f"expected a GPU for personalization.precision=16-mixed, got {device}; "
            "set personalization.precision=bf16-mixed"
        )


def build_optimizer(
    cfg: PersonalizationConfig, parts: Mapping[str, Sequence[nn.Parameter]], device: torch.device
) -> Optimizer:
    """The optimizer of `cfg` over `parts` (unet, tokens, text), each with its own rate and weight decay.

    Raises:
        UserError: see `check_device`.
    """
    groups: list[dict[str, Any]] = [
        {
            "params": list(parameters),
            "name": name,
            "lr": getattr(cfg, f"lr_{name}"),
            "base_lr": getattr(cfg, f"lr_{name}"),
            "weight_decay": getattr(cfg, f"wd_{name}"),
        }
        for name, parameters in parts.items()
    ]
    check_device(cfg, device)
    if cfg.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups)
    if cfg.optimizer == "prodigy":
        from prodigyopt import Prodigy

        # Learning rates start with a warm-up of their own (safeguard) and decay is decoupled, as its authors advise.
        return Prodigy(groups, decouple=True, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW(groups)


def set_rates(optimizer: Optimizer, step: int, cfg: PersonalizationConfig) -> None:
    """The learning rates of update `step` (from 0); past `token_fraction` of the steps the tokens stand still."""
    factor = lr_factor(step, cfg.steps, cfg.lr_schedule, cfg.warmup_steps)
    for group in optimizer.param_groups:
        still = group["name"] == "tokens" and step >= cfg.token_fraction * cfg.steps
        group["lr"] = 0.0 if still else group["base_lr"] * factor
