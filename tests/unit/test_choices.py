"""Exact binomial limits and Bradley-Terry strengths: known answers."""

import numpy as np
import pytest
from scipy import stats

from magic_insert.evaluation.binomial import clopper_pearson, two_sided_p
from magic_insert.evaluation.bradley_terry import bradley_terry


@pytest.mark.parametrize(
    ("wins", "num"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (960, 1200), (1, 1000)]
)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_limits_are_those_of_the_beta_distribution(wins: int, num: int, level: float) -> None:
    """The same limits by another road: Clopper-Pearson's are quantiles of beta distributions."""
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, wins, num - wins + 1) if wins else 0.0
    high = stats.beta.ppf(1 - tail, wins + 1, num - wins) if wins < num else 1.0
    assert clopper_pearson(wins, num, level) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_ten_wins_of_ten_leave_the_share_above_two_thirds() -> None:
    low, high = clopper_pearson(10, 10)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)


def test_the_limits_hold_the_true_share_at_least_as_often_as_promised() -> None:
    limits = [clopper_pearson(wins, 15) for wins in range(16)]
    for share in (0.05, 0.3, 0.5, 0.85):
        held = sum(
            stats.binom.pmf(k, 15, share) for k, (low, high) in enumerate(limits) if low <= share <= high
        )
        assert held >= 0.95


@pytest.mark.parametrize(("wins", "num"), [(0, 0), (5, 10), (9, 10), (0, 6), (640, 1200)])
def test_the_test_against_one_half_is_scipys(wins: int, num: int) -> None:
    assert two_sided_p(wins, num) == pytest.approx(stats.binomtest(wins, num).pvalue if num else 1.0)


def test_more_wins_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="wins"):
        clopper_pearson(3, 2)


def test_the_strengths_of_two_methods_are_their_wins() -> None:
    found = bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert found is not None
    assert found[0] - found[1] == pytest.approx(np.log(3))
    assert found.sum() == pytest.approx(0)


def test_strengths_are_recovered_from_the_choices_they_predict() -> None:
    """Wins in exact proportion to s_i / (s_i + s_j) have the strengths themselves as their maximum."""
    true = np.array([1.2, 0.3, -0.4, -1.1])
    strength = np.exp(true)
    wins = 100 * strength[:, None] / (strength[:, None] + strength[None])
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(bradley_terry(wins), true, atol=1e-7)


def test_a_star_of_comparisons_has_the_closed_form() -> None:
    """The paper's shape: ours against two baselines that never met; each odds is that comparison's own."""
    wins = np.array([[0.0, 85, 80], [15, 0, 0], [20, 0, 0]])
    found = bradley_terry(wins)
    assert found is not None
    assert found[0] - found[1] == pytest.approx(np.log(85 / 15), abs=1e-6)
    assert found[0] - found[2] == pytest.approx(np.log(80 / 20), abs=1e-6)


@pytest.mark.parametrize(
    "wins",
    [
        [[0.0, 5.0], [0.0, 0.0]],  # lost everything
        [[0, 1, 2, 2], [1, 0, 2, 2], [0, 0, 0, 1], [0, 0, 1, 0]],  # a group lost everything
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],  # two groups never met
    ],
)
def test_where_no_finite_strengths_exist_none_are_invented(wins: list[list[float]]) -> None:
    assert bradley_terry(np.array(wins, dtype=float)) is None


def test_a_win_over_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="diagonal"):
        bradley_terry(np.eye(2))
