"""Training data of the effect network: scenes with and without a subject, and that subject lit as in another picture.

Cameras, horizons and light vary more than in the scenes of the benchmarks: a subject stands anywhere in the lower half
of the picture, the sun on either side and also behind, hard, soft or hidden by clouds.
Shape letters: B drawings, S their side. Pictures are uint8.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from magic_insert.core.rand import fold_in
from magic_insert.data.renders import to_uint8
from magic_insert.toybox.records import SUBJECT_ID, Camera, Light, Paint, Pattern, Shape, Vec3, World, rows
from magic_insert.toybox.scenes import (
    PAPER,
    PLACES,
    STUDIO_LIGHT,
    SceneSpec,
    ground_point,
    height_at,
    looking_at,
    sample_scene,
    scene_world,
)
from magic_insert.toybox.solids import with_id
from magic_insert.toybox.styles import TRAIN_STYLES, draw
from magic_insert.toybox.subjects import SubjectSpec, sample_subject, subject_shapes
from magic_insert.toybox.tracer import trace

GROUNDS: tuple[Pattern, ...] = ("plain", "noise", "noise", "noise", "planks", "checker", "stripes")
SOLID = 0.98  # coverage from which a pixel shows nothing but the subject


@dataclass(frozen=True)
class RelitPairs:
    """Drawings of scenes; `own` is the subject alone under its own light, its colours continued beyond its outline."""

    with_subject: np.ndarray  # B 3 S S
    without: np.ndarray  # B 3 S S
    own: np.ndarray  # B 3 S S
    mask: np.ndarray  # B 1 S S
    sun: np.ndarray  # B 5 float32: direction towards the sun (right, up, towards the camera), softness, share


def varied_scene(seed: int) -> SceneSpec:
    """A training scene whose camera, drop place and light are drawn from wide ranges."""
    rng = Random(fold_in(seed, "varied scene"))
    spec = sample_scene(seed, "train", occlusion=0.1)
    camera = _camera(rng)
    u, v, tall = rng.uniform(0.25, 0.75), rng.uniform(0.68, 0.94), rng.uniform(0.32, 0.52)
    x, z = ground_point(camera, u, v)
    return replace(
        spec,
        camera=camera,
        drop_x=x,
        drop_z=z,
        subject_height=height_at(camera, x, z, v - tall),
        light=varied_light(rng, spec.kind),
    )


def _camera(rng: Random) -> Camera:
    height, back, fov = math.exp(rng.uniform(-0.5, 0.7)), rng.uniform(4.0, 5.6), rng.uniform(28.0, 46.0)
    horizon = rng.uniform(0.12, 0.48)
    return looking_at(horizon, rng.uniform(-0.2, 0.2), height, back, fov)


def varied_light(rng: Random, kind: str) -> Light:
    """Sun on either side, often before and sometimes behind the subject; hard, soft, or mostly sky."""
    place = PLACES[kind]
    side = rng.choice((-1.0, 1.0))
    azimuth = math.radians(rng.uniform(8.0, 82.0) if rng.random() < 0.75 else rng.uniform(98.0, 165.0))
    low, high = place.sun_height
    elevation = math.radians(rng.uniform(low, high) if rng.random() < 0.6 else rng.uniform(18.0, 76.0))
    sun, sky, radius = rng.choice(
        3 * [((0.85, 1.15), (0.7, 1.2), (0.02, 0.10))]
        + [((0.35, 0.8), (1.0, 1.4), (0.12, 0.4)), ((0.0, 0.25), (1.4, 1.9), (0.3, 0.6))]
    )
    sun_gain, sky_gain = rng.uniform(*sun), rng.uniform(*sky)
    flat = math.cos(elevation)
    return Light(
        (side * flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth)),
        _tinged(rng, place.sun, sun_gain),
        _tinged(rng, place.sky_light, sky_gain),
        sun_radius=rng.uniform(*radius),
    )


def _tinged(rng: Random, colour: Vec3, gain: float) -> Vec3:
    red, green, blue = (c * gain * rng.uniform(0.93, 1.07) for c in colour)
    return red, green, blue


def varied_world(spec: SceneSpec) -> World:
    """The scene without its subject: often another ground, sometimes a wet one, sometimes somebody else in it."""
    rng = Random(fold_in(spec.seed, "varied world"))
    world = scene_world(spec)
    ground = world.ground
    assert ground is not None
    if rng.random() < 0.45:
        colour = _colour(rng)
        near = tuple(min(1.0, max(0.0, c + rng.uniform(-0.15, 0.15))) for c in colour)
        pattern = rng.choice(GROUNDS)
        ground = Paint(colour, (near[0], near[1], near[2]), pattern, math.exp(rng.uniform(-0.3, 2.0)))
    if rng.random() < 0.25:
        ground = replace(ground, gloss=rng.uniform(0.1, 0.7))
    shapes = world.shapes
    if rng.random() < 0.35:
        shapes += _bystander(rng, spec)
    return replace(world, ground=ground, shapes=shapes)


def _colour(rng: Random) -> Vec3:
    value, tint = rng.uniform(0.2, 0.95), rng.uniform(0.0, 0.35)
    red, green, blue = (min(1.0, value * (1.0 + tint * rng.uniform(-1, 1))) for _ in range(3))
    return red, green, blue


def _bystander(rng: Random, spec: SceneSpec) -> tuple[Shape, ...]:
    """Another subject at some distance, whose shadow tells the light."""
    tall = spec.subject_height * rng.uniform(0.5, 1.3)
    x = spec.drop_x - math.copysign(rng.uniform(0.9, 1.8), spec.drop_x) * spec.subject_height
    z = spec.drop_z - rng.uniform(-0.2, 2.0) * spec.subject_height
    shapes = subject_shapes(sample_subject(rng.randrange(1 << 30), "train"), x=x, z=z, height=tall)
    return with_id(shapes, SUBJECT_ID - 1)


def alone(scene: SceneSpec, subject: SubjectSpec, light: Light) -> World:
    """The subject where it stands in the scene, seen by the same camera, without anything around it."""
    shapes = subject_shapes(subject, x=scene.drop_x, z=scene.drop_z, height=scene.subject_height)
    return World(shapes, None, zenith=PAPER, horizon=PAPER, camera=scene.camera, light=light)


@dataclass(frozen=True)
class Sitting:
    """One subject in one scene. `light`: of the subject's own picture; `styles`: what both are drawn in."""

    scene: SceneSpec
    subject: SubjectSpec
    light: Light
    styles: Sequence[str]
    complexity: float
    seed: int


def render_relit(
    sittings: Sequence[Sitting],
    *,
    side: int,
    traced: int,
    build: Callable[[SceneSpec], World] = scene_world,
    sun_samples: int = 8,
) -> RelitPairs:
    """Every sitting drawn in each of its styles (as many for each), sitting-major order."""
    n, count = len(sittings), len(sittings[0].styles)
    empty = [build(s.scene) for s in sittings]
    own = [alone(s.scene, s.subject, s.light) for s in sittings]
    full = [replace(w, shapes=(*w.shapes, *o.shapes)) for w, o in zip(empty, own, strict=True)]
    g = trace([*full, *empty, *own], traced, sun_samples=sun_samples)
    mask, seen = shrink_to(g.coverage[:n], side), shrink_to(g.coverage[2 * n :], side)
    columns: dict[str, list[Tensor]] = {"with_subject": [], "without": [], "own": []}
    for k in range(count):
        names = [s.styles[k] for s in sittings]
        complexity, salt = [s.complexity for s in sittings], [fold_in(s.seed, "texture", k) for s in sittings]
        for part, name in enumerate(columns):
            drawn = draw(rows(g, part * n, (part + 1) * n), names, complexity, salt)
            columns[name].append(shrink_to(drawn, side))
    columns["own"] = [_continued(picture, seen) for picture in columns["own"]]
    pictures = {name: to_uint8(torch.stack(parts, 1).flatten(0, 1)) for name, parts in columns.items()}
    return RelitPairs(
        **pictures,
        mask=to_uint8(mask.repeat_interleave(count, 0)),
        sun=np.repeat(np.array([sun_of(s.scene) for s in sittings], np.float32), count, 0),
    )


def sun_of(scene: SceneSpec) -> tuple[float, ...]:
    """Direction towards the sun, its softness, and its share of the light on the ground."""
    light = scene.light
    length = math.sqrt(sum(d * d for d in light.sun_direction))
    right, up, near = (d / length for d in light.sun_direction)
    direct, ambient = sum(light.sun_colour) * up, sum(light.sky_colour)
    return right, up, near, min(1.0, 2.0 * light.sun_radius), direct / (direct + ambient)


def shrink_to(image: Tensor, side: int) -> Tensor:
    """B C H H at a smaller side, antialiased."""
    if image.shape[-1] == side:
        return image
    return functional.interpolate(image, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _continued(own: Tensor, seen: Tensor) -> Tensor:
    """The subject's colours, continued beyond its outline from its solid pixels."""
    solid = (seen >= SOLID).to(own.dtype)
    near = functional.avg_pool2d(own * solid, 5, 1, 2), functional.avg_pool2d(solid, 5, 1, 2)
    return torch.where((solid > 0) | (near[1] <= 0), own, near[0] / near[1].clamp_min(1e-4))


def training_chunk(seed: int, first: int, count: int, *, drawings: int, side: int, traced: int) -> RelitPairs:
    """Training scenes `first`.. of stream `seed`: half of the subjects under studio light."""
    sittings = []
    for index in range(first, first + count):
        name = fold_in(seed, "effect", index)
        rng = Random(name)
        sittings.append(
            Sitting(
                varied_scene(name),
                sample_subject(fold_in(name, "subject"), "train"),
                STUDIO_LIGHT if rng.random() < 0.5 else varied_light(rng, rng.choice(list(PLACES))),
                ["photo", *rng.sample(TRAIN_STYLES[1:], drawings - 1)],
                rng.random(),
                name,
            )
        )
    return render_relit(sittings, side=side, traced=traced, build=varied_world)
