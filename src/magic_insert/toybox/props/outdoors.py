"""Props that people built outside: houses, towers, lamps, columns, igloos, slides."""

from random import Random

from magic_insert.toybox.props.materials import (
    BRICK,
    CLOTHS,
    DARK,
    GLOW,
    MARBLE,
    SNOW,
    STEEL,
    STONE,
    WHITE,
    WINDOW,
    pick,
)
from magic_insert.toybox.records import Paint, Shape
from magic_insert.toybox.solids import ball, block, limb, rod


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
