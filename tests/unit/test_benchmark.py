"""ToyPlop has SubjectPlop's shape, keeps apart from training, and tells the whole truth of a pair."""

import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import TEMPLATES, is_held_out, sample_subject
from magic_insert.toybox.world import pair_id, toyplop_pair, toyplop_scenes, toyplop_subjects


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


def test_every_template_and_every_style_takes_part() -> None:
    assert {spec.template for _, spec in toyplop_subjects()} == set(TEMPLATES)
    assert {style for *_, style in toyplop_scenes()} == {*TRAIN_STYLES, *HELD_OUT_STYLES}
    assert {style for *_, style in toyplop_scenes("mini")} & set(HELD_OUT_STYLES)


def test_no_two_subjects_are_the_same_combination_and_all_stand() -> None:
    specs = [spec for _, spec in toyplop_subjects()]
    assert len({spec.combination for spec in specs}) == 35
    assert {spec.pose for spec in specs} == {"stand"}


def test_the_mini_subjects_are_subjects_of_the_full_benchmark() -> None:
    assert set(toyplop_subjects("mini")) <= set(toyplop_subjects())


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


def test_an_unknown_split_is_a_readable_error() -> None:
    with pytest.raises(UserError, match="mini"):
        toyplop_subjects("tiny")
