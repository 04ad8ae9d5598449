"""What the parts of the foundation share: AdamW with warm-up and cosine decay, and the denoising loss.

Shape letters: B batch, C latent channels, h w latent size, T tokens, D width.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Learning-rate factor in (0, 1]: linear up over `warmup` steps, then a half cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


class PartModule(pl.LightningModule):
    """A part that is trained by AdamW on the parameters that require a gradient."""

    def __init__(self, *, lr: float, steps: int, weight_decay: float = 0.01):
        super().__init__()
        self.lr, self.steps, self.weight_decay = lr, steps, weight_decay

    def configure_optimizers(self) -> Any:
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay
        )
        warmup = max(1, min(200, self.steps // 10))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: warmup_cosine(s, self.steps, warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def encode_ids(
    text_encoder: nn.Module, text_encoder_2: nn.Module, ids: Tensor, ids_2: Tensor
) -> tuple[Tensor, Tensor]:
    """SDXL's conditioning: second-to-last states of both encoders side by side (B T D), pooled text (B E)."""
    first = text_encoder(ids, output_hidden_states=True)
    second = text_encoder_2(ids_2, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def time_ids(batch: int, image_size: int, device: torch.device) -> Tensor:
    """SDXL's size conditioning: original size, crop corner, target size, for uncropped square pictures (B 6)."""
    return (
        torch.tensor([[image_size, image_size, 0, 0, image_size, image_size]], device=device)
        .repeat(batch, 1)
        .float()
    )


def velocity_loss(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    extra: Tensor | None = None,
    states: Tensor,
    added: dict[str, Any],
) -> Tensor:
    """Mean squared error of the predicted velocity (Salimans and Ho 2022, eq. 12), unweighted.

    Args:
        latents: clean, scaled latents, B C h w.
        extra: further input channels set beside the noisy latent, B K h w.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    inputs = noisy if extra is None else torch.cat([noisy, extra], dim=1)
    predicted = unet(
        inputs, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
    )[0]
    return (predicted.float() - target.float()).square().mean()
