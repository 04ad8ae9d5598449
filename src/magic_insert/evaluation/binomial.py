"""Exact answers about a share of wins: the interval of Clopper and Pearson, and the two-sided test against one half.

C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26(4), 1934. The limits hold the true share at least as often as promised, for any number of trials.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = 100  # bisection ends at the resolution of a float


def log_probabilities(num: int, share: float) -> NDArray[np.float64]:
    """The logarithm of P(X = k) for k = 0 ... `num` trials with chance `share`, 0 < share < 1."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    k = np.arange(num + 1)
    choose = factorials[num] - factorials - factorials[::-1]
    return np.asarray(choose + k * math.log(share) + (num - k) * math.log1p(-share), dtype=np.float64)


def at_most(wins: int, num: int, share: float) -> float:
    """P(X <= wins) in `num` trials with chance `share`."""
    return float(np.exp(log_probabilities(num, share)[: wins + 1]).sum())


def clopper_pearson(wins: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """The limits of the chance behind `wins` out of `num`; (0, 1) side by side with no trial at all.

    Raises:
        ValueError: fewer than 0 or more than `num` wins.
    """
    if not 0 <= wins <= num:
        raise ValueError(f"expected 0 to {num} wins, got {wins}")
    tail = (1 - level) / 2
    low = 0.0 if wins == 0 else _solve(lambda share: 1 - at_most(wins - 1, num, share) < tail)
    high = 1.0 if wins == num else _solve(lambda share: at_most(wins, num, share) > tail)
    return low, high


def _solve(below: Callable[[float], bool]) -> float:
    """The share at which the falling condition `below` turns from true to false."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def two_sided_p(wins: int, num: int) -> float:
    """How likely a result at least as far from one half is, if both sides were alike; 1 with no trial."""
    if num == 0:
        return 1.0
    return min(1.0, 2 * at_most(min(wins, num - wins), num, 0.5))
