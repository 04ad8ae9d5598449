"""The alternative that the paper rejects: the base model redraws the neighbourhood of the subject, which is kept.

Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.masks import INSIDE, bounding_box
from magic_insert.inserters.base import Insertion
from magic_insert.models.inpaint import inpaint
from magic_insert.models.latents import decode, encode
from magic_insert.models.sampling import image_size

MARGIN = 0.5  # how far the neighbourhood reaches, in units of the subject's longer side


class InpaintInserter:
    """Inpainting by the base model, without any training for insertion."""

    def __init__(self, settings: InserterConfig, pipe: Any, folder: Path | None = None) -> None:
        """No weights beside those of `pipe` are needed."""
        self.name, self.settings, self.pipe, self.side = settings.name, settings, pipe, image_size(pipe)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings."""
        return {
            "inserter": self.name,
            "inserter_steps": self.settings.steps,
            "inserter_reference": self.settings.reference,
            "inserter_margin": MARGIN,
        }

    def __call__(
        self,
        scene: Float[Tensor, "3 H H"],
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: OnStep = no_step,
    ) -> Insertion:
        """The window at the model's side, its subject's neighbourhood redrawn."""
        pipe, steps = self.pipe, self.settings.steps
        small = area_resize(window, self.side, self.side)[None].to(pipe.device)
        ring = neighbourhood(area_resize(mask, self.side, self.side))[None].to(pipe.device)
        output = inpaint(
            pipe, small, ring, seed=seed, ids=[id], steps=steps, on_step=lambda done: on_step(done, steps)
        )
        # Where nothing is redrawn, inpainting gives the round trip; an "unmasked" run of it would be just that.
        still = small if self.settings.reference == "input" else decode(pipe.vae, encode(pipe.vae, small))
        drawn, reference = (picture[0].to(window.device) for picture in (output, still))
        return Insertion.measured(drawn, reference, mask, self.settings)


def neighbourhood(mask: Float[Tensor, "1 s s"]) -> Float[Tensor, "1 s s"]:
    """The box of the subject, MARGIN of its longer side wider all round, without the subject; 0 or 1."""
    if float(mask.max()) < INSIDE:
        return torch.zeros_like(mask)
    box = bounding_box(mask)
    margin = round(MARGIN * max(box.w, box.h))
    ring = torch.zeros_like(mask)
    ring[:, max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin] = 1
    return ring * (mask < INSIDE)
