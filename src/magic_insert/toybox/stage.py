"""A batch of worlds as tensors, and the questions a ray asks of it: what is met first, how does it look, what is it.

Surfaces have one number each: shapes 0..N-1 in world order, then B grounds, then B walls, -1 for the sky. Pairs of
rays and shapes come from conservative bounds, so that they save work and never change an answer. Patterns of a paint
are functions of space fixed to the shape, so they move and turn with a subject; their edges are softened by the pixel's
footprint, so a far floor fades to the mean instead of flickering.

Shape letters: B worlds, P rays or points, N shapes of all worlds, T pairs, K sun samples. Amounts are in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi, radians, sin, sqrt, tan
from typing import get_args

import torch
from torch import Tensor

from magic_insert.toybox import rays
from magic_insert.toybox.records import FAR, GROUND_ID, SKY_ID, WALL_ID, Light, Paint, Pattern, World
from magic_insert.toybox.solids import cross, unit

PATTERNS: tuple[str, ...] = get_args(Pattern)
DOT_RADIUS = 0.3  # of a period
Points = Sequence[Tensor]


@dataclass(frozen=True)
class PackedPaints:
    """Paints as columns: values 8 N (colour, second, scale, gloss), pattern N int64 index into PATTERNS."""

    values: Tensor
    pattern: Tensor


def pack_paints(paints: Sequence[Paint], device: torch.device | str = "cpu") -> PackedPaints:
    """Table of paints."""
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
    values, pattern = rays.take(paints.values, which), rays.take(paints.pattern, which)
    colour = values[:3].clone()
    for number, chosen in rays.groups(pattern, len(PATTERNS)):
        if (name := PATTERNS[number]) == "plain":
            continue
        first, second, scale = (rays.take(values[part], chosen) for part in (slice(0, 3), slice(3, 6), 6))
        q = [rays.take(x, chosen) * scale for x in point]
        width = (rays.take(footprint, chosen) * scale).clamp_min(1e-3)
        amount = _AMOUNT[name](q, [rays.take(x, chosen) for x in normal], width)
        colour.index_copy_(1, chosen, first + (second - first) * amount)
    return colour


BITS = 31  # a positive float's bits order like the float: they are the upper half of a nearest-hit key
NONE = (1 << 62) - 1


GOLDEN = pi * (3.0 - sqrt(5.0))


def sun_axes(light: Light, samples: int) -> tuple[list[float], list[list[float]], float]:
    """Unit direction of the sun, K directions spread over its disc (one per equal share), and the disc's tangent."""
    s = unit(light.sun_direction)
    helper = (0.0, 0.0, 1.0) if abs(s[1]) > 0.9 else (0.0, 1.0, 0.0)
    u = cross(helper, s)
    size = sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
    u = (u[0] / size, u[1] / size, u[2] / size)
    v = cross(s, u)
    directions = []
    for k in range(samples):
        r = light.sun_radius * sqrt((k + 0.5) / samples)
        a, b = r * cos(k * GOLDEN + 0.4), r * sin(k * GOLDEN + 0.4)
        d = [s[i] + a * u[i] + b * v[i] for i in range(3)]
        norm = sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
        directions.append([c / norm for c in d])
    return list(s), directions, light.sun_radius


@dataclass(frozen=True)
class Stage:
    """A chunk of worlds as tensors. Surface numbers: shapes 0..N-1, then B grounds, then B walls."""

    shapes: rays.PackedShapes
    paints: PackedPaints
    eye: Tensor  # 3 B
    lens: Tensor  # 9 B: right, up, forward; right and up are scaled by the half width and height of the view
    pixel_angle: Tensor  # B
    ground: Tensor  # B bool
    wall: Tensor  # B bool
    wall_z: Tensor  # B
    sky: Tensor  # 6 B horizon, zenith
    sun: Tensor  # B 3
    samples: Tensor  # B K 3
    spread: Tensor  # B
    colours: Tensor  # 6 B sun, sky


def _lens(world: World, aspect: float) -> list[float]:
    camera = world.camera
    p, q = camera.position, camera.target
    forward = unit((q[0] - p[0], q[1] - p[1], q[2] - p[2]))
    right = unit(cross(forward, (0.0, 1.0, 0.0)))
    up = cross(right, forward)
    high = tan(radians(camera.fov_deg) / 2.0)
    return [*(c * high * aspect for c in right), *(c * high for c in up), *forward]


def pack_stage(
    worlds: Sequence[World], size: tuple[int, int], device: torch.device, sun_samples: int
) -> Stage:
    def columns(rows: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float32).t().contiguous().to(device)

    blank = Paint((0.0, 0.0, 0.0))
    paints = [shape.paint for world in worlds for shape in world.shapes]
    paints += [world.ground or blank for world in worlds] + [world.wall or blank for world in worlds]
    suns = [sun_axes(world.light, sun_samples) for world in worlds]
    per_pixel = [[2.0 * tan(radians(w.camera.fov_deg) / 2.0) / size[0]] for w in worlds]
    walls = [world.wall is not None and world.wall_z is not None for world in worlds]
    return Stage(
        shapes=rays.pack(worlds, device),
        paints=pack_paints(paints, device),
        eye=columns([w.camera.position for w in worlds]),
        lens=columns([_lens(w, size[1] / size[0]) for w in worlds]),
        pixel_angle=columns(per_pixel)[0],
        ground=torch.tensor([w.ground is not None for w in worlds], device=device),
        wall=torch.tensor(walls, device=device),
        wall_z=columns([[w.wall_z or 0.0] for w in worlds])[0],
        sky=columns([[*w.horizon, *w.zenith] for w in worlds]),
        sun=torch.tensor([s[0] for s in suns], dtype=torch.float32, device=device),
        samples=torch.tensor([s[1] for s in suns], dtype=torch.float32, device=device).reshape(
            len(worlds), sun_samples, 3
        ),
        spread=columns([[s[2]] for s in suns])[0],
        colours=columns([[*w.light.sun_colour, *w.light.sky_colour] for w in worlds]),
    )


def camera_rays(stage: Stage, image: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit directions 3 P through picture points (x, y in pixels, pixel centres at .5)."""
    u = x * (2.0 / size[1]) - 1.0
    v = 1.0 - y * (2.0 / size[0])
    m = rays.take(stage.lens, image)
    d = [m[i] * u + m[3 + i] * v + m[6 + i] for i in range(3)]
    length = rays.dot(d, d).sqrt()
    return torch.stack([c / length for c in d])


def picture_pairs(stage: Stage, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(pixel, shape column) pairs: every pixel inside the rectangle around a shape's projected box."""
    shapes = stage.shapes
    g, device = shapes.geometry, shapes.kind.device
    eye, lens = rays.take(stage.eye, shapes.image), rays.take(stage.lens, shapes.image)
    along_right, along_up = rays.dot(lens[0:3], lens[0:3]), rays.dot(lens[3:6], lens[3:6])
    centre = g[rays.CENTRE] - eye
    xs, ys, zs = [], [], []
    for corner in range(8):
        signs = [1.0 if corner >> i & 1 else -1.0 for i in range(3)]
        p = centre + rays.to_world(g[rays.ROTATION], [signs[i] * g[rays.EXTENT][i] for i in range(3)])
        z = rays.dot(p, lens[6:9])
        zs.append(z)
        xs.append(rays.dot(p, lens[0:3]) / along_right / z.clamp_min(1e-3))
        ys.append(rays.dot(p, lens[3:6]) / along_up / z.clamp_min(1e-3))
    height, width = size
    x, y, z = torch.stack(xs), torch.stack(ys), torch.stack(zs)
    whole = z.amin(0) < 1e-2  # reaches behind the camera: look everywhere
    bounds = [(x.amin(0) + 1.0) * (0.5 * width) - 1.0, (x.amax(0) + 1.0) * (0.5 * width) + 2.0]
    bounds += [(1.0 - y.amax(0)) * (0.5 * height) - 1.0, (1.0 - y.amin(0)) * (0.5 * height) + 2.0]
    full = (0, width, 0, height)
    x0, x1, y0, y1 = (
        torch.where(whole, torch.full_like(b, full[i]), b).clamp(0, (width, height)[i // 2]).to(torch.int64)
        for i, b in enumerate(bounds)
    )
    across = x1 - x0
    counts = across * (y1 - y0)
    column = torch.repeat_interleave(counts)
    place = torch.arange(len(column), device=device) - rays.take(counts.cumsum(0) - counts, column)
    wide = rays.take(across, column)
    row = place // wide
    corner_pixel = (shapes.image * height + y0) * width + x0
    return rays.take(corner_pixel, column) + row * (width - wide) + place, column


def ray_pairs(
    shapes: rays.PackedShapes, image: Tensor, origin: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """(ray, shape column) pairs for scattered rays: every ray that meets the sphere around a shape."""
    slots = shapes.slots.index_select(0, image)
    g = rays.take(shapes.geometry[rays.BALL], slots.clamp_min(0))
    delta = g[rays.CENTRE] - origin[:, :, None]
    along = rays.dot(delta, direction[:, :, None])
    room = g[rays.RADIUS] * 1.001 + 1e-3
    keep = (slots >= 0) & (along > -room) & (rays.dot(delta, delta) - along * along < room * room + 1e-4)
    hit = keep.nonzero()
    return hit[:, 0], slots[hit[:, 0], hit[:, 1]]


def nearest(
    stage: Stage,
    image: Tensor,
    origin: Tensor,
    direction: Tensor,
    pairs: tuple[Tensor, Tensor],
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Distance P (FAR in the sky) and surface number P (-1 in the sky) of what each ray meets first.

    `skip` P: a surface number that the ray starts on and does not meet again.
    """
    ray, column = pairs
    if skip is not None:
        keep = (rays.take(skip, ray) != column).nonzero()[:, 0]
        ray, column = rays.take(ray, keep), rays.take(column, keep)
    n, b = stage.shapes.kind.shape[0], stage.eye.shape[1]
    best = torch.full((image.shape[0],), NONE, dtype=torch.int64, device=image.device)
    t = rays.meet(stage.shapes, column, rays.take(origin, ray), rays.take(direction, ray))
    hit = (t < FAR).nonzero()[:, 0]
    key = (rays.take(t, hit).view(torch.int32).to(torch.int64) << BITS) | rays.take(column, hit)
    best.scatter_reduce_(0, rays.take(ray, hit), key, "amin")
    surface = torch.where(best == NONE, -1, best & ((1 << BITS) - 1))
    distance = torch.where(best == NONE, FAR, (best >> BITS).to(torch.int32).view(torch.float32))
    planes = (
        (stage.ground, -origin[1] / direction[1], n),
        (stage.wall, (rays.take(stage.wall_z, image) - origin[2]) / direction[2], n + b),
    )
    for there, t, first in planes:
        nearer = rays.take(there, image) & (t > 1e-4) & (t < distance)
        if skip is not None:
            nearer &= skip != first + image
        distance = torch.where(nearer, t, distance)
        surface = torch.where(nearer, first + image, surface)
    return distance, surface


def sky_colour(stage: Stage, image: Tensor, direction: Tensor) -> Tensor:
    """Sky colour 3 P: from the horizon to the zenith with the root of the direction's height."""
    share = direction[1].clamp(0.0, 1.0).sqrt()
    sky = rays.take(stage.sky, image)
    return sky[:3] + (sky[3:] - sky[:3]) * share


def look_at(
    stage: Stage, image: Tensor, surface: Tensor, position: Tensor, direction: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor]:
    """Paint colour 3 P and unit normal 3 P of surface points (surface >= 0)."""
    shapes, n, b = stage.shapes, stage.shapes.kind.shape[0], stage.eye.shape[1]
    point, own = torch.empty_like(position), torch.empty_like(position)
    normal = torch.empty_like(position)
    kind = torch.full_like(surface, len(rays.KINDS))
    on_shape = surface < n
    if n:
        kind = torch.where(on_shape, rays.take(shapes.kind, surface.clamp_max(n - 1)), kind)
    for number, chosen in rays.groups(kind, len(rays.KINDS)):
        g = rays.take(shapes.geometry[rays.BODY], rays.take(surface, chosen))
        p = rays.own_point(g, rays.take(position, chosen))
        facing = rays.own_normal(number, p, g)
        point.index_copy_(1, chosen, torch.stack(p))
        own.index_copy_(1, chosen, torch.stack(facing))
        normal.index_copy_(1, chosen, rays.to_world(g[rays.ROTATION], facing))
    flat = position.new_tensor([[0.0], [0.0], [1.0]])
    lying = ((surface >= n) & (surface < n + b)).nonzero()[:, 0]
    # The ground's own axes: x away from the camera, y across, z up.
    x, y, z = rays.take(position, lying)
    point.index_copy_(1, lying, torch.stack([z, x, torch.zeros_like(y)]))
    own.index_copy_(1, lying, flat.expand(-1, len(lying)))
    normal.index_copy_(1, lying, flat.roll(2, 0).expand(-1, len(lying)))
    upright = (surface >= n + b).nonzero()[:, 0]
    x, y, z = rays.take(position, upright)
    point.index_copy_(1, upright, torch.stack([x, y, torch.zeros_like(z)]))
    own.index_copy_(1, upright, flat.expand(-1, len(upright)))
    normal.index_copy_(1, upright, flat.expand(-1, len(upright)))
    facing_eye = rays.dot(normal, direction).abs().clamp_min(0.08)
    footprint = distance * rays.take(stage.pixel_angle, image) / facing_eye
    return albedo(stage.paints, surface, point, own, footprint), normal


def identity(stage: Stage, surface: Tensor) -> tuple[Tensor, Tensor]:
    """Object id P and part id P of surface numbers."""
    n, b = stage.shapes.kind.shape[0], stage.eye.shape[1]
    device = surface.device
    tail = torch.tensor([GROUND_ID, WALL_ID, SKY_ID], device=device).repeat_interleave(
        torch.tensor([b, b, 1], device=device)
    )
    objects = torch.cat([stage.shapes.object_id, tail])
    parts = torch.cat([stage.shapes.part_id, torch.zeros_like(tail)])
    place = torch.where(surface < 0, n + 2 * b, surface)
    return rays.take(objects, place), rays.take(parts, place)
