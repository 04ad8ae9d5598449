"""Packs the shapes of many worlds into flat tables, and turns points into a shape's own axes.

The tables hold one column a shape (all worlds
behind each other), so that any list of (ray, shape) pairs is met with a few gathers and elementwise operations;
only correctly rounded operations (+ - * / sqrt, floor, comparisons) are used, which makes a row of a batch
bit-identical to the batch of one.

Shape letters: N shapes of all worlds, T pairs of a ray and a shape. Lengths are world units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.toybox.records import Kind, Shape, World

KINDS: tuple[Kind, ...] = ("ellipsoid", "capsule", "box", "cone")
AO_REACH = 2.2  # how many middle half extents away a shape still darkens its neighbours
AO_REACH_LIMIT = 0.9

# rows of the geometry table
CENTRE, RADIUS, ROTATION, SIZE, ROUNDING = slice(0, 3), 3, slice(4, 13), slice(13, 16), 16
BALL, BODY = slice(0, 4), slice(0, 17)  # rows a bounding test needs, rows an intersection needs
CORE, CORE_RADIUS, REACH, EXTENT = slice(17, 20), 20, 21, slice(22, 25)

Vector = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class PackedShapes:
    """The shapes of a batch of worlds, in world order, as columns."""

    geometry: Tensor  # 25 N float32, rows named above
    kind: Tensor  # N int64, index into KINDS
    image: Tensor  # N int64, which world
    object_id: Tensor  # N int64
    part_id: Tensor  # N int64, 1-based inside its world
    slots: Tensor  # B S int64, column of each world's shapes, -1 where a world has fewer


def bounds(shape: Shape) -> tuple[tuple[float, float, float], float]:
    """Half extents of the own-axes box around a shape, and the radius of the sphere around it."""
    a, b, c = shape.size
    if shape.kind == "ellipsoid":
        return shape.size, max(shape.size)
    if shape.kind == "capsule":
        wide = max(a, c)
        return (wide, b + wide, wide), b + wide
    if shape.kind == "cone":
        wide = max(a, c)
        return (wide, b, wide), sqrt(wide * wide + b * b)
    return shape.size, sqrt(a * a + b * b + c * c)


def _core(shape: Shape) -> tuple[tuple[float, float, float], float]:
    """A rounded box (core half extents, radius) that stands for the shape in ambient occlusion."""
    a, b, c = shape.size
    if shape.kind == "capsule":
        return (0.0, b, 0.0), 0.5 * (a + c)
    if shape.kind == "cone":
        wide = 0.5 * (a + c)
        radius = min(wide, b)
        return (wide - radius, b - radius, wide - radius), radius
    radius = min(shape.size) if shape.kind == "ellipsoid" else min(shape.rounding, *shape.size)
    return (a - radius, b - radius, c - radius), radius


def _column(shape: Shape) -> list[float]:
    if shape.kind not in KINDS:
        raise UserError(f"expected a shape kind of {', '.join(KINDS)}, got {shape.kind!r}")
    extent, radius = bounds(shape)
    core, core_radius = _core(shape)
    reach = min(AO_REACH * sorted(extent)[1], AO_REACH_LIMIT)
    rounding = min(shape.rounding, *shape.size)
    return [*shape.centre, radius, *shape.rotation, *shape.size, rounding, *core, core_radius, reach, *extent]


def pack(worlds: Sequence[World], device: torch.device | str = "cpu") -> PackedShapes:
    """Tables of all shapes of the worlds. Raises UserError for a kind that does not exist."""
    columns: list[list[float]] = []
    kinds, images, objects, parts = [], [], [], []
    widest = max((len(world.shapes) for world in worlds), default=0)
    slots = [[-1] * widest for _ in worlds]
    for row, world in enumerate(worlds):
        for number, shape in enumerate(world.shapes):
            slots[row][number] = len(columns)
            columns.append(_column(shape))
            kinds.append(KINDS.index(shape.kind))
            images.append(row)
            objects.append(shape.object_id)
            parts.append(number + 1)
    geometry = torch.tensor(columns, dtype=torch.float32).reshape(-1, 25).t().contiguous()
    whole = torch.tensor([kinds, images, objects, parts], dtype=torch.int64).reshape(4, -1).to(device)
    table = torch.tensor(slots, dtype=torch.int64).reshape(len(worlds), widest)
    return PackedShapes(geometry.to(device), whole[0], whole[1], whole[2], whole[3], table.to(device))


def take(values: Tensor, index: Tensor) -> Tensor:
    """Columns of a table, or entries of a list, of any shape of index (many times faster than values[:, index])."""
    chosen = values.index_select(-1, index.flatten())
    return chosen.view(*values.shape[:-1], *index.shape)


def dot(a: Sequence[Tensor] | Tensor, b: Sequence[Tensor] | Tensor) -> Tensor:
    """Sum over three components, in a fixed order."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def to_own(rotation: Tensor, v: Sequence[Tensor] | Tensor) -> Vector:
    """World vector to the shape's own axes. rotation 9 T, v three times T."""
    r = rotation
    return (
        r[0] * v[0] + r[3] * v[1] + r[6] * v[2],
        r[1] * v[0] + r[4] * v[1] + r[7] * v[2],
        r[2] * v[0] + r[5] * v[1] + r[8] * v[2],
    )


def to_world(rotation: Tensor, v: Sequence[Tensor]) -> Tensor:
    """Own vector to world axes: 3 T."""
    r = rotation
    return torch.stack([r[3 * i] * v[0] + r[3 * i + 1] * v[1] + r[3 * i + 2] * v[2] for i in range(3)])


def own_point(g: Tensor, points: Tensor) -> Vector:
    """World points 3 T in the own axes of the shapes whose geometry columns are g."""
    return to_own(g[ROTATION], points - g[CENTRE])
