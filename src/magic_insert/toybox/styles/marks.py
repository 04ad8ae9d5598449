"""Marks a hand or a press makes, and where a draughtsman puts lines: silhouettes, parts, creases and patterns.

Hatching, dots and strokes are tied to places on the sheet, not to the motif. Lines lie on the nearer surface's side of
a border, so that a subject's outline belongs to the subject. Lengths are in units (1/128 of the height), maps 1 C H W
in [0, 1].
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from magic_insert.core.rand import generator
from magic_insert.toybox.styles.view import UNITS, View, ramp


def hatch(
    v: View, angle_deg: float, period: float, width: Tensor | float, wobble: Tensor | float = 0.0
) -> Tensor:
    """Parallel lines at `angle_deg`, `period` units apart; `width` is the inked share."""
    angle = math.radians(angle_deg)
    across = v.y * math.cos(angle) - v.x * math.sin(angle) + wobble
    return lines_of_phase(v, across / period, period, width)


def lines_of_phase(v: View, phase: Tensor, period: float, width: Tensor | float) -> Tensor:
    """Antialiased lines where `phase` is near a whole number; `period` units span a phase of 1."""
    off_centre = 2.0 * (phase - phase.round()).abs()
    return ((width - off_centre) * (0.5 * period * v.scale) + 0.5 * (width > 0.0)).clamp(0.0, 1.0)


def dots(v: View, angle_deg: float, period: float, amount: Tensor) -> Tensor:
    """A round-dot screen: `amount` in [0, 1] is the inked share; dots grow and join as it rises."""
    angle = math.radians(angle_deg)
    u = (v.x * math.cos(angle) + v.y * math.sin(angle)) * (2.0 * math.pi / period)
    w = (v.y * math.cos(angle) - v.x * math.sin(angle)) * (2.0 * math.pi / period)
    spot = 0.5 + 0.25 * (torch.cos(u) + torch.cos(w))  # 1 at a dot's centre, 0 between four dots
    sharpness = 0.35 * period * v.scale
    return ((amount - (1.0 - spot)) * sharpness + 0.5).clamp(0.0, 1.0) * (amount > 0.02)


@dataclass(frozen=True)
class Cells:
    """A sheet covered by overlapping strokes or adjoining tiles.

    `index` H W int64: flat pixel index of the middle of the stroke that covers a pixel. `along`, `across`
    H W: where in the stroke the pixel lies (1 at its rim). `gap` H W: distance to the tile's seam in units.
    `lot` H W in [0, 1]: a random number of the stroke.
    """

    index: Tensor
    along: Tensor
    across: Tensor
    gap: Tensor
    lot: Tensor


def cells(
    v: View,
    name: str,
    pitch: float,
    *,
    aspect: float = 1.0,
    turn_deg: float = 0.0,
    spread_deg: float = 0.0,
    jitter: float = 0.8,
    overlap: float = 0.0,
) -> Cells:
    """Strokes on a jittered lattice of `pitch` units, `aspect` times as long as wide, turned by chance.

    With `overlap` 0 they are tiles (each pixel goes to the nearest middle); above it, strokes that reach that
    many pitches lie over one another in a random order.
    """
    device = v.sky.device
    rows, cols = math.ceil(UNITS / pitch) + 3, math.ceil(UNITS * v.width / v.height / pitch) + 3
    lattice = torch.rand((4, rows, cols), generator=generator(v.seed, "style", v.style, name))
    jig = 0.5 + (lattice[:2] - 0.5) * jitter
    place = torch.stack(torch.meshgrid(torch.arange(rows) - 1.0, torch.arange(cols) - 1.0, indexing="ij"))
    angle = math.radians(turn_deg) + (lattice[2] - 0.5) * 2.0 * math.radians(spread_deg)
    middle = (place + jig) * pitch  # rows then columns
    thin, reach = math.sqrt(aspect), max(overlap, 1.0) * pitch
    # Per stroke: middle row, middle column, lot, and the turned axes scaled so that the rim lies at length 1.
    table = torch.stack((*middle, lattice[3], angle.cos() / (thin * reach), angle.sin() / (thin * reach),
                         angle.cos() * thin / reach, angle.sin() * thin / reach)).to(device)  # fmt: skip
    y, x = v.y[0, 0], v.x[0, 0]
    i, j = (y[:, 0] / pitch).floor().long() + 1, (x[0] / pitch).floor().long() + 1
    home = i[:, None] * cols + j
    best = torch.full((v.height, v.width), 1e9, device=device)
    second, chosen = best.clone(), torch.zeros_like(home)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            here = table.index_select(1, i + di).index_select(2, j + dj)
            along, across = _local(here, x, y)
            score = along.square() + across.square()
            if overlap > 0.0:
                score = torch.where(score < 1.0, -1.0 - here[2], score)
            nearer = score < best
            second = torch.minimum(second, torch.maximum(best, score))
            chosen = torch.where(nearer, home + (di * cols + dj), chosen)
            best = torch.minimum(best, score)
    mine = table.flatten(1).index_select(1, chosen.flatten()).view(-1, v.height, v.width)
    along, across = _local(mine, x, y)
    row = (mine[0] * v.scale).long().clamp(0, v.height - 1)
    col = (mine[1] * v.scale).long().clamp(0, v.width - 1)
    gap = (second.clamp(min=0.0).sqrt() - best.clamp(min=0.0).sqrt()) * (0.5 * reach)
    return Cells(row * v.width + col, along, across, gap, mine[2])


def dab(image: Tensor, strokes: Cells) -> Tensor:
    """Fills every stroke with the picture's colour at its middle."""
    flat = image.flatten(2).index_select(2, strokes.index.flatten())
    return flat.view(image.shape)


def _local(stroke: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    dx, dy = x - stroke[1], y - stroke[0]
    return dx * stroke[3] + dy * stroke[4], dy * stroke[5] - dx * stroke[6]


def outline(v: View) -> Tensor:
    """1 1 H W, 1 on pixels at the border of an object (or of ground, wall and sky)."""
    return _near_side(v, v.g.object_id)


def parts(v: View) -> Tensor:
    """1 1 H W, 1 on pixels where one primitive meets another, and on sharp creases inside one."""
    pair = _near_side(v, v.g.part_id)
    normal = v.g.normal
    crease_x = _after_x((normal[..., :, 1:] * normal[..., :, :-1]).sum(1, keepdim=True) < 0.6)
    crease_y = _after_y((normal[..., 1:, :] * normal[..., :-1, :]).sum(1, keepdim=True) < 0.6)
    return torch.maximum(pair, torch.maximum(crease_x, crease_y) * v.things)


def pattern(v: View) -> Tensor:
    """1 1 H W in [0, 1]: colour steps painted on a surface; fades where distance makes them fine."""
    albedo = v.g.albedo
    step_x = _after_x((albedo[..., :, 1:] - albedo[..., :, :-1]).abs().amax(1, keepdim=True) > 0.12)
    step_y = _after_y((albedo[..., 1:, :] - albedo[..., :-1, :]).abs().amax(1, keepdim=True) > 0.12)
    near = 1.0 - ramp(v.g.depth, 8.0, 16.0)
    return torch.maximum(step_x, step_y) * near * (1.0 - v.sky)


def border(mask: Tensor) -> Tensor:
    """1 1 H W, 1 on pixels where a 0/1 mask (or an id map) changes."""
    step_x, step_y = mask[..., :, 1:] != mask[..., :, :-1], mask[..., 1:, :] != mask[..., :-1, :]
    return torch.maximum(_after_x(step_x), _after_y(step_y))


def mirrored(v: View) -> Tensor:
    """1 1 H W in [0, 1]: outlines seen in glossy surfaces, as strong as the gloss."""
    return border(v.g.mirror_id) * (v.wet * 2.5).clamp(max=1.0) * (1.0 - border(v.g.object_id))


def stroke(v: View, edges: Tensor, width: float, softness: float = 0.35) -> Tensor:
    """One-pixel edges thickened to a smooth line `width` units wide.

    Returns 1 1 H W in [0, 1]. Blurring a one-pixel line and scaling by the blur's own peak gives a profile
    that depends on the distance only; a steep ramp over it cuts the line out.
    """
    sigma = max(0.45 * width, 0.5 / v.scale)
    profile = v.blur(edges, sigma) * (sigma * v.scale * 2.3)
    return ramp(profile, 0.5 - softness, 0.5 + softness)


def drawing(v: View, *, always: float = 1.0, at_part: float = 0.1, at_pattern: float = 0.5) -> Tensor:
    """Edges by complexity: outlines always, parts and patterns fade in from the given complexity on."""
    edges = outline(v) * always
    inner = min(1.0, max(0.0, (v.c - at_part) * 3.0 + 0.35))
    if inner > 0.0:
        edges = torch.maximum(edges, parts(v) * inner)
    fine = min(1.0, max(0.0, (v.c - at_pattern) * 2.0))
    if fine > 0.0:
        edges = torch.maximum(edges, pattern(v) * fine)
    return edges


def _near_side(v: View, ids: Tensor) -> Tensor:
    depth = v.g.depth
    differs_x, differs_y = ids[..., :, 1:] != ids[..., :, :-1], ids[..., 1:, :] != ids[..., :-1, :]
    first_x, first_y = depth[..., :, :-1] <= depth[..., :, 1:], depth[..., :-1, :] <= depth[..., 1:, :]
    left, right = differs_x & first_x, differs_x & ~first_x
    top, bottom = differs_y & first_y, differs_y & ~first_y
    edges = _after_x(right) + _after_y(bottom)
    edges = edges + F.pad(left.float(), (0, 1)) + F.pad(top.float(), (0, 0, 0, 1))
    return edges.clamp(max=1.0)


def _after_x(step: Tensor) -> Tensor:
    return F.pad(step.float(), (1, 0))


def _after_y(step: Tensor) -> Tensor:
    return F.pad(step.float(), (0, 0, 1, 0))
