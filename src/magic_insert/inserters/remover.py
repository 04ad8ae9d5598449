"""ObjectDrop's remover (arXiv 2403.18818): an edit UNet draws a window without what a mask marks, and its shadow.

Only the hole and the light around it reach the picture (`core.fill`); every other pixel keeps its value.
Shape letters: H side of the square window; float32 in [0, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectConfig
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.fill import fill_hole
from magic_insert.inputs import weights_in
from magic_insert.models.edit_unet import edit, load_edit_unet, noop

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
        self.settings, self.pipe = settings, pipe
        self.unet = load_edit_unet(folder, device=pipe.device, base=pipe.unet)
        self.side = self.unet.config["sample_size"] * pipe.vae_scale_factor
        self.weights_sha256 = sha256_file(weights_in(folder))

    def __call__(
        self,
        window: Float[Tensor, "3 H H"],
        hole: Float[Tensor, "1 H H"],
        *,
        seed: int,
        on_step: OnStep = no_step,
    ) -> tuple[Float[Tensor, "3 H H"], Float[Tensor, "1 H H"]]:
        """The window without what `hole` marks, and where it was changed, 0 or 1."""
        cfg, steps = self.settings, self.settings.steps or 1
        small, covered = (
            area_resize(x, self.side, self.side)[None].to(self.unet.device) for x in (window, hole)
        )
        draw: dict[str, Any] = {"seed": seed, "ids": [DRAW], "steps": steps}
        output = edit(self.pipe, self.unet, small, covered, on_step=lambda done: on_step(done, steps), **draw)
        still = noop(self.pipe, self.unet, small, covered, reference="vae", **draw)
        return fill_hole(
            window,
            hole,
            output[0].to(window.device),
            still[0].to(window.device),
            grow=cfg.grow,
            config=EffectConfig(threshold=cfg.threshold, reach=cfg.reach),
        )
