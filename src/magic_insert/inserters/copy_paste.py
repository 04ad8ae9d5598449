"""The control: what is pasted stays as it is. The floor of every table."""

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.inserters.base import InserterBase, Insertion


class CopyPaste(InserterBase):
    """Draws nothing."""

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
        """No effect; the window as it came, twice."""
        nothing = torch.zeros(3, 1, 1)
        return Insertion(EffectLayer(1 - nothing, nothing), window, window)
