"""The control: what is pasted stays as it is. The floor of every table."""

import torch

from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.inserters.base import InserterBase, Insertion, Window


class CopyPaste(InserterBase):
    """Draws nothing."""

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """No effect; the window as it came, twice."""
        nothing = torch.zeros(3, 1, 1)
        return Insertion(EffectLayer(1 - nothing, nothing), window.pasted, window.pasted)
