"""ObjectDrop's two models (arXiv 2403.18818): an edit UNet draws the window again, beside its own no-op.

The inserter gives a pasted subject its light; trained on photographs alone, or adapted to drawings by a bootstrap, the
class is the same. The remover draws what a mask marks, and its shadow, away: only the hole and the light around it
reach the picture (`core.effect_layer.fill_hole`), every other pixel keeps its value.
Shape letters: H side of the square window, s side the model draws at; float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectConfig, fill_hole
from magic_insert.core.events import OnStep, no_step
from magic_insert.inserters.base import InserterBase, Insertion, Window, neighbourhood
from magic_insert.models.edit_unet import EditSampling, edit, edit_unet_of, noop
from magic_insert.models.folders import weights_in
from magic_insert.models.foreign import ForeignModel, Runtime

DRAW = "remove"  # names the noise of a removal: one picture, one draw


class EditModel:
    """The edit UNet in `folder` (or its LoRA) at its own resolution; `pipe` lends the other parts.

    Raises:
        UserError: the weights do not fit.
    """

    def __init__(self, pipe: Any, folder: Path) -> None:
        self.pipe, self.unet = pipe, edit_unet_of(pipe, folder)
        self.side = self.unet.config["sample_size"] * pipe.vae_scale_factor
        self.weights_sha256 = sha256_file(weights_in(folder))

    @property
    def weights(self) -> Mapping[str, str]:
        """What tells this network from others, for a record."""
        return {"sha256": self.weights_sha256}

    def draw(
        self,
        window: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        how: EditSampling,
        *,
        reference: str,
        on_step: OnStep = no_step,
    ) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "3 s s"]]:
        """The window redrawn, and its `reference` (see `noop`); the steps of a sampled reference count, too."""
        total = how.steps * (2 if reference == "unmasked" else 1)
        small, covered = (
            area_resize(x, self.side, self.side)[None].to(self.unet.device) for x in (window, mask)
        )
        output = edit(self.pipe, self.unet, small, covered, how, lambda done, _: on_step(done, total))
        still = noop(
            self.pipe,
            self.unet,
            small,
            covered,
            how,
            reference=reference,
            on_step=lambda done, _: on_step(how.steps + done, total),
        )
        return output[0].to(window.device), still[0].to(window.device)


class EditInserter(InserterBase):
    """An edit UNet as an inserter."""

    recorded: tuple[str, ...] = ("steps", "reference")
    model: Any  # EditModel, or another that draws as it does

    def __init__(self, settings: InserterConfig, pipe: Any, folder: Path) -> None:
        """Raises:
        UserError: the weights do not fit.
        """
        super().__init__(settings, pipe, folder)
        self.model = EditModel(pipe, folder)
        self.weights_sha256 = self.model.weights_sha256

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """The window at the model's side, redrawn, beside its reference."""
        how, reference = EditSampling(window.seed, [window.id], self.settings.steps), self.settings.reference
        region = self.region(window.mask)
        drawn, still = self.model.draw(window.pasted, region, how, reference=reference, on_step=on_step)
        return Insertion.measured(drawn, still, window.mask, self.settings)

    def region(self, mask: Float[Tensor, "1 H H"]) -> Float[Tensor, "1 H H"]:
        """The mask that the model is given: the subject's."""
        return mask


class ForeignInserter(EditInserter):
    """A pipeline of diffusers as an inserter."""

    recorded = ("steps", "reference", "prompt", "guidance")

    def __init__(self, settings: InserterConfig, pipe: Any, folder: Path | None = None) -> None:
        """The pipeline at `settings.run`; `pipe` says where it runs and how precisely.

        Raises:
            UserError: see `load_foreign`.
        """
        super(EditInserter, self).__init__(settings, pipe, folder)
        run = Runtime(pipe.device, pipe.unet.dtype, getattr(pipe, "offloads", False))
        prompt, guidance = settings.prompt, settings.guidance
        self.model = ForeignModel(
            settings.run or "", "inserter.run", prompt=prompt, guidance=guidance, run=run
        )

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its settings and what its pipeline is."""
        made = {f"inserter_{name}": value for name, value in self.model.weights.items()}
        return {**super().provenance, **made}

    def region(self, mask: Float[Tensor, "1 H H"]) -> Float[Tensor, "1 H H"]:
        """What is redrawn: the subject's neighbourhood, without the subject."""
        return neighbourhood(mask)


@dataclass(frozen=True)
class RemoverSettings:
    """The keys of `magic-insert remove`.

    `remover`: "edit" is our network, in the folder `run`/remover or, for None, beside the model's weights; "diffusers"
    the pipeline `run`, asked with `prompt` and `guidance`. `steps`: None is the model's own.
    """

    run: str | None = None
    steps: int | None = None
    grow: float = 0.02
    threshold: float = 0.03
    reach: float = 1.2
    remover: str = "edit"
    prompt: str = ""
    guidance: float | None = None


class Remover:
    """A model that redraws at its own resolution: `EditModel`, or `models.foreign.ForeignModel`."""

    def __init__(self, settings: RemoverSettings, model: Any) -> None:
        self.settings, self.model = settings, model

    def __call__(
        self,
        window: Float[Tensor, "3 H H"],
        hole: Float[Tensor, "1 H H"],
        *,
        seed: int,
        on_step: OnStep = no_step,
    ) -> tuple[Float[Tensor, "3 H H"], Float[Tensor, "1 H H"]]:
        """The window without what `hole` marks, and where it was changed, 0 or 1."""
        cfg = self.settings
        how = EditSampling(seed, [DRAW], cfg.steps or 1)
        drawn, still = self.model.draw(window, hole, how, reference="vae", on_step=on_step)
        config = EffectConfig(threshold=cfg.threshold, reach=cfg.reach)
        return fill_hole(window, hole, drawn, still, grow=cfg.grow, config=config)
