"""Laws of the scenes and of what is rendered: the drop place follows the paper's prior, pairs differ by the subject."""

from dataclasses import fields, replace

import pytest
import torch

from magic_insert.core.fidelity import EFFECT_STEP
from magic_insert.toybox.records import FIRST_PROP_ID, SUBJECT_ID, GBuffer
from magic_insert.toybox.scenes import KINDS, project, sample_scene, scene_world, studio_world
from magic_insert.toybox.solids import bounds
from magic_insert.toybox.subjects import TEMPLATES, sample_subject, subject_shapes
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import ScenePair, render_pairs, render_subjects, trace_scenes

MANY = range(200)


def test_the_drop_place_follows_the_placement_prior_of_the_paper() -> None:
    scenes = [sample_scene(n) for n in MANY]
    feet = [project(s.camera, (s.drop_x, 0.0, s.drop_z)) for s in scenes]
    heads = [project(s.camera, (s.drop_x, s.subject_height, s.drop_z)) for s in scenes]
    left = [u for u, _ in feet if u < 0.5]
    right = [u for u, _ in feet if u >= 0.5]
    assert sum(left) / len(left) == pytest.approx(0.32, abs=0.02)
    assert sum(right) / len(right) == pytest.approx(0.73, abs=0.02)
    tall = [foot[1] - head[1] for foot, head in zip(feet, heads, strict=True)]
    assert sum(tall) / len(tall) == pytest.approx(0.45, abs=0.03)
    assert all(0.37 < t < 0.51 for t in tall)
    assert all(0.86 < v < 0.93 for _, v in feet)


def test_props_are_the_same_with_and_without_a_subject_and_leave_it_its_id() -> None:
    for n in range(40):
        scene = sample_scene(n)
        bare = scene_world(scene)
        full = scene_world(scene, subject_shapes(sample_subject(n), x=scene.drop_x, z=scene.drop_z))
        assert full.shapes[: len(bare.shapes)] == bare.shapes
        assert all(FIRST_PROP_ID <= s.object_id < SUBJECT_ID for s in bare.shapes)
        assert len(bare.shapes) <= 20
        assert replace(full, shapes=()) == replace(bare, shapes=())


def test_without_occlusion_every_subject_is_seen_whole_and_with_it_some_are_not() -> None:
    def seen(occlusion: float) -> torch.Tensor:
        worlds = []
        for n, kind in enumerate(KINDS):
            scene = sample_scene(n, occlusion=occlusion, kind=kind)
            shapes = subject_shapes(
                replace(sample_subject(1), template="snowman", accessory="none", pose="stand"),
                x=scene.drop_x,
                z=scene.drop_z,
                height=scene.subject_height,
            )
            worlds += [scene_world(scene, shapes), replace(scene_world(scene, shapes), shapes=shapes)]
        area = trace(worlds, 48).coverage.sum((1, 2, 3))
        return area[0::2] / area[1::2]

    assert seen(0.0).min() > 0.97
    hidden = seen(1.0)
    assert (hidden < 0.97).float().mean() > 0.6
    assert hidden.min() > 0.3  # partly hidden, never gone


def test_shadows_have_ground_to_fall_on() -> None:
    """The sun stands above and not behind the subject, so its shadow falls to the side and away from the camera."""
    for n in MANY:
        x, y, z = sample_scene(n).light.sun_direction
        assert y > 0.4
        assert z > 0.0
        assert x != 0.0


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_studio_shows_the_whole_subject_on_paper(template: str) -> None:
    spec = replace(sample_subject(11), template=template, accessory="none")
    world = studio_world(subject_shapes(spec))
    low, high = bounds(world.shapes)
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    seen = [project(world.camera, corner) for corner in corners]
    assert world.ground is None
    assert all(0.0 < u < 1.0 and 0.0 < v < 1.0 for u, v in seen)
    spans = [max(axis) - min(axis) for axis in zip(*seen, strict=True)]
    assert 0.65 < max(spans) < 1.0


SIZE = 48


STYLES = ("photo", "cartoon", "pencil")


@pytest.fixture(scope="module")
def pair() -> ScenePair:
    scenes = [sample_scene(seed) for seed in range(3)]
    subjects = [sample_subject(seed) for seed in range(3)]
    return render_pairs(scenes, subjects, STYLES, [0.5] * 3, [1, 2, 3], SIZE)


def test_the_effect_is_outside_the_mask_and_the_scene_keeps_its_surfaces(pair: ScenePair) -> None:
    assert (pair.effect[pair.mask > 0] == 0).all()
    same = (pair.with_subject - pair.without).abs().amax(1, keepdim=True) <= EFFECT_STEP
    assert (pair.effect[same] == 0).all()
    assert pair.effect.sum() > 0, "shadows are seen"
    full, bare = trace_scenes(
        [sample_scene(i) for i in range(4)], [sample_subject(i) for i in range(4)], SIZE
    )
    scene = full.object_id != SUBJECT_ID
    assert torch.equal(full.object_id[scene], bare.object_id[scene])
    assert torch.equal(full.part_id[scene], bare.part_id[scene])
    assert torch.equal(full.depth[scene], bare.depth[scene])
    assert (full.visibility[scene] <= bare.visibility[scene]).all(), "a subject only takes light away"
    assert (full.occlusion[scene] <= bare.occlusion[scene]).all()


def test_a_scene_without_a_subject_equals_itself_with_no_shapes_added() -> None:
    scene, subject = sample_scene(5), sample_subject(5)
    _, without = trace_scenes([scene], [subject], SIZE)
    alone = trace([scene_world(scene, ())], SIZE)
    assert all(torch.equal(getattr(without, f.name), getattr(alone, f.name)) for f in fields(GBuffer))
    assert (without.coverage == 0).all()


def test_the_subject_stands_on_the_ground_at_the_drop_place() -> None:
    scene, subject = sample_scene(2), sample_subject(2)
    full, _ = trace_scenes([scene], [subject], 96)
    where = full.position[0][:, full.object_id[0, 0] == SUBJECT_ID]
    assert where[1].min() > -0.02
    assert abs(where[0].mean().item() - scene.drop_x) < 0.6 * scene.subject_height
    lowest = min(s.centre[1] for s in subject_shapes(subject, height=scene.subject_height))
    assert lowest > -0.02


def test_a_subject_picture_depends_on_its_own_row_only() -> None:
    specs = [sample_subject(i) for i in range(3)]
    together = render_subjects(specs, STYLES, [0.2, 0.5, 0.9], [4, 5, 6], SIZE)
    alone = render_subjects(specs[1:2], STYLES[1:2], [0.5], [5], SIZE)
    assert (together.rgb[1] - alone.rgb[0]).abs().max() <= 1e-6
    assert torch.equal(together.alpha[1], alone.alpha[0])
