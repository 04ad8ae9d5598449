"""Laws of the subjects, of the words for them and of the benchmark: pure functions of a seed, kept apart by split."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.toybox.captions import PLACE_WORDS, caption, corpus, pose_phrase, scene_phrase
from magic_insert.toybox.records import SUBJECT_ID, Paint, Shape
from magic_insert.toybox.scenes import KINDS, sample_scene
from magic_insert.toybox.solids import ball, block, bounds, limb, rod, rotate
from magic_insert.toybox.styles import ALL_STYLES, HELD_OUT_STYLES, style_phrase
from magic_insert.toybox.subjects import (
    ACCESSORIES,
    COLOURS,
    MAX_SHAPES,
    PATTERNS,
    POSES,
    REGISTRY,
    TEMPLATES,
    WIDEST,
    SubjectSpec,
    is_held_out,
    sample_subject,
    subject_shapes,
    with_pose,
)
from magic_insert.toybox.world import pair_id, toyplop_pair, toyplop_scenes, toyplop_subjects

PAINT = Paint((0.5, 0.5, 0.5))


EVERY_WEAR = [(name, accessory) for name in TEMPLATES for accessory in REGISTRY[name].accessories]


def dressed(
    template: str, accessory: str = "none", pose: str = "stand", proportion: float = 0.5
) -> SubjectSpec:
    return SubjectSpec(
        0, template, (proportion,) * 6, "red", "blue", "plain", accessory, "yellow", pose, 20.0
    )


def test_the_same_seed_gives_the_same_subject_and_another_seed_another() -> None:
    assert sample_subject(7) == sample_subject(7)
    assert len({sample_subject(n) for n in range(100)}) == 100


def test_held_out_subjects_share_neither_identity_nor_combination_with_training() -> None:
    train = [sample_subject(n, "train") for n in range(1500)]
    held = [sample_subject(n, "heldout") for n in range(1500)]
    assert not {s.identity for s in train} & {s.identity for s in held}
    assert not {s.combination for s in train} & {s.combination for s in held}
    assert all(is_held_out(s.combination) for s in held)


def test_every_word_of_a_held_out_subject_is_seen_in_training() -> None:
    train = [sample_subject(n) for n in range(1500)]
    assert {s.template for s in train} == set(TEMPLATES)
    assert {s.colour for s in train} == set(COLOURS)
    assert {s.pattern for s in train} == set(PATTERNS)
    assert {s.accessory for s in train} == set(ACCESSORIES)
    assert {s.pose for s in train} == set(POSES)


@pytest.mark.parametrize(("template", "accessory"), EVERY_WEAR)
def test_every_subject_stands_on_the_ground_at_its_place_and_height(template: str, accessory: str) -> None:
    for pose in POSES:
        for proportion in (0.0, 1.0):
            spec = dressed(template, accessory, pose, proportion)
            shapes = subject_shapes(spec, x=0.7, z=-1.2, height=0.8)
            low, high = bounds(shapes)
            assert abs(low[1]) < 1e-6
            assert abs(0.5 * (low[0] + high[0]) - 0.7) < 1e-6
            fill = max((high[1] - low[1]) / 0.8, (high[0] - low[0]) / (0.8 * WIDEST))
            assert fill == pytest.approx(1.0)
            assert {s.object_id for s in shapes} == {SUBJECT_ID}
            assert 5 <= len(shapes) <= MAX_SHAPES


def test_an_accessory_adds_shapes_and_repaints_none_of_the_figure() -> None:
    plain = subject_shapes(dressed("bunny"))
    for accessory in ACCESSORIES[1:]:
        worn = subject_shapes(dressed("bunny", accessory))
        assert len(worn) > len(plain)
        assert [s.paint for s in worn[: len(plain)]] == [s.paint for s in plain]


def test_a_pose_keeps_the_identity_and_every_pose_looks_different() -> None:
    for template in TEMPLATES:
        spec = dressed(template)
        posed = [with_pose(spec, pose) for pose in POSES]
        assert all(replace(p, pose=spec.pose) == spec for p in posed)
        assert len({tuple(s.centre for s in subject_shapes(p)) for p in posed}) == len(POSES)
        standing = {s.paint for s in subject_shapes(spec)}
        assert all({s.paint for s in subject_shapes(p)} <= standing for p in posed)


def test_yaw_turns_the_subject_and_keeps_its_height() -> None:
    spec = dressed("car")
    turned = with_pose(spec, yaw_deg=90.0)
    assert turned.pose == spec.pose
    front, side = bounds(subject_shapes(with_pose(spec, yaw_deg=0.0))), bounds(subject_shapes(turned))
    ratio = [(high[0] - low[0]) / (high[1] - low[1]) for low, high in (front, side)]
    assert ratio[1] > 1.3 * ratio[0]  # a car is longer than wide


def test_pattern_periods_follow_the_size_of_the_subject() -> None:
    spec = replace(dressed("gift"), pattern="stripes")
    small, large = subject_shapes(spec, height=0.5), subject_shapes(spec, height=1.0)
    assert small[0].paint.scale == pytest.approx(2 * large[0].paint.scale)


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
def test_bounds_are_exact_for_each_primitive(
    shape: Shape, low: tuple[float, ...], high: tuple[float, ...]
) -> None:
    found = bounds([shape])
    assert found[0] == pytest.approx(low, abs=1e-4)
    assert found[1] == pytest.approx(high, abs=1e-4)


def test_rotation_about_a_pivot_leaves_the_pivot_where_it_is() -> None:
    (moved,) = rotate([ball((0, 1, 0), 0.1, PAINT)], (30, 50, 70), (0, 1, 0))
    assert moved.centre == pytest.approx((0, 1, 0))
    (quarter,) = rotate([ball((0, 0, 1), 0.1, PAINT)], (0, 90, 0))
    assert quarter.centre == pytest.approx((1, 0, 0))  # positive yaw turns the face towards +x


def words(text: str) -> set[str]:
    return set(text.replace(",", " ").split())


def bunny(**changes: str) -> SubjectSpec:
    told = {
        "colour": "yellow",
        "pattern": "stripes",
        "accessory": "hat",
        "accessory_colour": "red",
        "pose": "sit",
    }
    return SubjectSpec(0, "bunny", (0.5,) * 6, second_colour="blue", **{**told, **changes})  # type: ignore[arg-type]


def test_a_caption_reads_like_the_example_of_the_design() -> None:
    assert caption(bunny()) == "a yellow striped bunny with a red hat, sitting"


def test_standing_plain_and_bare_are_not_said() -> None:
    assert caption(bunny(pose="stand", pattern="plain", accessory="none")) == "a yellow bunny"


def test_articles_follow_the_sound_and_glasses_take_none() -> None:
    assert caption(bunny(colour="orange", pose="stand")) == "an orange striped bunny with a red hat"
    assert caption(bunny(accessory="glasses", pose="wave")).endswith("with red glasses, waving")


def test_every_caption_names_what_is_there() -> None:
    for n in range(400):
        spec = sample_subject(n)
        text = caption(spec)
        assert {spec.colour, spec.template} <= words(text)
        assert (f"{spec.accessory_colour} {spec.accessory}" in text) == (spec.accessory != "none")
        assert ("," in text) == (spec.pose != "stand")


def test_the_corpus_knows_every_word_of_every_phrase_of_both_splits() -> None:
    known = set().union(*(words(phrase) for phrase in corpus()))
    for n in range(400):
        assert words(caption(sample_subject(n, "heldout" if n % 2 else "train"))) <= known
        assert words(scene_phrase(sample_scene(n))) <= known
    for style in ALL_STYLES:
        assert words(style_phrase(style)) <= known


def test_there_are_35_subjects_for_20_scenes_with_names_of_their_own() -> None:
    subjects, scenes = toyplop_subjects(), toyplop_scenes()
    assert (len(subjects), len(scenes)) == (35, 20)
    assert len({pair_id(subject, scene) for subject in subjects for scene in scenes}) == 700
    assert (len(toyplop_subjects("mini")), len(toyplop_scenes("mini"))) == (5, 4)


def test_no_combination_or_identity_of_the_benchmark_is_ever_trained_on() -> None:
    train = [sample_subject(n) for n in range(1000)]
    for _, spec in toyplop_subjects():
        assert is_held_out(spec.combination)
        assert spec.combination not in {s.combination for s in train}
        assert spec.identity % 2 == 1
        assert all(s.identity % 2 == 0 for s in train)
    assert all(scene.seed % 2 == 1 for _, scene, _ in toyplop_scenes())
    assert all(sample_scene(n).seed % 2 == 0 for n in range(100))


def test_a_pair_tells_what_the_subject_changed_and_nothing_else() -> None:
    truth = toyplop_pair(toyplop_subjects("mini")[0], toyplop_scenes("mini")[0], size=64)
    assert truth.pair_id == "bunny-01__room-01"
    assert truth.caption.startswith("a ")
    assert truth.mask.shape == truth.effect.shape == truth.subject_alpha.shape == (1, 64, 64)
    assert 0.02 < float(truth.mask.mean()) < 0.3
    assert float(truth.effect.mean()) > 0.005  # a shadow fell
    assert not bool(((truth.mask > 0) & (truth.effect > 0)).any())
    change = (truth.with_subject - truth.background).abs().amax(0, keepdim=True)
    assert float(change[(truth.mask <= 0) & (truth.effect <= 0)].max()) <= 0.05


def test_a_pair_is_the_same_every_time_it_is_rendered() -> None:
    subject, scene = toyplop_subjects("mini")[1], toyplop_scenes("mini")[3]
    first, second = (toyplop_pair(subject, scene, size=48) for _ in range(2))
    assert torch.equal(first.with_subject, second.with_subject)
    assert torch.equal(first.subject_styled, second.subject_styled)


def test_every_template_place_and_style_takes_part_with_words_of_its_own() -> None:
    subjects, scenes = [spec for _, spec in toyplop_subjects()], toyplop_scenes()
    assert {spec.template for spec in subjects} == set(TEMPLATES)
    assert len({spec.combination for spec in subjects}) == 35
    assert {spec.pose for spec in subjects} == {"stand"}
    assert {style for *_, style in scenes} == set(ALL_STYLES)
    assert {style for *_, style in toyplop_scenes("mini")} & set(HELD_OUT_STYLES)
    assert set(toyplop_subjects("mini")) <= set(toyplop_subjects())
    assert len({style_phrase(style) for style in ALL_STYLES}) == len(ALL_STYLES)
    assert len({PLACE_WORDS[kind] for kind in KINDS}) == len(KINDS)
    for template in TEMPLATES:
        assert len({pose_phrase(template, pose) for pose in POSES}) == len(POSES)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: sample_subject(0, "test"), "heldout"),
        (lambda: with_pose(sample_subject(0), "fly"), "stand, sit, wave, lean"),
        (lambda: pose_phrase("car", "fly"), "stand"),
        (lambda: style_phrase("graffiti"), "pencil"),
        (lambda: toyplop_subjects("tiny"), "mini"),
    ],
)
def test_words_that_do_not_exist_are_readable_errors(wrong: Callable[[], object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        wrong()
