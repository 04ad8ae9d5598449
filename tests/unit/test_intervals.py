"""Clustered intervals: they cover the truth as often as they say, and know what is not independent."""

import numpy as np
import pytest
from scipy import stats

from magic_insert.evaluation.intervals import mean_interval, student_quantile


def grid(subjects: int, backgrounds: int) -> tuple[list[str], list[str]]:
    pairs = [(f"s{s}", f"b{b}") for s in range(subjects) for b in range(backgrounds)]
    return [s for s, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 19, 34, 200])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_students_quantile_is_that_of_scipy(degrees: int, level: float) -> None:
    assert student_quantile(degrees, level) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-7)


@pytest.mark.parametrize(
    ("subjects", "backgrounds", "spread", "least", "most"),
    [
        (5, 4, (1.0, 1.0, 1.0), 0.93, 1.0),
        (5, 4, (0.3, 1.0, 0.3), 0.93, 1.0),
        (14, 10, (1.0, 1.0, 1.0), 0.91, 0.99),
        (14, 10, (0.3, 1.0, 0.3), 0.91, 0.99),
    ],
)
def test_the_interval_covers_the_true_mean_as_often_as_it_says(
    subjects: int, backgrounds: int, spread: tuple[float, float, float], least: float, most: float
) -> None:
    """Values = subject's share + background's share + noise; 200 worlds, so 0.95 +- 0.03 (two standard errors)."""
    rng = np.random.default_rng(0)
    first, second = grid(subjects, backgrounds)
    covered = 0
    for _ in range(200):
        values = (
            spread[0] * rng.normal(size=(subjects, 1))
            + spread[1] * rng.normal(size=(1, backgrounds))
            + spread[2] * rng.normal(size=(subjects, backgrounds))
        )
        found = mean_interval(values.ravel(), first, second, draws=250)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert least <= covered / 200 <= most


def test_an_interval_that_ignores_clusters_would_cover_far_too_seldom() -> None:
    """Why this is done: the same worlds, each value its own cluster."""
    rng = np.random.default_rng(1)
    labels = [str(i) for i in range(20 * 12)]
    covered = 0
    for _ in range(60):
        values = rng.normal(size=(20, 1)) + rng.normal(size=(1, 12)) + rng.normal(size=(20, 12))
        found = mean_interval(values.ravel(), labels, ["one"] * len(labels), draws=200)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert covered < 45


def test_copies_of_every_value_tell_nothing_new() -> None:
    first, second = grid(6, 5)
    values = np.random.default_rng(2).normal(size=30)
    once = mean_interval(values, first, second)
    thrice = mean_interval(np.tile(values, 3), first * 3, second * 3)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (once.n, thrice.n) == (30, 90)


def test_the_order_of_the_values_does_not_matter_and_the_seed_does() -> None:
    first, second = grid(6, 5)
    values = np.random.default_rng(3).normal(size=30)
    order = np.random.default_rng(4).permutation(30)
    straight = mean_interval(values, first, second, seed=1)
    mixed = mean_interval(values[order], [first[i] for i in order], [second[i] for i in order], seed=1)
    assert mixed.low == pytest.approx(straight.low)
    assert mean_interval(values, first, second, seed=1) == straight
    assert mean_interval(values, first, second, seed=2).low != straight.low


def test_the_mean_is_the_plain_mean_and_lies_inside() -> None:
    found = mean_interval([1.0, 2.0, 6.0], ["a", "b", "b"], ["x", "x", "y"])
    assert found.mean == 3
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 3 <= found.high


def test_one_cluster_leaves_nothing_to_vary_and_gives_no_interval() -> None:
    found = mean_interval([1.0, 2.0], ["a", "a"], ["x", "x"])
    assert (found.mean, found.low, found.high) == (1.5, None, None)
    assert not found.excludes_zero


def test_equal_values_give_an_interval_of_no_width() -> None:
    first, second = grid(3, 3)
    found = mean_interval([0.5] * 9, first, second)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_no_value_or_a_missing_label_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        mean_interval([], [], [])
    with pytest.raises(ValueError, match="label"):
        mean_interval([1.0], ["a"], [])
