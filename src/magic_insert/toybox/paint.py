"""Solid patterns: how much of a paint's second colour a point of a surface shows, from its own coordinates.

The patterns are functions of space fixed to the shape, so they stick to a subject that moves or turns. Their edges are
softened by the pixel's footprint, so a far floor fades to the mean instead of flickering.

Shape letters: P points. Amounts lie in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.toybox.records import Paint, Pattern
from magic_insert.toybox.shapes import take

PATTERNS: tuple[str, ...] = get_args(Pattern)
DOT_RADIUS = 0.3  # of a period
Points = Sequence[Tensor]


@dataclass(frozen=True)
class PackedPaints:
    """Paints as columns: values 8 N (colour, second, scale, gloss), pattern N int64 index into PATTERNS."""

    values: Tensor
    pattern: Tensor


def pack_paints(paints: Sequence[Paint], device: torch.device | str = "cpu") -> PackedPaints:
    """Table of paints. Raises UserError for a pattern that does not exist."""
    for paint in paints:
        if paint.pattern not in PATTERNS:
            raise UserError(f"expected a pattern of {', '.join(PATTERNS)}, got {paint.pattern!r}")
    rows = [[*paint.colour, *paint.second, paint.scale, paint.gloss] for paint in paints]
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 8).t().contiguous()
    pattern = torch.tensor([PATTERNS.index(paint.pattern) for paint in paints], dtype=torch.int64)
    return PackedPaints(values.to(device), pattern.to(device))


def _edge(signed: Tensor, width: Tensor) -> Tensor:
    """A step at zero, softened over `width` (both in periods)."""
    return (0.5 + signed / width).clamp(0.0, 1.0)


def _fade(amount: Tensor, width: Tensor, mean: float) -> Tensor:
    """Towards the pattern's mean where a pixel spans more than a period."""
    far = ((width - 0.5) / 0.8).clamp(0.0, 1.0)
    return amount + (mean - amount) * far


def _hash(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A number in [0, 1) for every cell (int64 coordinates)."""
    h = (x * 73856093 ^ y * 19349663 ^ z * 83492791) & 0x7FFFFFFF
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
    h = ((h ^ (h >> 12)) * 0x297A2D39) & 0x7FFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF).to(torch.float32) / float(1 << 24)


def value_noise(q: Points) -> Tensor:
    """Smooth noise in [0, 1] on the unit lattice."""
    whole = [x.floor() for x in q]
    part = [x - w for x, w in zip(q, whole, strict=True)]
    soft = [f * f * (3.0 - 2.0 * f) for f in part]
    cell = [w.to(torch.int64) for w in whole]
    plane = []
    for dz in (0, 1):
        rows = []
        for dy in (0, 1):
            left = _hash(cell[0], cell[1] + dy, cell[2] + dz)
            right = _hash(cell[0] + 1, cell[1] + dy, cell[2] + dz)
            rows.append(left + (right - left) * soft[0])
        plane.append(rows[0] + (rows[1] - rows[0]) * soft[1])
    return plane[0] + (plane[1] - plane[0]) * soft[2]


def _stripes(q: Points, n: Points, width: Tensor) -> Tensor:
    wave = 0.25 - (q[1] - q[1].floor() - 0.5).abs()
    return _fade(_edge(wave, width), width, 0.5)


def _dots(q: Points, n: Points, width: Tensor) -> Tensor:
    """Staggered discs in the plane of the two axes across the normal's largest."""
    a = [x.abs() for x in n]
    along_x = (a[0] > a[1]) & (a[0] > a[2])
    along_y = (a[1] > a[2]) & ~along_x
    u = torch.where(along_x, q[2], q[0])
    v = torch.where(along_y, q[2], q[1])
    row = v.floor()
    u = u + 0.5 * (row - 2.0 * (row * 0.5).floor())
    x, y = u - u.floor() - 0.5, v - row - 0.5
    return _fade(_edge(DOT_RADIUS - (x * x + y * y).sqrt(), width), width, 0.28)


def _patches(q: Points, n: Points, width: Tensor) -> Tensor:
    return _fade(_edge((value_noise(q) - 0.58) * 0.8, width), width, 0.35)


def _checker(q: Points, n: Points, width: Tensor) -> Tensor:
    """Product of three square waves; the third of an offset keeps faces of whole cells off the cell walls."""
    amount = torch.ones_like(width)
    for x in q:
        y = 0.5 * (x + 0.31)
        wave = 2.0 * _edge((0.25 - (y - y.floor() - 0.5).abs()) * 2.0, width) - 1.0
        amount = amount * wave
    return _fade(0.5 + 0.5 * amount, width, 0.5)


def _planks(q: Points, n: Points, width: Tensor) -> Tensor:
    """Boards along own x, one period wide across own y and z, each of its own tone, with dark joints."""
    board = (q[1].floor() + 7.0 * q[2].floor()).to(torch.int64)
    zero = torch.zeros_like(board)
    run = q[0] * 0.2 + _hash(board, zero, zero)
    tone = 0.55 * _hash(board, run.floor().to(torch.int64), zero + 5)
    gap = 0.5 - (q[1] - q[1].floor() - 0.5).abs()
    end = (0.5 - (run - run.floor() - 0.5).abs()) * 5.0
    joint = _edge(0.05 - torch.minimum(gap, end), width.clamp_min(0.02))
    return _fade(torch.maximum(tone, joint), width, 0.35)


def _noise(q: Points, n: Points, width: Tensor) -> Tensor:
    fine = [2.03 * x + 11.7 for x in q]
    amount = 0.65 * value_noise(q) + 0.35 * _fade(value_noise(fine), 2.0 * width, 0.5)
    return _fade(((amount - 0.5) * 1.5 + 0.5).clamp(0.0, 1.0), width, 0.5)


_AMOUNT: dict[str, Callable[[Points, Points, Tensor], Tensor]] = {
    "stripes": _stripes,
    "dots": _dots,
    "patches": _patches,
    "checker": _checker,
    "planks": _planks,
    "noise": _noise,
}


def albedo(paints: PackedPaints, which: Tensor, point: Tensor, normal: Tensor, footprint: Tensor) -> Tensor:
    """Colour 3 P of paints `which` (P int64) at own points 3 P with own normals 3 P.

    `footprint` P is the width of a pixel on the surface in world units.
    """
    values, pattern = take(paints.values, which), take(paints.pattern, which)
    colour = values[:3].clone()
    for number, name in enumerate(PATTERNS):
        if name == "plain":
            continue
        chosen = (pattern == number).nonzero()[:, 0]
        if not len(chosen):
            continue
        first, second, scale = (take(values[part], chosen) for part in (slice(0, 3), slice(3, 6), 6))
        q = [take(x, chosen) * scale for x in point]
        width = (take(footprint, chosen) * scale).clamp_min(1e-3)
        amount = _AMOUNT[name](q, [take(x, chosen) for x in normal], width)
        colour.index_copy_(1, chosen, first + (second - first) * amount)
    return colour
