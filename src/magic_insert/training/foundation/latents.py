"""The pool seen through a frozen encoder, computed once and kept beside it as float16 `.npy` files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.data.toybox_pool import ToyboxPool

Encode = Callable[[Tensor], Tensor]  # uint8 B 3 H W -> B ...


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
    source: np.ndarray, encode: Encode, path: Path, *, batch_size: int = 64, flip: bool = False
) -> np.ndarray:
    """`encode` over every picture of `source` [..., 3, H, W]; kept in `path`, read back when it is complete."""
    lead = source.shape[:-3]
    if path.is_file():
        kept = np.load(path)
        if kept.shape[: len(lead)] == lead:
            return kept
    flat = source.reshape(-1, *source.shape[-3:])
    outputs = []
    for start in range(0, len(flat), batch_size):
        images = torch.from_numpy(flat[start : start + batch_size].copy())
        outputs.append(encode(images.flip(-1) if flip else images).cpu().to(torch.float16).numpy())
    joined = np.concatenate(outputs)
    result = joined.reshape(*lead, *joined.shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, result)
    temporary.replace(path)
    return result


def composites(pool: ToyboxPool, drawing: int) -> np.ndarray:
    """The copy-paste picture of every scene: the subject's own pixels on the empty scene, uint8 [C, 3, H, W].

    y = M * x + (1 - M) * z with x the picture with, z without, M the subject's mask (ObjectDrop, section 4).
    """
    mask = pool.scene_mask.astype(np.float32) / 255.0
    mixed = mask * pool.scenes_with[:, drawing] + (1.0 - mask) * pool.scenes_without[:, drawing]
    return (mixed + 0.5).astype(np.uint8)
