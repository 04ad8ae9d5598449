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
from magic_insert.training.foundation.module import PartModule, time_ids, velocity_loss

Task = Literal["remove", "insert"]


@dataclass(frozen=True)
class EditLatents:
    """Scaled latents [N, K, C, h, w] of N pairs in K variants (mirrored, restyled) and the masks at latent size."""

    condition: np.ndarray
    target: np.ndarray
    mask: np.ndarray  # [N, K, 1, h, w] in [0, 1]


class InsertionModule(PartModule):
    """Velocity prediction of the edited picture under the empty prompt.

    Args:
        empty: the empty prompt's states (1 T D) and pooled text (1 E) in the pipeline's encoders.
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
    ):
        super().__init__(lr=lr, steps=steps)
        self.unet, self.scheduler, self.image_size = unet, scheduler, image_size
        self.register_buffer("states", empty[0].detach().clone(), persistent=False)
        self.register_buffer("pooled", empty[1].detach().clone(), persistent=False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        count = len(batch["latents"])
        loss = velocity_loss(
            self.unet,
            self.scheduler,
            batch["latents"],
            batch["noise"],
            batch["timesteps"],
            extra=torch.cat([batch["condition"], batch["mask"]], dim=1),
            states=self.states.expand(count, -1, -1),  # type: ignore[operator]
            added={
                "text_embeds": self.pooled.expand(count, -1),  # type: ignore[operator]
                "time_ids": time_ids(count, self.image_size, batch["latents"].device),
            },
        )
        self.log("loss", loss, prog_bar=True)
        return loss


def mask_cells(mask: np.ndarray, size: int) -> np.ndarray:
    """uint8 masks [N, 1, H, W] as the covered share of each latent cell, float16 [N, 1, size, size]."""
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32) / 255.0), (size, size))
    return share.numpy().astype(np.float16)


def edit_batches(
    data: EditLatents, *, task: Task, seed: int, batch_size: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batch k of `task` as a function of k."""
    count, variants = data.target.shape[:2]

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, task, step)
        picks = torch.randint(0, 2**31, (batch_size, 2), generator=draw).tolist()
        places = [(a % count, b % variants) for a, b in picks]

        def rows(array: np.ndarray) -> Tensor:
            return torch.stack([torch.from_numpy(array[i, k].astype(np.float32)) for i, k in places])

        latents = rows(data.target)
        return {
            "latents": latents,
            "condition": rows(data.condition),
            "mask": rows(data.mask),
            "noise": torch.randn(latents.shape, generator=draw),
            "timesteps": torch.randint(0, 1000, (batch_size,), generator=draw),
        }

    return batch_at
