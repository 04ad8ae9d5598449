"""Measurements of removals: known answers on pictures made for them."""

import pytest
import torch
from torch import Tensor

from magic_insert.bootstrap import measure as see
from magic_insert.bootstrap.filters import MEASURES
from magic_insert.bootstrap.measure import measures_of, truth_of
from magic_insert.core.rand import generator

SIZE = 64


def scene(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A grey ground with mild texture, the same with a striped subject and its shadow, and the subject's mask."""
    ground = 0.6 + 0.02 * torch.rand(3, SIZE, SIZE, generator=generator(seed, "ground"))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 16:44, 24:40] = 1
    stripes = (torch.arange(SIZE) % 4 < 2).float().expand(3, SIZE, SIZE) * torch.tensor([0.9, 0.3, 0.1])[
        :, None, None
    ]
    shadow = torch.zeros(1, SIZE, SIZE)
    shadow[:, 40:48, 40:58] = 1
    lit = ground * (1 - 0.5 * shadow)
    return ground, mask * stripes + (1 - mask) * lit, mask


def test_a_subject_that_stayed_is_all_residue_and_one_that_went_is_none() -> None:
    ground, picture, mask = scene()
    assert see.residue(picture, picture, mask) == pytest.approx(1.0)
    assert see.residue(picture, ground, mask) < 0.3
    assert see.residue(picture, torch.full_like(picture, 0.6), mask) == 0.0


def test_half_a_subject_left_is_between() -> None:
    ground, picture, mask = scene()
    half = picture.clone()
    half[:, :30] = ground[:, :30]
    assert see.residue(picture, ground, mask) < see.residue(picture, half, mask) < 1.0


def test_drift_is_the_change_far_from_subject_and_shadow() -> None:
    ground, picture, mask = scene()
    assert see.drift(picture, picture, mask) == 0.0
    assert see.drift(picture, ground, mask) == pytest.approx(0.0, abs=1e-3)
    moved = ground.clone()
    moved[:, :10, :10] = 0.1
    assert see.drift(picture, moved, mask) > 0.05


def test_a_fill_with_an_outline_has_a_seam_and_a_smooth_one_has_none() -> None:
    ground, _, mask = scene()
    filled = ground + 0.2 * mask
    assert see.seam(filled, mask) > 0.1
    assert see.seam(ground, mask) < 0.01


def test_a_new_object_in_the_hole_has_colours_that_its_surroundings_lack() -> None:
    ground, _, mask = scene()
    strange = ground.clone()
    strange[:, 26:36, 28:36] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    assert see.hallucination(strange, mask) > 0.3
    assert see.hallucination(ground, mask) < 0.03


def test_the_effect_is_what_changed_beside_the_subject() -> None:
    ground, picture, mask = scene()
    region = see.changed_region(picture, ground, mask)
    true = torch.zeros_like(region)
    true[:, 40:48, 40:58] = 1
    overlap = float((region * true).sum() / torch.maximum(region, true).sum())
    assert overlap > 0.75
    assert see.effect_area(picture, ground, mask) == pytest.approx(float(true.mean()), rel=0.3)


def test_a_change_that_does_not_touch_the_subject_is_no_effect() -> None:
    _, picture, mask = scene()
    after = picture.clone()
    after[:, :6, :6] = 0
    assert see.effect_area(picture, after, mask) == 0.0


def test_the_lower_edge_is_counted_in_shares() -> None:
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 40:, :16] = 1
    assert see.border(mask) == pytest.approx(0.25)


def test_a_perfect_reinsertion_closes_the_cycle() -> None:
    ground, picture, mask = scene()
    assert see.cycle(picture, picture, ground, mask) == 0.0
    assert see.cycle(picture, ground, ground, mask) > 0.1


def test_contrast_grows_with_the_distance_of_colours() -> None:
    ground, _, mask = scene()
    near, far = (ground * (1 - mask) + level * mask for level in (0.65, 0.1))
    assert see.contrast(near, mask) < see.contrast(far, mask)


def test_a_picture_with_an_empty_mask_is_suspect_in_every_way() -> None:
    ground, _, mask = scene()
    values = measures_of(ground, ground, ground, torch.zeros_like(mask))
    assert tuple(values) == MEASURES
    assert (values["mask_area"], values["effect_area"], values["residue"]) == (0.0, 0.0, 1.0)


def test_the_cycle_is_measured_only_where_the_subject_was_put_back() -> None:
    ground, picture, mask = scene()
    for hole in (mask, torch.zeros_like(mask)):
        with_cycle, without = (measures_of(picture, ground, i, hole) for i in (picture, None))
        assert "cycle" in with_cycle
        assert without == {name: value for name, value in with_cycle.items() if name != "cycle"}


def test_the_truth_of_a_perfect_removal_is_perfect_and_of_none_is_poor() -> None:
    ground, picture, mask = scene()
    perfect = truth_of(picture, picture, ground, ground, mask)
    nothing = truth_of(picture, picture, picture, ground, mask)
    assert perfect == {"psnr": 60.0, "shadow_iou": 1.0}
    assert nothing["psnr"] < 15
    assert nothing["shadow_iou"] == 0.0
