"""Props that grow, lie about or hang in the sky: trees, stones, crystals, flowers, planets."""

from random import Random

from magic_insert.toybox.props.materials import BARK, GREENS, SNOW, STONE, pick
from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, limb, rod


def tree(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A trunk and two clouds of leaves."""
    leaves = pick(rng, GREENS)
    lean = rng.uniform(-0.05, 0.05) * size
    crown = (x + lean, 0.68 * size, z)
    return (
        limb((x, 0.0, z), (x + lean, 0.55 * size, z), 0.07 * size, 0.05 * size, BARK),
        ball(crown, (0.30 * size, 0.27 * size, 0.30 * size), leaves),
        ball((crown[0] + rng.choice((-1, 1)) * 0.16 * size, 0.86 * size, z), 0.18 * size, pick(rng, GREENS)),
    )


def pine(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A fir: trunk and two cones."""
    needle = pick(rng, ((0.18, 0.42, 0.28), (0.22, 0.48, 0.30), (0.16, 0.38, 0.32)))
    return (
        rod((x, 0.0, z), (x, 0.25 * size, z), 0.06 * size, 0.05 * size, BARK),
        rod((x, 0.18 * size, z), (x, 0.68 * size, z), 0.30 * size, 0.06 * size, needle),
        rod((x, 0.48 * size, z), (x, size, z), 0.22 * size, 0.01 * size, needle),
    )


def snowy_pine(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A fir under snow."""
    trunk, low, high = pine(rng, x, z, size)
    cap = rod((x, 0.74 * size, z), (x, 1.01 * size, z), 0.13 * size, 0.01 * size, SNOW)
    return (trunk, low, high, cap)


def palm(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A leaning trunk and four drooping leaves."""
    lean = rng.choice((-1, 1)) * rng.uniform(0.12, 0.24) * size
    top = (x + lean, 0.82 * size, z)
    leaf = pick(rng, GREENS[:2])
    leaves = tuple(
        ball(
            (top[0] + dx * 0.24 * size, top[1] + 0.01 * size, top[2] + dz * 0.24 * size),
            (0.29 * size if dx else 0.08 * size, 0.035 * size, 0.29 * size if dz else 0.08 * size),
            leaf,
            (dz * 22.0, 0.0, -dx * 22.0),
        )
        for dx, dz in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    return (limb((x, 0.0, z), top, 0.055 * size, 0.035 * size, BARK), *leaves)


def bush(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """Two green balls."""
    leaves = pick(rng, GREENS)
    side = rng.choice((-1, 1)) * 0.42 * size
    return (
        ball((x, 0.42 * size, z), (0.55 * size, 0.5 * size, 0.5 * size), leaves),
        ball(
            (x + side, 0.28 * size, z + 0.1 * size),
            (0.40 * size, 0.34 * size, 0.38 * size),
            pick(rng, GREENS),
        ),
    )


def rock(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A boulder."""
    half = (rng.uniform(0.5, 0.75) * size, 0.55 * size, 0.5 * size)
    return (ball((x, 0.25 * size, z), half, STONE, (0.0, rng.uniform(-40, 40), rng.uniform(-14, 14))),)


def sandstone(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A mesa of two layers."""
    low, high = Paint((0.80, 0.50, 0.32)), Paint((0.86, 0.58, 0.38))
    wide = rng.uniform(0.45, 0.7) * size
    return (
        rod((x, 0.0, z), (x, 0.55 * size, z), wide, 0.82 * wide, low),
        rod((x, 0.55 * size, z), (x, size, z), 0.76 * wide, 0.66 * wide, high),
    )


def saguaro(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A tall desert cactus."""
    skin = Paint((0.30, 0.52, 0.34))
    t = 0.10 * size
    return (
        limb((x, 0.0, z), (x, 0.85 * size, z), t, t, skin),
        limb((x, 0.42 * size, z), (x + 0.27 * size, 0.46 * size, z), 0.6 * t, 0.6 * t, skin),
        limb((x + 0.27 * size, 0.46 * size, z), (x + 0.28 * size, 0.70 * size, z), 0.6 * t, 0.6 * t, skin),
    )


def stalagmite(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A stone spike and a small neighbour."""
    r = rng.uniform(0.20, 0.30) * size
    side = rng.choice((-1, 1)) * 1.1 * r
    return (
        rod((x, 0.0, z), (x, size, z), r, 0.03 * size, STONE),
        rod((x + side, 0.0, z + 0.1), (x + side, 0.5 * size, z + 0.1), 0.6 * r, 0.02 * size, STONE),
    )


def crystal(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """Two leaning crystals."""
    glass = Paint(rng.choice(((0.52, 0.78, 0.96), (0.76, 0.56, 0.96), (0.50, 0.92, 0.80))), gloss=0.35)
    lean = rng.uniform(-0.25, 0.25) * size
    return (
        rod((x, 0.0, z), (x + lean, 0.9 * size, z), 0.16 * size, 0.02 * size, glass),
        rod(
            (x + 0.1 * size, 0.0, z),
            (x - lean + 0.25 * size, 0.55 * size, z + 0.1 * size),
            0.12 * size,
            0.02 * size,
            glass,
        ),
    )


def pot(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A pot with a round plant."""
    return (
        rod(
            (x, 0.0, z),
            (x, 0.42 * size, z),
            0.20 * size,
            0.28 * size,
            Paint(rng.choice(((0.80, 0.45, 0.30), (0.92, 0.90, 0.86)))),
        ),
        ball((x, 0.68 * size, z), (0.34 * size, 0.34 * size, 0.34 * size), pick(rng, GREENS)),
    )


def flowers(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A tuft with two blossoms."""
    petal = pick(rng, ((0.96, 0.45, 0.52), (0.98, 0.82, 0.30), (0.78, 0.52, 0.90), (1.0, 0.98, 0.95)))
    return (
        ball((x, 0.18 * size, z), (0.42 * size, 0.24 * size, 0.36 * size), pick(rng, GREENS)),
        ball((x - 0.16 * size, 0.50 * size, z + 0.05), 0.15 * size, petal),
        ball((x + 0.20 * size, 0.40 * size, z + 0.10), 0.13 * size, petal),
    )


def snow_heap(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A soft drift."""
    return (ball((x, 0.0, z), (rng.uniform(0.8, 1.2) * size, 0.6 * size, 0.7 * size), SNOW),)


def crater_rock(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A grey lump of moon."""
    grey = Paint((0.58, 0.57, 0.62), (0.46, 0.45, 0.52), "noise", 4.0)
    return (
        ball(
            (x, 0.1 * size, z),
            (0.8 * size, 0.45 * size, 0.6 * size),
            grey,
            (0.0, rng.uniform(-40, 40), rng.uniform(-10, 10)),
        ),
    )


def planet(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A ringed planet in the sky: `size` is its radius, its height follows from the distance."""
    body = Paint(
        rng.choice(((0.92, 0.66, 0.42), (0.52, 0.72, 0.92), (0.86, 0.52, 0.62))),
        (0.98, 0.88, 0.72),
        "stripes",
        1.0 / size,
    )
    y = 0.30 * abs(z) - 0.4
    return (
        ball((x, y, z), size, body, (0.0, 0.0, 20.0)),
        ball((x, y, z), (1.9 * size, 0.07 * size, 1.9 * size), Paint((0.90, 0.82, 0.70)), (18.0, 0.0, 20.0)),
    )
