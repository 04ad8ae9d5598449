"""An analytic ray tracer: a batch of worlds to one G-buffer, everything a drawing style may know of a pixel.

Work is done on flat lists of (pixel, shape) pairs found with conservative bounds, so that a picture costs what it
shows. All operations are elementwise and correctly rounded and all sums are fixed-point: row i of a batch equals the
batch of one bit for bit, in any chunking, and a run repeats exactly.

Shape letters: B images, H W picture, P pixels or rays, T (ray, shape) pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import radians, sqrt, tan

import torch
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.toybox import light as sunlit
from magic_insert.toybox.paint import PackedPaints, albedo, pack_paints
from magic_insert.toybox.records import (
    FAR,
    GROUND_ID,
    SKY_ID,
    SUBJECT_ID,
    WALL_ID,
    GBuffer,
    Paint,
    Vec3,
    World,
)
from magic_insert.toybox.shapes import (
    BALL,
    BODY,
    CENTRE,
    EXTENT,
    KINDS,
    RADIUS,
    ROTATION,
    PackedShapes,
    dot,
    meet,
    own_normal,
    own_point,
    pack,
    take,
    to_world,
)

CHUNK_PIXELS = {
    "cpu": 1 << 16,
    "cuda": 1 << 20,
}  # pixels traced at once: memory stays small, caches stay warm
FRESNEL_FLOOR = 0.35  # mirror strength left when a glossy surface is looked at head on
EDGE_OFFSETS = tuple((i / 3.0, j / 3.0) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
BITS = 31  # a positive float's bits order like the float: they are the upper half of a nearest-hit key
NONE = (1 << 62) - 1


@dataclass(frozen=True)
class _Scene:
    """A chunk of worlds as tensors. Surface numbers: shapes 0..N-1, then B grounds, then B walls."""

    shapes: PackedShapes
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


def _unit(v: Sequence[float]) -> Vec3:
    length = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    if length == 0.0:
        raise UserError("expected a direction with a length, got zero; check the camera and the sun")
    return v[0] / length, v[1] / length, v[2] / length


def _cross(a: Vec3, b: Vec3) -> Vec3:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _lens(world: World, aspect: float) -> list[float]:
    camera = world.camera
    p, q = camera.position, camera.target
    forward = _unit((q[0] - p[0], q[1] - p[1], q[2] - p[2]))
    right = _unit(_cross(forward, (0.0, 1.0, 0.0)))
    up = _cross(right, forward)
    high = tan(radians(camera.fov_deg) / 2.0)
    return [*(c * high * aspect for c in right), *(c * high for c in up), *forward]


def _pack(worlds: Sequence[World], size: tuple[int, int], device: torch.device, sun_samples: int) -> _Scene:
    def columns(rows: list[Sequence[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float32).t().contiguous().to(device)

    blank = Paint((0.0, 0.0, 0.0))
    paints = [shape.paint for world in worlds for shape in world.shapes]
    paints += [world.ground or blank for world in worlds] + [world.wall or blank for world in worlds]
    suns = [sunlit.sun_axes(world.light, sun_samples) for world in worlds]
    per_pixel = [[2.0 * tan(radians(w.camera.fov_deg) / 2.0) / size[0]] for w in worlds]
    walls = [world.wall is not None and world.wall_z is not None for world in worlds]
    return _Scene(
        shapes=pack(worlds, device),
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


def _camera_rays(scene: _Scene, image: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit directions 3 P through picture points (x, y in pixels, pixel centres at .5)."""
    u = x * (2.0 / size[1]) - 1.0
    v = 1.0 - y * (2.0 / size[0])
    m = take(scene.lens, image)
    d = [m[i] * u + m[3 + i] * v + m[6 + i] for i in range(3)]
    length = dot(d, d).sqrt()
    return torch.stack([c / length for c in d])


def _picture_pairs(scene: _Scene, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(pixel, shape column) pairs: every pixel inside the rectangle around a shape's projected box."""
    shapes = scene.shapes
    g, device = shapes.geometry, shapes.kind.device
    eye, lens = take(scene.eye, shapes.image), take(scene.lens, shapes.image)
    along_right, along_up = dot(lens[0:3], lens[0:3]), dot(lens[3:6], lens[3:6])
    centre = g[CENTRE] - eye
    xs, ys, zs = [], [], []
    for corner in range(8):
        signs = [1.0 if corner >> i & 1 else -1.0 for i in range(3)]
        p = centre + to_world(g[ROTATION], [signs[i] * g[EXTENT][i] for i in range(3)])
        z = dot(p, lens[6:9])
        zs.append(z)
        xs.append(dot(p, lens[0:3]) / along_right / z.clamp_min(1e-3))
        ys.append(dot(p, lens[3:6]) / along_up / z.clamp_min(1e-3))
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
    place = torch.arange(len(column), device=device) - take(counts.cumsum(0) - counts, column)
    wide = take(across, column)
    row = place // wide
    corner_pixel = (shapes.image * height + y0) * width + x0
    return take(corner_pixel, column) + row * (width - wide) + place, column


def _ray_pairs(
    shapes: PackedShapes, image: Tensor, origin: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """(ray, shape column) pairs for scattered rays: every ray that meets the sphere around a shape."""
    slots = shapes.slots.index_select(0, image)
    g = take(shapes.geometry[BALL], slots.clamp_min(0))
    delta = g[CENTRE] - origin[:, :, None]
    along = dot(delta, direction[:, :, None])
    room = g[RADIUS] * 1.001 + 1e-3
    keep = (slots >= 0) & (along > -room) & (dot(delta, delta) - along * along < room * room + 1e-4)
    hit = keep.nonzero()
    return hit[:, 0], slots[hit[:, 0], hit[:, 1]]


def _nearest(
    scene: _Scene,
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
        keep = (take(skip, ray) != column).nonzero()[:, 0]
        ray, column = take(ray, keep), take(column, keep)
    n, b = scene.shapes.kind.shape[0], scene.eye.shape[1]
    best = torch.full((image.shape[0],), NONE, dtype=torch.int64, device=image.device)
    t = meet(scene.shapes, column, take(origin, ray), take(direction, ray))
    hit = (t < FAR).nonzero()[:, 0]
    key = (take(t, hit).view(torch.int32).to(torch.int64) << BITS) | take(column, hit)
    best.scatter_reduce_(0, take(ray, hit), key, "amin")
    surface = torch.where(best == NONE, -1, best & ((1 << BITS) - 1))
    distance = torch.where(best == NONE, FAR, (best >> BITS).to(torch.int32).view(torch.float32))
    planes = (
        (scene.ground, -origin[1] / direction[1], n),
        (scene.wall, (take(scene.wall_z, image) - origin[2]) / direction[2], n + b),
    )
    for there, t, first in planes:
        nearer = take(there, image) & (t > 1e-4) & (t < distance)
        if skip is not None:
            nearer &= skip != first + image
        distance = torch.where(nearer, t, distance)
        surface = torch.where(nearer, first + image, surface)
    return distance, surface


def _sky(scene: _Scene, image: Tensor, direction: Tensor) -> Tensor:
    """Sky colour 3 P: from the horizon to the zenith with the root of the direction's height."""
    share = direction[1].clamp(0.0, 1.0).sqrt()
    sky = take(scene.sky, image)
    return sky[:3] + (sky[3:] - sky[:3]) * share


def _look(
    scene: _Scene, image: Tensor, surface: Tensor, position: Tensor, direction: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor]:
    """Paint colour 3 P and unit normal 3 P of surface points (surface >= 0)."""
    shapes, n, b = scene.shapes, scene.shapes.kind.shape[0], scene.eye.shape[1]
    point, own = torch.empty_like(position), torch.empty_like(position)
    normal = torch.empty_like(position)
    kind = torch.full_like(surface, len(KINDS))
    on_shape = surface < n
    if n:
        kind = torch.where(on_shape, take(shapes.kind, surface.clamp_max(n - 1)), kind)
    for number in range(len(KINDS)):
        chosen = (kind == number).nonzero()[:, 0]
        if not len(chosen):
            continue
        g = take(shapes.geometry[BODY], take(surface, chosen))
        p = own_point(g, take(position, chosen))
        facing = own_normal(number, p, g)
        point.index_copy_(1, chosen, torch.stack(p))
        own.index_copy_(1, chosen, torch.stack(facing))
        normal.index_copy_(1, chosen, to_world(g[ROTATION], facing))
    flat = position.new_tensor([[0.0], [0.0], [1.0]])
    lying = ((surface >= n) & (surface < n + b)).nonzero()[:, 0]
    if len(lying):  # the ground's own axes: x away from the camera, y across, z up
        x, y, z = take(position, lying)
        point.index_copy_(1, lying, torch.stack([z, x, torch.zeros_like(y)]))
        own.index_copy_(1, lying, flat.expand(-1, len(lying)))
        normal.index_copy_(1, lying, flat.roll(2, 0).expand(-1, len(lying)))
    upright = (surface >= n + b).nonzero()[:, 0]
    if len(upright):
        x, y, z = take(position, upright)
        point.index_copy_(1, upright, torch.stack([x, y, torch.zeros_like(z)]))
        own.index_copy_(1, upright, flat.expand(-1, len(upright)))
        normal.index_copy_(1, upright, flat.expand(-1, len(upright)))
    facing_eye = dot(normal, direction).abs().clamp_min(0.08)
    footprint = distance * take(scene.pixel_angle, image) / facing_eye
    return albedo(scene.paints, surface, point, own, footprint), normal


def _identity(scene: _Scene, surface: Tensor) -> tuple[Tensor, Tensor]:
    """Object id P and part id P of surface numbers."""
    n, b = scene.shapes.kind.shape[0], scene.eye.shape[1]
    device = surface.device
    tail = torch.tensor([GROUND_ID, WALL_ID, SKY_ID], device=device).repeat_interleave(
        torch.tensor([b, b, 1], device=device)
    )
    objects = torch.cat([scene.shapes.object_id, tail])
    parts = torch.cat([scene.shapes.part_id, torch.zeros_like(tail)])
    place = torch.where(surface < 0, n + 2 * b, surface)
    return take(objects, place), take(parts, place)


def _coverage(scene: _Scene, subject: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of nine points of each pixel that show the subject; only pixels on its edge are looked at again.

    subject B 1 H W in {0, 1}: what the pixel centres show.
    """
    widest = torch.nn.functional.max_pool2d(subject, 3, 1, 1)
    least = -torch.nn.functional.max_pool2d(-subject, 3, 1, 1)
    edge = (widest != least).flatten().nonzero()[:, 0]
    share = subject.flatten()
    if not len(edge):
        return share.view_as(subject)
    image = edge // (size[0] * size[1])
    inside = edge - image * (size[0] * size[1])
    row = inside // size[1]
    x, y = (inside - row * size[1]).to(torch.float32) + 0.5, row.to(torch.float32) + 0.5
    xs = torch.cat([x + dx for dx, _ in EDGE_OFFSETS])
    ys = torch.cat([y + dy for _, dy in EDGE_OFFSETS])
    images = image.repeat(len(EDGE_OFFSETS))
    direction = _camera_rays(scene, images, xs, ys, size)
    origin = take(scene.eye, images)
    pairs = _ray_pairs(scene.shapes, images, origin, direction)
    _, surface = _nearest(scene, images, origin, direction, pairs)
    seen = (_identity(scene, surface)[0] == SUBJECT_ID).view(len(EDGE_OFFSETS), -1).sum(0).to(torch.float32)
    centre = take(share, edge)
    return share.index_copy(0, edge, (centre + seen) / (len(EDGE_OFFSETS) + 1.0)).view_as(subject)


def _mirror(
    scene: _Scene, image: Tensor, surface: Tensor, position: Tensor, normal: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Lit colour 3 P and object id P in the mirror direction (one bounce, unshadowed)."""
    bounce = direction - 2.0 * dot(normal, direction) * normal
    pairs = _ray_pairs(scene.shapes, image, position, bounce)
    distance, seen = _nearest(scene, image, position, bounce, pairs, skip=surface)
    colour = _sky(scene, image, bounce)
    hit = (seen >= 0).nonzero()[:, 0]
    if len(hit):
        i, way, far = take(image, hit), take(bounce, hit), take(distance, hit)
        where = take(position, hit) + far * way
        paint, facing = _look(scene, i, take(seen, hit), where, way, far)
        tint = take(scene.colours, i)
        lit = dot(facing, take(scene.sun.t(), i)).clamp_min(0.0)
        colour.index_copy_(1, hit, (paint * (tint[:3] * lit + tint[3:])).clamp(0.0, 1.0))
    return colour, _identity(scene, seen)[0]


def _box(covered: Tensor) -> Tensor:
    """x0 y0 x1 y1 (exclusive end) of the covered pixels of B 1 H W, zeros where there are none."""
    found = covered[:, 0] > 0
    result = []
    for seen in (found.any(1), found.any(2)):
        place = torch.arange(seen.shape[1], device=seen.device).expand_as(seen)
        result.append(torch.where(seen, place, seen.shape[1]).amin(1))
        result.append(torch.where(seen, place + 1, 0).amax(1))
    box = torch.stack([result[0], result[2], result[1], result[3]], 1).to(torch.float32)
    return box * found.flatten(1).any(1, keepdim=True)


def _trace_chunk(
    worlds: Sequence[World], size: tuple[int, int], device: torch.device, sun_samples: int
) -> GBuffer:
    scene = _pack(worlds, size, device, sun_samples)
    shapes, n, b = scene.shapes, scene.shapes.kind.shape[0], len(worlds)
    height, width = size
    total = b * height * width

    number = torch.arange(total, device=device)
    image = number // (height * width)
    row = (number // width) % height
    x, y = (number % width).to(torch.float32) + 0.5, row.to(torch.float32) + 0.5
    direction = _camera_rays(scene, image, x, y, size)
    eye = take(scene.eye, image)
    distance, surface = _nearest(scene, image, eye, direction, _picture_pairs(scene, size))
    position = eye + distance * direction
    object_id, part_id = _identity(scene, surface)

    colour = _sky(scene, image, direction)
    normal, mirror = torch.zeros_like(colour), torch.zeros_like(colour)
    mirror_id = torch.full_like(object_id, SKY_ID)
    sun, gloss = torch.zeros_like(distance), torch.zeros_like(distance)
    visibility, hard, occlusion = (torch.ones_like(distance) for _ in range(3))

    solid = (surface >= 0).nonzero()[:, 0]
    if len(solid):
        s, i, p, d = (take(each, solid) for each in (surface, image, position, direction))
        paint, facing = _look(scene, i, s, p, d, take(distance, solid))
        colour.index_copy_(1, solid, paint)
        normal.index_copy_(1, solid, facing)
        lit = dot(facing, take(scene.sun.t(), i)).clamp_min(0.0)
        sun.index_copy_(0, solid, lit)
        soft, sharp, open_sky = torch.ones_like(lit), torch.ones_like(lit), torch.ones_like(lit)
        if n:
            points = sunlit.Points(solid, i, p, facing, s)
            sun_pairs, sky_pairs = sunlit.light_pairs(shapes, points, size, scene.sun, scene.spread, lit > 0)
            soft, sharp = sunlit.sunlight(shapes, points, sun_pairs, scene.sun, scene.samples)
            lies = (s >= n) & (s < n + b)
            open_sky = sunlit.openness(shapes, points, sky_pairs, take(scene.ground, i), lies)
        away = lit <= 0
        visibility.index_copy_(0, solid, soft.masked_fill(away, 0.0))
        hard.index_copy_(0, solid, sharp.masked_fill(away, 0.0))
        occlusion.index_copy_(0, solid, open_sky)
        strength = take(scene.paints.values[7], s)
        glossy = (strength > 0).nonzero()[:, 0]
        if len(glossy):
            look, up = take(d, glossy), take(facing, glossy)
            seen, seen_id = _mirror(scene, take(i, glossy), take(s, glossy), take(p, glossy), up, look)
            graze = 1.0 - dot(up, look).abs().clamp_max(1.0)
            grow = FRESNEL_FLOOR + (1.0 - FRESNEL_FLOOR) * graze * graze * graze
            place = take(solid, glossy)
            mirror.index_copy_(1, place, seen)
            mirror_id.index_copy_(0, place, seen_id)
            gloss.index_copy_(0, place, take(strength, glossy) * grow)

    def picture(values: Tensor) -> Tensor:
        return values.reshape(-1, b, height, width).transpose(0, 1).contiguous()

    ids = picture(object_id)
    coverage = _coverage(scene, (ids == SUBJECT_ID).to(torch.float32), size)
    return GBuffer(
        albedo=picture(colour),
        normal=picture(normal),
        position=picture(position),
        depth=picture(distance),
        object_id=ids,
        part_id=picture(part_id),
        coverage=coverage,
        sun=picture(sun),
        visibility=picture(visibility),
        hard_visibility=picture(hard),
        occlusion=picture(occlusion),
        gloss=picture(gloss),
        mirror=picture(mirror),
        mirror_id=picture(mirror_id),
        sun_direction=scene.sun,
        sun_colour=scene.colours[:3].t().contiguous(),
        sky_colour=scene.colours[3:].t().contiguous(),
        subject_box=_box(coverage),
    )


def trace(
    worlds: Sequence[World],
    size: int | tuple[int, int] = 128,
    *,
    device: torch.device | str = "cpu",
    sun_samples: int = 4,
) -> GBuffer:
    """The G-buffer of the worlds, one row each, on `device`.

    size: H W or the side of a square; sun_samples: rays over the sun's disc besides its centre, 0 for hard shadows.
    The mirror fields are filled only where the paint has gloss. Raises UserError for no worlds or an empty picture.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not worlds or height < 1 or width < 1:
        raise UserError(f"expected worlds and a picture, got {len(worlds)} worlds and size {height}x{width}")
    place = torch.device(device)
    step = max(1, CHUNK_PIXELS.get(place.type, 1 << 16) // (height * width))
    with torch.no_grad():
        parts = [
            _trace_chunk(worlds[first : first + step], (height, width), place, sun_samples)
            for first in range(0, len(worlds), step)
        ]
    if len(parts) == 1:
        return parts[0]
    return GBuffer(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(GBuffer)})
