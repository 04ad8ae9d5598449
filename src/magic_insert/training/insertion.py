"""ObjectDrop's tasks, removal and insertion, as one LightningModule with a task switch (arXiv 2403.18818, section 4).

The UNet sees [noisy target latent, condition latent with nothing masked out, mask]; the prompt is empty.
remove: condition = picture with the subject, target = without. insert: condition = copy-paste, target = with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magic_insert.core.rand import generator
from magic_insert.models.pipeline import size_ids
from magic_insert.training.trainer import TrainingModule

Task = Literal["remove", "insert"]
CLEAR_CHANGE = 0.3  # of a scaled latent, whose values have about unit variance; more is a change for certain


@dataclass(frozen=True)
class EditLatents:
    """Scaled latents [N, K, C, h, w] of N pairs in K variants (mirrored, restyled) and the masks at latent size."""

    condition: np.ndarray
    target: np.ndarray
    mask: np.ndarray  # [N, K, 1, h, w] in [0, 1]


class InsertionModule(TrainingModule):
    """Denoising of the edited picture under the empty prompt, in the scheduler's own kind of prediction.

    Args:
        unet: takes 2C + 1 channels; what of it requires a gradient is trained.
        empty: the empty prompt's states (1 T D) and pooled text (1 E) in the pipeline's encoders.
        effect_weight: how much more a cell counts that the edit changes, see `effect_weights`; 0 is ObjectDrop's loss.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        empty: tuple[Tensor, Tensor],
        *,
        image_size: int,
        lr: float,
        steps: int,
        effect_weight: float = 0.0,
    ):
        super().__init__(lr=lr, steps=steps)
        self.unet, self.scheduler, self.image_size = unet, scheduler, image_size
        self.effect_weight = effect_weight
        self.register_buffer("states", empty[0].detach().clone(), persistent=False)
        self.register_buffer("pooled", empty[1].detach().clone(), persistent=False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.denoising_loss(batch)
        self.log("loss", loss)
        return loss

    def denoising_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of what the UNet predicts about a noisy edited picture (Ho et al. 2020), weighted by cell."""
        latents, noise, times = batch["latents"], batch["noise"], batch["timesteps"]
        count = len(latents)
        noisy = self.scheduler.add_noise(latents, noise, times)
        # The weights see the condition as it is, the network as the batch wants it shown.
        shown = batch["condition"] + batch.get("condition_noise", 0.0)
        predicted = self.unet(
            torch.cat([noisy, shown, batch["mask"]], dim=1),
            times,
            encoder_hidden_states=self.states.expand(count, -1, -1),  # type: ignore[operator]
            added_cond_kwargs={
                "text_embeds": self.pooled.expand(count, -1),  # type: ignore[operator]
                "time_ids": size_ids(count, self.image_size, latents.device),
            },
            return_dict=False,
        )[0]
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, times) if velocity else noise
        error = (predicted.float() - target.float()).square()
        return (effect_weights(batch["condition"], latents, self.effect_weight) * error).mean()


def effect_weights(condition: Tensor, target: Tensor, strength: float) -> Tensor:
    """Loss weights B 1 h w with mean 1 in every picture: cells the edit changes count up to 1 + `strength` times.

    A shadow covers a few cells in a hundred, so an unweighted loss mostly rewards copying what the condition shows.
    """
    changed = ((target - condition).abs().mean(dim=1, keepdim=True) / CLEAR_CHANGE).clamp(max=1.0)
    weights = 1.0 + strength * changed
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def mask_cells(mask: np.ndarray, size: int) -> np.ndarray:
    """uint8 masks [N, 1, H, W] as the covered share of each latent cell, float16 [N, 1, size, size]."""
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32) / 255.0), (size, size))
    return share.numpy().astype(np.float16)


def edit_batches(
    data: EditLatents,
    *,
    task: Task,
    seed: int,
    batch_size: int,
    dropout: float = 0.0,
    time_shift: float = 1.0,
    condition_noise: float = 0.0,
    num_times: int = 1000,
) -> Callable[[int], dict[str, Tensor]]:
    """Batch k of `task` as a function of k; a share `dropout` of the rows is shown neither condition nor mask.

    `time_shift` above 1 draws noisier times more often, see `shifted_times`. The condition is shown with Gaussian
    noise, of a spread drawn for each row from 0 to `condition_noise`, in units of the scaled latents, so that traces
    fainter than it teach nothing (conditioning augmentation, Ho et al. 2021, arXiv 2106.15282, section 4.2).
    """
    count, variants = data.target.shape[:2]

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, task, step)
        picks = torch.randint(0, 2**31, (batch_size, 2), generator=draw).tolist()
        places = [(a % count, b % variants) for a, b in picks]

        def rows(array: np.ndarray) -> Tensor:
            return torch.stack([torch.from_numpy(array[i, k].astype(np.float32)) for i, k in places])

        latents = rows(data.target)
        noise = torch.randn(latents.shape, generator=draw)
        times = shifted_times(torch.rand(batch_size, generator=draw), time_shift, num_times)
        shown = (torch.rand(batch_size, 1, 1, 1, generator=draw) >= dropout).float()
        batch = {
            "latents": latents,
            "condition": shown * rows(data.condition),
            "mask": shown * rows(data.mask),
            "noise": noise,
            "timesteps": times,
        }
        if condition_noise > 0:
            spread = condition_noise * torch.rand(batch_size, 1, 1, 1, generator=draw)
            batch["condition_noise"] = shown * spread * torch.randn(latents.shape, generator=draw)
        return batch

    return batch_at


def shifted_times(uniform: Tensor, shift: float, num_times: int) -> Tensor:
    """Training times from numbers u in [0, 1): u -> s u / (1 + (s - 1) u) (Esser et al. 2024, eq. 23), as indices.

    What an edit changes is decided while the picture is mostly noise; shift 3 puts half of the times above 0.75.
    """
    return (shift * uniform / (1.0 + (shift - 1.0) * uniform) * num_times).long().clamp(max=num_times - 1)
