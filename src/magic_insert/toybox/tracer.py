"""An analytic ray tracer: a batch of worlds to one G-buffer, everything a drawing style may know of a pixel.

Work is done on flat lists of (pixel, shape) pairs found with conservative bounds (picture tiles against bounding
spheres, then pixels), so that a picture costs what it shows. All operations are elementwise and correctly rounded, what
pixels gather of light and sky is booleans and fixed-point integers: row i of a batch equals the batch of one bit for
bit, in any chunking, and a run repeats exactly.

Shape letters: B images, H W picture, P pixels or rays, T (ray, shape) pairs, K sun samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from magic_insert.toybox.rays import (
    AO_REACH,
    BALL,
    CENTRE,
    CORE,
    CORE_RADIUS,
    EXTENT,
    RADIUS,
    REACH,
    ROTATION,
    PackedShapes,
    dot,
    hidden_along,
    own_point,
    take,
    to_world,
)
from magic_insert.toybox.records import SKY_ID, SUBJECT_ID, GBuffer, World
from magic_insert.toybox.stage import (
    Stage,
    camera_rays,
    identity,
    look_at,
    nearest,
    pack_stage,
    picture_pairs,
    ray_pairs,
    sky_colour,
)

TILE = 8
FIXED = float(1 << 20)  # steps per unit of the fixed-point sums
GROUND_REACH = 0.16  # height at which half of the ground's contact darkening is left


@dataclass(frozen=True)
class Points:
    """The surface pixels of a batch, as columns."""

    pixel: Tensor  # P int64, index into B H W
    image: Tensor  # P int64
    position: Tensor  # 3 P
    normal: Tensor  # 3 P
    column: Tensor  # P int64, shape column, or any number >= N for ground and wall


def _tile_spheres(points: Points, images: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Centre 3 M and radius M of the surface points in each picture tile, and the tile number of each point."""
    height, width = size
    across, down = -(-width // TILE), -(-height // TILE)
    inside = points.pixel - points.image * (height * width)
    row = inside // width
    tile = (points.image * down + row // TILE) * across + (inside - row * width) // TILE
    count = images * down * across
    index = tile.expand(3, -1)
    low = torch.full((3, count), torch.inf, device=tile.device)
    high = torch.full((3, count), -torch.inf, device=tile.device)
    low = low.scatter_reduce(1, index, points.position, "amin")
    high = high.scatter_reduce(1, index, points.position, "amax")
    half = 0.5 * (high - low)
    radius = torch.where(half[0] >= 0, dot(half, half).sqrt(), -1.0)
    return 0.5 * (low + high), radius, tile


def _pairs(
    chosen: Tensor, tiles: Tensor, slots: Tensor, order: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Expand chosen (tile, slot) pairs into (point, shape column) pairs."""
    hit = chosen.nonzero()
    tile = take(tiles, hit[:, 0])
    column = slots[hit[:, 0], hit[:, 1]]
    begin = take(start, tile)
    counts = take(start, tile + 1) - begin
    which = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(which), device=which.device) - take(first - begin, which)
    return take(order, place), take(column, which)


def light_pairs(
    shapes: PackedShapes, points: Points, size: tuple[int, int], sun: Tensor, spread: Tensor, lit: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(point, shape) pairs that may matter for the sun (lit points only) and for ambient occlusion.

    sun B 3 unit, spread B (tangent of the sun's radius), lit P bool.
    """
    images = sun.shape[0]
    centre, radius, tile = _tile_spheres(points, images, size)
    per_image = radius.shape[0] // images
    tiles = (radius >= 0).nonzero()[:, 0]
    owner = tiles // per_image
    slots = shapes.slots[owner]
    g = take(shapes.geometry[: EXTENT.start], slots.clamp_min(0))
    there = slots >= 0
    delta = g[CENTRE] - centre[:, tiles, None]
    direction = sun[owner].t()[:, :, None]
    room = radius[tiles][:, None] * 1.0001 + g[RADIUS] + 1e-3
    along = dot(delta, direction)
    square = dot(delta, delta)
    wide = room + spread[owner][:, None] * (along.clamp_min(0.0) + room)
    shade = there & (along > -room) & (square - along * along < wide * wide + 1e-4)
    near = there & (square < (room + g[REACH]) * (room + g[REACH]))
    order = tile.argsort(stable=True)
    counts = torch.bincount(tile, minlength=radius.shape[0])
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    point, column = _pairs(shade, tiles, slots, order, start)
    keep = (take(lit, point) & (take(points.column, point) != column)).nonzero()[:, 0]
    point, column = take(point, keep), take(column, keep)
    g = take(shapes.geometry[BALL], column)
    own = take(points.image, point)
    delta = g[CENTRE] - take(points.position, point)
    along = dot(delta, take(sun.t(), own))
    room = g[RADIUS] + 1e-3
    wide = room + take(spread, own) * (along.clamp_min(0.0) + room)
    keep = ((along > -room) & (dot(delta, delta) - along * along < wide * wide + 1e-4)).nonzero()[:, 0]
    sun_pairs = take(point, keep), take(column, keep)

    point, column = _pairs(near, tiles, slots, order, start)
    keep = (take(points.column, point) != column).nonzero()[:, 0]
    return sun_pairs, (take(point, keep), take(column, keep))


def sunlight(
    shapes: PackedShapes, points: Points, pairs: tuple[Tensor, Tensor], sun: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Soft share of the sun seen (P, steps of 1 / (K + 1)) and whether its centre is seen (P, 0 or 1).

    sun B 3 unit, samples B K 3 unit. Walls and the ground cast no shadows.
    """
    point, column = pairs
    directions = torch.cat([sun[None], samples.transpose(0, 1)])
    blocking = hidden_along(shapes, column, take(points.position, point), directions)
    hidden = torch.zeros((len(directions), points.position.shape[1]), dtype=torch.bool, device=sun.device)
    for row, blocks in zip(hidden, blocking, strict=True):
        row.index_fill_(0, take(point, blocks.nonzero()[:, 0]), True)
    total = hidden.sum(0).to(torch.float32)
    return 1.0 - total / len(directions), 1.0 - hidden[0].to(torch.float32)


def openness(
    shapes: PackedShapes, points: Points, pairs: tuple[Tensor, Tensor], grounded: Tensor, ground: Tensor
) -> Tensor:
    """Ambient occlusion P, 1 = open sky: an analytic sum over rounded-box stand-ins of the near shapes.

    A ball of radius R at distance D above a facing point takes (R / D)^2 of its sky, which is exact; other shapes use
    their nearest core point and middle half extent. `grounded` P: the world has a ground; `ground` P: is the ground.
    """
    point, column = pairs
    g = take(shapes.geometry[: EXTENT.start], column)
    p = own_point(g, take(points.position, point))
    nearest = [torch.maximum(torch.minimum(p[i], g[CORE][i]), -g[CORE][i]) for i in range(3)]
    towards = to_world(g[ROTATION], [nearest[i] - p[i] for i in range(3)])
    far = dot(towards, towards).sqrt().clamp_min(1e-6)
    gap = (far - g[CORE_RADIUS]).clamp_min(0.0)
    facing = (dot(towards, take(points.normal, point)) / far * 0.8 + 0.2).clamp_min(0.0)
    size = g[REACH] / AO_REACH
    share = size / (size + gap)
    window = (1.0 - gap / g[REACH]).clamp_min(0.0)
    taken = facing * share * share * window
    weight = (taken / (1.0 - 0.75 * taken.clamp_max(1.0)) * FIXED).to(torch.int64)
    total = torch.zeros(points.position.shape[1], dtype=torch.int64, device=weight.device)
    total.index_add_(0, point, weight)
    sky = 1.0 / (1.0 + 0.6 * total.to(torch.float32) / FIXED)
    height = points.position[1].clamp_min(0.0) / GROUND_REACH
    down = 0.5 - 0.5 * points.normal[1]
    contact = 1.0 - 0.25 * down - (0.2 + 0.4 * down) / (1.0 + height * height)
    return torch.where(grounded & ~ground, sky * contact, sky)


CHUNK_PIXELS = {
    "cpu": 1 << 16,
    "cuda": 1 << 20,
}  # pixels traced at once: memory stays small, caches stay warm
FRESNEL_FLOOR = 0.35  # mirror strength left when a glossy surface is looked at head on
EDGE_OFFSETS = tuple((i / 3.0, j / 3.0) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))


def _coverage(stage: Stage, subject: Tensor, size: tuple[int, int]) -> Tensor:
    """Share of nine points of each pixel that show the subject; only pixels on its edge are looked at again.

    subject B 1 H W in {0, 1}: what the pixel centres show.
    """
    widest = max_pool2d(subject, 3, 1, 1)
    least = -max_pool2d(-subject, 3, 1, 1)
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
    direction = camera_rays(stage, images, xs, ys, size)
    origin = take(stage.eye, images)
    pairs = ray_pairs(stage.shapes, images, origin, direction)
    _, surface = nearest(stage, images, origin, direction, pairs)
    seen = (identity(stage, surface)[0] == SUBJECT_ID).view(len(EDGE_OFFSETS), -1).sum(0).to(torch.float32)
    centre = take(share, edge)
    return share.index_copy(0, edge, (centre + seen) / (len(EDGE_OFFSETS) + 1.0)).view_as(subject)


def _mirror(
    stage: Stage, image: Tensor, surface: Tensor, position: Tensor, normal: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Lit colour 3 P and object id P in the mirror direction (one bounce, unshadowed)."""
    bounce = direction - 2.0 * dot(normal, direction) * normal
    pairs = ray_pairs(stage.shapes, image, position, bounce)
    distance, seen = nearest(stage, image, position, bounce, pairs, skip=surface)
    colour = sky_colour(stage, image, bounce)
    hit = (seen >= 0).nonzero()[:, 0]
    if len(hit):
        i, way, far = take(image, hit), take(bounce, hit), take(distance, hit)
        where = take(position, hit) + far * way
        paint, facing = look_at(stage, i, take(seen, hit), where, way, far)
        tint = take(stage.colours, i)
        lit = dot(facing, take(stage.sun.t(), i)).clamp_min(0.0)
        colour.index_copy_(1, hit, (paint * (tint[:3] * lit + tint[3:])).clamp(0.0, 1.0))
    return colour, identity(stage, seen)[0]


def _shade(
    stage: Stage, size: tuple[int, int], rays: Tensor, surface: Tensor, image: Tensor, distance: Tensor
) -> dict[str, Tensor]:
    """What light does at every pixel's surface, by field of the G-buffer: columns P or 3 P; in the sky, nothing.

    rays 6 P: origin and direction; surface, image and distance P.
    """
    shapes, n, b = stage.shapes, stage.shapes.kind.shape[0], stage.eye.shape[1]
    eye, direction = rays[:3], rays[3:]
    position = eye + distance * direction
    colour = sky_colour(stage, image, direction)
    found = {
        "albedo": colour,
        "position": position,
        "normal": torch.zeros_like(colour),
        "mirror": torch.zeros_like(colour),
        "mirror_id": torch.full_like(surface, SKY_ID),
        **{name: torch.zeros_like(distance) for name in ("sun", "gloss")},
        **{name: torch.ones_like(distance) for name in ("visibility", "hard_visibility", "occlusion")},
    }
    solid = (surface >= 0).nonzero()[:, 0]
    if not len(solid):
        return found
    s, i, p, d = (take(each, solid) for each in (surface, image, position, direction))
    paint, facing = look_at(stage, i, s, p, d, take(distance, solid))
    lit = dot(facing, take(stage.sun.t(), i)).clamp_min(0.0)
    soft, sharp, open_sky = torch.ones_like(lit), torch.ones_like(lit), torch.ones_like(lit)
    if n:
        points = Points(solid, i, p, facing, s)
        sun_pairs, sky_pairs = light_pairs(shapes, points, size, stage.sun, stage.spread, lit > 0)
        soft, sharp = sunlight(shapes, points, sun_pairs, stage.sun, stage.samples)
        lies = (s >= n) & (s < n + b)
        open_sky = openness(shapes, points, sky_pairs, take(stage.ground, i), lies)
    away = lit <= 0
    found["albedo"].index_copy_(1, solid, paint)
    found["normal"].index_copy_(1, solid, facing)
    found["sun"].index_copy_(0, solid, lit)
    found["visibility"].index_copy_(0, solid, soft.masked_fill(away, 0.0))
    found["hard_visibility"].index_copy_(0, solid, sharp.masked_fill(away, 0.0))
    found["occlusion"].index_copy_(0, solid, open_sky)
    strength = take(stage.paints.values[7], s)
    glossy = (strength > 0).nonzero()[:, 0]
    if len(glossy):
        look, up = take(d, glossy), take(facing, glossy)
        seen, seen_id = _mirror(stage, take(i, glossy), take(s, glossy), take(p, glossy), up, look)
        graze = 1.0 - dot(up, look).abs().clamp_max(1.0)
        grow = FRESNEL_FLOOR + (1.0 - FRESNEL_FLOOR) * graze * graze * graze
        place = take(solid, glossy)
        found["mirror"].index_copy_(1, place, seen)
        found["mirror_id"].index_copy_(0, place, seen_id)
        found["gloss"].index_copy_(0, place, take(strength, glossy) * grow)
    return found


def _trace_chunk(
    worlds: Sequence[World], size: tuple[int, int], device: torch.device, sun_samples: int
) -> GBuffer:
    stage = pack_stage(worlds, size, device, sun_samples)
    b, (height, width) = len(worlds), size
    number = torch.arange(b * height * width, device=device)
    image = number // (height * width)
    row = (number // width) % height
    x, y = (number % width).to(torch.float32) + 0.5, row.to(torch.float32) + 0.5
    direction = camera_rays(stage, image, x, y, size)
    eye = take(stage.eye, image)
    distance, surface = nearest(stage, image, eye, direction, picture_pairs(stage, size))
    object_id, part_id = identity(stage, surface)
    shaded = _shade(stage, size, torch.cat([eye, direction]), surface, image, distance)

    def picture(values: Tensor) -> Tensor:
        return values.reshape(-1, b, height, width).transpose(0, 1).contiguous()

    ids = picture(object_id)
    coverage = _coverage(stage, (ids == SUBJECT_ID).to(torch.float32), size)
    return GBuffer(
        **{name: picture(values) for name, values in shaded.items()},
        depth=picture(distance),
        object_id=ids,
        part_id=picture(part_id),
        coverage=coverage,
        sun_direction=stage.sun,
        sun_colour=stage.colours[:3].t().contiguous(),
        sky_colour=stage.colours[3:].t().contiguous(),
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
    The mirror fields are filled only where the paint has gloss.
    """
    height, width = (size, size) if isinstance(size, int) else size
    assert worlds
    assert height > 0 < width
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
