"""The inserters that are compared: nothing at all (copy-paste), photographs only, and bootstrapped.

Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.methods.base import Insertion
from magic_insert.models.inserter import Reference, edit, load_edit_unet, noop

InserterName = Literal["real_only", "bootstrapped", "copy_paste"]
INSERTERS: tuple[str, ...] = get_args(InserterName)
WEIGHTS = "diffusion_pytorch_model.safetensors"


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
    reference: Reference
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


def inserter_folder(name: InserterName, *, model_folder: Path, run_folder: Path | None) -> Path | None:
    """Where the weights of inserter `name` must lie: shipped with the model, or left by a bootstrap run.

    None for the control, which has none. Touches the disk only to look.

    Raises:
        UserError: the folder is missing, or a bootstrapped inserter was asked for without its run.
    """
    if name == "copy_paste":
        return None
    if name == "bootstrapped" and run_folder is None:
        raise UserError(
            "expected the folder of a bootstrap run for inserter=bootstrapped, got none; set its folder"
        )
    parent = model_folder if name == "real_only" or run_folder is None else run_folder
    # A run leaves `inserter/` beside its records; a folder that is itself an inserter is taken as it is.
    folder = parent / "inserter" if (parent / "inserter").is_dir() else parent
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"expected {WEIGHTS} in {folder} for inserter={name}, got none; check the folder")
    return folder


def build_inserter(
    name: InserterName, pipe: Any, folder: Path | None, *, steps: int, reference: Reference
) -> CopyPaste | EditInserter:
    """The inserter `name` with the weights of `inserter_folder`, borrowing the other parts of `pipe`."""
    if folder is None:
        return CopyPaste()
    unet = load_edit_unet(folder, device=pipe.device)
    side = unet.config["sample_size"] * pipe.vae_scale_factor
    return EditInserter(name, pipe, unet, side, steps, reference, sha256_file(folder / WEIGHTS))
