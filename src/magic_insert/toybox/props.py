"""What stands in a scene: props at a place on the ground, and the fixtures that a place has as a whole.

A prop takes a random stream, a place (x, z) and a size in world units (about its height). A fixture (a window, the
sea, a road, hills) takes the site: where the subject will stand, and the wall behind. Both keep to few primitives: a
picture costs what its world holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import ball, block, limb, rod

Prop = Callable[[Random, float, float, float], tuple[Shape, ...]]

BARK = Paint((0.42, 0.29, 0.20))
WOOD = Paint((0.66, 0.46, 0.29), second=(0.52, 0.35, 0.21), pattern="planks", scale=3.0)
STEEL = Paint((0.62, 0.65, 0.70), gloss=0.2)
STONE = Paint((0.60, 0.58, 0.56), second=(0.50, 0.48, 0.47), pattern="noise", scale=5.0)
MARBLE = Paint((0.90, 0.87, 0.80))
BRICK = Paint((0.72, 0.38, 0.30), second=(0.62, 0.31, 0.25), pattern="checker", scale=4.0)
SNOW = Paint((0.95, 0.97, 1.0))
WHITE = Paint((0.95, 0.94, 0.92))
DARK = Paint((0.16, 0.16, 0.19))
GLOW = Paint((1.0, 0.93, 0.66))
WINDOW = Paint((0.70, 0.88, 0.98), gloss=0.3)
GREENS: tuple[Vec3, ...] = ((0.33, 0.58, 0.27), (0.42, 0.66, 0.30), (0.24, 0.50, 0.30))
CLOTHS: tuple[Vec3, ...] = (
    (0.80, 0.34, 0.32),
    (0.30, 0.52, 0.74),
    (0.94, 0.74, 0.34),
    (0.44, 0.62, 0.46),
    (0.70, 0.48, 0.66),
)


def pick(rng: Random, colours: tuple[Vec3, ...]) -> Paint:
    """A plain paint of one of the colours."""
    return Paint(rng.choice(colours))


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


def house(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A house front: walls, roof, door, window."""
    wall = pick(rng, ((0.93, 0.80, 0.62), (0.72, 0.82, 0.86), (0.92, 0.68, 0.62), (0.95, 0.92, 0.84)))
    half = 0.42 * size
    front = z + half
    return (
        block((x, 0.36 * size, z), (half, 0.36 * size, half), wall, 0.01),
        rod((x, 0.71 * size, z), (x, 1.12 * size, z), 0.66 * size, 0.02, Paint((0.66, 0.30, 0.26))),
        block(
            (x - 0.16 * size, 0.18 * size, front),
            (0.09 * size, 0.18 * size, 0.02),
            Paint((0.40, 0.26, 0.20)),
            0.01,
        ),
        block((x + 0.15 * size, 0.42 * size, front), (0.11 * size, 0.11 * size, 0.02), WINDOW, 0.01),
    )


def tower(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A city block whose windows are a checker."""
    body = rng.choice(((0.50, 0.56, 0.66), (0.62, 0.54, 0.54), (0.44, 0.50, 0.56), (0.70, 0.62, 0.52)))
    light = (min(1.0, body[0] + 0.28), min(1.0, body[1] + 0.26), min(1.0, body[2] + 0.16))
    wide = rng.uniform(0.13, 0.19) * size
    return (block((x, 0.5 * size, z), (wide, 0.5 * size, wide), Paint(body, light, "checker", 1.6), 0.01),)


def street_lamp(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A post with a glowing head."""
    return (
        rod((x, 0.0, z), (x, 0.9 * size, z), 0.035 * size, 0.022 * size, DARK),
        rod((x, 0.0, z), (x, 0.07 * size, z), 0.075 * size, 0.05 * size, DARK),
        ball((x, 0.94 * size, z), 0.075 * size, GLOW),
    )


def column(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A temple column with base and capital."""
    r = 0.12 * size
    return (
        rod((x, 0.0, z), (x, 0.97 * size, z), r, 0.85 * r, MARBLE),
        block((x, 0.04 * size, z), (1.4 * r, 0.04 * size, 1.4 * r), MARBLE, 0.01),
        block((x, 0.98 * size, z), (1.4 * r, 0.04 * size, 1.4 * r), MARBLE, 0.01),
    )


def parasol(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A beach parasol."""
    cloth = Paint(rng.choice(CLOTHS), (0.98, 0.96, 0.92), "stripes", 3.0)
    return (
        rod((x, 0.0, z), (x + 0.1 * size, 0.95 * size, z), 0.02 * size, 0.02 * size, WHITE),
        rod((x + 0.08 * size, 0.76 * size, z), (x + 0.11 * size, size, z), 0.52 * size, 0.02 * size, cloth),
    )


def igloo(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A dome with an entrance."""
    bricks = Paint((0.93, 0.96, 1.0), (0.82, 0.89, 0.97), "checker", 2.5)
    return (
        ball((x, 0.0, z), (0.8 * size, 0.8 * size, 0.8 * size), bricks),
        rod(
            (x, 0.12 * size, z + 0.5 * size), (x, 0.12 * size, z + 1.0 * size), 0.32 * size, 0.32 * size, SNOW
        ),
        rod(
            (x, 0.12 * size, z + 0.9 * size),
            (x, 0.12 * size, z + 1.02 * size),
            0.22 * size,
            0.22 * size,
            DARK,
        ),
    )


def chimney(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A brick chimney."""
    return (
        block((x, 0.45 * size, z), (0.24 * size, 0.45 * size, 0.24 * size), BRICK, 0.01),
        block((x, 0.92 * size, z), (0.29 * size, 0.06 * size, 0.29 * size), STONE, 0.01),
    )


def lander(_: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A gold-foil lander on two visible legs."""
    foil = Paint((0.93, 0.75, 0.36), gloss=0.3)
    return (
        block((x, 0.52 * size, z), (0.30 * size, 0.20 * size, 0.30 * size), foil, 0.05),
        ball((x, 0.84 * size, z), (0.22 * size, 0.2 * size, 0.22 * size), STEEL),
        *(
            limb(
                (x + s * 0.2 * size, 0.42 * size, z + 0.15 * size),
                (x + s * 0.45 * size, 0.03 * size, z + 0.25 * size),
                0.03 * size,
                0.04 * size,
                STEEL,
            )
            for s in (-1, 1)
        ),
    )


def slide(rng: Random, x: float, z: float, size: float) -> tuple[Shape, ...]:
    """A playground slide: ladder posts and a chute."""
    chute, frame = rng.sample(CLOTHS, 2)
    return (
        block(
            (x + 0.18 * size, 0.40 * size, z),
            (0.48 * size, 0.03 * size, 0.16 * size),
            Paint(chute, gloss=0.2),
            0.02,
            (0.0, 0.0, -42.0),
        ),
        *(
            rod(
                (x - 0.18 * size, 0.0, z + s * 0.15 * size),
                (x - 0.18 * size, 0.95 * size, z + s * 0.15 * size),
                0.03 * size,
                0.03 * size,
                Paint(frame),
            )
            for s in (-1, 1)
        ),
        block(
            (x - 0.26 * size, 0.70 * size, z), (0.10 * size, 0.025 * size, 0.16 * size), Paint(frame), 0.01
        ),
    )


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
