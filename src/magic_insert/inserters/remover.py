"""ObjectDrop's remover (arXiv 2403.18818): an edit UNet draws a window without what a mask marks, and its shadow.

Only the hole and the light around it reach the picture (`core.fill`); every other pixel keeps its value.
Shape letters: H side of the square window; float32 in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.effect_layer import EffectConfig
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.fill import fill_hole
from magic_insert.inserters.edit import EditModel
from magic_insert.models.edit_unet import EditSampling

DRAW = "remove"  # names the noise: one picture, one draw


@dataclass(frozen=True)
class RemoverSettings:
    """The keys of `magic-insert remove`.

    `run`: folder that holds `remover/`; None is the one beside the model's weights. `steps`: None is the model's own.
    """

    run: str | None = None
    steps: int | None = None
    grow: float = 0.02
    threshold: float = 0.03
    reach: float = 1.2


class Remover:
    """An edit UNet at its own resolution."""

    def __init__(self, settings: RemoverSettings, pipe: Any, folder: Path) -> None:
        """Loads the UNet, or its LoRA, from `folder`; `pipe` lends the other parts.

        Raises:
            UserError: the weights do not fit.
        """
        self.settings, self.model = settings, EditModel(pipe, folder)
        self.weights_sha256 = self.model.weights_sha256

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
