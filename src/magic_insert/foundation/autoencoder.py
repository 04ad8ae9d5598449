"""The autoencoder: trained on crops, because an f8 convolutional code is local, and warmed up on principal components.

From scratch a small convolutional autoencoder spends its first thousand steps on finding any code at all (measured:
15 dB after 300 steps, whatever the width, norm or rate). Patches have a good linear code in closed form, so in the
first half the encoder is taught that code and the decoder learns to read it; then both go on together, freely.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magic_insert.core.fidelity import decibel
from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.training.trainer import TrainingModule

PATCH = 8  # the autoencoder's downsampling factor
WARM_SHARE = 0.5  # share of the steps in which the linear code is the teacher
# Afterwards: weight of the logarithm, whose slope is 1 / error, so that easy pictures go on to count; the floor keeps
# it finite. Half of the posterior's noise is enough for latents that a network imagined to be decoded well.
DECIBEL_WEIGHT, ERROR_FLOOR, FREE_NOISE = 0.008, 1e-4, 0.5


class PatchCode(nn.Module):
    """The C leading principal components of 8 x 8 RGB patches, each divided by the root of its standard deviation.

    Full whitening would make fine texture as loud as the layout; none would drown it. B 3 H W -> B C H/8 W/8.
    """

    def __init__(self, images: Tensor, channels: int):
        super().__init__()
        patches = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1).flatten(0, 2)
        mean = patches.mean(dim=0)
        _, spread, basis = torch.linalg.svd(patches - mean, full_matrices=False)
        deviation = spread[:channels] / len(patches) ** 0.5
        # The sign of a component is arbitrary; the largest entry made positive fixes it.
        top = basis[:channels]
        signs = top.gather(1, top.abs().argmax(dim=1, keepdim=True)).sign()
        self.register_buffer("mean", mean)
        self.register_buffer("basis", (top * signs).T / deviation.clamp(min=1e-6).sqrt())

    mean: Tensor
    basis: Tensor

    def forward(self, images: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1)
        return ((patches - self.mean) @ self.basis).permute(0, 3, 1, 2)


class VaeModule(TrainingModule):
    """AutoencoderKL by the error of the picture and a light KL term.

    While the linear code teaches: squared and absolute error, which keeps lines crisp. Then squared error and its
    logarithm, picture by picture, which is what PSNR counts (experiments/LOG.md: 2 dB in long legs of it).
    """

    KL_WEIGHT = 1e-6

    def __init__(self, vae: Any, code: PatchCode, *, lr: float, steps: int):
        super().__init__(lr=lr, steps=steps, weight_decay=0.0)
        self.vae: Any = vae
        self.code = code
        self.warm_steps = int(WARM_SHARE * steps)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        image = batch["image"]
        posterior = self.vae.encode(image).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        # The batch brings its noise, so that a resumed run draws what an unbroken one draws.
        warm = int(batch["step"]) < self.warm_steps
        noise = posterior.std * batch["noise"] * (1.0 if warm else FREE_NOISE)
        taught = self.code(image)
        restored = self.vae.decode((taught if warm else posterior.mean) + noise).sample
        error = restored.float() - image
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        squared = error.square().mean(dim=(1, 2, 3))
        loss = squared.mean() + self.KL_WEIGHT * kl
        if warm:
            loss = loss + 0.1 * error.abs().mean() + 0.2 * (mean - taught).square().mean()
        else:
            loss = loss + DECIBEL_WEIGHT * (squared + ERROR_FLOOR).log().mean()
        mean_squared = float(error.square().mean()) / 4.0  # images span [-1, 1]
        psnr = decibel(mean_squared) if math.isfinite(mean_squared) else math.nan
        self.log_dict({"loss": loss, "psnr": psnr, "code": (mean - taught).square().mean()})
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
        noise = torch.randn(batch_size, channels, crop // PATCH, crop // PATCH, generator=draw)
        return {
            "image": torch.stack(crops).float() / 127.5 - 1.0,
            "noise": noise,
            "step": torch.tensor(step),
        }

    return batch_at
