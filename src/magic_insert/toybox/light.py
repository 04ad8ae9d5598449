"""What reaches a surface point: the sun behind other shapes, and the sky that near shapes and the ground take away.

Both are sums over (pixel, shape) pairs. Pairs are found in two steps, picture tiles against bounding spheres and then
pixels against bounding spheres; both are conservative, so they only save work and never change a value. What pixels
gather is booleans and fixed-point integers, so the order of the pairs does not matter on any device.

Shape letters: B images, H W picture, P surface pixels, T pairs, K sun samples.
"""

from dataclasses import dataclass
from math import cos, pi, sin, sqrt

import torch
from torch import Tensor

from magic_insert.toybox.intersect import hidden_along
from magic_insert.toybox.records import Light
from magic_insert.toybox.shapes import (
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
    own_point,
    take,
    to_world,
)

TILE = 8
FIXED = float(1 << 20)  # steps per unit of the fixed-point sums
GROUND_REACH = 0.16  # height at which half of the ground's contact darkening is left
GOLDEN = pi * (3.0 - sqrt(5.0))


@dataclass(frozen=True)
class Points:
    """The surface pixels of a batch, as columns."""

    pixel: Tensor  # P int64, index into B H W
    image: Tensor  # P int64
    position: Tensor  # 3 P
    normal: Tensor  # 3 P
    column: Tensor  # P int64, shape column, or any number >= N for ground and wall


def sun_axes(light: Light, samples: int) -> tuple[list[float], list[list[float]], float]:
    """Unit direction of the sun, K directions spread over its disc (one per equal share), and the disc's tangent."""
    x, y, z = light.sun_direction
    length = sqrt(x * x + y * y + z * z)
    s = (x / length, y / length, z / length)
    helper = (0.0, 0.0, 1.0) if abs(s[1]) > 0.9 else (0.0, 1.0, 0.0)
    u = (
        helper[1] * s[2] - helper[2] * s[1],
        helper[2] * s[0] - helper[0] * s[2],
        helper[0] * s[1] - helper[1] * s[0],
    )
    size = sqrt(u[0] ** 2 + u[1] ** 2 + u[2] ** 2)
    u = (u[0] / size, u[1] / size, u[2] / size)
    v = (s[1] * u[2] - s[2] * u[1], s[2] * u[0] - s[0] * u[2], s[0] * u[1] - s[1] * u[0])
    directions = []
    for k in range(samples):
        r = light.sun_radius * sqrt((k + 0.5) / samples)
        a, b = r * cos(k * GOLDEN + 0.4), r * sin(k * GOLDEN + 0.4)
        d = [s[i] + a * u[i] + b * v[i] for i in range(3)]
        norm = sqrt(d[0] ** 2 + d[1] ** 2 + d[2] ** 2)
        directions.append([c / norm for c in d])
    return list(s), directions, light.sun_radius


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
