"""Which round is kept: a gain on drawn styles never hides what photographs lost."""

import pytest

from magic_insert.bootstrap.scores import Row, best_round, conclusion, improves, photo_loss


def row(number: int, seen: float, photo: float | None, interval: tuple[float, float] = (0.5, 1.5)) -> Row:
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
    assert best_round(rows, 0.3) == 0
    assert not improves(rows, min_gain=0, max_photo_loss=0.3)
    assert conclusion(rows, 0.3) == (
        "the base networks were kept: drawn styles 20.0 -> 20.0 dB in round 1, but photo lost 2.00 dB, more than "
        "bootstrap.max_photo_loss=0.3"
    )
    assert best_round(rows, 2.5) == 1


def test_a_round_that_forgets_photographs_does_not_stand_in_the_way_of_a_later_one() -> None:
    rows = [BASE, row(1, 25.0, 26.0), row(2, 22.0, 27.9), row(3, 21.5, 29.0)]
    assert best_round(rows, 0.3) == 2
    assert improves(rows[:3], min_gain=0, max_photo_loss=0.3)
    assert not improves(rows, min_gain=0, max_photo_loss=0.3)
    assert best_round(rows, 5) == 1


def test_the_loss_on_photographs_is_counted_from_the_base_and_not_from_the_last_round() -> None:
    rows = [BASE, row(1, 21.0, 27.8), row(2, 22.0, 27.6)]
    assert photo_loss(rows[0], rows[2]) == pytest.approx(0.4)
    assert best_round(rows, 0.3) == 1
    assert not improves(rows, min_gain=0, max_photo_loss=0.3)


def test_a_gain_no_larger_than_the_least_one_is_no_improvement() -> None:
    rows = [BASE, row(1, 21.0, 28.0)]
    assert improves(rows, min_gain=0.9, max_photo_loss=0.3)
    assert not improves(rows, min_gain=1.0, max_photo_loss=0.3)


@pytest.mark.parametrize(
    ("interval", "photo", "words"),
    [
        ((0.5, 1.5), 27.9, ("beyond its paired interval (zero lies outside [+0.50, +1.50])", "photo lost 0.10 dB")),
        ((-0.2, 1.5), 28.3, ("within its paired interval (zero lies inside [-0.20, +1.50])", "photo gained 0.30 dB")),
    ],
)  # fmt: skip
def test_the_last_line_says_whether_the_gain_is_beyond_chance_and_what_photo_lost(
    interval: tuple[float, float], photo: float, words: tuple[str, str]
) -> None:
    line = conclusion([BASE, row(1, 21.0, photo, interval)], 0.3)
    assert "drawn styles 20.0 -> 21.0 dB" in line
    assert all(word in line for word in words)


def test_a_run_in_which_nothing_helped_says_so() -> None:
    line = "no round improved drawn styles (20.0 dB); the base networks were kept"
    assert conclusion([BASE, row(1, 19.0, 28.0)], 0.3) == line


def test_without_photographs_that_have_an_effect_nothing_can_be_lost() -> None:
    rows = [row(0, 20.0, None), row(1, 21.0, None)]
    assert best_round(rows, 0) == 1
    assert "photo" in conclusion(rows, 0)
