"""What is measured: removals on pictures made for it, rounds with honest intervals, and which round is kept."""

import pytest
import torch
from helpers import rectangle
from torch import Tensor

from magic_insert.bootstrap import measure
from magic_insert.bootstrap.filters import MEASURES
from magic_insert.core.rand import generator

SIZE = 64


def scene(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A grey ground with mild texture, the same with a striped subject and its shadow, and the subject's mask."""
    ground = 0.6 + 0.02 * torch.rand(3, SIZE, SIZE, generator=generator(seed, "ground"))
    mask = rectangle(SIZE, SIZE, (16, 44), (24, 40))
    stripes = (torch.arange(SIZE) % 4 < 2).float().expand(3, SIZE, SIZE) * torch.tensor([0.9, 0.3, 0.1])[
        :, None, None
    ]
    shadow = rectangle(SIZE, SIZE, (40, 48), (40, 58))
    lit = ground * (1 - 0.5 * shadow)
    return ground, mask * stripes + (1 - mask) * lit, mask


def test_a_subject_that_stayed_is_all_residue_and_one_that_went_is_none() -> None:
    ground, picture, mask = scene()
    assert measure.residue(picture, picture, mask) == pytest.approx(1.0)
    half = picture.clone()
    half[:, :30] = ground[:, :30]
    assert measure.residue(picture, ground, mask) < min(0.3, measure.residue(picture, half, mask))
    assert measure.residue(picture, half, mask) < 1.0
    assert measure.residue(picture, torch.full_like(picture, 0.6), mask) == 0.0


def test_every_flaw_is_measured_and_a_picture_without_it_has_none() -> None:
    ground, picture, mask = scene()
    moved, strange = ground.clone(), ground.clone()
    moved[:, :10, :10] = 0.1  # far from subject and shadow
    strange[:, 26:36, 28:36] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]  # a new object in the hole
    assert measure.drift(picture, picture, mask) == 0.0
    assert measure.drift(picture, ground, mask) < 1e-3 < 0.05 < measure.drift(picture, moved, mask)
    assert measure.seam(ground, mask) < 0.01 < 0.1 < measure.seam(ground + 0.2 * mask, mask)
    assert measure.hallucination(ground, mask) < 0.03 < 0.3 < measure.hallucination(strange, mask)
    assert measure.cycle(picture, picture, ground, mask) == 0.0
    assert measure.cycle(picture, ground, ground, mask) > 0.1


def test_the_effect_is_what_changed_beside_the_subject() -> None:
    ground, picture, mask = scene()
    region = measure.changed_region(picture, ground, mask)
    true = torch.zeros_like(region)
    true[:, 40:48, 40:58] = 1
    overlap = float((region * true).sum() / torch.maximum(region, true).sum())
    assert overlap > 0.75
    assert measure.effect_area(picture, ground, mask) == pytest.approx(float(true.mean()), rel=0.3)
    apart = picture.clone()
    apart[:, :6, :6] = 0  # does not touch the subject
    assert measure.effect_area(picture, apart, mask) == 0.0


def test_an_empty_mask_is_suspect_and_the_cycle_needs_the_subject_put_back() -> None:
    ground, _, mask = scene()
    values = measure.measures_of(ground, ground, ground, torch.zeros_like(mask))
    assert tuple(values) == MEASURES
    assert (values["mask_area"], values["effect_area"], values["residue"]) == (0.0, 0.0, 1.0)
    ground, picture, mask = scene()
    for hole in (mask, torch.zeros_like(mask)):
        with_cycle, without = (measure.measures_of(picture, ground, i, hole) for i in (picture, None))
        assert "cycle" in with_cycle
        assert without == {name: value for name, value in with_cycle.items() if name != "cycle"}


def test_the_truth_of_a_perfect_removal_is_perfect_and_of_none_is_poor() -> None:
    ground, picture, mask = scene()
    perfect = measure.truth_of(picture, picture, ground, ground, mask)
    nothing = measure.truth_of(picture, picture, picture, ground, mask)
    assert perfect == {"psnr": 60.0, "shadow_iou": 1.0}
    assert nothing["psnr"] < 15
    assert nothing["shadow_iou"] == 0.0


def pictures(count: int, noise: float, seed: int = 0) -> dict[str, dict[str, float]]:
    """Sums of `count` scenes whose drawings differ from the truth by noise."""
    rows = {}
    for i in range(count):
        draw = generator(seed, "scene", i)
        target = torch.rand(3, 12, 12, generator=draw)
        mask = rectangle(12, 12, (2, 5), (2, 5))
        effect = rectangle(12, 12, (6, 9), (2, 9))
        drawn = (target + noise * torch.randn(3, 12, 12, generator=draw)).clamp(0, 1)
        rows[f"{i:04d}-photo"] = measure.sums_of(target * 0.5, drawn, target, mask, effect, effect)
    return rows


def test_an_interval_holds_its_value_narrows_with_more_scenes_and_where_two_are_paired() -> None:
    how = {"seed": 0, "resamples": 200, "coverage": 0.95}
    widths = []
    for count in (8, 64):
        rows = pictures(count, 0.1)
        value = measure.metrics(rows)["photo"]["effect_psnr"]
        low, high = measure.intervals(rows, **how)["photo"]["effect_psnr"]
        assert low <= value <= high
        widths.append(high - low)
    assert widths[1] < widths[0]
    hard, easy = pictures(20, 0.2), pictures(20, 0.1)
    paired = measure.changes(hard, easy, **how)["photo"]["effect_psnr"]
    apart = [measure.intervals(rows, **how)["photo"]["effect_psnr"] for rows in (hard, easy)]
    assert paired[2] - paired[1] < sum(high - low for low, high in apart)


def test_a_better_model_is_better_beyond_the_interval() -> None:
    change = measure.changes(pictures(20, 0.2), pictures(20, 0.1), seed=0, resamples=200, coverage=0.95)[
        "photo"
    ]
    gain, low, high = change["effect_psnr"]
    assert 4 < low <= gain <= high < 7  # half the noise is 6 dB; clipping takes a little
    assert change["effect_psnr_nothing"] == [0.0, 0.0, 0.0]
    rows = pictures(10, 0.1)
    itself = measure.changes(rows, rows, seed=0, resamples=50, coverage=0.95)
    assert set(itself) == {"photo"}  # the only group that has pictures
    assert all(values == [0.0, 0.0, 0.0] for values in itself["photo"].values())


def test_the_finished_picture_is_measured_where_every_picture_has_one() -> None:
    rows = {
        name: {**row, "layered_error": row["effect_error"] / 10, "layered_lpips": 0.1}
        for name, row in pictures(4, 0.1).items()
    }
    found = measure.metrics(rows)["photo"]
    assert found["layered_psnr"] == pytest.approx(found["effect_psnr"] + 10, abs=1e-3)
    assert found["layered_lpips"] == pytest.approx(0.1)
    del rows["0002-photo"]["layered_error"]
    assert "layered_psnr" not in measure.metrics(rows)["photo"]


def row(
    number: int, seen: float, photo: float | None, interval: tuple[float, float] = (0.5, 1.5)
) -> measure.Row:
    groups = {"seen": {"effect_psnr": seen}, "unseen": {"effect_psnr": 18.0}}
    if photo is not None:
        groups["photo"] = {"effect_psnr": photo}
    return {
        "round": number,
        "metrics": {"inserter": groups},
        "changes": {"inserter": {"seen": {"effect_psnr": [0.0, *interval]}}},
    }


BASE = row(0, 20.0, 28.0)


def test_a_hair_on_drawings_is_not_worth_two_decibels_on_photographs() -> None:
    rows = [BASE, row(1, 20.01, 26.0)]
    assert measure.best_round(rows, 0.3) == 0
    assert not measure.improves(rows, min_gain=0, max_photo_loss=0.3)
    assert measure.conclusion(rows, 0.3) == (
        "the base networks were kept: drawn styles 20.0 -> 20.0 dB in round 1, but photo lost 2.00 dB, more than "
        "bootstrap.max_photo_loss=0.3"
    )
    assert measure.best_round(rows, 2.5) == 1


def test_without_a_held_out_set_the_last_round_is_kept_and_no_verdict_is_given() -> None:
    rows = [{"round": number, "metrics": {}, "changes": {}} for number in range(3)]
    assert measure.best_round(rows, 0.3) == 2
    assert measure.improves(rows, min_gain=1.0, max_photo_loss=0.0)
    assert "without a verdict" in measure.conclusion(rows, 0.3)


def test_the_loss_on_photographs_is_counted_from_the_base_and_not_from_the_last_round() -> None:
    forgetful = [BASE, row(1, 25.0, 26.0), row(2, 22.0, 27.9)]
    assert measure.best_round(forgetful, 0.3) == 2
    assert measure.improves(forgetful, min_gain=0, max_photo_loss=0.3)
    rows = [BASE, row(1, 21.0, 27.8), row(2, 22.0, 27.6)]
    assert measure.photo_loss(rows[0], rows[2]) == pytest.approx(0.4)
    assert measure.best_round(rows, 0.3) == 1
    assert not measure.improves(rows, min_gain=0, max_photo_loss=0.3)


@pytest.mark.parametrize(
    ("interval", "photo", "words"),
    [
        ((0.5, 1.5), 27.9, ("beyond its paired interval (zero lies outside [+0.50, +1.50])", "photo lost 0.10 dB")),
        ((0.003, 0.01), 28.0, ("within its paired interval (zero lies inside [+0.00, +0.01])",)),
        ((-0.2, 1.5), 28.3, ("within its paired interval (zero lies inside [-0.20, +1.50])", "photo gained 0.30 dB")),
    ],
)  # fmt: skip
def test_the_last_line_says_whether_the_gain_is_beyond_chance_and_what_photo_lost(
    interval: tuple[float, float], photo: float, words: tuple[str, str]
) -> None:
    line = measure.conclusion([BASE, row(1, 21.0, photo, interval)], 0.3)
    assert "drawn styles 20.0 -> 21.0 dB" in line
    assert all(word in line for word in words)
