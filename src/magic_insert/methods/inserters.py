"""The inserters that are compared: nothing at all (copy-paste), photographs only, and bootstrapped.

Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.methods.base import Insertion
from magic_insert.methods.checks import WEIGHTS
from magic_insert.models.inserter import edit, load_edit_unet, noop


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


def build_inserter(
    name: str, pipe: Any, folder: Path | None, *, steps: int, reference: str
) -> CopyPaste | EditInserter:
    """The inserter `name` with the weights in `folder`, borrowing the other parts of `pipe`."""
    if folder is None:
        return CopyPaste()
    unet = load_edit_unet(folder, device=pipe.device)
    side = unet.config["sample_size"] * pipe.vae_scale_factor
    return EditInserter(name, pipe, unet, side, steps, reference, sha256_file(folder / WEIGHTS))
