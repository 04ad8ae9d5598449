"""The plain ground of a subject's picture, read from its border: a plane, or a vignette, faint or dark.

Shape letters h, w; pictures are float32 RGB in [0, 1].
"""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from magic_insert.core.compositing import resize
from magic_insert.core.masks import blur

GROUND_STEP = 0.035  # distance from the ground's colour below which a pixel is ground
WALK = (3, 3, 3)  # levels of 255 between neighbours that count as one ground
VIGNETTE_SHARE = 0.1  # share of the walked ground off the plane from which a vignette is thought of
NO_PLANE = 0.08  # median distance of the border from which a plane does not describe it
DARKER = 0.02  # by which a ring of ground may be darker than the one around it
# Rings around the centre, and how far half of a ring of ground may be from its own median.
RINGS, RING_SPREAD = 24, 0.12


def ground_of(rgb: Float[Tensor, "3 H W"], small: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 H W"]:
    """The ground's colour at every pixel of `rgb`; `small` is the same picture at the size to search for a vignette."""
    plane = ground_colour(rgb)
    small_plane = resize(plane, *small.shape[-2:])
    if (surface := _vignette(small, small_plane)) is not None:
        return _evaluated(surface, rgb)
    if float(_off_border(small, small_plane)) > NO_PLANE and (rings := _dark_vignette(small)) is not None:
        place = (_radius(*rgb.shape[-2:]) * (RINGS - 1)).clamp(max=RINGS - 1 - 1e-4)
        inner = place.long()
        return torch.lerp(rings[inner], rings[inner + 1], (place - inner)[..., None]).to(rgb).permute(2, 0, 1)
    return plane


def ground_colour(rgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The colour of the plain ground at every pixel: a plane per channel, fitted robustly to the border.

    A subject that touches the border is an outlier.
    """
    height, width = rgb.shape[-2:]
    y, x = _places(height, width)
    basis = torch.stack([torch.ones_like(x), x, y], dim=-1).to(rgb)
    ring = torch.zeros(height, width, dtype=torch.bool)
    rim = max(1, min(height, width) // 50)
    ring[:rim], ring[-rim:], ring[:, :rim], ring[:, -rim:] = True, True, True, True
    rows, colours = basis[ring].double(), rgb.permute(1, 2, 0)[ring].double()
    median = colours.median(dim=0).values
    distance = (colours - median).norm(dim=1)
    plane = _robust_fit(rows, colours, distance <= 2.5 * distance.median() + 0.02)
    return (basis.double() @ plane).clamp(0.0, 1.0).to(rgb).permute(2, 0, 1)


def _vignette(small: Float[Tensor, "3 h w"], plane: Float[Tensor, "3 h w"]) -> Float[Tensor, "6 3"] | None:
    """The ground where it is brighter or darker towards the middle, as in an old photograph: a surface's coefficients.

    What can be walked to from the corners in small steps of colour is ground; if it leaves the border's plane, a
    quadratic surface is fitted to it, robustly, because the walk may have crossed a soft outline. A corner may also
    be the subject's own: the surface counts only if it describes the border no worse than the plane does.
    """
    smooth = blur(small, 1.5)
    levels = np.ascontiguousarray((smooth.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))
    height, width = levels.shape[:2]
    walked = np.zeros((height + 2, width + 2), np.uint8)
    for seed in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        cv2.floodFill(levels, walked, seed, 0, WALK, WALK, cv2.FLOODFILL_MASK_ONLY | 4)
    reached = torch.from_numpy(walked[1:-1, 1:-1] > 0)
    away = (smooth - plane).norm(dim=0)[reached] > GROUND_STEP
    if float(away.float().mean()) < VIGNETTE_SHARE:
        return None
    basis, picture = _quadratic(height, width), small.permute(1, 2, 0).double()
    surface = _robust_fit(basis[reached], picture[reached], torch.ones(int(reached.sum()), dtype=torch.bool))
    described = _evaluated(surface, small)
    return surface if _off_border(small, described) <= _off_border(small, plane) else None


def _robust_fit(
    rows: Float[Tensor, "N K"], colours: Float[Tensor, "N 3"], keep: Bool[Tensor, " N"]
) -> Float[Tensor, "K 3"]:
    """Least squares over the pixels in `keep`; three rounds leave out those more than 2.5 spreads away."""
    for _ in range(3):
        fitted = torch.linalg.lstsq(rows[keep], colours[keep], driver="gelsd").solution
        distance = (colours - rows @ fitted).norm(dim=1)
        keep = distance <= 2.5 * distance[keep].median() + 0.01
    return fitted


def _evaluated(surface: Float[Tensor, "6 3"], like: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    return (_quadratic(*like.shape[-2:]) @ surface).clamp(0.0, 1.0).to(like).permute(2, 0, 1)


def _dark_vignette(small: Float[Tensor, "3 h w"]) -> Float[Tensor, "R 3"] | None:
    """Colours of a ground that falls off steeply around the centre, from there to the corner; None where it does not.

    From the corners inwards, a ring is ground while most of it has one colour, no darker than the ring around it. Where
    the subject fills the rings, the ground goes on as it was seen last.
    """
    place = (_radius(*small.shape[-2:]) * (RINGS - 1)).round().long()
    pixels = small.permute(1, 2, 0)
    rings = small.new_zeros(RINGS, 3)
    last = RINGS  # the innermost ring that is ground
    while last > 0 and len(ring := pixels[place == last - 1]):
        median = ring.median(dim=0).values
        mixed = float((ring - median).norm(dim=1).median()) > RING_SPREAD
        if mixed or (last < RINGS and float((rings[last] - median).mean()) > DARKER):
            break
        last -= 1
        rings[last] = median
    if last > 0.75 * RINGS:  # hardly more than the corners
        return None
    rings[:last] = rings[last]
    return rings


def _radius(height: int, width: int) -> Float[Tensor, "H W"]:
    """Distance from the centre, 1 in the corners."""
    y, x = _places(height, width)
    return (x * x + y * y).sqrt() / 2**0.5


def _off_border(picture: Float[Tensor, "3 h w"], ground: Float[Tensor, "3 h w"]) -> Float[Tensor, ""]:
    """Median distance between the two along the border, one pixel wide."""
    ring = torch.ones(picture.shape[-2:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    return (picture - ground).norm(dim=0)[ring].median()


def _quadratic(height: int, width: int) -> Float[Tensor, "H W 6"]:
    y, x = _places(height, width)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).double()


def _places(height: int, width: int) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Rows and columns of the pixels, from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return y, x
