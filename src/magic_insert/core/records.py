"""What travels along the path: a subject, a scene, a box to stand in, and the finished composite.

Shape letters: h, w rows and columns of the subject's own picture, H, W of the scene. All values are float32 in [0, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.box import Box

__all__ = ["Box", "Composite", "Scene", "Subject"]


@dataclass(frozen=True)
class Subject:
    """One subject picture with its matte; `alpha` is 1 on the subject and 0 on the ground behind it."""

    rgb: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "1 h w"]
    id: str


@dataclass(frozen=True)
class Scene:
    """The target picture that receives the subject and lends its style."""

    rgb: Float[Tensor, "3 H W"]
    id: str

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels."""
        return self.rgb.shape[-2], self.rgb.shape[-1]


@dataclass(frozen=True)
class Composite:
    """The finished picture, the subject's coverage in it, and how it came to be (plain JSON values)."""

    rgb: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
