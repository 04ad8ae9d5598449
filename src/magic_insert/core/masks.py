"""Laws of masks: where they are, how they grow, soften and fall into components.

A mask is 1HW float in [0, 1]; "inside" means at least one half. Nothing here knows what a mask is of.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.core.records import Box

INSIDE = 0.5
EIGHT = np.ones((3, 3))  # a pixel touches its eight neighbours


def area(mask: Float[Tensor, "*B H W"]) -> float:
    """The mean of the mask: its share of the picture, in [0, 1]."""
    return float(mask.mean())


def bounding_box(mask: Float[Tensor, "1 H W"], threshold: float = INSIDE) -> Box:
    """The smallest box around the pixels of at least `threshold`.

    Raises:
        UserError: the mask is empty at that threshold.
    """
    inside = mask[0] >= threshold
    if not inside.any():
        raise UserError(f"expected a mask with pixels of at least {threshold:g}, got an empty one")
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    x, y = int(columns[0]), int(rows[0])
    return Box(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)


def dilate(mask: Float[Tensor, "1 H W"], radius: int) -> Float[Tensor, "1 H W"]:
    """Grows the mask by `radius` pixels in every direction (a square neighbourhood); radius 0 is the identity."""
    grown = ndimage.maximum_filter(mask[0].cpu().numpy(), 2 * radius + 1, mode="constant")
    return torch.from_numpy(grown).to(mask)[None]


def erode(mask: Float[Tensor, "1 H W"], radius: int) -> Float[Tensor, "1 H W"]:
    """Shrinks the mask by `radius` pixels; beyond the border counts as inside, so a full mask stays full."""
    return 1.0 - dilate(1.0 - mask, radius)


def gaussian(sigma: float, radius: int, like: Tensor) -> Float[Tensor, " K"]:
    """The weights of a Gaussian from -radius to radius, whose sum is 1."""
    steps = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    return kernel / kernel.sum()


def blur(image: Float[Tensor, "C H W"], sigma: float) -> Float[Tensor, "C H W"]:
    """Gaussian blur of `sigma` pixels, separable, edges replicated; sigma 0 is the identity."""
    if sigma == 0:
        return image
    radius = max(1, round(3 * sigma))
    kernel, planes = gaussian(sigma, radius, image), image[:, None]
    planes = functional.pad(planes, (radius, radius, 0, 0), mode="replicate")
    planes = functional.conv2d(planes, kernel.view(1, 1, 1, -1))
    planes = functional.pad(planes, (0, 0, radius, radius), mode="replicate")
    return functional.conv2d(planes, kernel.view(1, 1, -1, 1))[:, 0]


def blur_inside(
    image: Float[Tensor, "C H W"], weight: Float[Tensor, "1 H W"], sigma: float, *, least: float = 1e-3
) -> Float[Tensor, "C H W"]:
    """A Gaussian blur that knows nothing of where `weight` is 0, fading out where less than `least` of it is near."""
    found: Tensor = blur(image * weight, sigma) / blur(weight, sigma).clamp_min(least)
    return found


def feather(mask: Float[Tensor, "1 H W"], radius: float) -> Float[Tensor, "1 H W"]:
    """Softens the edge over about `radius` pixels on each side; the result stays in [0, 1]."""
    return blur(mask, radius / 2).clamp(0.0, 1.0)


def smoothstep(value: Tensor, low: float, high: float) -> Tensor:
    """0 below `low`, 1 above `high`, smooth between; a step where both are equal."""
    if high <= low:
        return (value > low).to(value.dtype)
    t = ((value - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def components(mask: Float[Tensor, "1 H W"]) -> Int[Tensor, "H W"]:
    """Labels of the 8-connected parts of the mask: 0 outside, one positive number per part."""
    labels, _ = ndimage.label((mask[0] >= INSIDE).cpu().numpy(), EIGHT)
    return torch.from_numpy(labels).long().to(mask.device)


def largest_component(mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "1 H W"]:
    """The mask restricted to its largest 8-connected part; an empty mask stays empty."""
    labels = components(mask)
    sizes = torch.bincount(labels.flatten())
    if len(sizes) < 2:
        return torch.zeros_like(mask)
    sizes[0] = 0
    return mask * (labels == int(sizes.argmax()))[None]


def touching(mask: Float[Tensor, "1 H W"], seed: Float[Tensor, "1 H W"]) -> Float[Tensor, "1 H W"]:
    """The parts of the mask that share at least one pixel with `seed`."""
    labels = components(mask)
    wanted = labels[seed[0] >= INSIDE].unique()
    return mask * torch.isin(labels, wanted[wanted > 0])[None]


def fill_holes(mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "1 H W"]:
    """The mask with every enclosed hole set to 1; ground that reaches the picture's border stays."""
    inside = (mask[0] >= INSIDE).cpu().numpy()
    holes = ndimage.binary_fill_holes(inside, EIGHT) & ~inside
    return mask.masked_fill(torch.from_numpy(holes).to(mask.device)[None], 1.0)
