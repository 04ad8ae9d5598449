"""The autoencoder: trained on crops, because an f8 convolutional code is local."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.training.foundation.module import PartModule


class VaeModule(PartModule):
    """AutoencoderKL by L1 + squared error + a light KL term (weights below)."""

    KL_WEIGHT = 1e-6

    def __init__(self, vae: Any, *, lr: float, steps: int):
        super().__init__(lr=lr, steps=steps, weight_decay=0.0)
        self.vae: Any = vae

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        image = batch["image"]
        posterior = self.vae.encode(image).latent_dist
        # The batch brings its noise, so that a resumed run draws what an unbroken one draws.
        restored = self.vae.decode(posterior.mean + posterior.std * batch["noise"]).sample
        error = restored.float() - image
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        # Squared error is what PSNR counts; the absolute error keeps lines crisp.
        loss = error.square().mean() + 0.1 * error.abs().mean() + self.KL_WEIGHT * kl
        psnr = -10.0 * (error.square().mean() / 4.0).log10()  # images span [-1, 1]
        self.log_dict({"loss": loss, "psnr": psnr}, prog_bar=True)
        return loss


def vae_batches(
    pool: ToyboxPool, *, seed: int, batch_size: int, crop: int, channels: int
) -> Callable[[int], dict[str, Tensor]]:
    """Crops of scenes and subjects in every style, in [-1, 1], and posterior noise: batch k is a function of k."""
    sources = [pool.subjects, pool.scenes_with, pool.scenes_without]
    room = pool.plan.size - crop + 1

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(seed, "vae", step)
        picks = torch.randint(0, 2**31, (batch_size, 5), generator=draw).tolist()
        crops = []
        for number, (a, b, y, x, flip) in enumerate(picks):
            # A third from each source: scenes carry the texture, subjects the fine parts.
            source = sources[number % len(sources)]
            top, left = y % room, x % room
            patch = torch.from_numpy(
                source[
                    a % source.shape[0], b % source.shape[1], :, top : top + crop, left : left + crop
                ].copy()
            )
            crops.append(patch.flip(-1) if flip % 2 else patch)
        noise = torch.randn(batch_size, channels, crop // 8, crop // 8, generator=draw)
        return {"image": torch.stack(crops).float() / 127.5 - 1.0, "noise": noise}

    return batch_at
