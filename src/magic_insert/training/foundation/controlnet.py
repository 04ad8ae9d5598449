"""The Canny ControlNet: a copy of the UNet's encoder learns to steer it by outlines (Zhang et al. 2023, section 3).

The outlines are always those of the photograph, whatever the style of the picture to be drawn: that is how they will be
used, and a pool shows every subject in several styles from one view.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.models.controlnet import Structure, canny_edges
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.foundation.denoiser import DenoiserModule, tokenize, with_noise

PHOTO = 0  # drawing 0 of a pool
EDGES = "edges"


class SteeredUNet(nn.Module):
    """The frozen UNet and the ControlNet as one network; the edges come with the added conditions."""

    def __init__(self, unet: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.unet, self.network = unet, network

    def forward(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor],
        return_dict: bool,
    ) -> Any:
        structure = Structure(self.network, added_cond_kwargs[EDGES], [1.0] * len(inputs))
        words = {key: value for key, value in added_cond_kwargs.items() if key != EDGES}
        return self.unet(
            inputs,
            timesteps,
            encoder_hidden_states=encoder_hidden_states,
            added_cond_kwargs=words,
            return_dict=return_dict,
            **structure.residuals(inputs, timesteps, encoder_hidden_states, words),
        )


class ControlNetModule(DenoiserModule):
    """Trains the ControlNet alone; the UNet and the text encoders are frozen."""

    def __init__(self, unet: nn.Module, network: nn.Module, *text_and_scheduler: Any, **settings: Any):
        super().__init__(SteeredUNet(unet, network), *text_and_scheduler, **settings)
        self.requires_grad_(False)
        network.requires_grad_(True)

    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        with torch.no_grad():
            states, added = super().conditioning(batch)
        return states, {**added, EDGES: batch[EDGES]}


def controlnet_batches(
    pool: ToyboxPool,
    subjects: np.ndarray,
    tokenizer: Any,
    tokenizer_2: Any,
    *,
    seed: int,
    batch_size: int,
) -> Callable[[int], dict[str, Tensor]]:
    """Subject latents in any style with the outlines of their photograph.

    Half of the prompts name only the style and a tenth is empty, so that what it is must be read from the outlines.

    Args:
        subjects: latents [S, V, C, h, w].
    """
    styles = [style_phrase(name) for name in pool.style_names]

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "controlnet", step)
        picks = torch.randint(0, 2**31, (batch_size, 3), generator=draw).tolist()
        latents, texts, edges = [], [], []
        for a, b, c in picks:
            i, v = a % subjects.shape[0], b % subjects.shape[1]
            latents.append(torch.from_numpy(subjects[i, v].astype(np.float32)))
            photo = torch.from_numpy(pool.subjects[i, PHOTO].astype(np.float32)) / 255.0
            edges.append(canny_edges(photo))
            style = styles[pool.subject_styles[i, v]]
            texts.append("" if c % 10 == 0 else style if c % 2 else f"{pool.captions[i]}, {style}")
        return {
            **with_noise(torch.stack(latents), draw),
            EDGES: torch.stack(edges),
            "ids": tokenize(tokenizer, texts),
            "ids_2": tokenize(tokenizer_2, texts),
        }

    return batch_at
