"""Laws and known answers of the tracer: geometry against formulas, light, patterns, and independence of the batch."""

import math
from dataclasses import fields, replace

import pytest
import torch

from magic_insert.core.masks import bounding_box
from magic_insert.toybox.records import (
    FAR,
    GROUND_ID,
    SKY_ID,
    SUBJECT_ID,
    WALL_ID,
    Camera,
    GBuffer,
    Light,
    Paint,
    Shape,
    World,
)
from magic_insert.toybox.tracer import trace

GREY = Paint((0.5, 0.5, 0.5))
FLOOR = Paint((0.4, 0.6, 0.3))
LEVEL = Camera(position=(0.0, 1.0, 4.0), target=(0.0, 1.0, 0.0), fov_deg=40.0)
TURN_Z = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # own y to the world's -x


def ball(x: float, y: float, z: float, radius: float, **more: object) -> Shape:
    return replace(Shape("ellipsoid", (x, y, z), (radius, radius, radius), GREY), **more)


def busy_world(seed: int) -> World:
    """All kinds, patterns, gloss and a wall."""
    patterns = ("stripes", "dots", "patches", "checker", "planks", "noise")
    paint = [Paint((0.8, 0.3, 0.1 * seed), (0.1, 0.2, 0.9), p, 5.0 + seed, 0.2) for p in patterns]
    shapes = (
        Shape("box", (-0.8, 0.3, -0.4), (0.3, 0.3, 0.2), paint[3], rounding=0.08, object_id=3),
        Shape("cone", (0.8, 0.4, -0.6), (0.3, 0.4, 0.1), paint[4], object_id=4),
        Shape("ellipsoid", (0.05 * seed, 0.5, 0.0), (0.3, 0.4, 0.25), paint[0]),
        Shape("capsule", (0.3, 0.5, 0.2), (0.1, 0.2, 0.05), paint[1], rotation=TURN_Z),
        ball(0.0, 1.0, 0.0, 0.2, paint=paint[2]),
    )[: 5 - seed % 2]
    light = Light(sun_direction=(0.5 - 0.4 * seed, 0.9, 0.6))
    return World(shapes, replace(paint[5], gloss=0.5), wall=paint[3], wall_z=-2.0, light=light)


def own_rows(g: GBuffer, row: int) -> dict[str, torch.Tensor]:
    return {f.name: getattr(g, f.name)[row] for f in fields(GBuffer)}


def test_every_row_of_a_batch_equals_the_batch_of_one_bit_for_bit() -> None:
    worlds = [busy_world(0), World((), None), busy_world(1), busy_world(2)]
    together = trace(worlds, 48)
    for row, world in enumerate(worlds):
        for name, alone in own_rows(trace([world], 48), 0).items():
            assert torch.equal(own_rows(together, row)[name], alone), name


def test_a_ball_covers_the_analytic_share_of_the_picture() -> None:
    radius, distance, size = 0.5, 4.0, 160
    g = trace([World((ball(0.0, 1.0, 0.0, radius),), None, camera=LEVEL)], size)
    rim = radius / math.sqrt(distance**2 - radius**2) / math.tan(math.radians(20.0)) * size / 2
    assert g.coverage.sum().item() == pytest.approx(math.pi * rim**2, rel=2e-3)


@pytest.mark.parametrize(
    ("shape", "width", "height"),
    [
        (Shape("ellipsoid", (0, 1, 0), (0.3, 0.6, 0.2), GREY), 0.6, 1.2),
        (Shape("capsule", (0, 1, 0), (0.2, 0.3, 0.2), GREY), 0.4, 1.0),
        (Shape("capsule", (0, 1, 0), (0.3, 0.3, 0.1), GREY), 0.6, 1.0),
        (Shape("capsule", (0, 1, 0), (0.2, 0.3, 0.2), GREY, rotation=TURN_Z), 1.0, 0.4),
        (Shape("box", (0, 1, 0), (0.4, 0.2, 0.1), GREY), 0.8, 0.4),
        (Shape("box", (0, 1, 0), (0.4, 0.2, 0.1), GREY, rounding=0.1), 0.8, 0.4),
        (Shape("cone", (0, 1, 0), (0.2, 0.5, 0.2), GREY), 0.4, 1.0),
        (Shape("cone", (0, 1, 0), (0.5, 0.5, 0.0), GREY), 1.0, 1.0),
    ],
)
def test_each_solid_is_as_wide_and_high_as_its_size_says(shape: Shape, width: float, height: float) -> None:
    far = Camera(
        position=(0.0, 1.0, 40.0), target=(0.0, 1.0, 0.0), fov_deg=math.degrees(2 * math.atan(1 / 40))
    )
    box = bounding_box(trace([World((shape,), None, camera=far)], 200).coverage[0], 1e-6)
    assert box.w / 100 == pytest.approx(width, abs=0.03)
    assert box.h / 100 == pytest.approx(height, abs=0.03)


def test_sky_wall_and_ground_are_where_they_belong() -> None:
    open_scene, room = World((), FLOOR, camera=LEVEL), World((), FLOOR, GREY, -2.0, camera=LEVEL)
    g = trace([open_scene, room], 64)
    assert (g.object_id[0, 0, :31] == SKY_ID).all()
    assert (g.depth[0, 0, :31] == FAR).all()
    assert (g.object_id[0, 0, 40:] == GROUND_ID).all()
    assert (g.object_id[1, 0, :31] == WALL_ID).all()
    assert (g.object_id[1] != SKY_ID).all()
    assert g.position[0, 1][g.object_id[0, 0] == GROUND_ID].abs().max() < 1e-4


def test_the_shadow_falls_where_the_sun_ray_through_the_ball_meets_the_ground() -> None:
    sun = (0.6, 1.0, 0.2)
    above = Camera(position=(0.0, 6.0, 4.0), target=(0.0, 0.0, 0.0), fov_deg=50.0)
    scene = World((ball(0.3, 1.0, 0.0, 0.25),), FLOOR, camera=above, light=Light(sun_direction=sun))
    g = trace([scene], 160)
    dark = (g.object_id == GROUND_ID) & (g.hard_visibility == 0)
    middle = [g.position[:, axis : axis + 1][dark].mean().item() for axis in (0, 2)]
    assert middle[0] == pytest.approx(0.3 - 0.6, abs=0.06)
    assert middle[1] == pytest.approx(-0.2, abs=0.06)


def test_a_larger_sun_softens_the_shadow_and_keeps_its_hard_core() -> None:
    def shadow(radius: float) -> GBuffer:
        light = Light(sun_direction=(1.0, 1.0, 0.4), sun_radius=radius)
        return trace([World((ball(0.3, 0.8, 0.0, 0.3),), FLOOR, light=light)], 96)

    sharp, soft = shadow(0.001), shadow(0.12)
    assert torch.equal(sharp.hard_visibility, soft.hard_visibility)

    def partial(g: GBuffer) -> int:
        return int(((g.visibility > 0) & (g.visibility < 1)).sum())

    assert partial(soft) > 4 * max(partial(sharp), 1)


def test_feet_darken_the_ground_they_stand_on_and_a_convex_solid_not_itself() -> None:
    g = trace([World((ball(0, 0.3, 0, 0.3),), FLOOR)], 96)
    ground = g.object_id == GROUND_ID
    reach = (g.position[:, 0:1] ** 2 + g.position[:, 2:3] ** 2).sqrt()
    assert g.occlusion[ground & (reach < 0.2)].max() < 0.75
    assert (g.occlusion[ground & (reach > 1.5)] == 1).all()
    g = trace([World((replace(busy_world(0).shapes[0], object_id=SUBJECT_ID),), None, camera=LEVEL)], 64)
    lit = (g.object_id == SUBJECT_ID) & (g.sun > 0)
    assert lit.any()
    assert (g.visibility[lit] == 1).all()


def test_a_polished_floor_mirrors_the_ball_where_the_mirrored_ball_would_be_seen() -> None:
    polished, size = replace(FLOOR, gloss=1.0), 128
    mirrored = World((ball(0.2, -0.45, 0, 0.3),), None)  # the ball below the floor, seen without the floor
    real = World((ball(0.2, 0.45, 0, 0.3),), polished)
    expected = trace([mirrored], size).object_id == SUBJECT_ID
    g = trace([real], size)
    seen = g.mirror_id == SUBJECT_ID
    floor = g.object_id == GROUND_ID
    assert expected.sum() > 50
    assert (seen[floor] != expected[floor]).float().sum() <= 2


@pytest.mark.parametrize("pattern", ["stripes", "dots", "patches", "checker", "planks", "noise"])
def test_a_pattern_moves_with_its_shape(pattern: str) -> None:
    paint = Paint((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), pattern, 6.0)  # type: ignore[arg-type]
    here = World((ball(0, 1, 0, 0.5, paint=paint),), None, camera=LEVEL)
    moved_camera = Camera(position=(2.0, 1.5, 4.0), target=(2.0, 1.5, 0.0), fov_deg=40.0)
    there = World((ball(2.0, 1.5, 0, 0.5, paint=paint),), None, camera=moved_camera)
    g = trace([here, there], 96)
    assert (g.albedo[0] - g.albedo[1]).abs().mean() < 2e-3
    inside = g.albedo[0][:, g.coverage[0, 0] == 1]
    assert inside[0].std() > 0.08, "both colours are seen"
    assert inside.min() >= 0
    assert inside.max() <= 1


def test_coverage_is_partial_only_at_the_edge_of_the_subject() -> None:
    g = trace([World((ball(0, 1, 0, 0.5), ball(1, 1, 0, 0.3, object_id=3)), FLOOR, camera=LEVEL)], 64)
    subject = (g.object_id == SUBJECT_ID).float()
    widest = torch.nn.functional.max_pool2d(subject, 3, 1, 1)
    least = -torch.nn.functional.max_pool2d(-subject, 3, 1, 1)
    assert (g.coverage[least == 1] == 1).all()
    assert (g.coverage[widest == 0] == 0).all()
    assert ((g.coverage > 0) & (g.coverage < 1)).any()
