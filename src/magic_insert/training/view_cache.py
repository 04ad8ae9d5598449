"""Training pictures as latents, encoded once: in memory, or in a file of which the system keeps in memory what is used.

Afterwards the VAE has nothing to do until a picture is drawn, so it can leave the device.

Shape letters: V views, C x h x w latents, S side in pixels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from magic_insert.models.latents import encode
from magic_insert.models.tensor_file import save_tensors

FILE = "latents.safetensors"


@dataclass(frozen=True)
class CachedViews:
    """Latents of the training views and the weight of every latent pixel in the loss (mean 1 per view).

    `styles`: what the image adapter hears of each view while it is learned; None: nothing.
    """

    latents: Float[Tensor, "V C h w"]
    weights: Float[Tensor, "V 1 h w"]
    styles: Float[Tensor, "V 1 *T D"] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Whatever there is, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def cache_views(
    vae: Any,
    view_at: Callable[[int], tuple[Float[Tensor, "3 S S"], Float[Tensor, "1 S S"]]],
    count: int,
    *,
    mask_loss: bool,
    heard_of: Callable[[Float[Tensor, "3 S S"]], Tensor] | None = None,
    file: Path | None = None,
) -> CachedViews:
    """Encodes `count` views one by one; with `mask_loss` the ground does not count in the loss.

    Args:
        vae: the pipeline's autoencoder, on the device to encode on.
        view_at: picture and coverage of view i.
        count: number of views V.
        mask_loss: weigh by the subject's coverage.
        heard_of: what the adapter hears of a view's picture, 1 x 1 x D; None where it hears nothing.
        file: keep the latents there and not in memory.
    """
    latents, weights, styles = [], [], []
    for i in range(count):
        rgb, alpha = view_at(i)
        latents.append(encode(vae, rgb[None]).cpu())
        inside = torch.ones_like(latents[-1][:, :1])
        if mask_loss:
            inside = functional.adaptive_max_pool2d(alpha[None], inside.shape[-2:])
            inside = inside / inside.mean().clamp(min=1e-6)
        weights.append(inside)
        if heard_of is not None:
            styles.append(heard_of(rgb).cpu())
    views = CachedViews(torch.cat(latents), torch.cat(weights), torch.cat(styles) if styles else None)
    if file is None:
        return views
    save_tensors(file, views.tensors(), {"format": "pt"})
    # Tensors of a safetensors file are pages of the file: they cost memory only while they are used.
    with safe_open(file, framework="pt") as content:
        return CachedViews(**{name: content.get_tensor(name) for name in views.tensors()})


@contextmanager
def vae_on(pipe: Any, device: torch.device | str) -> Iterator[None]:
    """Inside this block the VAE is on `device`; afterwards where it was."""
    before = pipe.vae.device
    pipe.vae.to(device)
    try:
        yield
    finally:
        pipe.vae.to(before)
