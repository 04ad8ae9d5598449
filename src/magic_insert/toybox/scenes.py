"""Where the subject is inserted: places drawn from a seed, with a drop place that follows the paper's prior.

A kind of place has its ground, wall or sky, light, and spots where props may stand. A scene is planned in the picture
and then put into the world: the drop place's centre, bottom edge and height are drawn as fractions of the picture, and
the ground point and the subject's height that project there are solved for. Spots are given in the picture with the
subject on the left (they are mirrored when it is on the right): `across` is a picture column in [0, 1], `behind` a
distance behind the drop place and `size` a height, both counted in subject heights.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from magic_insert.core.rand import fold_in
from magic_insert.toybox import props
from magic_insert.toybox.props import Builder, Fixture, Prop, Site
from magic_insert.toybox.records import FIRST_PROP_ID, Camera, Light, Paint, Pattern, Shape, Vec3, World
from magic_insert.toybox.solids import bounds, with_id

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
        fixtures=(props.window, props.rug),
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
        fixtures=(props.road,),
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
        fixtures=(props.path,),
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
        fixtures=(props.sea, props.cloud),
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
        fixtures=(props.dunes,),
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
        fixtures=(props.mountains,),
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
        fixtures=(props.window,),
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
        fixtures=(props.pond,),
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
        fixtures=(props.parapet,),
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
        fixtures=(props.steps,),
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
        fixtures=(props.rug,),
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
        fixtures=(props.hills, props.cloud),
    ),
}


KINDS: tuple[str, ...] = tuple(PLACES)
PAPER: Vec3 = (0.98, 0.975, 0.965)  # what a subject picture's ground is
STUDIO_LIGHT = Light(sun_direction=(0.5, 0.85, 0.75), sky_colour=(0.50, 0.52, 0.56))
DROP_X = (0.32, 0.73)  # centre of the drop place, left and right, as a share of the picture's width
BOTTOM = (0.865, 0.925)  # lower edge of the subject: low, with room for a shadow
TALL = (0.38, 0.50)  # the subject's height as a share of the picture
MAX_PROP_SHAPES = 16


@dataclass(frozen=True)
class SceneSpec:
    """One scene without its subject. The drop place is a ground point and a height in world units."""

    seed: int  # even: training, odd: held out
    kind: str
    drop_x: float
    drop_z: float
    subject_height: float
    occlusion: float  # in [0, 1]: chance and strength of a prop that stands partly before the subject
    camera: Camera
    light: Light


def sample_scene(
    seed: int, split: str = "train", occlusion: float = 0.0, kind: str | None = None
) -> SceneSpec:
    """The scene of number `seed` in `split`, a pure function of its arguments; `kind` None draws the kind too."""
    assert split in ("train", "heldout"), split
    assert 0.0 <= occlusion <= 1.0, occlusion
    rng = Random(fold_in(seed, "scene", split))
    drawn = rng.choice(KINDS)
    side = rng.randrange(2)
    camera = _camera(rng)
    u, v = DROP_X[side] + rng.uniform(-0.045, 0.045), rng.uniform(*BOTTOM)
    x, z = ground_point(camera, u, v)
    height = height_at(camera, x, z, v - rng.uniform(*TALL))
    return SceneSpec(
        seed=(fold_in(seed, "scene identity", split) // 2) * 2 + int(split == "heldout"),
        kind=kind or drawn,
        drop_x=x,
        drop_z=z,
        subject_height=height,
        occlusion=occlusion,
        camera=camera,
        light=_light(rng, PLACES[kind or drawn], side),
    )


def scene_world(spec: SceneSpec, subject: tuple[Shape, ...] = ()) -> World:
    """The scene's world; the subject's shapes follow its own, so props keep their order and ids either way."""
    place = PLACES[spec.kind]
    rng = Random(fold_in(spec.seed, "props"))
    ground, wall = place.ground(rng), None if place.wall is None else place.wall(rng)
    wall_z = None if wall is None else spec.drop_z - rng.uniform(*place.wall_distance)
    zenith, horizon = place.sky
    return World(
        shapes=(*_props(spec, place, rng, wall_z), *subject),
        ground=ground,
        wall=wall,
        wall_z=wall_z,
        zenith=zenith,
        horizon=horizon,
        camera=spec.camera,
        light=spec.light,
    )


def studio_world(subject: Sequence[Shape]) -> World:
    """The subject alone before paper white, no ground: its larger side fills about 80 % of the frame."""
    low, high = bounds(subject)
    centre = tuple(0.5 * (a + b) for a, b in zip(low, high, strict=True))
    half = [0.5 * (b - a) for a, b in zip(low, high, strict=True)]
    fov = 24.0
    distance = max(half[0], half[1]) / (0.80 * math.tan(math.radians(0.5 * fov))) + 0.5 * half[2]
    target: Vec3 = (centre[0], centre[1], centre[2])
    camera = Camera((centre[0], centre[1] + 0.14 * distance, centre[2] + 0.99 * distance), target, fov)
    return World(tuple(subject), None, zenith=PAPER, horizon=PAPER, camera=camera, light=STUDIO_LIGHT)


def ground_point(camera: Camera, u: float, v: float) -> tuple[float, float]:
    """(x, z) of the ground point seen at picture fractions (u, v), v down; (u, v) lies below the horizon."""
    direction = _ray(camera, u, v)
    assert direction[1] < 0, "the picture point lies above the horizon"
    reach = -camera.position[1] / direction[1]
    return camera.position[0] + reach * direction[0], camera.position[2] + reach * direction[2]


def project(camera: Camera, point: Vec3) -> tuple[float, float]:
    """Picture fractions (u, v), v down, of a world point before the camera; square pictures."""
    right, up, ahead = _axes(camera)
    d = tuple(p - c for p, c in zip(point, camera.position, strict=True))
    depth = sum(a * b for a, b in zip(d, ahead, strict=True))
    spread = 2.0 * math.tan(math.radians(0.5 * camera.fov_deg)) * depth
    across, above = (sum(a * b for a, b in zip(d, axis, strict=True)) for axis in (right, up))
    return 0.5 + across / spread, 0.5 - above / spread


def height_at(camera: Camera, x: float, z: float, v: float) -> float:
    """Height of the point above (x, z) that is seen in row v."""
    low, high = 0.0, 4.0 * camera.position[1] + 4.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if project(camera, (x, middle, z))[1] > v else (low, middle)
    return low


def _camera(rng: Random) -> Camera:
    height, back, fov = rng.uniform(1.0, 1.3), rng.uniform(4.4, 5.2), rng.uniform(31.0, 36.0)
    horizon = rng.uniform(0.30, 0.40)
    return looking_at(horizon, rng.uniform(-0.15, 0.15), height, back, fov)


def looking_at(horizon: float, x: float, height: float, back: float, fov: float) -> Camera:
    """A camera at (x, height, back) that has the horizon at this share of the picture's height, from above."""
    pitch = math.atan((0.5 - horizon) * 2.0 * math.tan(math.radians(0.5 * fov)))
    return Camera((x, height, back), (x, height - back * math.tan(pitch), 0.0), fov)


def _light(rng: Random, place: Place, side: int) -> Light:
    """The sun stands on the drop place's side more often than not: its shadow falls into the picture."""
    toward = (-1.0, 1.0)[side] * (1.0 if rng.random() < 0.75 else -1.0)
    azimuth, elevation = math.radians(rng.uniform(15.0, 75.0)), math.radians(rng.uniform(*place.sun_height))
    flat = math.cos(elevation)
    direction = (toward * flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth))
    return Light(direction, place.sun, place.sky_light, sun_radius=rng.uniform(0.03, 0.09))


def _props(spec: SceneSpec, place: Place, rng: Random, wall_z: float | None) -> tuple[Shape, ...]:
    site = Site(
        spec.drop_x, spec.drop_z, spec.subject_height, spec.drop_z - 3.0 if wall_z is None else wall_z
    )
    objects = [fixture(rng, site) for fixture in place.fixtures]
    for spot in place.spots:
        if rng.random() > spot.chance:
            continue
        size = spec.subject_height * rng.uniform(*spot.size)
        u, behind = rng.uniform(*spot.across), rng.uniform(*spot.behind)
        z = spec.drop_z - behind * spec.subject_height
        if wall_z is not None:
            z = max(z, wall_z + spot.depth * size)
        x = _across(spec, u if spec.drop_x < spec.camera.position[0] else 1.0 - u, z)
        parts = rng.choice(spot.props)(Builder((x, 0.0, z), size, rng))
        if sum(map(len, objects)) + len(parts) <= MAX_PROP_SHAPES:
            objects.append(parts)
    objects.append(_occluder(spec, place))  # last: the other props are the same with and without it
    return tuple(shape for n, parts in enumerate(objects) for shape in with_id(parts, FIRST_PROP_ID + n))


def _across(spec: SceneSpec, u: float, z: float) -> float:
    """World x seen in column u at depth z, on the ground."""
    camera = spec.camera
    _, _, ahead = _axes(camera)
    depth = (z - camera.position[2]) * ahead[2] - camera.position[1] * ahead[1]
    return camera.position[0] + (u - 0.5) * 2.0 * math.tan(math.radians(0.5 * camera.fov_deg)) * depth


def _occluder(spec: SceneSpec, place: Place) -> tuple[Shape, ...]:
    """A low prop between the camera and one half of the subject, in a share `occlusion` of the scenes."""
    rng = Random(fold_in(spec.seed, "occluder"))
    if rng.random() >= spec.occlusion:
        return ()
    strength = 0.5 + 0.5 * spec.occlusion
    size = spec.subject_height * rng.uniform(0.44, 0.64) * strength
    z = spec.drop_z + 0.30 * spec.subject_height + 0.4 * size
    x = spec.drop_x + rng.choice((-1, 1)) * spec.subject_height * rng.uniform(0.18, 0.32)
    return rng.choice(place.occluders)(Builder((x, 0.0, z), size, rng))


def _ray(camera: Camera, u: float, v: float) -> Vec3:
    right, up, ahead = _axes(camera)
    spread = 2.0 * math.tan(math.radians(0.5 * camera.fov_deg))
    a, b = (u - 0.5) * spread, (0.5 - v) * spread
    return (
        ahead[0] + a * right[0] + b * up[0],
        ahead[1] + a * right[1] + b * up[1],
        ahead[2] + a * right[2] + b * up[2],
    )


def _axes(camera: Camera) -> tuple[Vec3, Vec3, Vec3]:
    dx, dy, dz = (t - p for t, p in zip(camera.target, camera.position, strict=True))
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    ahead = (dx / length, dy / length, dz / length)
    flat = math.hypot(ahead[0], ahead[2])
    right = (-ahead[2] / flat, 0.0, ahead[0] / flat)
    up = (
        right[1] * ahead[2] - right[2] * ahead[1],
        right[2] * ahead[0] - right[0] * ahead[2],
        right[0] * ahead[1] - right[1] * ahead[0],
    )
    return right, up, ahead
