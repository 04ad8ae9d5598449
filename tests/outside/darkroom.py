"""A package as somebody else would write it: one component of each kind, known to Magic Insert by its entry points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from magic_insert.config.fields import Range
from magic_insert.config.schema.shared import InserterConfig, SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.effect_layer import EffectLayer
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.records import Subject
from magic_insert.evaluation.metrics import Column, Metric, Sample
from magic_insert.inserters.base import Insertion, Window
from magic_insert.models.encoders.base import EncoderCard, PlainEncoder
from magic_insert.models.segment import Matte
from magic_insert.stylizers.draws import Draw
from magic_insert.toybox.styles.view import View, style


class Negative:
    """A stylizer: the subject's own picture with its colours inverted."""

    @dataclass(frozen=True)
    class Settings(StylizerConfig):
        """How far it goes."""

        strength: Annotated[float, Range(0, 1)] = 1.0
        """0 is the picture as it is."""

    def __init__(
        self, settings: Settings, pipe: Any, subject: Subject, style: StyleConfig, sampling: SamplingConfig
    ) -> None:
        self.settings, self.subject = settings, subject

    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Tensor:
        """The same picture for every draw."""
        inverted = torch.lerp(self.subject.rgb, 1 - self.subject.rgb, self.settings.strength)
        picture = inverted * self.subject.alpha + 1 - self.subject.alpha
        return picture.expand(len(draws), -1, -1, -1)

    def close(self) -> None:
        """Holds nothing."""


class Gloom:
    """An inserter: the whole neighbourhood gets darker."""

    @dataclass(frozen=True)
    class Settings(InserterConfig):
        """How dark."""

        darkness: Annotated[float, Range(0, 1)] = 0.5
        """The factor by which light is taken away."""

    def __init__(self, settings: Settings, pipe: Any, folder: Path | None) -> None:
        self.name, self.settings = settings.name, settings

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Its name and its settings."""
        return {"inserter": self.name, "darkness": self.settings.darkness}

    def __call__(self, window: Window, *, on_step: OnStep = no_step) -> Insertion:
        """A factor of the whole window, and no light."""
        shade = torch.full_like(window.pasted, 1 - self.settings.darkness)
        return Insertion(EffectLayer(shade, torch.zeros_like(shade)))


@dataclass(frozen=True)
class Contrast:
    """A filter: the removal must not have left a hard residue."""

    most: Annotated[float, Range(0, 1)] = 0.3
    """The largest residue that passes."""

    def score(self, name: str, measures: Mapping[str, float]) -> float:
        """1 up to `most`, else 0."""
        return float(measures["residue"] <= self.most)


def bright(rgb: Tensor, alpha: Tensor | None, folder: Path | None) -> Matte:
    """A segmenter: whatever is brighter than the middle."""
    return Matte(rgb, (rgb.mean(dim=0, keepdim=True) > 0.5).to(rgb.dtype))


@style("as a sepia print")
def sepia(view: View) -> Tensor:
    """A Toybox style: the photograph in browns."""
    from magic_insert.toybox.styles.printed import photo

    grey = photo(view).mean(dim=1, keepdim=True)
    return (grey * grey.new_tensor([1.0, 0.85, 0.65]).view(1, 3, 1, 1)).clamp(0, 1)


def _brightness(sample: Sample) -> dict[str, float]:
    return {} if sample.picture is None else {"brightness": float(sample.picture.mean())}


# A metric: how bright the composite is.
BRIGHTNESS = Metric({"insert": (Column("brightness", "brightness", "look", bounds=(0.0, 1.0)),)}, _brightness)


class Colours(torch.nn.Module):
    """An encoder without weights: the mean colour of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """B 3 of B 3 H W."""
        return self.scale * pixels.mean(dim=(2, 3))

    @staticmethod
    def locate(**where: Any) -> None:
        """Needs no file."""

    @staticmethod
    def load(**where: Any) -> PlainEncoder:
        """The encoder with its card."""
        grey = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        card = EncoderCard(
            "colours", "style", "none", "0" * 64, 32, 32, "bilinear", *grey, None, 3, "nothing"
        )
        return PlainEncoder(Colours(), card).eval()
