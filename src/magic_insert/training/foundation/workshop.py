"""What the parts of the foundation share: the pool, finished parts and the pool seen through them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.models.attention import plain_attention
from magic_insert.models.micro import MicroSizes, build_scheduler
from magic_insert.models.micro_parts import load_part
from magic_insert.training.foundation.clip import clip_pixels
from magic_insert.training.foundation.latents import Pictures, encode_array, vae_encoder
from magic_insert.training.ranks import Batch
from magic_insert.training.trainer import TrainingModule

# Pictures of the pool [..., 3, H, W], or what makes them and how many: made only if nothing of them is kept yet.
Source = np.ndarray | tuple[Pictures, tuple[int, ...]]


def _unmade(source: Source) -> tuple[Pictures, tuple[int, ...]]:
    return (lambda: source, source.shape[:-3]) if isinstance(source, np.ndarray) else source


@dataclass(frozen=True)
class Recipe:
    """One part: its module, its batches, and how the trained module is written into the part's folder."""

    module: TrainingModule
    batch_at: Callable[[int], Batch]
    publish: Callable[[Path], None]
    ema_decay: float | None = None


@dataclass
class Workshop:
    """What the parts share; a finished part is read back from disk, never handed on in memory."""

    out: Path
    pool: ToyboxPool
    sizes: MicroSizes
    seed: int
    device: str
    precision: str
    tokenizer: Any
    tokenizer_2: Any

    def part(self, name: str) -> Path:
        return self.out / "parts" / name

    def load(self, part: str, name: str) -> Any:
        """A published network, frozen, on the device."""
        return load_part(self.part(part) / name, name).to(self.device).eval().requires_grad_(False)

    def listened_to(self) -> tuple[Any, Any, Any]:
        """What a network beside the trained denoiser is given: both text encoders, frozen, and the scheduler."""
        encoders = (self.load("denoiser", name) for name in ("text_encoder", "text_encoder_2"))
        return *encoders, build_scheduler()

    def trainable(self, unet: Any) -> Any:
        """`unet` with the attention code that trains fastest on the device."""
        if self.device == "cpu":
            plain_attention(unet)
        return unet

    def latents(self, name: str, source: Source, *, flip: bool = False) -> np.ndarray:
        """Pool pictures as scaled latents."""
        encode = vae_encoder(self._vae, self.device, autocast=self.precision != "32-true")
        path = self._kept("latents", f"{name}{'-flip' if flip else ''}")
        return encode_array(*_unmade(source), encode, path, flip=flip)

    @cached_property
    def _vae(self) -> Any:
        return self.load("vae", "vae")

    def embeds(self, name: str, source: Source) -> np.ndarray:
        """Pool pictures as image-encoder embeddings [..., D]."""
        encoder = self.load("clip", "image_encoder")

        @torch.no_grad()
        def encode(images: Tensor) -> Tensor:
            return encoder(clip_pixels(images.to(self.device))).image_embeds.float()

        return encode_array(*_unmade(source), encode, self._kept("embeds", name))

    def _kept(self, kind: str, name: str) -> Path:
        """Where an encoded pool lies: a part trained later may bring another pool, or other looks by another seed."""
        return self.out / kind / f"{self.pool.plan.key}-{self.seed}" / f"{name}.npy"
