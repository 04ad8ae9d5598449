"""Colour looks: a drawing's colours changed as a whole, so that the adapter hears palettes no drawing style has.

Thirteen styles are few: an adapter that knows nothing else can only answer with one of them. The same look laid over a
picture and over its style reference is a further style, known exactly, at the price of one encoding.

Pictures are ... 3 H W in [0, 1], or uint8 where it says so.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from magic_insert.toybox.styles.view import luminance, saturate

Look = Callable[[Tensor], Tensor]


def _duotone(dark: tuple[float, float, float], light: tuple[float, float, float]) -> Look:
    start, end = (torch.tensor(colour).view(3, 1, 1) for colour in (dark, light))
    return lambda image: start.to(image.device) + (end - start).to(image.device) * luminance(image)


def _channels(*order: int) -> Look:
    return lambda image: image[..., list(order), :, :]


def _grey(image: Tensor) -> Tensor:
    return luminance(image).expand_as(image)


def _night(image: Tensor) -> Tensor:
    return image * torch.tensor([0.35, 0.4, 0.75], device=image.device).view(3, 1, 1)


LOOKS: dict[str, Look] = {
    "grey": _grey,
    "dark grey": lambda image: 0.85 * _grey(image) ** 1.6,
    "soot": _duotone((0.10, 0.10, 0.10), (0.72, 0.69, 0.64)),
    "sepia": _duotone((0.16, 0.09, 0.04), (0.96, 0.88, 0.72)),
    "night": _night,
    "dusk": _duotone((0.12, 0.05, 0.25), (1.0, 0.75, 0.55)),
    "forest": _duotone((0.03, 0.16, 0.10), (0.88, 0.95, 0.75)),
    "wine": _duotone((0.25, 0.02, 0.08), (0.98, 0.90, 0.86)),
    "ice": _duotone((0.05, 0.12, 0.30), (0.90, 0.97, 1.0)),
    "faded": lambda image: 0.25 + 0.3 * image + 0.3 * luminance(image),
    "vivid": lambda image: saturate(image, 1.6),
    "inverted": lambda image: 1 - image,
    "negative": lambda image: 1 - _grey(image),
    "blue for red": _channels(2, 0, 1),
    "green for red": _channels(1, 2, 0),
    "stark": lambda image: 0.5 + 1.8 * (image - 0.5),
}
LOOK_NAMES = tuple(LOOKS)


def apply_look(pixels: Tensor, name: str) -> Tensor:
    """uint8 pictures ... 3 H W in the look `name`, as uint8."""
    changed = LOOKS[name](pixels.float() / 255.0).clamp(0, 1)
    return (changed * 255.0 + 0.5).to(torch.uint8)
