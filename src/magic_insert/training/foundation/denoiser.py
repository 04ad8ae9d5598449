"""Text-to-image: the UNet and both text encoders learn to draw subjects and scenes in every training style."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.foundation.module import encode_ids, time_ids, velocity_loss
from magic_insert.training.trainer import TrainingModule


class DenoiserModule(TrainingModule):
    """Velocity prediction with the text conditioning of SDXL."""

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        text_encoder_2: nn.Module,
        scheduler: Any,
        *,
        image_size: int,
        lr: float,
        steps: int,
    ):
        super().__init__(lr=lr, steps=steps)
        self.unet, self.text_encoder, self.text_encoder_2 = unet, text_encoder, text_encoder_2
        self.scheduler, self.image_size = scheduler, image_size

    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """What the UNet is told besides the noisy latents: token states (B T D) and SDXL's added conditions."""
        states, pooled = encode_ids(self.text_encoder, self.text_encoder_2, batch["ids"], batch["ids_2"])
        if "pooled_ids" in batch:
            pooled = self.text_encoder_2(batch["pooled_ids"]).text_embeds
        added = {"text_embeds": pooled, "time_ids": time_ids(len(pooled), self.image_size, pooled.device)}
        return states, added

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        states, added = self.conditioning(batch)
        loss = velocity_loss(
            self.unet,
            self.scheduler,
            batch["latents"],
            batch["noise"],
            batch["timesteps"],
            states=states,
            added=added,
        )
        self.log("loss", loss)
        return loss


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def with_noise(latents: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """The latents with one noise and one timestep each, from `draw`."""
    return {
        "latents": latents,
        "noise": torch.randn(latents.shape, generator=draw),
        "timesteps": torch.randint(0, 1000, (len(latents),), generator=draw),
    }


def denoiser_batches(
    pool: ToyboxPool,
    subjects: np.ndarray,
    scenes: np.ndarray,
    tokenizer: Any,
    tokenizer_2: Any,
    *,
    seed: int,
    batch_size: int,
) -> Callable[[int], dict[str, Tensor]]:
    """Three subject pictures to one scene. A tenth of the prompts is empty, a quarter names no style.

    In half of the rows the pooled text does not name the style. Said in both places, style came to be heard in the
    pooled text alone (style phrases in the token states then changed nothing), and an image prompt, which speaks in the
    cross-attention only, could not move it.

    Args:
        subjects: latents [S, V, C, h, w]; scenes: latents of scenes with their subject [C, W, C, h, w].
    """
    styles = [style_phrase(name) for name in pool.style_names]

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "denoiser", step)
        picks = torch.randint(0, 2**31, (batch_size, 3), generator=draw).tolist()
        latents, texts, pooled = [], [], []
        for number, (a, b, c) in enumerate(picks):
            if number % 4 == 3:
                source, drawn, captions = scenes, pool.scene_styles, pool.scene_captions
            else:
                source, drawn, captions = subjects, pool.subject_styles, pool.captions
            i, v = a % source.shape[0], b % source.shape[1]
            latents.append(torch.from_numpy(source[i, v].astype(np.float32)))
            words = captions[i] if c % 20 < 5 else f"{captions[i]}, {styles[drawn[i, v]]}"
            texts.append("" if c % 20 in (5, 6) else words)
            pooled.append(captions[i] if texts[-1] and c // 20 % 2 else texts[-1])
        batch = with_noise(torch.stack(latents), draw)
        return {
            **batch,
            "ids": tokenize(tokenizer, texts),
            "ids_2": tokenize(tokenizer_2, texts),
            "pooled_ids": tokenize(tokenizer_2, pooled),
        }

    return batch_at
