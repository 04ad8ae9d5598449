"""What stands in a scene: props at a place on the ground, and the fixtures that a place has as a whole.

A prop is built by a `Builder`, which stands at a place (x, z) and counts in the prop's size (about its height), and
which carries the scene's random stream. A fixture (a window, the sea, a road, hills) takes the site: where the subject
will stand, and the wall behind. Both keep to few primitives: a picture costs what its world holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from magic_insert.toybox.records import Paint, Shape, Vec3
from magic_insert.toybox.solids import SIDES, Frame, ball, block, rod

Shapes = tuple[Shape, ...]
Range = tuple[float, float]

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


@dataclass(frozen=True)
class Builder(Frame):
    """A frame on the ground whose unit is the prop's size, and the scene's random stream."""

    rng: Random

    def pick(self, colours: Sequence[Vec3]) -> Paint:
        """A plain paint of one of the colours."""
        return Paint(self.rng.choice(colours))

    def uniform(self, low: float, high: float) -> float:
        """A random number between the two."""
        return self.rng.uniform(low, high)

    def side(self) -> int:
        """Left or right."""
        return self.rng.choice(SIDES)


Prop = Callable[[Builder], Shapes]


def crate(b: Builder) -> Shapes:
    """A wooden box."""
    return (b.block((0, 0.5, 0), (0.5, 0.5, 0.5), WOOD, 0.02, (0.0, b.uniform(-35, 35), 0.0)),)


def barrel(b: Builder) -> Shapes:
    """A barrel with a hoop."""
    return b.post(0, 1, 0.36, 0.36, WOOD), b.post(0.42, 0.58, 0.39, 0.39, DARK)


def bookcase(b: Builder) -> Shapes:
    """A case with three rows of books."""
    books = (Paint(b.rng.choice(CLOTHS), b.rng.choice(CLOTHS), "stripes", 7.0) for _ in range(3))
    rows = [
        b.block((0, 0.20 + 0.29 * row, 0.10), (0.88 * 0.34, 0.105, 0.07), paint, 0.005)
        for row, paint in enumerate(books)
    ]
    return (b.block((0, 0.5, 0), (0.34, 0.5, 0.12), Paint((0.45, 0.29, 0.18))), *rows)


def sofa(b: Builder) -> Shapes:
    """Seat, back and two arms."""
    cloth = b.pick(CLOTHS)
    return (
        b.block((0, 0.26, 0), (0.9, 0.24, 0.38), cloth, 0.08),
        b.block((0, 0.58, -0.30), (0.88, 0.40, 0.14), cloth, 0.1),
        *(b.block((s * 0.92, 0.34, 0), (0.13, 0.32, 0.4), cloth, 0.1) for s in SIDES),
    )


def table(b: Builder) -> Shapes:
    """A round table on one foot."""
    top, foot = b.post(0.9, 1, 0.7, 0.72, WOOD), b.post(0, 0.06, 0.32, 0.26, BARK)
    return top, b.post(0, 0.9, 0.07, 0.06, BARK), foot


def floor_lamp(b: Builder) -> Shapes:
    """A thin stand with a cloth shade."""
    shade = b.pick(((0.98, 0.88, 0.62), (0.95, 0.80, 0.70)))
    stand, foot = b.post(0, 0.8, 0.02, 0.018, DARK), b.post(0, 0.03, 0.13, 0.12, DARK)
    return stand, foot, b.post(0.76, 1, 0.18, 0.11, shade)


def fridge(b: Builder) -> Shapes:
    """A tall fridge with a handle."""
    case = b.block((0, 0.5, 0), (0.24, 0.5, 0.22), Paint((0.80, 0.90, 0.90), gloss=0.15), 0.05)
    return case, b.post(0.55, 0.8, 0.016, 0.016, STEEL, x=-0.17, z=0.25)


def counter(b: Builder) -> Shapes:
    """A kitchen counter with a pan on it."""
    return (
        b.block((0, 0.44, 0), (0.95, 0.44, 0.34), b.pick(CLOTHS), 0.02),
        b.block((0, 0.92, 0), (1.0, 0.05, 0.38), WHITE, 0.02),
        b.post(0.97, 1.22, 0.20, 0.20, STEEL, x=0.3),
    )


def curtain(b: Builder) -> Shapes:
    """A heavy stage curtain of three folds."""
    cloth = Paint((0.70, 0.10, 0.16), (0.56, 0.06, 0.12), "stripes", 2.0)
    return tuple(b.post(0, 1.6, 0.16, 0.13, cloth, x=x) for x in (-0.24, 0.0, 0.24))


def spotlight(b: Builder) -> Shapes:
    """A lamp on a stand."""
    (x, _, z), size = b.origin, b.unit
    start, end = (x, 0.78 * size, z - 0.05), (x + 0.04, 0.9 * size, z + 0.22 * size)
    return (
        b.post(0, 0.8, 0.025, 0.025, DARK),
        rod(start, end, 0.09 * size, 0.15 * size, DARK),
        ball((x + 0.045, 0.905 * size, z + 0.23 * size), (0.13 * size, 0.13 * size, 0.04), GLOW),
    )


def beach_ball(b: Builder) -> Shapes:
    """A striped ball."""
    cloth = Paint(b.rng.choice(CLOTHS), (0.98, 0.97, 0.94), "stripes", 3.0 / b.unit)
    return (b.ball((0, 0.5, 0), 0.5, cloth, (20.0, 30.0, 30.0)),)


def toy_blocks(b: Builder) -> Shapes:
    """Three stacked cubes."""
    h, spin = 0.25, b.uniform(-20, 20)
    places = ((-1.05 * h, h), (1.05 * h, h), (0.0, 3.0 * h))
    turns = (0.15 * spin, 0.15 * spin, spin)
    return tuple(
        b.block((x, y, 0), (h, h, h), Paint(cloth), 0.04 * b.unit, (0.0, turn, 0.0))
        for (x, y), turn, cloth in zip(places, turns, b.rng.sample(CLOTHS, 3), strict=True)
    )


def house(b: Builder) -> Shapes:
    """A house front: walls, roof, door, window."""
    wall = b.pick(((0.93, 0.80, 0.62), (0.72, 0.82, 0.86), (0.92, 0.68, 0.62), (0.95, 0.92, 0.84)))
    door, pane = b.at((-0.16, 0.18, 0.42)), b.at((0.15, 0.42, 0.42))
    return (
        b.block((0, 0.36, 0), (0.42, 0.36, 0.42), wall),
        rod(b.at((0, 0.71, 0)), b.at((0, 1.12, 0)), 0.66 * b.unit, 0.02, Paint((0.66, 0.30, 0.26))),
        block(door, (0.09 * b.unit, 0.18 * b.unit, 0.02), Paint((0.40, 0.26, 0.20)), 0.01),
        block(pane, (0.11 * b.unit, 0.11 * b.unit, 0.02), WINDOW, 0.01),
    )


def tower(b: Builder) -> Shapes:
    """A city block whose windows are a checker."""
    body = b.rng.choice(((0.50, 0.56, 0.66), (0.62, 0.54, 0.54), (0.44, 0.50, 0.56), (0.70, 0.62, 0.52)))
    light = (min(1.0, body[0] + 0.28), min(1.0, body[1] + 0.26), min(1.0, body[2] + 0.16))
    wide = b.uniform(0.13, 0.19)
    return (b.block((0, 0.5, 0), (wide, 0.5, wide), Paint(body, light, "checker", 1.6)),)


def street_lamp(b: Builder) -> Shapes:
    """A post with a glowing head."""
    post, foot = b.post(0, 0.9, 0.035, 0.022, DARK), b.post(0, 0.07, 0.075, 0.05, DARK)
    return post, foot, b.ball((0, 0.94, 0), 0.075, GLOW)


def column(b: Builder) -> Shapes:
    """A temple column with base and capital."""
    r = 0.12
    slabs = (b.block((0, y, 0), (1.4 * r, 0.04, 1.4 * r), MARBLE) for y in (0.04, 0.98))
    return (b.post(0, 0.97, r, 0.85 * r, MARBLE), *slabs)


def parasol(b: Builder) -> Shapes:
    """A beach parasol."""
    cloth = Paint(b.rng.choice(CLOTHS), (0.98, 0.96, 0.92), "stripes", 3.0)
    stick = b.rod((0, 0, 0), (0.1, 0.95, 0), 0.02, 0.02, WHITE)
    return stick, b.rod((0.08, 0.76, 0), (0.11, 1, 0), 0.52, 0.02, cloth)


def igloo(b: Builder) -> Shapes:
    """A dome with an entrance."""
    bricks = Paint((0.93, 0.96, 1.0), (0.82, 0.89, 0.97), "checker", 2.5)
    return (
        b.ball((0, 0, 0), 0.8, bricks),
        b.rod((0, 0.12, 0.5), (0, 0.12, 1.0), 0.32, 0.32, SNOW),
        b.rod((0, 0.12, 0.9), (0, 0.12, 1.02), 0.22, 0.22, DARK),
    )


def chimney(b: Builder) -> Shapes:
    """A brick chimney."""
    shaft = b.block((0, 0.45, 0), (0.24, 0.45, 0.24), BRICK)
    return shaft, b.block((0, 0.92, 0), (0.29, 0.06, 0.29), STONE)


def lander(b: Builder) -> Shapes:
    """A gold-foil lander on two visible legs."""
    foil = Paint((0.93, 0.75, 0.36), gloss=0.3)
    return (
        b.block((0, 0.52, 0), (0.30, 0.20, 0.30), foil, 0.05),
        b.ball((0, 0.84, 0), (0.22, 0.2, 0.22), STEEL),
        *(b.limb((s * 0.2, 0.42, 0.15), (s * 0.45, 0.03, 0.25), 0.03, 0.04, STEEL) for s in SIDES),
    )


def slide(b: Builder) -> Shapes:
    """A playground slide: ladder posts and a chute."""
    chute, frame = map(Paint, b.rng.sample(CLOTHS, 2))
    return (
        b.block((0.18, 0.40, 0), (0.48, 0.03, 0.16), replace(chute, gloss=0.2), 0.02, (0.0, 0.0, -42.0)),
        *(b.post(0, 0.95, 0.03, 0.03, frame, x=-0.18, z=s * 0.15) for s in SIDES),
        b.block((-0.26, 0.70, 0), (0.10, 0.025, 0.16), frame),
    )


def tree(b: Builder) -> Shapes:
    """A trunk and two clouds of leaves."""
    leaves, lean = b.pick(GREENS), b.uniform(-0.05, 0.05)
    second = lean + b.side() * 0.16
    return (
        b.limb((0, 0, 0), (lean, 0.55, 0), 0.07, 0.05, BARK),
        b.ball((lean, 0.68, 0), (0.30, 0.27, 0.30), leaves),
        b.ball((second, 0.86, 0), 0.18, b.pick(GREENS)),
    )


def pine(b: Builder) -> Shapes:
    """A fir: trunk and two cones."""
    needle = b.pick(((0.18, 0.42, 0.28), (0.22, 0.48, 0.30), (0.16, 0.38, 0.32)))
    low, high = b.post(0.18, 0.68, 0.30, 0.06, needle), b.post(0.48, 1, 0.22, 0.01, needle)
    return b.post(0, 0.25, 0.06, 0.05, BARK), low, high


def snowy_pine(b: Builder) -> Shapes:
    """A fir under snow."""
    return (*pine(b), b.post(0.74, 1.01, 0.13, 0.01, SNOW))


def palm(b: Builder) -> Shapes:
    """A leaning trunk and four drooping leaves."""
    lean = b.side() * b.uniform(0.12, 0.24)
    leaf = b.pick(GREENS[:2])
    leaves = (
        b.ball(
            (lean + dx * 0.24, 0.82 + 0.01, dz * 0.24),
            (0.29 if dx else 0.08, 0.035, 0.29 if dz else 0.08),
            leaf,
            (dz * 22.0, 0.0, -dx * 22.0),
        )
        for dx, dz in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    return (b.limb((0, 0, 0), (lean, 0.82, 0), 0.055, 0.035, BARK), *leaves)


def bush(b: Builder) -> Shapes:
    """Two green balls."""
    leaves, side = b.pick(GREENS), b.side() * 0.42
    low = b.ball((side, 0.28, 0.1), (0.40, 0.34, 0.38), b.pick(GREENS))
    return b.ball((0, 0.42, 0), (0.55, 0.5, 0.5), leaves), low


def rock(b: Builder) -> Shapes:
    """A boulder."""
    half = (b.uniform(0.5, 0.75), 0.55, 0.5)
    return (b.ball((0, 0.25, 0), half, STONE, (0.0, b.uniform(-40, 40), b.uniform(-14, 14))),)


def sandstone(b: Builder) -> Shapes:
    """A mesa of two layers."""
    low, high = Paint((0.80, 0.50, 0.32)), Paint((0.86, 0.58, 0.38))
    wide = b.uniform(0.45, 0.7)
    return b.post(0, 0.55, wide, 0.82 * wide, low), b.post(0.55, 1, 0.76 * wide, 0.66 * wide, high)


def saguaro(b: Builder) -> Shapes:
    """A tall desert cactus."""
    skin, t, elbow = Paint((0.30, 0.52, 0.34)), 0.10, (0.27, 0.46, 0.0)
    return (
        b.limb((0, 0, 0), (0, 0.85, 0), t, t, skin),
        b.limb((0, 0.42, 0), elbow, 0.6 * t, 0.6 * t, skin),
        b.limb(elbow, (0.28, 0.70, 0), 0.6 * t, 0.6 * t, skin),
    )


def stalagmite(b: Builder) -> Shapes:
    """A stone spike and a small neighbour."""
    r = b.uniform(0.20, 0.30)
    (x, _, z), size = b.origin, b.unit
    x, z = x + b.side() * 1.1 * r * size, z + 0.1
    small = rod((x, 0.0, z), (x, 0.5 * size, z), 0.6 * r * size, 0.02 * size, STONE)
    return b.post(0, 1, r, 0.03, STONE), small


def crystal(b: Builder) -> Shapes:
    """Two leaning crystals."""
    glass = Paint(b.rng.choice(((0.52, 0.78, 0.96), (0.76, 0.56, 0.96), (0.50, 0.92, 0.80))), gloss=0.35)
    lean = b.uniform(-0.25, 0.25)
    tall = b.rod((0, 0, 0), (lean, 0.9, 0), 0.16, 0.02, glass)
    x, y, z = b.at((-lean, 0.55, 0.1))
    return tall, rod(b.at((0.1, 0, 0)), (x + 0.25 * b.unit, y, z), 0.12 * b.unit, 0.02 * b.unit, glass)


def pot(b: Builder) -> Shapes:
    """A pot with a round plant."""
    clay = b.pick(((0.80, 0.45, 0.30), (0.92, 0.90, 0.86)))
    return b.post(0, 0.42, 0.20, 0.28, clay), b.ball((0, 0.68, 0), 0.34, b.pick(GREENS))


def flowers(b: Builder) -> Shapes:
    """A tuft with two blossoms."""
    petal = b.pick(((0.96, 0.45, 0.52), (0.98, 0.82, 0.30), (0.78, 0.52, 0.90), (1.0, 0.98, 0.95)))
    (x, _, z), size = b.origin, b.unit
    return (
        b.ball((0, 0.18, 0), (0.42, 0.24, 0.36), b.pick(GREENS)),
        ball((x - 0.16 * size, 0.50 * size, z + 0.05), 0.15 * size, petal),
        ball((x + 0.20 * size, 0.40 * size, z + 0.10), 0.13 * size, petal),
    )


def snow_heap(b: Builder) -> Shapes:
    """A soft drift."""
    return (b.ball((0, 0, 0), (b.uniform(0.8, 1.2), 0.6, 0.7), SNOW),)


def crater_rock(b: Builder) -> Shapes:
    """A grey lump of moon."""
    grey = Paint((0.58, 0.57, 0.62), (0.46, 0.45, 0.52), "noise", 4.0)
    turn = (0.0, b.uniform(-40, 40), b.uniform(-10, 10))
    return (b.ball((0, 0.1, 0), (0.8, 0.45, 0.6), grey, turn),)


def planet(b: Builder) -> Shapes:
    """A ringed planet in the sky: the size is its radius, its height follows from the distance."""
    colour = b.rng.choice(((0.92, 0.66, 0.42), (0.52, 0.72, 0.92), (0.86, 0.52, 0.62)))
    body = Paint(colour, (0.98, 0.88, 0.72), "stripes", 1.0 / b.unit)
    x, _, z = b.origin
    centre, ring = (x, 0.30 * abs(z) - 0.4, z), b.scaled((1.9, 0.07, 1.9))
    return (
        ball(centre, b.unit, body, (0.0, 0.0, 20.0)),
        ball(centre, ring, Paint((0.90, 0.82, 0.70)), (18.0, 0.0, 20.0)),
    )


@dataclass(frozen=True)
class Site:
    """Where a fixture is built: the drop place, the subject's height, the wall behind."""

    x: float
    z: float
    height: float
    wall_z: float


Fixture = Callable[[Random, Site], Shapes]


def window(rng: Random, site: Site) -> Shapes:
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


def rug(rng: Random, site: Site) -> Shapes:
    first, second = rng.sample(CLOTHS, 2)
    x, z = 0.75 * site.x, site.z - 0.35
    return (
        rod((x, 0.0, z), (x, 0.012, z), 1.25, 1.25, Paint(first)),
        rod((x, 0.0, z), (x, 0.018, z), 1.02, 1.02, Paint(second)),
    )


def sea(rng: Random, site: Site) -> Shapes:
    z = site.z - rng.uniform(3.2, 4.2)
    water = Paint((0.22, 0.58, 0.74), (0.30, 0.66, 0.80), "noise", 1.5, 0.45)
    return (
        block((0.0, 0.0, z - 20.0), (40.0, 0.03, 20.0), water, 0.005),
        block((0.0, 0.0, z), (40.0, 0.045, 0.09), Paint((0.96, 0.98, 0.98)), 0.01),
    )


def road(_: Random, site: Site) -> Shapes:
    z = site.z - 2.6
    return (
        block((0.0, 0.0, z), (40.0, 0.02, 0.75), Paint((0.36, 0.37, 0.41)), 0.005),
        block((0.0, 0.0, z), (40.0, 0.026, 0.03), Paint((0.93, 0.90, 0.80)), 0.005),
    )


def path(rng: Random, site: Site) -> Shapes:
    x = site.x
    dirt = Paint((0.74, 0.62, 0.44), (0.66, 0.54, 0.37), "noise", 4.0)
    return (ball((x, 0.0, site.z - 1.2), (rng.uniform(1.0, 1.3), 0.012, 3.6), dirt),)


def pond(rng: Random, site: Site) -> Shapes:
    x = -site.x * rng.uniform(0.9, 1.3)
    water = Paint((0.36, 0.64, 0.80), gloss=0.6)
    z = site.z - rng.uniform(0.5, 0.9)
    return (
        rod((x, 0.0, z), (x, 0.02, z), 1.02, 1.0, STONE),
        rod((x, 0.0, z), (x, 0.026, z), 0.9, 0.9, water),
    )


def parapet(_: Random, site: Site) -> Shapes:
    z = site.z - 2.1
    return (
        block((0.0, 0.22, z), (40.0, 0.22, 0.10), BRICK, 0.01),
        block((0.0, 0.46, z), (40.0, 0.05, 0.15), STONE, 0.01),
    )


def steps(_: Random, site: Site) -> Shapes:
    return tuple(
        block(
            (0.0, 0.11 * (n + 0.5), site.z - 2.2 - 0.5 * n - 2.0),
            (40.0, 0.055 * (n + 1), 2.0),
            MARBLE,
            0.01,
        )
        for n in range(2)
    )


def hills(rng: Random, site: Site) -> Shapes:
    greens = (Paint((0.46, 0.66, 0.40)), Paint((0.54, 0.72, 0.50)))
    return _rolling(rng, greens, y=-0.3, z=(site.z - 16.0, -3.0), reach=(3, 9), tall=(1.8, 3.0), deep=4.0)


def dunes(rng: Random, site: Site) -> Shapes:
    sands = (Paint((0.90, 0.71, 0.44)), Paint((0.86, 0.63, 0.40)))
    return _rolling(rng, sands, y=-0.2, z=(site.z - 9.0, -5.0), reach=(2, 7), tall=(1.0, 1.7), deep=3.0)


def _rolling(
    rng: Random, paints: Sequence[Paint], *, y: float, z: Range, reach: Range, tall: Range, deep: float
) -> Shapes:
    """A mound on the left and, farther away, one on the right; `reach` is nearest and farthest from the middle."""
    near, far = reach
    return tuple(
        ball(
            (rng.uniform(-far, -near) if n == 0 else rng.uniform(near, far), y, z[0] + n * z[1]),
            (float(far), rng.uniform(*tall), deep),
            paint,
        )
        for n, paint in enumerate(paints)
    )


def mountains(rng: Random, site: Site) -> Shapes:
    far = site.z - 20.0
    parts: list[Shape] = []
    for x, tall in ((rng.uniform(-8, -3), rng.uniform(4.5, 6.0)), (rng.uniform(2, 7), rng.uniform(3.5, 5.0))):
        parts.append(rod((x, -0.2, far), (x, tall, far), 5.5, 0.05, Paint((0.52, 0.60, 0.72))))
        parts.append(rod((x, 0.62 * tall, far), (x, 1.01 * tall, far), 5.5 * 0.385, 0.05, SNOW))
    return tuple(parts)


def cloud(rng: Random, site: Site) -> Shapes:
    x, y, z = rng.uniform(-4, 4), rng.uniform(3.2, 4.3), site.z - 18.0
    puff = Paint((0.98, 0.98, 1.0))
    return (ball((x, y, z), (1.9, 0.62, 0.6), puff), ball((x + 0.9, y + 0.42, z), (0.95, 0.6, 0.6), puff))
