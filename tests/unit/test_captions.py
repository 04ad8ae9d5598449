"""Captions name what is there, and the vocabulary's corpus knows every word of them."""

import pytest

from magic_insert.core.errors import UserError
from magic_insert.toybox.captions import (
    PLACE_WORDS,
    STYLE_WORDS,
    caption,
    corpus,
    pose_phrase,
    scene_phrase,
    style_phrase,
)
from magic_insert.toybox.scenes import KINDS, sample_scene
from magic_insert.toybox.styles import ALL_STYLES
from magic_insert.toybox.subjects import POSES, TEMPLATES, SubjectSpec, sample_subject, with_pose


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


def test_captions_of_different_poses_differ_for_every_template() -> None:
    spec = bunny()
    assert len({caption(with_pose(spec, pose)) for pose in POSES}) == len(POSES)
    for template in TEMPLATES:
        assert len({pose_phrase(template, pose) for pose in POSES}) == len(POSES)


def test_the_corpus_knows_every_word_of_every_phrase_of_both_splits() -> None:
    known = set().union(*(words(phrase) for phrase in corpus()))
    for n in range(400):
        assert words(caption(sample_subject(n, "heldout" if n % 2 else "train"))) <= known
        assert words(scene_phrase(sample_scene(n))) <= known
    for style in ALL_STYLES:
        assert words(style_phrase(style)) <= known


def test_the_corpus_brings_words_for_edits_that_captions_never_use() -> None:
    shown = set().union(*(words(caption(sample_subject(n))) for n in range(1000)))
    known = set().union(*(words(phrase) for phrase in corpus()))
    assert {"wearing", "floor", "sad", "jumping"} <= known - shown
    assert len(known - shown) >= 120


def test_every_place_and_every_style_has_words_of_its_own() -> None:
    assert set(PLACE_WORDS) == set(KINDS)
    assert len(set(PLACE_WORDS.values())) == len(KINDS)
    assert set(STYLE_WORDS) == set(ALL_STYLES)
    assert len(set(STYLE_WORDS.values())) == len(ALL_STYLES)


def test_unknown_words_are_readable_errors() -> None:
    with pytest.raises(UserError, match="pencil"):
        style_phrase("graffiti")
    with pytest.raises(UserError, match="stand"):
        pose_phrase("car", "fly")
