"""Laws of the subjects: pure functions of their seed, standing on the ground, kept apart by split."""

from dataclasses import replace

import pytest

from magic_insert.core.errors import UserError
from magic_insert.toybox.records import SUBJECT_ID, Paint, Shape
from magic_insert.toybox.solids import ball, block, bounds, limb, rod, rotate
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


def test_an_unknown_split_is_a_readable_error() -> None:
    with pytest.raises(UserError, match="heldout"):
        sample_subject(0, "test")


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


def test_there_are_templates_and_colours_enough() -> None:
    assert len(TEMPLATES) >= 16
    assert len(COLOURS) == 10
    assert len(POSES) >= 4


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


def test_with_pose_refuses_a_pose_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="stand, sit, wave, lean"):
        with_pose(sample_subject(0), "fly")


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
