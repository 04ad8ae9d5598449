"""Standing a subject in a scene: the box it stands in, its fitted picture, the paste, and the region a model sees.

Everything works at the scene's own resolution; H, W are its rows and columns, h, w those of the subject's picture.
Images and mattes are float32 in [0, 1]. The light the subject throws on the scene is in `core.effect_layer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.masks import bounding_box
from magic_insert.core.records import Box, Composite, Scene, Subject

STEADY = 1e-5  # keeps a division by a spread of 0 finite
FAINT = 0.02  # a matte below this is dust: it must not widen the crop


def resize(image: Float[Tensor, "C h w"], height: int, width: int) -> Float[Tensor, "C H W"]:
    """Bicubic, antialiased when shrinking, clamped to [0, 1]; the same size returns the same tensor."""
    if image.shape[-2:] == (height, width):
        return image
    wide = functional.interpolate(image[None], size=(height, width), mode="bicubic", antialias=True)
    return wide[0].clamp(0.0, 1.0)


def area_resize(image: Float[Tensor, "C h w"], height: int, width: int) -> Float[Tensor, "C H W"]:
    """The mean over each target pixel's footprint: what a model at lower resolution is shown."""
    if image.shape[-2:] == (height, width):
        return image
    if image.shape[-2] < height or image.shape[-1] < width:
        return resize(image, height, width)
    return functional.adaptive_avg_pool2d(image[None], (height, width))[0]


def centre_square(image: Float[Tensor, "C H W"]) -> Float[Tensor, "C S S"]:
    """The largest square in the middle of the picture."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]


def size_within(size: Sequence[int], longest: int, least: int = 1) -> tuple[int, int]:
    """`size`, rows and columns, brought down to at most `longest` pixels a side, and at least `least`."""
    scale = min(1.0, longest / max(size))
    rows, columns = (max(least, round(side * scale)) for side in size)
    return rows, columns


def luminance(rgb: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 1 H W"]:
    """Rec. 601 luma."""
    return 0.299 * rgb[..., 0:1, :, :] + 0.587 * rgb[..., 1:2, :, :] + 0.114 * rgb[..., 2:3, :, :]


def fit_to_box(subject: Subject, box: Box) -> Subject:
    """The subject on an otherwise empty canvas of the box's size: as large as fits, centred, standing on its floor.

    The crop is the matte's bounding box, its aspect is kept. Colours are resized premultiplied, so whatever lay
    behind the matte cannot bleed in. Returns rgb `3 box.h box.w` and alpha `1 box.h box.w`.

    Raises:
        UserError: the matte is empty.
    """
    crop = bounding_box(subject.alpha, FAINT)
    alpha = subject.alpha[crop.pixels]
    painted = subject.rgb[crop.pixels] * alpha
    scale = min(box.w / crop.w, box.h / crop.h)
    h, w = min(box.h, max(1, round(crop.h * scale))), min(box.w, max(1, round(crop.w * scale)))
    alpha, painted = resize(alpha, h, w), resize(painted, h, w)
    left = (box.w - w) // 2
    frame = (left, box.w - w - left, box.h - h, 0)
    colour = (painted / alpha.clamp_min(1e-3)).clamp(0.0, 1.0)
    return Subject(functional.pad(colour, frame), functional.pad(alpha, frame), subject.id)


def paste(scene: Scene, subject: Subject, box: Box) -> Composite:
    """`alpha * subject + (1 - alpha) * scene` in the box; every pixel the matte does not reach is the scene's own.

    Raises:
        UserError: the matte is empty, or the box is not inside the scene.
    """
    box.require_inside(*scene.size)
    return paste_fitted(scene, fit_to_box(subject, box), box)


def paste_fitted(scene: Scene, fitted: Subject, box: Box) -> Composite:
    """`paste` of a subject that has the size of its box."""
    mask = torch.zeros(1, *scene.size)
    mask[box.pixels] = fitted.alpha
    rgb = scene.rgb.clone()
    rgb[box.pixels] = cover(rgb[box.pixels], fitted.rgb, fitted.alpha)
    return Composite(rgb, mask, {"subject": fitted.id, "scene": scene.id})


def cover(
    below: Float[Tensor, "3 H W"], above: Float[Tensor, "3 H W"], alpha: Float[Tensor, "1 H W"]
) -> Float[Tensor, "3 H W"]:
    """`above` over `below`; where alpha is exactly 0 or 1 the result is exactly one of the two."""
    mixed = alpha * above + (1.0 - alpha) * below
    return torch.where(alpha == 0, below, torch.where(alpha == 1, above, mixed))


@dataclass(frozen=True)
class Region:
    """A square window on a picture; it may hang over the border, where the picture's edge pixels are repeated."""

    x: int
    y: int
    side: int

    def crop(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "C side side"]:
        """The window's pixels; where it lies inside the picture, a view of them."""
        height, width = image.shape[-2:]
        if self.x >= 0 and self.y >= 0 and self.x + self.side <= width and self.y + self.side <= height:
            return image[:, self.y : self.y + self.side, self.x : self.x + self.side]
        rows = torch.arange(self.y, self.y + self.side, device=image.device).clamp(0, height - 1)
        columns = torch.arange(self.x, self.x + self.side, device=image.device).clamp(0, width - 1)
        return image[:, rows][:, :, columns]

    def put_back(
        self, image: Float[Tensor, "C H W"], window: Float[Tensor, "C side side"]
    ) -> Float[Tensor, "C H W"]:
        """A copy of `image` whose pixels inside the window are the window's; what hangs over is dropped."""
        height, width = image.shape[-2:]
        x0, y0 = max(self.x, 0), max(self.y, 0)
        x1, y1 = min(self.x + self.side, width), min(self.y + self.side, height)
        result = image.clone()
        result[:, y0:y1, x0:x1] = window[:, y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]
        return result


def region_around(box: Box, height: int, width: int, *, context: float = 2.2) -> Region:
    """The square an insertion model is shown: `context` times the longer side of the box, kept inside if it can be.

    The default shows a subject as tall, relative to the square, as the placement prior makes it in a whole picture.
    """
    side = max(box.w, box.h, round(context * max(box.w, box.h)))
    side = max(min(side, height, width), box.w, box.h)
    x = _slide(round(box.centre_x - side / 2), side, width)
    y = _slide(round(box.y + box.h / 2 - side / 2), side, height)
    return Region(x, y, side)


def _slide(start: int, side: int, length: int) -> int:
    """`start` moved so that the span lies inside `length`, or centred on it when it is longer."""
    return (length - side) // 2 if side > length else min(max(start, 0), length - side)


def adain(content: Tensor, style: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """`content` with the mean and deviation of `style` along `dim` (Huang and Belongie 2017, eq. 8)."""
    mean, deviation = content.mean(dim, keepdim=True), (content.var(dim, keepdim=True) + STEADY).sqrt()
    style_mean, style_deviation = (
        style.mean(dim, keepdim=True),
        (style.var(dim, keepdim=True) + STEADY).sqrt(),
    )
    return (content - mean) / deviation * style_deviation + style_mean
