"""Laws of the Toybox's products: pairs differ only where the subject is or acts, and pictures are reproducible."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context

import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import EFFECT_STEP
from magic_insert.toybox.records import SUBJECT_ID, GBuffer
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.subjects import sample_subject, subject_shapes
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import (
    ScenePair,
    render_pairs,
    render_subjects,
    shrink,
    trace_scenes,
    trace_subjects,
)

SIZE = 48
STYLES = ("photo", "cartoon", "pencil")


def picture_values(seed: int) -> list[float]:
    """What a worker process renders, in a form that travels."""
    torch.set_num_threads(1)
    image = render_subjects([sample_subject(seed)], ["photo"], [0.5], [seed], SIZE).rgb
    return image.flatten().tolist()


@pytest.fixture(scope="module")
def pair() -> ScenePair:
    scenes = [sample_scene(seed) for seed in range(3)]
    subjects = [sample_subject(seed) for seed in range(3)]
    return render_pairs(scenes, subjects, STYLES, [0.5] * 3, [1, 2, 3], SIZE)


def test_shapes_and_ranges_are_as_promised(pair: ScenePair) -> None:
    assert pair.with_subject.shape == pair.without.shape == (3, 3, SIZE, SIZE)
    assert pair.mask.shape == pair.effect.shape == (3, 1, SIZE, SIZE)
    for image in (pair.with_subject, pair.without, pair.mask):
        assert image.min() >= 0
        assert image.max() <= 1
    assert set(pair.effect.unique().tolist()) <= {0.0, 1.0}
    assert (pair.mask.amax((1, 2, 3)) == 1).all(), "every subject is seen"


def test_the_effect_is_zero_inside_the_mask_and_where_nothing_changed(pair: ScenePair) -> None:
    assert (pair.effect[pair.mask > 0] == 0).all()
    same = (pair.with_subject - pair.without).abs().amax(1, keepdim=True) <= EFFECT_STEP
    assert (pair.effect[same] == 0).all()
    assert pair.effect.sum() > 0, "shadows are seen"


def test_most_of_the_scene_is_untouched_by_the_subject(pair: ScenePair) -> None:
    touched = (pair.mask > 0).float() + pair.effect
    assert (touched.mean((1, 2, 3)) < 0.6).all()


def test_a_scene_without_a_subject_equals_itself_with_no_shapes_added() -> None:
    scene, subject = sample_scene(5), sample_subject(5)
    _, without = trace_scenes([scene], [subject], SIZE)
    alone = trace([scene_world(scene, ())], SIZE)
    assert all(torch.equal(getattr(without, f.name), getattr(alone, f.name)) for f in fields(GBuffer))
    assert (without.coverage == 0).all()


def test_pixels_that_show_the_scene_show_the_same_surface_with_and_without_the_subject() -> None:
    full, bare = trace_scenes(
        [sample_scene(i) for i in range(4)], [sample_subject(i) for i in range(4)], SIZE
    )
    scene = full.object_id != SUBJECT_ID
    assert torch.equal(full.object_id[scene], bare.object_id[scene])
    assert torch.equal(full.part_id[scene], bare.part_id[scene])
    assert torch.equal(full.depth[scene], bare.depth[scene])
    assert (full.visibility[scene] <= bare.visibility[scene]).all(), "a subject only takes light away"
    assert (full.occlusion[scene] <= bare.occlusion[scene]).all()


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


def test_a_subject_fills_most_of_its_studio_picture() -> None:
    box = trace_subjects([sample_subject(i) for i in range(6)], SIZE).subject_box / SIZE
    longest = torch.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    assert (longest > 0.55).all()
    assert (longest <= 1.0).all()


def test_a_worker_process_renders_the_same_pictures() -> None:
    here = [picture_values(seed) for seed in (1, 2)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        assert list(workers.map(picture_values, (1, 2))) == here


def test_shrinking_keeps_the_mean() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert shrink(image).shape == (2, 3, 4, 4)
    assert shrink(image).mean().item() == pytest.approx(image.mean().item(), abs=1e-6)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(UserError, match="one of each"):
        render_subjects([sample_subject(0)], ["photo", "photo"], [0.5], [1], SIZE)
