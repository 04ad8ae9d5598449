"""ObjectDrop's insertion model (arXiv 2403.18818): an edit UNet draws the window again, beside its own no-op.

Trained on photographs alone, or adapted to drawings by a bootstrap; the class is the same.
Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.events import OnStep, no_step
from magic_insert.inputs import weights_in
from magic_insert.inserters.base import Insertion
from magic_insert.models.edit_unet import edit, load_edit_unet, noop


class EditInserter:
    """An edit UNet at its own resolution."""

    def __init__(self, settings: InserterConfig, pipe: Any, folder: Path) -> None:
        """Loads the UNet, or its LoRA, from `folder`; `pipe` lends the other parts.

        Raises:
            UserError: the weights do not fit.
        """
        self.name, self.settings, self.pipe = settings.name, settings, pipe
        self.unet = load_edit_unet(folder, device=pipe.device, base=pipe.unet)
        self.side = self.unet.config["sample_size"] * pipe.vae_scale_factor
        self.weights_sha256 = sha256_file(weights_in(folder))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings and the digest of its weights."""
        return {
            "inserter": self.name,
            "inserter_sha256": self.weights_sha256,
            "inserter_steps": self.settings.steps,
            "inserter_reference": self.settings.reference,
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
        """The window at the model's side, redrawn; `on_step` counts the steps of a sampled reference, too."""
        steps, reference = self.settings.steps, self.settings.reference
        total = steps * (2 if reference == "unmasked" else 1)
        small = area_resize(window, self.side, self.side)[None].to(self.unet.device)
        covered = area_resize(mask, self.side, self.side)[None].to(self.unet.device)
        draw: dict[str, Any] = {"seed": seed, "ids": [id], "steps": steps}
        output = edit(self.pipe, self.unet, small, covered, on_step=lambda done: on_step(done, total), **draw)
        still = noop(
            self.pipe,
            self.unet,
            small,
            covered,
            reference=reference,
            on_step=lambda done: on_step(steps + done, total),
            **draw,
        )
        drawn, reference_drawn = (picture[0].to(window.device) for picture in (output, still))
        return Insertion.measured(drawn, reference_drawn, mask, self.settings)
