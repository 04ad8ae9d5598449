"""Marks a hand or a press makes: hatching, dots and strokes, tied to places on the sheet, not to the motif.

Lengths in units (1/128 of the height); maps are 1 C H W in [0, 1].
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from magic_insert.core.rand import generator
from magic_insert.toybox.styles.view import UNITS, View


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
