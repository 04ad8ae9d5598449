"""The control: what is pasted stays as it is. The floor of every table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.inserters.base import Insertion


class CopyPaste:
    """Draws nothing."""

    def __init__(self, settings: InserterConfig, pipe: Any = None, folder: Path | None = None) -> None:
        """None of the three is used."""
        self.name = settings.name

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its name."""
        return {"inserter": self.name}

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
