"""What a mask alone says about a subject's shadow: contact on the ground, shadows cast to either side, a reflection.

Everything is placed in the subject's own frame: u to the right of the middle of its foot, v below its lowest row, both
in units of its longer side. Shape letters: B subjects, H, W the window.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.masks import INSIDE, gaussian
from magic_insert.core.rand import Dice

SPAN, CELLS = 2.6, 166  # side of the square in which contact is blurred, in units and in cells
TOP = 1.3  # how far that square reaches above the foot, in units


def foot_frame(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3"]:
    """Middle of the foot, lowest row and longer side of each subject, in pixels; an empty mask has a side of 1."""
    inside = mask[:, 0] >= torch.minimum(mask.flatten(1).amax(1), mask.new_tensor(INSIDE)).view(-1, 1, 1)
    left, right = _extent(inside.any(1))
    top, bottom = _extent(inside.any(2))
    longer = torch.maximum(right - left, bottom - top).clamp_min(1.0)
    return torch.stack([0.5 * (left + right), bottom, longer], 1).to(mask.dtype)


def _extent(found: Tensor) -> tuple[Tensor, Tensor]:
    place = torch.arange(found.shape[1], device=found.device).expand_as(found)
    first = torch.where(found, place, found.shape[1]).amin(1)
    last = torch.where(found, place + 1, 0).amax(1)
    return first, torch.maximum(last, first)


def frame_coordinates(frame: Float[Tensor, "B 3"], height: int, width: int) -> Float[Tensor, "B 2 H W"]:
    """(u, v) of every pixel centre."""
    x = torch.arange(width, device=frame.device) + 0.5
    y = torch.arange(height, device=frame.device) + 0.5
    u = (x[None, :] - frame[:, 0:1]) / frame[:, 2:3]
    v = (y[None, :] - frame[:, 1:2]) / frame[:, 2:3]
    rows, columns = v[:, :, None].expand(-1, -1, width), u[:, None, :].expand(-1, height, -1)
    return torch.stack([columns, rows], 1)


def sample_at(
    image: Float[Tensor, "B C H W"], frame: Float[Tensor, "B 3"], points: Float[Tensor, "B 2 h w"]
) -> Float[Tensor, "B C h w"]:
    """`image` at the frame coordinates `points`; 0 beyond its border."""
    height, width = image.shape[-2:]
    x = points[:, 0] * frame[:, 2, None, None] + frame[:, 0, None, None]
    y = points[:, 1] * frame[:, 2, None, None] + frame[:, 1, None, None]
    grid = torch.stack([2.0 * x / width - 1.0, 2.0 * y / height - 1.0], -1)
    return functional.grid_sample(image, grid.to(image.dtype), align_corners=False)


def cast(
    mask: Float[Tensor, "B 1 H W"],
    frame: Float[Tensor, "B 3"],
    points: Float[Tensor, "B 2 h w"],
    across: float,
    along: float,
) -> Float[Tensor, "B 1 h w"]:
    """The silhouette laid onto the ground: what is at height t falls t * across to the right, t * along downwards."""
    height = points[:, 1] / along
    upright = torch.stack([points[:, 0] - height * across, -height], 1)
    return sample_at(mask, frame, upright) * (height >= 0).to(mask.dtype)[:, None]


@dataclass(frozen=True)
class ContactShape:
    """How a silhouette touches the ground, in units of its longer side.

    tall, wide, down: height and width of the squashed silhouette in its own, and how far it is moved down.
    softness, tightness: blur of the squashed silhouette and of its lowest part.
    lowest: share of the silhouette's longer side that touches the ground.
    """

    tall: float | Tensor = 0.28
    wide: float | Tensor = 1.08
    down: float | Tensor = 0.11
    softness: float = 0.09
    lowest: float = 0.1
    tightness: float = 0.023


def contact(
    mask: Float[Tensor, "B 1 H W"],
    frame: Float[Tensor, "B 3"],
    points: Float[Tensor, "B 2 h w"],
    shape: ContactShape | None = None,
) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B 1 h w"]]:
    """Two coverages in [0, 1]: the silhouette squashed onto the ground, and its lowest part, both blurred."""
    shape = shape or ContactShape()
    steps = (torch.arange(CELLS, device=mask.device, dtype=mask.dtype) + 0.5) * (SPAN / CELLS)
    v, u = torch.meshgrid(steps - TOP, steps - 0.5 * SPAN, indexing="ij")
    u, v = u.expand(len(mask), -1, -1), v.expand(len(mask), -1, -1)
    squashed = sample_at(mask, frame, torch.stack([u / shape.wide, (v - shape.down) / shape.tall], 1))
    foot = sample_at(mask, frame, torch.stack([u, v], 1)) * (v > -shape.lowest).to(mask.dtype)[:, None]
    square = torch.stack([points[:, 0], points[:, 1] + TOP - 0.5 * SPAN], 1) * (2.0 / SPAN)
    grid = square.permute(0, 2, 3, 1)
    blurred = [_blur(squashed, shape.softness * CELLS / SPAN), _blur(foot, shape.tightness * CELLS / SPAN)]
    broad, tight = (functional.grid_sample(image, grid, align_corners=False) for image in blurred)
    return broad, tight


def soft_shadow(
    mask: Float[Tensor, "B 1 H W"], frame: Float[Tensor, "B 3"], points: Float[Tensor, "B 2 H W"], dice: Dice
) -> Float[Tensor, "B 3 H W"]:
    """A made-up shadow as a factor: contact under the feet and of a soft shadow that leans and falls to the front."""
    count, one = len(mask), (len(mask), 1, 1)
    lean = dice.uniform(count, -0.6, 0.6) * dice.chance(count, 0.7)
    leaned = torch.cat([points[:, :1] - lean * (points[:, 1:] - 0.1), points[:, 1:]], 1)
    shape = ContactShape(
        tall=dice.uniform(count, 0.14, 0.55).view(one),
        wide=dice.uniform(count, 0.95, 1.35).view(one),
        down=dice.uniform(count, 0.02, 0.22).view(one),
        softness=dice.number(0.03, 0.13),
        lowest=dice.number(0.06, 0.2),
        tightness=dice.number(0.012, 0.05),
    )
    broad, tight = contact(mask, frame, leaned, shape)
    tinge = torch.exp(dice.uniform(count, -0.2, 0.2, 3))
    depth = dice.uniform(count, 0.2, 0.8) * tinge
    shade = (1 - depth * broad).clamp(0.03, 1) * (1 - dice.uniform(count, 0.1, 0.7) * tight)
    front = cast(mask, frame, points, dice.number(-0.8, 0.8), dice.number(0.1, 0.4))
    front = functional.avg_pool2d(functional.avg_pool2d(front, 9, 1, 4), 7, 1, 3)
    return shade * (1 - dice.uniform(count, 0.1, 0.5) * dice.chance(count, 0.3) * front)


def _blur(image: Float[Tensor, "B 1 H W"], sigma: float) -> Float[Tensor, "B 1 H W"]:
    """Gaussian blur of `sigma` cells; beyond the border there is nothing."""
    radius = max(1, round(3 * sigma))
    kernel = gaussian(sigma, radius, image)
    across = functional.conv2d(image, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1), padding=(radius, 0))
