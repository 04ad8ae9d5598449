"""The inserters that are compared: nothing at all (copy-paste), plain inpainting, photographs only, and bootstrapped.

Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.masks import INSIDE, bounding_box
from magic_insert.methods import input_checks as checks
from magic_insert.methods.base import Insertion
from magic_insert.models.inpaint import inpaint
from magic_insert.models.inserter import edit, load_edit_unet, noop
from magic_insert.models.latents import decode, encode
from magic_insert.models.sampling import image_size

INPAINT_MARGIN = 0.5  # how far the neighbourhood reaches, in units of the subject's longer side


@dataclass(frozen=True)
class CopyPaste:
    """The control: what is pasted stays as it is. The floor of every table."""

    name: str = "copy_paste"

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"inserter": self.name}

    def __call__(
        self,
        composite: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: Callable[[int], None],
    ) -> Insertion:
        """The window as it came, twice."""
        return Insertion(composite, composite)


@dataclass(frozen=True)
class EditInserter:
    """An edit UNet at its own resolution (ObjectDrop's insertion model), beside its own no-op reconstruction."""

    name: str
    pipe: Any
    unet: Any
    side: int
    steps: int
    reference: str
    weights_sha256: str

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {
            "inserter": self.name,
            "inserter_sha256": self.weights_sha256,
            "inserter_steps": self.steps,
            "inserter_reference": self.reference,
        }

    def __call__(
        self,
        composite: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: Callable[[int], None],
    ) -> Insertion:
        """The window at the model's side, redrawn; `on_step` hears the steps of both runs."""
        device = self.unet.device
        small = area_resize(composite, self.side, self.side)[None].to(device)
        covered = area_resize(mask, self.side, self.side)[None].to(device)
        output = edit(
            self.pipe, self.unet, small, covered, seed=seed, ids=[id], steps=self.steps, on_step=on_step
        )
        still = noop(
            self.pipe,
            self.unet,
            small,
            covered,
            reference=self.reference,
            seed=seed,
            ids=[id],
            steps=self.steps,
            on_step=on_step,
        )
        return Insertion(output[0].to(composite.device), still[0].to(composite.device))


@dataclass(frozen=True)
class InpaintInserter:
    """The base model redraws the neighbourhood of the subject, which itself is kept: the rejected alternative."""

    pipe: Any
    side: int
    steps: int
    reference: str
    name: str = "inpaint"

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {
            "inserter": self.name,
            "inserter_steps": self.steps,
            "inserter_reference": self.reference,
            "inserter_margin": INPAINT_MARGIN,
        }

    def __call__(
        self,
        composite: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: Callable[[int], None],
    ) -> Insertion:
        """The window at the model's side, its subject's neighbourhood redrawn."""
        small = area_resize(composite, self.side, self.side)[None].to(self.pipe.device)
        covered = area_resize(mask, self.side, self.side)
        ring = neighbourhood(covered)[None].to(self.pipe.device)
        output = inpaint(self.pipe, small, ring, seed=seed, ids=[id], steps=self.steps, on_step=on_step)
        # Where nothing is redrawn, inpainting gives the round trip; an "unmasked" run of it would be just that.
        still = small if self.reference == "input" else decode(self.pipe.vae, encode(self.pipe.vae, small))
        return Insertion(output[0].to(composite.device), still[0].to(composite.device))


def neighbourhood(mask: Float[Tensor, "1 s s"]) -> Float[Tensor, "1 s s"]:
    """The box of the subject, INPAINT_MARGIN of its longer side wider all round, without the subject; 0 or 1."""
    if float(mask.max()) < INSIDE:
        return torch.zeros_like(mask)
    box = bounding_box(mask)
    margin = round(INPAINT_MARGIN * max(box.w, box.h))
    ring = torch.zeros_like(mask)
    ring[:, max(0, box.y - margin) : box.bottom + margin, max(0, box.x - margin) : box.right + margin] = 1
    return ring * (mask < INSIDE)


def build_inserter(
    name: str, pipe: Any, folder: Path | None, *, steps: int, reference: str
) -> CopyPaste | InpaintInserter | EditInserter:
    """The inserter `name` with the weights in `folder`, borrowing the other parts of `pipe`.

    Raises:
        UserError: the weights do not fit.
    """
    if name == "inpaint":
        return InpaintInserter(pipe, image_size(pipe), steps, reference)
    if folder is None:
        return CopyPaste()
    unet = load_edit_unet(folder, device=pipe.device, base=pipe.unet)
    side = unet.config["sample_size"] * pipe.vae_scale_factor
    return EditInserter(name, pipe, unet, side, steps, reference, sha256_file(checks.weights_in(folder)))
