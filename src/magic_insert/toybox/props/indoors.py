"""Props of rooms, kitchens, libraries and stages, and toys."""

from random import Random

from magic_insert.toybox.props.materials import BARK, CLOTHS, DARK, GLOW, STEEL, WHITE, WOOD, pick
from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, block, rod


def crate(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A wooden box."""
    half = 0.5 * size
    return (block((x, half, z), (half, half, half), WOOD, 0.02, (0.0, rng.uniform(-35, 35), 0.0)),)


def barrel(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A barrel with a hoop."""
    return (
        rod((x, 0.0, z), (x, size, z), 0.36 * size, 0.36 * size, WOOD),
        rod((x, 0.42 * size, z), (x, 0.58 * size, z), 0.39 * size, 0.39 * size, DARK),
    )


def bookcase(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A case with three rows of books."""
    half = 0.34 * size
    rows = tuple(
        block(
            (x, (0.20 + 0.29 * row) * size, z + 0.10 * size),
            (0.88 * half, 0.105 * size, 0.07 * size),
            Paint(rng.choice(CLOTHS), rng.choice(CLOTHS), "stripes", 7.0),
            0.005,
        )
        for row in range(3)
    )
    return (
        block((x, 0.5 * size, z), (half, 0.5 * size, 0.12 * size), Paint((0.45, 0.29, 0.18)), 0.01),
        *rows,
    )


def sofa(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """Seat, back and two arms."""
    cloth = pick(rng, CLOTHS)
    return (
        block((x, 0.26 * size, z), (0.9 * size, 0.24 * size, 0.38 * size), cloth, 0.08),
        block((x, 0.58 * size, z - 0.30 * size), (0.88 * size, 0.40 * size, 0.14 * size), cloth, 0.1),
        *(
            block((x + s * 0.92 * size, 0.34 * size, z), (0.13 * size, 0.32 * size, 0.4 * size), cloth, 0.1)
            for s in (-1, 1)
        ),
    )


def table(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A round table on one foot."""
    return (
        rod((x, 0.9 * size, z), (x, size, z), 0.7 * size, 0.72 * size, WOOD),
        rod((x, 0.0, z), (x, 0.9 * size, z), 0.07 * size, 0.06 * size, BARK),
        rod((x, 0.0, z), (x, 0.06 * size, z), 0.32 * size, 0.26 * size, BARK),
    )


def floor_lamp(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A thin stand with a cloth shade."""
    return (
        rod((x, 0.0, z), (x, 0.8 * size, z), 0.02 * size, 0.018 * size, DARK),
        rod((x, 0.0, z), (x, 0.03 * size, z), 0.13 * size, 0.12 * size, DARK),
        rod(
            (x, 0.76 * size, z),
            (x, size, z),
            0.18 * size,
            0.11 * size,
            Paint(rng.choice(((0.98, 0.88, 0.62), (0.95, 0.80, 0.70)))),
        ),
    )


def fridge(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A tall fridge with a handle."""
    return (
        block(
            (x, 0.5 * size, z),
            (0.24 * size, 0.5 * size, 0.22 * size),
            Paint((0.80, 0.90, 0.90), gloss=0.15),
            0.05,
        ),
        rod(
            (x - 0.17 * size, 0.55 * size, z + 0.25 * size),
            (x - 0.17 * size, 0.8 * size, z + 0.25 * size),
            0.016 * size,
            0.016 * size,
            STEEL,
        ),
    )


def counter(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A kitchen counter with a pan on it."""
    return (
        block((x, 0.44 * size, z), (0.95 * size, 0.44 * size, 0.34 * size), pick(rng, CLOTHS), 0.02),
        block((x, 0.92 * size, z), (1.0 * size, 0.05 * size, 0.38 * size), WHITE, 0.02),
        rod(
            (x + 0.3 * size, 0.97 * size, z),
            (x + 0.3 * size, 1.22 * size, z),
            0.20 * size,
            0.20 * size,
            STEEL,
        ),
    )


def curtain(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A heavy stage curtain of three folds."""
    cloth = Paint((0.70, 0.10, 0.16), (0.56, 0.06, 0.12), "stripes", 2.0)
    return tuple(
        rod((x + dx * size, 0.0, z), (x + dx * size, 1.6 * size, z), 0.16 * size, 0.13 * size, cloth)
        for dx in (-0.24, 0.0, 0.24)
    )


def spotlight(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A lamp on a stand."""
    return (
        rod((x, 0.0, z), (x, 0.8 * size, z), 0.025 * size, 0.025 * size, DARK),
        rod(
            (x, 0.78 * size, z - 0.05),
            (x + 0.04, 0.9 * size, z + 0.22 * size),
            0.09 * size,
            0.15 * size,
            DARK,
        ),
        ball((x + 0.045, 0.905 * size, z + 0.23 * size), (0.13 * size, 0.13 * size, 0.04), GLOW),
    )


def beach_ball(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A striped ball."""
    cloth = Paint(rng.choice(CLOTHS), (0.98, 0.97, 0.94), "stripes", 3.0 / size)
    return (ball((x, 0.5 * size, z), 0.5 * size, cloth, (20.0, 30.0, 30.0)),)


def toy_blocks(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """Three stacked cubes."""
    half = 0.25 * size
    spin = rng.uniform(-20, 20)
    low = ((x - 1.05 * half, half), (x + 1.05 * half, half), (x, 3.0 * half))
    return tuple(
        block(
            (px, py, z),
            (half, half, half),
            Paint(cloth),
            0.04 * size,
            (0.0, spin * (1.0 if n == 2 else 0.15), 0.0),
        )
        for n, ((px, py), cloth) in enumerate(zip(low, rng.sample(CLOTHS, 3), strict=True))
    )
