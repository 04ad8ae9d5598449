"""What the parts of the foundation share: the pool, finished parts, and the pool seen through them.

What an encoder says of the pool is computed once and kept beside it as float16 `.npy` files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.foundation.clip import clip_pixels
from magic_insert.models.micro import MicroSizes, load_part
from magic_insert.models.pipeline import plain_attention
from magic_insert.training.trainer import TrainingModule

Encode = Callable[[Tensor], Tensor]  # uint8 B 3 H W -> B ...
Pictures = Callable[[], np.ndarray]  # uint8 [..., 3, H, W], made when they are needed
# Pictures of the pool [..., 3, H, W], or what makes them and how many: made only if nothing of them is kept yet.
Source = np.ndarray | tuple[Pictures, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """One part: its module, its batches, and how the trained module is written into the part's folder."""

    module: TrainingModule
    batch_at: Callable[[int], dict[str, Tensor]]
    publish: Callable[[Path], None]
    ema_decay: float | None = None


@dataclass
class Context:
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

    def text_encoders(self) -> tuple[Any, Any]:
        """Both text encoders, frozen."""
        return self.load("clip", "text_encoder"), self.load("clip", "text_encoder_2")

    def trainable(self, unet: Any) -> Any:
        """`unet` with the attention code that trains fastest on the device."""
        if self.device == "cpu":
            plain_attention(unet)
        return unet

    def latents(self, name: str, source: Source, *, flip: bool = False) -> np.ndarray:
        """Pool pictures as scaled latents."""
        encode = vae_encoder(self._vae, self.device, autocast=self.precision != "32-true")
        path = self._kept("latents", f"{name}{'-flip' if flip else ''}")
        return encode_array(source, encode, path, flip=flip)

    @cached_property
    def _vae(self) -> Any:
        return self.load("vae", "vae")

    def embeds(self, name: str, source: Source) -> np.ndarray:
        """Pool pictures as image-encoder embeddings [..., D]."""
        encoder = self.load("clip", "image_encoder")

        @torch.no_grad()
        def encode(images: Tensor) -> Tensor:
            return encoder(clip_pixels(images.to(self.device))).image_embeds.float()

        return encode_array(source, encode, self._kept("embeds", name))

    def _kept(self, kind: str, name: str) -> Path:
        """Where an encoded pool lies: a part trained later may bring another pool, or other looks by another seed."""
        return self.out / kind / f"{self.pool.plan.key}-{self.seed}" / f"{name}.npy"


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def encode_ids(
    text_encoder: nn.Module, text_encoder_2: nn.Module, ids: Tensor, ids_2: Tensor
) -> tuple[Tensor, Tensor]:
    """SDXL's conditioning: second-to-last states of both encoders side by side (B T D), pooled text (B E)."""
    first = text_encoder(ids, output_hidden_states=True)
    second = text_encoder_2(ids_2, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def vae_encoder(vae: Any, device: str, *, autocast: bool) -> Encode:
    """uint8 pictures to scaled posterior means, B C h w float32."""
    scale = float(vae.config.scaling_factor)

    @torch.no_grad()
    def encode(images: Tensor) -> Tensor:
        pixels = images.to(device).float() / 127.5 - 1.0
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=autocast):
            mean = vae.encode(pixels).latent_dist.mean
        return mean.float() * scale

    return encode


def encode_array(
    source: Source, encode: Encode, path: Path, *, batch_size: int = 8, flip: bool = False
) -> np.ndarray:
    """`encode` over every picture of `source`; kept in `path`, read back when it is complete.

    Eight pictures at a time stay in a CPU's cache: 0.6 of the time of sixty-four.
    """
    make, count = (lambda: source, source.shape[:-3]) if isinstance(source, np.ndarray) else source
    if path.is_file():
        kept = np.load(path)
        if kept.shape[: len(count)] == count:
            return kept
    pictures = make()
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    outputs = []
    for start in range(0, len(flat), batch_size):
        images = torch.from_numpy(flat[start : start + batch_size].copy())
        outputs.append(encode(images.flip(-1) if flip else images).cpu().to(torch.float16).numpy())
    joined = np.concatenate(outputs)
    result = joined.reshape(*count, *joined.shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, result)
    temporary.replace(path)
    return result
