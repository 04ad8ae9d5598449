"""The kinds of places: ground, wall or sky, light, and which props stand where.

Spots are told in the picture with the subject on the left (they are mirrored when it is on the right): `across`
is a picture column in [0, 1], `behind` a distance behind the drop place and `size` a height, both counted in
subject heights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from magic_insert.toybox import fixtures, props
from magic_insert.toybox.fixtures import Fixture
from magic_insert.toybox.props.materials import Prop
from magic_insert.toybox.records import Paint, Pattern, Vec3

PaintMaker = Callable[[Random], Paint]
Range = tuple[float, float]


@dataclass(frozen=True)
class Spot:
    """A place where one of some props may stand."""

    props: tuple[Prop, ...]
    across: Range
    behind: Range
    size: Range
    chance: float = 1.0
    depth: float = 0.4  # half depth of the prop in its sizes: keeps it before the wall


@dataclass(frozen=True)
class Place:
    """One kind of scene. `wall` None: open sky."""

    ground: PaintMaker
    spots: tuple[Spot, ...]
    occluders: tuple[Prop, ...]
    sky: tuple[Vec3, Vec3] = ((0.42, 0.64, 0.94), (0.86, 0.92, 0.98))  # zenith, horizon
    wall: PaintMaker | None = None
    wall_distance: Range = (1.5, 2.3)
    fixtures: tuple[Fixture, ...] = ()
    sun: Vec3 = (1.0, 0.96, 0.88)
    sky_light: Vec3 = (0.44, 0.48, 0.56)
    sun_height: Range = (34.0, 62.0)


def _paint(
    first: Vec3, second: Vec3, pattern: Pattern, scale: float, gloss: tuple[float, float] = (0.0, 0.0)
) -> PaintMaker:
    return lambda rng: Paint(first, second, pattern, scale, rng.uniform(*gloss))


def _one_of(
    pairs: tuple[tuple[Vec3, Vec3], ...],
    pattern: Pattern,
    scale: float,
    gloss: tuple[float, float] = (0.0, 0.0),
) -> PaintMaker:
    def make(rng: Random) -> Paint:
        first, second = rng.choice(pairs)
        return Paint(first, second, pattern, scale, rng.uniform(*gloss))

    return make


LEFT, RIGHT, FAR_RIGHT, MIDDLE = (0.02, 0.12), (0.58, 0.74), (0.80, 0.97), (0.42, 0.60)
_DUSK = ((0.30, 0.32, 0.58), (0.97, 0.72, 0.56))
_NIGHT = ((0.05, 0.06, 0.16), (0.20, 0.20, 0.38))
_WALLS: tuple[tuple[Vec3, Vec3], ...] = (
    ((0.88, 0.80, 0.68), (0.84, 0.75, 0.62)),
    ((0.66, 0.78, 0.80), (0.60, 0.73, 0.76)),
    ((0.86, 0.70, 0.66), (0.82, 0.64, 0.60)),
    ((0.74, 0.78, 0.62), (0.68, 0.73, 0.56)),
)

PLACES: dict[str, Place] = {
    "room": Place(
        _one_of(
            (((0.68, 0.48, 0.31), (0.60, 0.41, 0.26)), ((0.80, 0.66, 0.48), (0.73, 0.58, 0.41))),
            "planks",
            1.6,
            (0.0, 0.35),
        ),
        (
            Spot((props.sofa,), (0.66, 0.80), (0.9, 1.3), (0.62, 0.78), 0.8, 0.55),
            Spot((props.floor_lamp, props.pot, props.bookcase), LEFT, (0.8, 1.6), (1.1, 1.7)),
            Spot((props.table, props.pot), FAR_RIGHT, (0.1, 0.5), (0.4, 0.6), 0.4),
        ),
        (props.crate, props.beach_ball, props.pot),
        wall=_one_of(_WALLS, "stripes", 1.2),
        fixtures=(fixtures.window, fixtures.rug),
        sky_light=(0.50, 0.48, 0.46),
    ),
    "street": Place(
        _paint((0.66, 0.65, 0.66), (0.58, 0.57, 0.59), "checker", 1.4, (0.0, 0.12)),
        (
            Spot((props.house,), (0.62, 0.85), (4.6, 5.4), (2.6, 3.2)),
            Spot((props.house, props.tower), (0.05, 0.3), (4.8, 5.6), (2.4, 3.4)),
            Spot((props.street_lamp,), RIGHT, (0.5, 1.4), (1.9, 2.4)),
            Spot((props.tree, props.bush), LEFT, (0.8, 1.5), (0.8, 1.5), 0.6),
        ),
        (props.barrel, props.crate, props.bush),
        fixtures=(fixtures.road,),
    ),
    "forest": Place(
        _paint((0.42, 0.54, 0.28), (0.50, 0.52, 0.30), "noise", 2.0),
        (
            Spot((props.tree, props.pine), LEFT, (0.9, 1.6), (2.2, 2.9)),
            Spot((props.tree, props.pine), RIGHT, (1.4, 2.6), (2.0, 2.8)),
            Spot((props.pine,), FAR_RIGHT, (0.6, 1.6), (2.0, 2.8)),
            Spot((props.tree,), (0.3, 0.5), (3.5, 5.0), (2.5, 3.2)),
            Spot((props.bush, props.rock), (0.6, 0.9), (0.2, 0.6), (0.3, 0.45), 0.7),
        ),
        (props.bush, props.rock, props.flowers),
        sky=((0.52, 0.72, 0.80), (0.86, 0.93, 0.86)),
        sky_light=(0.40, 0.46, 0.42),
        fixtures=(fixtures.path,),
    ),
    "beach": Place(
        _paint((0.93, 0.83, 0.62), (0.88, 0.77, 0.55), "noise", 5.0),
        (
            Spot((props.palm,), (0.74, 0.9), (0.8, 1.6), (2.0, 2.5)),
            Spot((props.parasol,), (0.52, 0.62), (1.2, 1.9), (1.2, 1.5), 0.7),
            Spot((props.beach_ball, props.rock), FAR_RIGHT, (0.1, 0.5), (0.28, 0.4), 0.8),
        ),
        (props.beach_ball, props.rock, props.bush),
        sky=((0.34, 0.64, 0.95), (0.82, 0.93, 0.98)),
        fixtures=(fixtures.sea, fixtures.cloud),
        sun_height=(42.0, 66.0),
    ),
    "desert": Place(
        _paint((0.90, 0.70, 0.44), (0.85, 0.63, 0.37), "noise", 2.5),
        (
            Spot((props.sandstone,), (0.66, 0.86), (3.5, 5.5), (1.6, 2.4)),
            Spot((props.saguaro,), RIGHT, (0.6, 1.6), (1.1, 1.6)),
            Spot((props.saguaro, props.rock), LEFT, (0.8, 2.0), (0.5, 1.1), 0.7),
            Spot((props.rock,), FAR_RIGHT, (0.2, 0.8), (0.25, 0.4), 0.7),
        ),
        (props.rock,),
        sky=((0.46, 0.64, 0.88), (0.98, 0.88, 0.72)),
        sun=(1.06, 0.93, 0.76),
        fixtures=(fixtures.dunes,),
    ),
    "stage": Place(
        _paint((0.55, 0.35, 0.21), (0.47, 0.29, 0.17), "planks", 1.4, (0.2, 0.6)),
        (
            Spot((props.curtain,), (0.0, 0.05), (1.0, 1.3), (1.9, 2.2), depth=0.2),
            Spot((props.curtain,), (0.95, 1.0), (1.0, 1.3), (1.9, 2.2), depth=0.2),
            Spot((props.spotlight,), (0.70, 0.84), (0.4, 1.0), (1.0, 1.4), 0.8),
            Spot((props.crate, props.barrel), (0.55, 0.68), (0.7, 1.1), (0.35, 0.5), 0.5),
        ),
        (props.crate, props.barrel),
        wall=_one_of(
            (((0.36, 0.30, 0.52), (0.30, 0.24, 0.45)), ((0.24, 0.36, 0.50), (0.19, 0.29, 0.43))),
            "stripes",
            0.8,
        ),
        sun=(1.10, 1.0, 0.84),
        sky_light=(0.36, 0.34, 0.42),
        sun_height=(44.0, 64.0),
    ),
    "cave": Place(
        _paint((0.48, 0.45, 0.50), (0.39, 0.37, 0.43), "noise", 2.5, (0.05, 0.4)),
        (
            Spot((props.crystal,), RIGHT, (0.5, 1.2), (0.6, 0.9)),
            Spot((props.stalagmite,), LEFT, (0.7, 1.3), (0.9, 1.6)),
            Spot((props.stalagmite,), FAR_RIGHT, (0.6, 1.3), (1.2, 2.0)),
            Spot((props.crystal, props.rock), (0.84, 0.95), (0.1, 0.4), (0.28, 0.42), 0.7),
        ),
        (props.rock, props.crystal, props.stalagmite),
        wall=_paint((0.42, 0.38, 0.48), (0.34, 0.31, 0.41), "noise", 1.2),
        sun=(0.92, 0.90, 1.0),
        sky_light=(0.44, 0.45, 0.60),
    ),
    "snow field": Place(
        _paint((0.93, 0.95, 0.99), (0.88, 0.92, 0.98), "noise", 1.5, (0.0, 0.2)),
        (
            Spot((props.snowy_pine,), RIGHT, (1.6, 3.0), (1.8, 2.5)),
            Spot((props.igloo, props.snowy_pine), FAR_RIGHT, (1.0, 1.8), (0.9, 1.2)),
            Spot((props.snowy_pine,), LEFT, (1.2, 2.4), (1.5, 2.2), 0.8),
        ),
        (props.snow_heap, props.rock),
        sky=((0.52, 0.70, 0.92), (0.92, 0.95, 0.99)),
        fixtures=(fixtures.mountains,),
        sky_light=(0.46, 0.51, 0.62),
        sun=(0.98, 0.92, 0.84),
    ),
    "kitchen": Place(
        _one_of(
            (((0.90, 0.88, 0.84), (0.44, 0.56, 0.60)), ((0.92, 0.90, 0.86), (0.76, 0.52, 0.46))),
            "checker",
            1.5,
            (0.1, 0.5),
        ),
        (
            Spot((props.counter,), (0.66, 0.78), (1.0, 1.4), (0.9, 1.05), depth=0.4),
            Spot((props.fridge,), (0.03, 0.14), (0.9, 1.3), (1.7, 2.0), depth=0.25),
            Spot((props.pot, props.crate), FAR_RIGHT, (0.1, 0.5), (0.4, 0.6), 0.4),
        ),
        (props.crate, props.pot, props.barrel),
        wall=_one_of(
            (((0.93, 0.90, 0.80), (0.86, 0.82, 0.70)), ((0.80, 0.89, 0.88), (0.70, 0.82, 0.82))),
            "checker",
            2.0,
        ),
        fixtures=(fixtures.window,),
        sky_light=(0.50, 0.50, 0.50),
    ),
    "garden": Place(
        _paint((0.48, 0.68, 0.32), (0.42, 0.62, 0.28), "stripes", 0.8),
        (
            Spot((props.flowers,), RIGHT, (0.6, 1.2), (0.4, 0.6)),
            Spot((props.flowers, props.bush), LEFT, (0.6, 1.2), (0.5, 0.8)),
            Spot((props.tree,), FAR_RIGHT, (1.6, 2.8), (1.9, 2.4)),
            Spot((props.house,), (0.36, 0.52), (4.5, 6.0), (2.0, 2.6), 0.8),
        ),
        (props.flowers, props.bush, props.pot),
        fixtures=(fixtures.pond,),
        sky_light=(0.44, 0.50, 0.52),
    ),
    "rooftop": Place(
        _paint((0.64, 0.60, 0.60), (0.58, 0.54, 0.55), "checker", 0.9, (0.0, 0.25)),
        (
            Spot((props.chimney,), (0.72, 0.88), (0.8, 1.4), (0.9, 1.3)),
            Spot((props.tower,), (0.05, 0.25), (8.0, 12.0), (4.4, 6.0)),
            Spot((props.tower,), (0.40, 0.58), (9.0, 14.0), (4.0, 6.5)),
            Spot((props.tower,), (0.72, 0.95), (8.0, 12.0), (3.8, 5.4)),
            Spot((props.pot, props.crate), LEFT, (0.6, 1.2), (0.4, 0.7), 0.6),
        ),
        (props.crate, props.pot),
        sky=_DUSK,
        sun=(1.06, 0.84, 0.66),
        sky_light=(0.42, 0.42, 0.56),
        sun_height=(28.0, 44.0),
        fixtures=(fixtures.parapet,),
    ),
    "temple": Place(
        _paint((0.86, 0.80, 0.70), (0.76, 0.70, 0.60), "checker", 0.9, (0.2, 0.65)),
        (
            Spot((props.column,), LEFT, (0.9, 1.3), (2.2, 2.6)),
            Spot((props.column,), RIGHT, (1.0, 1.4), (2.2, 2.6)),
            Spot((props.column,), (0.88, 0.97), (0.8, 1.2), (2.2, 2.6)),
            Spot((props.barrel, props.rock), FAR_RIGHT, (0.1, 0.4), (0.3, 0.45), 0.4),
        ),
        (props.rock, props.barrel),
        sky=((0.46, 0.62, 0.86), (0.98, 0.90, 0.78)),
        sun=(1.04, 0.94, 0.80),
        fixtures=(fixtures.steps,),
    ),
    "library": Place(
        _one_of(
            (((0.52, 0.34, 0.22), (0.44, 0.28, 0.18)), ((0.40, 0.48, 0.44), (0.35, 0.43, 0.39))),
            "planks",
            1.4,
            (0.0, 0.45),
        ),
        (
            Spot((props.bookcase,), (0.08, 0.2), (1.3, 1.6), (1.7, 2.0), depth=0.2),
            Spot((props.bookcase,), (0.56, 0.68), (1.3, 1.6), (1.7, 2.0), depth=0.2),
            Spot((props.bookcase, props.floor_lamp), (0.88, 1.0), (1.2, 1.5), (1.6, 1.9), depth=0.2),
            Spot((props.table,), (0.78, 0.92), (0.2, 0.5), (0.42, 0.55), 0.6, 0.7),
        ),
        (props.crate, props.pot),
        wall=_paint((0.46, 0.40, 0.34), (0.41, 0.35, 0.30), "stripes", 1.0),
        fixtures=(fixtures.rug,),
        sky_light=(0.46, 0.43, 0.40),
    ),
    "moon": Place(
        _paint((0.62, 0.61, 0.66), (0.53, 0.52, 0.58), "noise", 2.0),
        (
            Spot((props.planet,), (0.58, 0.84), (13.0, 15.0), (0.95, 1.45), depth=0.0),
            Spot((props.lander,), (0.70, 0.86), (0.9, 1.8), (0.9, 1.3), 0.7),
            Spot((props.crater_rock,), LEFT, (0.8, 2.0), (0.5, 0.9)),
            Spot((props.crater_rock,), (0.5, 0.66), (1.8, 3.6), (0.5, 0.9)),
            Spot((props.crater_rock,), FAR_RIGHT, (0.1, 0.6), (0.2, 0.35), 0.6),
        ),
        (props.crater_rock, props.crystal),
        sky=_NIGHT,
        sun=(1.10, 1.08, 1.04),
        sky_light=(0.30, 0.32, 0.44),
        sun_height=(30.0, 50.0),
    ),
    "playground": Place(
        _one_of(
            (((0.84, 0.66, 0.52), (0.80, 0.60, 0.46)), ((0.58, 0.74, 0.62), (0.52, 0.68, 0.57))), "noise", 2.0
        ),
        (
            Spot((props.beach_ball,), FAR_RIGHT, (0.1, 0.6), (0.3, 0.45)),
            Spot((props.toy_blocks,), RIGHT, (0.6, 1.2), (0.7, 0.9)),
            Spot((props.slide,), (0.72, 0.84), (1.2, 2.2), (1.3, 1.7)),
            Spot((props.tree, props.toy_blocks), LEFT, (0.9, 1.8), (0.8, 1.4), 0.7),
        ),
        (props.beach_ball, props.toy_blocks),
        fixtures=(fixtures.hills, fixtures.cloud),
    ),
}
