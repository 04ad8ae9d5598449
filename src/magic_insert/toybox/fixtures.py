"""What belongs to a place as a whole: windows, rugs, the sea, roads, hills, clouds."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from magic_insert.toybox.props.materials import BRICK, CLOTHS, MARBLE, SNOW, STONE, WHITE
from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, block, rod


@dataclass(frozen=True)
class Site:
    """Where a fixture is built: the drop place, the subject's height, the wall behind."""

    x: float
    z: float
    height: float
    wall_z: float


Fixture = Callable[[Random, Site], tuple[Shape, ...]]


def window(rng: Random, site: Site) -> tuple[Shape, ...]:
    x, y, z = site.x + (0.9 if site.x < 0 else -0.9) * rng.uniform(0.8, 1.3), 1.75, site.wall_z
    return (
        block((x, y, z), (0.62, 0.52, 0.05), WHITE, 0.01),
        block(
            (x, y, z + 0.03),
            (0.55, 0.45, 0.04),
            Paint((0.62, 0.82, 0.97), (0.78, 0.90, 0.99), "checker", 1.0, 0.15),
            0.01,
        ),
    )


def picture(rng: Random, site: Site) -> tuple[Shape, ...]:
    x = site.x + rng.uniform(-0.3, 0.3)
    art = Paint(rng.choice(CLOTHS), rng.choice(CLOTHS), rng.choice(("patches", "dots", "stripes")), 3.0)
    return (
        block((x, 1.95, site.wall_z), (0.36, 0.28, 0.04), Paint((0.50, 0.34, 0.20)), 0.01),
        block((x, 1.95, site.wall_z + 0.02), (0.30, 0.22, 0.04), art, 0.005),
    )


def rug(rng: Random, site: Site) -> tuple[Shape, ...]:
    first, second = rng.sample(CLOTHS, 2)
    x, z = 0.75 * site.x, site.z - 0.35
    return (
        rod((x, 0.0, z), (x, 0.012, z), 1.25, 1.25, Paint(first)),
        rod((x, 0.0, z), (x, 0.018, z), 1.02, 1.02, Paint(second)),
    )


def sea(rng: Random, site: Site) -> tuple[Shape, ...]:
    z = site.z - rng.uniform(3.2, 4.2)
    water = Paint((0.22, 0.58, 0.74), (0.30, 0.66, 0.80), "noise", 1.5, 0.45)
    return (
        block((0.0, 0.0, z - 20.0), (40.0, 0.03, 20.0), water, 0.005),
        block((0.0, 0.0, z), (40.0, 0.045, 0.09), Paint((0.96, 0.98, 0.98)), 0.01),
    )


def road(_: Random, site: Site) -> tuple[Shape, ...]:
    z = site.z - 2.6
    return (
        block((0.0, 0.0, z), (40.0, 0.02, 0.75), Paint((0.36, 0.37, 0.41)), 0.005),
        block((0.0, 0.0, z), (40.0, 0.026, 0.03), Paint((0.93, 0.90, 0.80)), 0.005),
    )


def path(rng: Random, site: Site) -> tuple[Shape, ...]:
    x = site.x
    dirt = Paint((0.74, 0.62, 0.44), (0.66, 0.54, 0.37), "noise", 4.0)
    return (ball((x, 0.0, site.z - 1.2), (rng.uniform(1.0, 1.3), 0.012, 3.6), dirt),)


def pond(rng: Random, site: Site) -> tuple[Shape, ...]:
    x = -site.x * rng.uniform(0.9, 1.3)
    water = Paint((0.36, 0.64, 0.80), gloss=0.6)
    z = site.z - rng.uniform(0.5, 0.9)
    return (
        rod((x, 0.0, z), (x, 0.02, z), 1.02, 1.0, STONE),
        rod((x, 0.0, z), (x, 0.026, z), 0.9, 0.9, water),
    )


def parapet(_: Random, site: Site) -> tuple[Shape, ...]:
    z = site.z - 2.1
    return (
        block((0.0, 0.22, z), (40.0, 0.22, 0.10), BRICK, 0.01),
        block((0.0, 0.46, z), (40.0, 0.05, 0.15), STONE, 0.01),
    )


def steps(_: Random, site: Site) -> tuple[Shape, ...]:
    return tuple(
        block(
            (0.0, 0.11 * (n + 0.5), site.z - 2.2 - 0.5 * n - 2.0),
            (40.0, 0.055 * (n + 1), 2.0),
            MARBLE,
            0.01,
        )
        for n in range(2)
    )


def hills(rng: Random, site: Site) -> tuple[Shape, ...]:
    far = site.z - 16.0
    return tuple(
        ball(
            (rng.uniform(-9, -3) if n == 0 else rng.uniform(3, 9), -0.3, far - 3.0 * n),
            (9.0, rng.uniform(1.8, 3.0), 4.0),
            Paint(c),
        )
        for n, c in enumerate(((0.46, 0.66, 0.40), (0.54, 0.72, 0.50)))
    )


def dunes(rng: Random, site: Site) -> tuple[Shape, ...]:
    far = site.z - 9.0
    return tuple(
        ball(
            (rng.uniform(-7, -2) if n == 0 else rng.uniform(2, 7), -0.2, far - 5.0 * n),
            (7.0, rng.uniform(1.0, 1.7), 3.0),
            Paint(c),
        )
        for n, c in enumerate(((0.90, 0.71, 0.44), (0.86, 0.63, 0.40)))
    )


def mountains(rng: Random, site: Site) -> tuple[Shape, ...]:
    far = site.z - 20.0
    parts: list[Shape] = []
    for x, tall in ((rng.uniform(-8, -3), rng.uniform(4.5, 6.0)), (rng.uniform(2, 7), rng.uniform(3.5, 5.0))):
        parts.append(rod((x, -0.2, far), (x, tall, far), 5.5, 0.05, Paint((0.52, 0.60, 0.72))))
        parts.append(rod((x, 0.62 * tall, far), (x, 1.01 * tall, far), 5.5 * 0.385, 0.05, SNOW))
    return tuple(parts)


def cloud(rng: Random, site: Site) -> tuple[Shape, ...]:
    x, y, z = rng.uniform(-4, 4), rng.uniform(3.2, 4.3), site.z - 18.0
    puff = Paint((0.98, 0.98, 1.0))
    return (ball((x, y, z), (1.9, 0.62, 0.6), puff), ball((x + 0.9, y + 0.42, z), (0.95, 0.6, 0.6), puff))
