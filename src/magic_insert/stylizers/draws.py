"""What a stylizer is: it redraws one subject in the style of any scene.

Shape letters: B pictures, h, w of a picture. Values are float32 in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.events import OnStep, no_step


@dataclass(frozen=True)
class Draw:
    """One picture to draw: the scene that lends its style, and the seed and name of its start noise.

    `style_text`: the scene's style in words ("a watercolour painting"), for methods that take it from words.
    """

    scene: Float[Tensor, "3 _ _"]
    seed: int
    id: str
    style_text: str = ""


@runtime_checkable
class Stylizer(Protocol):
    """Redraws one subject, known since construction, in the style of any scene."""

    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B C h w"]:
        """The stylised subject; row i depends on `draws[i]` only (to float tolerance).

        C is 3, on plain ground; or 4 with the method's own matte, and then the colours are the subject's own.
        """
        ...

    def close(self) -> None:
        """Removes what it put into a shared pipeline; it cannot be used afterwards."""
        ...
