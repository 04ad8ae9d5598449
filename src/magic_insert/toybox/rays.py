"""Shapes of many worlds as tables, and rays that meet them: ellipsoids, two-radius capsules, rounded boxes, cut cones.

The tables hold one column a shape, all worlds behind each other, so that any list of (ray, shape) pairs is met with a
few gathers and elementwise operations. Only correctly rounded operations (+ - * / sqrt, floor, comparisons) are used,
which makes a row of a batch bit-identical to the batch of one. Every solid is convex, so a ray that starts outside has
one entry: the nearest entry into any of the convex pieces whose union the solid is. A distance is infinite for a miss.

Shape letters: N shapes of all worlds, T pairs of a ray and a shape, K directions. Lengths are world units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

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
    extent, radius = bounds(shape)
    core, core_radius = _core(shape)
    reach = min(AO_REACH * sorted(extent)[1], AO_REACH_LIMIT)
    rounding = min(shape.rounding, *shape.size)
    return [*shape.centre, radius, *shape.rotation, *shape.size, rounding, *core, core_radius, reach, *extent]


def pack(worlds: Sequence[World], device: torch.device | str = "cpu") -> PackedShapes:
    """Tables of all shapes of the worlds."""
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


def groups(numbers: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """Each number below `count` that is there, and its places."""
    for number in range(count):
        if len(chosen := (numbers == number).nonzero()[:, 0]):
            yield number, chosen


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


ELLIPSOID, CAPSULE, BOX = range(3)  # what is left is a cone
ROUND_STEPS = 6  # Newton steps spent on the rounded edges of a box


def _valid(t: Tensor, ok: Tensor) -> Tensor:
    return torch.where(ok, t, torch.full_like(t, inf))


def _ball(o: Sequence[Tensor], d: Sequence[Tensor], radius: Tensor | float) -> Tensor:
    """Entry of a ray into the ball around the origin; d may have any length."""
    a = dot(d, d)
    b = dot(o, d) / a
    near = [oi - b * di for oi, di in zip(o, d, strict=True)]
    room = radius * radius - dot(near, near)
    return _valid(-b - (room.clamp_min(0.0) / a).sqrt(), room > 0)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c = 0, without cancellation; not a number where there is none."""
    q = -(b + torch.where(b >= 0, 1.0, -1.0) * (b * b - a * c).sqrt())
    return q / a, c / q


def _ellipsoid(o: Vector, d: Vector, g: Tensor) -> Tensor:
    size = g[SIZE]
    return _ball([o[i] / size[i] for i in range(3)], [d[i] / size[i] for i in range(3)], 1.0)


def _lean(size: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine of the angle by which a two-radius capsule's mantle leans."""
    sine = ((size[0] - size[2]) / (2.0 * size[1]).clamp_min(1e-6)).clamp(-0.999, 0.999)
    return sine, (1.0 - sine * sine).sqrt()


def _capsule(o: Vector, d: Vector, g: Tensor) -> Tensor:
    """The hull of two balls is their union with the mantle that touches both."""
    size = g[SIZE]
    half = size[1]
    t = torch.minimum(
        _ball((o[0], o[1] + half, o[2]), d, size[0]), _ball((o[0], o[1] - half, o[2]), d, size[2])
    )
    sine, cosine = _lean(size)
    low, high = -half + size[0] * sine, half + size[2] * sine
    width = size[0] - half * sine - o[1] * sine
    square = cosine * cosine
    a = square * (d[0] * d[0] + d[2] * d[2]) - sine * sine * d[1] * d[1]
    b = square * (o[0] * d[0] + o[2] * d[2]) + width * sine * d[1]
    c = square * (o[0] * o[0] + o[2] * o[2]) - width * width
    for root in _roots(a, b, c):
        y = o[1] + root * d[1]
        t = torch.minimum(t, _valid(root, (y >= low) & (y <= high)))
    return t


def _cone(o: Vector, d: Vector, g: Tensor) -> Tensor:
    size = g[SIZE]
    half = size[1]
    slope = (size[2] - size[0]) / (2.0 * half)
    width = 0.5 * (size[0] + size[2]) + slope * o[1]
    a = d[0] * d[0] + d[2] * d[2] - slope * slope * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] - slope * d[1] * width
    c = o[0] * o[0] + o[2] * o[2] - width * width
    t = torch.full_like(a, inf)
    for root in _roots(a, b, c):
        t = torch.minimum(t, _valid(root, (o[1] + root * d[1]).abs() <= half))
    end = torch.where(d[1] > 0, -half, half)  # only the cap that faces the ray can be an entry
    root = (end - o[1]) / d[1]
    x, z = o[0] + root * d[0], o[2] + root * d[2]
    radius = torch.where(d[1] > 0, size[0], size[2])
    return torch.minimum(t, _valid(root, x * x + z * z <= radius * radius))


def _box(o: Vector, d: Vector, g: Tensor) -> Tensor:
    size, rounding = g[SIZE], g[ROUNDING]
    enter, leave = torch.full_like(o[0], -inf), torch.full_like(o[0], inf)
    for i in range(3):
        step = torch.where(d[i].abs() < 1e-9, 1e-9, d[i])
        one, two = (-size[i] - o[i]) / step, (size[i] - o[i]) / step
        enter = torch.maximum(enter, torch.minimum(one, two))
        leave = torch.minimum(leave, torch.maximum(one, two))
    t = _valid(enter, enter <= leave)
    p = [o[i] + enter * d[i] for i in range(3)]
    outside = [(p[i].abs() > size[i] - rounding).int() for i in range(3)]
    edge = ((enter <= leave) & (rounding > 1e-5) & (outside[0] + outside[1] + outside[2] > 1)).nonzero()[:, 0]
    if len(edge):
        ray = [take(x, edge) for x in (*o, *d)]
        solid = (take(x, edge) for x in (g, enter, leave))
        t.index_copy_(0, edge, _rounded_edge(ray[:3], ray[3:], *solid))
    return t


def _rounded_edge(
    o: Sequence[Tensor], d: Sequence[Tensor], g: Tensor, enter: Tensor, leave: Tensor
) -> Tensor:
    """Newton steps from the sharp box inwards to the rounded one (d is unit).

    The distance to a convex body is convex along a ray, so the steps never pass the entry; a ray that gets farther
    away while it is outside misses.
    """
    rounding = g[ROUNDING]
    t, gap = enter, torch.zeros_like(enter)
    for _ in range(ROUND_STEPS):
        p = [o[i] + t * d[i] for i in range(3)]
        out = [(p[i].abs() - (g[SIZE][i] - rounding)).clamp_min(0.0) for i in range(3)]
        length = dot(out, out).sqrt()
        gap = length - rounding
        slope = (
            out[0] * p[0].sign() * d[0] + out[1] * p[1].sign() * d[1] + out[2] * p[2].sign() * d[2]
        ) / length
        t = torch.where((gap > 0) & (slope < -1e-4), t - gap / slope, t)
    return _valid(t, (gap < 0.01 * rounding) & (t <= leave))


_MEET = (_ellipsoid, _capsule, _box, _cone)


def _entry(kind: int, o: Vector, d: Vector, g: Tensor) -> Tensor:
    """Entry distance of rays in own axes, measured from the point nearest the centre: float32 stays exact far off."""
    shift = -dot(o, d)
    t = _MEET[kind]((o[0] + shift * d[0], o[1] + shift * d[1], o[2] + shift * d[2]), d, g) + shift
    return _valid(t, t > 1e-4)


def meet(shapes: PackedShapes, column: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Distance along each ray to the shape paired with it; infinite for a miss or a shape behind the origin.

    column T int64, origin 3 T (outside the shape), direction 3 T unit.
    """
    result = torch.full_like(direction[0], inf)
    for number, chosen in groups(take(shapes.kind, column), len(KINDS)):
        g = take(shapes.geometry[BODY], take(column, chosen))
        o, d = own_point(g, take(origin, chosen)), to_own(g[ROTATION], take(direction, chosen))
        result.index_copy_(0, chosen, _entry(number, o, d, g))
    return result


def hidden_along(shapes: PackedShapes, column: Tensor, origin: Tensor, directions: Tensor) -> Tensor:
    """Whether the paired shape stands in each of K directions that are the same for all points of a world: K T bool.

    column T int64, origin 3 T (outside the shape), directions K B 3 unit. Directions are turned into own axes once a
    shape, points once for all directions.
    """
    rotation = shapes.geometry[ROTATION]
    own = [to_own(rotation, take(d.t(), shapes.image)) for d in directions]
    result = torch.zeros((len(own), column.shape[0]), dtype=torch.bool, device=column.device)
    for number, chosen in groups(take(shapes.kind, column), len(KINDS)):
        which = take(column, chosen)
        g = take(shapes.geometry[BODY], which)
        o = own_point(g, take(origin, chosen))
        for row, (x, y, z) in zip(result, own, strict=True):
            t = _entry(number, o, (take(x, which), take(y, which), take(z, which)), g)
            row.index_copy_(0, chosen, torch.isfinite(t))
    return result


def own_normal(kind: int, p: Vector, g: Tensor) -> Vector:
    """Unit normal in own axes at points of the surface."""
    size = g[SIZE]
    if kind == ELLIPSOID:
        n = (p[0] / (size[0] * size[0]), p[1] / (size[1] * size[1]), p[2] / (size[2] * size[2]))
    elif kind == CAPSULE:
        sine, cosine = _lean(size)
        half = size[1]
        around = (p[0] * p[0] + p[2] * p[2]).sqrt().clamp_min(1e-9)
        low, high = p[1] < -half + size[0] * sine, p[1] > half + size[2] * sine
        ball = low | high
        y = torch.where(low, p[1] + half, p[1] - half)
        n = (
            torch.where(ball, p[0], cosine * p[0] / around),
            torch.where(ball, y, sine),
            torch.where(ball, p[2], cosine * p[2] / around),
        )
    elif kind == BOX:
        past = [p[i].abs() - (size[i] - g[ROUNDING].clamp_min(1e-4)) for i in range(3)]
        most = torch.maximum(torch.maximum(past[0], past[1]), past[2])
        sharp = g[ROUNDING] <= 1e-4
        x, y, z = (
            torch.where(sharp, (past[i] == most).float(), past[i].clamp_min(0.0)) * p[i].sign()
            for i in range(3)
        )
        n = (x, y, z)
    else:
        half = size[1]
        slope = (size[2] - size[0]) / (2.0 * half)
        around = (p[0] * p[0] + p[2] * p[2]).sqrt().clamp_min(1e-9)
        cap = (p[1].abs() - half).abs() < (0.5 * (size[0] + size[2]) + slope * p[1] - around).abs()
        n = (
            torch.where(cap, 0.0, p[0] / around),
            torch.where(cap, p[1].sign(), -slope),
            torch.where(cap, 0.0, p[2] / around),
        )
    length = dot(n, n).sqrt().clamp_min(1e-12)
    return n[0] / length, n[1] / length, n[2] / length
