"""What travels along the path: a subject, a scene, a box to stand in, and the finished composite.

Shape letters: h, w rows and columns of the subject's own picture, H, W of the scene. Values are float32 in [0, 1]; a
scene may be kept in 8 bits, so that a large picture costs three bytes a pixel, and is converted window by window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from magic_insert.core.box import Box
from magic_insert.core.images import as_float, as_levels, png_bytes, to_pil

__all__ = ["Box", "Composite", "Scene", "Subject"]


@dataclass(frozen=True)
class Subject:
    """One subject picture with its matte; `alpha` is 1 on the subject and 0 on the ground behind it.

    `text`: what it is in words ("a red bunny"). `run`: the folder of its personalisation, where it has one.
    """

    rgb: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "1 h w"]
    id: str
    text: str = ""
    run: Path | None = None

    @property
    def image(self) -> Image.Image:
        """The cut-out as an RGBA picture."""
        return to_pil(self.rgb, self.alpha)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.rgb, self.alpha)


@dataclass(frozen=True)
class Scene:
    """The target picture that receives the subject and lends its style."""

    pixels: Float[Tensor, "3 H W"] | UInt8[Tensor, "3 H W"]
    id: str

    @property
    def rgb(self) -> Float[Tensor, "3 H W"]:
        """The whole picture."""
        return as_float(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def crop(self, box: Box) -> Float[Tensor, "3 h w"]:
        """The pixels inside `box`, which lies on the picture."""
        return as_float(self.pixels[box.pixels])

    def patched(self, box: Box, rgb: Float[Tensor, "3 h w"]) -> "Scene":
        """A copy whose pixels inside `box` are `rgb`, in the depth of the scene; all others keep their values."""
        pixels = self.pixels.clone()
        pixels[box.pixels] = rgb if pixels.is_floating_point() else as_levels(rgb)
        return Scene(pixels, self.id)


@dataclass(frozen=True)
class Composite:
    """The finished picture, the subject's coverage in it, and how it came to be (plain JSON values)."""

    rgb: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    provenance: Mapping[str, Any] = field(default_factory=dict)
