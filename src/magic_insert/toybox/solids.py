"""How figures and props are put together: primitives named by what they do, moved rigidly, measured exactly.

Everything here is in plain Python floats: a subject has about fifteen primitives and is built once a picture.
Axes are those of `records`: x right, y up, z towards the camera. Angles are degrees.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from magic_insert.toybox.records import Paint, Shape, Vec3

Matrix = tuple[float, ...]  # row-major 3x3
SIDES = (-1, 1)
IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def ball(centre: Vec3, radii: Vec3 | float, paint: Paint, turn: Vec3 = (0.0, 0.0, 0.0)) -> Shape:
    """An ellipsoid with half axes `radii`, turned by degrees about x, then y, then z."""
    size = (radii, radii, radii) if isinstance(radii, (int, float)) else radii
    return Shape("ellipsoid", centre, size, paint, rotation=turned(turn))


def block(
    centre: Vec3, half: Vec3, paint: Paint, rounding: float = 0.03, turn: Vec3 = (0.0, 0.0, 0.0)
) -> Shape:
    """A rounded box with half extents `half`; the rounding never exceeds the thinnest half extent."""
    return Shape("box", centre, half, paint, rotation=turned(turn), rounding=min(rounding, 0.98 * min(half)))


def limb(start: Vec3, end: Vec3, start_radius: float, end_radius: float, paint: Paint) -> Shape:
    """A capsule whose two end spheres sit at `start` and `end`."""
    centre, half, rotation = _between(start, end)
    return Shape("capsule", centre, (start_radius, half, end_radius), paint, rotation=rotation)


def rod(start: Vec3, end: Vec3, start_radius: float, end_radius: float, paint: Paint) -> Shape:
    """A cone frustum with flat ends at `start` and `end`: a cylinder when the radii agree."""
    centre, half, rotation = _between(start, end)
    return Shape("cone", centre, (start_radius, half, end_radius), paint, rotation=rotation)


@dataclass(frozen=True)
class Frame:
    """Primitives placed and measured in units of a part: `unit` world units each, from `origin` on.

    Roundings are in world units.
    """

    origin: Vec3
    unit: float

    def at(self, place: Vec3) -> Vec3:
        """A place of the part in the world."""
        (x, y, z), (a, b, c) = self.origin, place
        return (x + a * self.unit, y + b * self.unit, z + c * self.unit)

    def scaled(self, extent: Vec3) -> Vec3:
        """Three lengths of the part in world units."""
        return (extent[0] * self.unit, extent[1] * self.unit, extent[2] * self.unit)

    def ball(self, centre: Vec3, radii: Vec3 | float, paint: Paint, turn: Vec3 = (0.0, 0.0, 0.0)) -> Shape:
        """An ellipsoid."""
        size = (radii, radii, radii) if isinstance(radii, float) else radii
        return ball(self.at(centre), self.scaled(size), paint, turn)

    def block(
        self, centre: Vec3, half: Vec3, paint: Paint, rounding: float = 0.01, turn: Vec3 = (0.0, 0.0, 0.0)
    ) -> Shape:
        """A rounded box."""
        return block(self.at(centre), self.scaled(half), paint, rounding, turn)

    def limb(self, start: Vec3, end: Vec3, low: float, high: float, paint: Paint) -> Shape:
        """A capsule with these radii at its ends."""
        return limb(self.at(start), self.at(end), low * self.unit, high * self.unit, paint)

    def rod(self, start: Vec3, end: Vec3, low: float, high: float, paint: Paint) -> Shape:
        """A cut cone with these radii at its ends."""
        return rod(self.at(start), self.at(end), low * self.unit, high * self.unit, paint)

    def post(
        self, bottom: float, top: float, low: float, high: float, paint: Paint, x: float = 0.0, z: float = 0.0
    ) -> Shape:
        """An upright cut cone between two heights, with these radii at its ends."""
        return self.rod((x, bottom, z), (x, top, z), low, high, paint)


def turned(degrees: Vec3) -> Matrix:
    """The rotation about x, then y, then z by the given degrees."""
    if degrees == (0.0, 0.0, 0.0):
        return IDENTITY
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in degrees)
    about_x = (1.0, 0.0, 0.0, 0.0, cx, -sx, 0.0, sx, cx)
    about_y = (cy, 0.0, sy, 0.0, 1.0, 0.0, -sy, 0.0, cy)
    about_z = (cz, -sz, 0.0, sz, cz, 0.0, 0.0, 0.0, 1.0)
    return times(about_z, times(about_y, about_x))


def times(a: Matrix, b: Matrix) -> Matrix:
    """The matrix product a b."""
    return tuple(sum(a[3 * i + k] * b[3 * k + j] for k in range(3)) for i in range(3) for j in range(3))


def apply(a: Matrix, v: Vec3) -> Vec3:
    """The product of matrix `a` and vector `v`."""
    return (
        a[0] * v[0] + a[1] * v[1] + a[2] * v[2],
        a[3] * v[0] + a[4] * v[1] + a[5] * v[2],
        a[6] * v[0] + a[7] * v[1] + a[8] * v[2],
    )


def rotate(shapes: Iterable[Shape], degrees: Vec3, pivot: Vec3 = (0.0, 0.0, 0.0)) -> tuple[Shape, ...]:
    """The shapes turned rigidly about `pivot`."""
    matrix = turned(degrees)
    out = []
    for shape in shapes:
        x, y, z = apply(matrix, _minus(shape.centre, pivot))
        centre = (x + pivot[0], y + pivot[1], z + pivot[2])
        out.append(replace(shape, centre=centre, rotation=times(matrix, shape.rotation)))
    return tuple(out)


def scale_and_move(shapes: Iterable[Shape], factor: float, move: Vec3) -> tuple[Shape, ...]:
    """The shapes scaled about the origin, then moved; their paint keeps its periods per world unit."""
    mx, my, mz = move
    return tuple(
        replace(
            shape,
            centre=(factor * x + mx, factor * y + my, factor * z + mz),
            size=(factor * a, factor * b, factor * c),
            rounding=factor * shape.rounding,
        )
        for shape in shapes
        for (x, y, z), (a, b, c) in ((shape.centre, shape.size),)
    )


def with_id(shapes: Iterable[Shape], object_id: int) -> tuple[Shape, ...]:
    """The shapes as parts of the object `object_id`."""
    return tuple(replace(shape, object_id=object_id) for shape in shapes)


def bounds(shapes: Sequence[Shape]) -> tuple[Vec3, Vec3]:
    """Lowest and highest corner of the axis-aligned box that holds every shape, exactly."""
    lows, highs = zip(*(_extent(shape) for shape in shapes), strict=True)
    low = tuple(min(corner[axis] for corner in lows) for axis in range(3))
    high = tuple(max(corner[axis] for corner in highs) for axis in range(3))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _extent(shape: Shape) -> tuple[Vec3, Vec3]:
    low, high = [], []
    for axis in range(3):
        row = shape.rotation[3 * axis : 3 * axis + 3]
        if shape.kind in ("capsule", "cone"):
            lower, half, upper = shape.size
            along = row[1] * half
            flat = 1.0 if shape.kind == "capsule" else math.sqrt(max(0.0, 1.0 - row[1] ** 2))
            top = max(along + upper * flat, -along + lower * flat)
            bottom = min(along - upper * flat, -along - lower * flat)
        elif shape.kind == "box":
            top = shape.rounding + sum(
                abs(r) * (s - shape.rounding) for r, s in zip(row, shape.size, strict=True)
            )
            bottom = -top
        else:
            top = math.sqrt(sum((r * s) ** 2 for r, s in zip(row, shape.size, strict=True)))
            bottom = -top
        low.append(shape.centre[axis] + bottom)
        high.append(shape.centre[axis] + top)
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _between(start: Vec3, end: Vec3) -> tuple[Vec3, float, Matrix]:
    delta = _minus(end, start)
    length = math.sqrt(sum(d * d for d in delta)) or 1e-6
    centre = tuple(0.5 * (a + b) for a, b in zip(start, end, strict=True))
    up = tuple(d / length for d in delta)
    side = (1.0, 0.0, 0.0) if abs(up[0]) < 0.9 else (0.0, 0.0, 1.0)
    right = unit(cross(up, side) if abs(up[0]) >= 0.9 else cross(cross(up, side), up))
    front = cross(right, up)
    rotation = (right[0], up[0], front[0], right[1], up[1], front[1], right[2], up[2], front[2])
    return (centre[0], centre[1], centre[2]), 0.5 * length, rotation


def _minus(a: Vec3, b: Vec3) -> Vec3:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def cross(a: Sequence[float], b: Sequence[float]) -> Vec3:
    """The vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def unit(a: Sequence[float]) -> Vec3:
    """The vector at length 1."""
    length = math.sqrt(sum(v * v for v in a))
    return (a[0] / length, a[1] / length, a[2] / length)
