"""What the harness and the insert job ask of a method, whatever model stands behind it.

Shape letters: H, W the scene's rows and columns, h, w the stylised subject's, s the side of the square an inserter
draws. Pictures and masks are float32 in [0, 1].
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Insertion:
    """What an inserter drew, and what the same machinery draws when it changes nothing: the effect is between them."""

    output: Float[Tensor, "3 s s"]
    reference: Float[Tensor, "3 s s"]


@runtime_checkable
class Stylizer(Protocol):
    """Redraws one subject, known since construction, in the style of a scene."""

    def __call__(
        self, scene_rgb: Float[Tensor, "3 H W"], *, seed: int, id: str, style_text: str = ""
    ) -> Float[Tensor, "3 h w"]:
        """The stylised subject on plain ground.

        Args:
            seed: root of every random number of the draw.
            id: names the draw, so a pair can be replayed alone.
            style_text: the scene's style in words ("a watercolour painting"), heard by those who take it from words.
        """
        ...


@runtime_checkable
class BatchStylizer(Stylizer, Protocol):
    """A stylizer that redraws for many scenes at once, to the same pictures."""

    def batch(
        self,
        scenes: Sequence[Float[Tensor, "3 _ _"]],
        *,
        seeds: Sequence[int],
        ids: Sequence[str],
        style_texts: Sequence[str] | None = None,
    ) -> Float[Tensor, "B 3 h w"]:
        """Row i equals a call on scene i (to float tolerance)."""
        ...

    def close(self) -> None:
        """Gives back what it put into a shared pipeline; it cannot be used afterwards."""
        ...


@runtime_checkable
class Inserter(Protocol):
    """Gives a pasted subject its shadow, reflection and contact."""

    @property
    def name(self) -> str:
        """How rows and reports call it."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it is made of: plain JSON values, digests of weights included."""
        ...

    def __call__(
        self,
        composite: Float[Tensor, "3 H H"],
        mask: Float[Tensor, "1 H H"],
        *,
        seed: int,
        id: str,
        on_step: Callable[[int], None],
    ) -> Insertion:
        """The square window `composite`, whose subject is `mask`, redrawn at the inserter's own size."""
        ...
