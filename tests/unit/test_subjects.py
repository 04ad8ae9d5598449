"""Laws of the subjects, of the words for them and of the benchmark: pure functions of a seed, kept apart by split."""

from dataclasses import replace

import pytest

from magic_insert.toybox import subjects
from magic_insert.toybox.captions import caption, corpus, scene_phrase
from magic_insert.toybox.records import SUBJECT_ID, Paint, Shape
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.solids import ball, block, bounds, limb, rod
from magic_insert.toybox.styles import ALL_STYLES, style_phrase
from magic_insert.toybox.world import toyplop_pair, toyplop_scenes, toyplop_subjects

PAINT = Paint((0.5, 0.5, 0.5))


EVERY_WEAR = [
    (name, accessory) for name in subjects.TEMPLATES for accessory in subjects.REGISTRY[name].accessories
]


def dressed(
    template: str, accessory: str = "none", pose: str = "stand", proportion: float = 0.5
) -> subjects.SubjectSpec:
    return subjects.SubjectSpec(
        0, template, (proportion,) * 6, "red", "blue", "plain", accessory, "yellow", pose, 20.0
    )


def test_held_out_subjects_share_neither_identity_nor_combination_with_training() -> None:
    train = [subjects.sample_subject(n, "train") for n in range(1500)]
    held = [subjects.sample_subject(n, "heldout") for n in range(1500)]
    assert not {s.identity for s in train} & {s.identity for s in held}
    assert not {s.combination for s in train} & {s.combination for s in held}
    assert all(subjects.is_held_out(s.combination) for s in held)


@pytest.mark.parametrize(("template", "accessory"), EVERY_WEAR)
def test_every_subject_stands_on_the_ground_at_its_place_and_height(template: str, accessory: str) -> None:
    for pose in subjects.POSES:
        for proportion in (0.0, 1.0):
            spec = dressed(template, accessory, pose, proportion)
            shapes = subjects.subject_shapes(spec, x=0.7, z=-1.2, height=0.8)
            low, high = bounds(shapes)
            assert abs(low[1]) < 1e-6
            assert abs(0.5 * (low[0] + high[0]) - 0.7) < 1e-6
            fill = max((high[1] - low[1]) / 0.8, (high[0] - low[0]) / (0.8 * subjects.WIDEST))
            assert fill == pytest.approx(1.0)
            assert {s.object_id for s in shapes} == {SUBJECT_ID}
            assert 5 <= len(shapes) <= 22


def test_a_pose_keeps_the_identity_and_every_pose_looks_different() -> None:
    for template in subjects.TEMPLATES:
        spec = dressed(template)
        posed = [replace(spec, pose=pose) for pose in subjects.POSES]
        assert all(replace(p, pose=spec.pose) == spec for p in posed)
        assert len({tuple(s.centre for s in subjects.subject_shapes(p)) for p in posed}) == len(
            subjects.POSES
        )
        standing = {s.paint for s in subjects.subject_shapes(spec)}
        assert all({s.paint for s in subjects.subject_shapes(p)} <= standing for p in posed)


@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [
        (ball((1, 2, 3), (0.1, 0.2, 0.3), PAINT), (0.9, 1.8, 2.7), (1.1, 2.2, 3.3)),
        (limb((0, 0, 0), (1, 0, 0), 0.1, 0.2, PAINT), (-0.1, -0.2, -0.2), (1.2, 0.2, 0.2)),
        (rod((0, 0, 0), (0, 0, 2), 0.5, 0.1, PAINT), (-0.5, -0.5, 0.0), (0.5, 0.5, 2.0)),
        (
            block((0, 0, 0), (0.3, 0.3, 0.1), PAINT, 0.0, (0, 0, 45)),
            (-0.42426, -0.42426, -0.1),
            (0.42426, 0.42426, 0.1),
        ),
    ],
)
def test_primitives_have_exact_bounds(shape: Shape, low: tuple[float, ...], high: tuple[float, ...]) -> None:
    found = bounds([shape])
    assert found[0] == pytest.approx(low, abs=1e-4)
    assert found[1] == pytest.approx(high, abs=1e-4)


def words(text: str) -> set[str]:
    return set(text.replace(",", " ").split())


def bunny(**changes: str) -> subjects.SubjectSpec:
    told = {
        "colour": "yellow",
        "pattern": "stripes",
        "accessory": "hat",
        "accessory_colour": "red",
        "pose": "sit",
    }
    return subjects.SubjectSpec(0, "bunny", (0.5,) * 6, second_colour="blue", **{**told, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "a yellow striped bunny with a red hat, sitting"),
        ({"pose": "stand", "pattern": "plain", "accessory": "none"}, "a yellow bunny"),
        ({"colour": "orange", "pose": "stand"}, "an orange striped bunny with a red hat"),
        ({"accessory": "glasses", "pose": "wave"}, "a yellow striped bunny with red glasses, waving"),
    ],
)
def test_a_caption_reads_like_the_examples(changes: dict[str, str], text: str) -> None:
    assert caption(bunny(**changes)) == text


def test_every_caption_names_what_is_there_in_words_of_the_corpus() -> None:
    for n in range(400):
        spec = subjects.sample_subject(n)
        text = caption(spec)
        assert {spec.colour, spec.template} <= words(text)
        assert (f"{spec.accessory_colour} {spec.accessory}" in text) == (spec.accessory != "none")
        assert ("," in text) == (spec.pose != "stand")
    known = set().union(*(words(phrase) for phrase in corpus()))
    for n in range(400):
        assert words(caption(subjects.sample_subject(n, "heldout" if n % 2 else "train"))) <= known
        assert words(scene_phrase(sample_scene(n))) <= known
    for style in ALL_STYLES:
        assert words(style_phrase(style)) <= known


def test_no_combination_or_identity_of_the_benchmark_is_ever_trained_on() -> None:
    train = [subjects.sample_subject(n) for n in range(1000)]
    for _, spec in toyplop_subjects():
        assert subjects.is_held_out(spec.combination)
        assert spec.combination not in {s.combination for s in train}
        assert spec.identity % 2 == 1
        assert all(s.identity % 2 == 0 for s in train)
    assert all(scene.seed % 2 == 1 for _, scene, _ in toyplop_scenes())
    assert all(sample_scene(n).seed % 2 == 0 for n in range(100))


def test_a_pair_tells_what_the_subject_changed_and_nothing_else() -> None:
    truth = toyplop_pair(toyplop_subjects("mini")[0], toyplop_scenes("mini")[0], size=64)
    assert truth.pair_id == "bunny-01__room-01"
    assert truth.mask.shape == truth.effect.shape == truth.subject_alpha.shape == (1, 64, 64)
    assert 0.02 < float(truth.mask.mean()) < 0.3
    assert float(truth.effect.mean()) > 0.005  # a shadow fell
    assert not bool(((truth.mask > 0) & (truth.effect > 0)).any())
    change = (truth.with_subject - truth.background).abs().amax(0, keepdim=True)
    assert float(change[(truth.mask <= 0) & (truth.effect <= 0)].max()) <= 0.05
