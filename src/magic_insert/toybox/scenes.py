"""Where the subject is inserted: places drawn from a seed, with a drop place that follows the paper's prior.

A scene is planned in the picture and then put into the world: the drop place's centre, bottom edge and height are
drawn as fractions of the picture, and the ground point and the subject's height that project there are solved for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in
from magic_insert.toybox.fixtures import Site
from magic_insert.toybox.records import FIRST_PROP_ID, Camera, Light, Shape, Vec3, World
from magic_insert.toybox.scene_kinds import PLACES, Place
from magic_insert.toybox.solids import bounds, with_id

KINDS: tuple[str, ...] = tuple(PLACES)
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
    """The scene of number `seed` in `split`, a pure function of its arguments; `kind` None draws the kind too.

    Raises UserError for an unknown split or kind and for an occlusion outside [0, 1].
    """
    if split not in ("train", "heldout"):
        raise UserError(f"expected split 'train' or 'heldout', got {split!r}")
    if not 0.0 <= occlusion <= 1.0:
        raise UserError(f"expected occlusion in [0, 1], got {occlusion}")
    if kind is not None and kind not in PLACES:
        raise UserError(f"expected a scene kind out of {', '.join(KINDS)}, got {kind!r}")
    rng = Random(fold_in(seed, "scene", split))
    drawn = rng.choice(KINDS)
    side = rng.randrange(2)
    camera = _camera(rng)
    u, v = DROP_X[side] + rng.uniform(-0.045, 0.045), rng.uniform(*BOTTOM)
    x, z = ground_point(camera, u, v)
    height = _height_at(camera, x, z, v - rng.uniform(*TALL))
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
    light = Light(sun_direction=(0.5, 0.85, 0.75), sky_colour=(0.50, 0.52, 0.56))
    return World(
        tuple(subject),
        None,
        zenith=(0.98, 0.975, 0.965),
        horizon=(0.98, 0.975, 0.965),
        camera=camera,
        light=light,
    )


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


def _height_at(camera: Camera, x: float, z: float, v: float) -> float:
    """Height of the point above (x, z) that is seen in row v."""
    low, high = 0.0, 4.0 * camera.position[1] + 4.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if project(camera, (x, middle, z))[1] > v else (low, middle)
    return low


def _camera(rng: Random) -> Camera:
    height, back, fov = rng.uniform(1.0, 1.3), rng.uniform(4.4, 5.2), rng.uniform(31.0, 36.0)
    horizon = rng.uniform(0.30, 0.40)
    pitch = math.atan((0.5 - horizon) * 2.0 * math.tan(math.radians(0.5 * fov)))
    x = rng.uniform(-0.15, 0.15)
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
        parts = rng.choice(spot.props)(rng, x, z, size)
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
    return rng.choice(place.occluders)(rng, x, z, size)


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
