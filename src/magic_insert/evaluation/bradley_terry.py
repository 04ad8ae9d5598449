"""Strengths behind pairwise choices: P(i is preferred to j) = s_i / (s_i + s_j) (Bradley and Terry 1952).

Fitted by the minorise-maximise iteration of D. R. Hunter, "MM algorithms for generalized Bradley-Terry models", Annals
of Statistics 32(1), 2004, equation 3. A finite maximum exists only if nobody, and no group, won or lost everything
(his assumption 1).

Shapes: M methods; `wins`[i, j] is how often i was preferred to j.
"""

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-10
MOST_STEPS = 20_000


def has_finite_strengths(wins: NDArray[np.float64]) -> bool:
    """Whether from every method a chain of wins leads to every other."""
    reach = (wins > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(len(wins)):
        reach = (reach.astype(np.int64) @ reach.astype(np.int64)) > 0
    return bool(reach.all())


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Log-strengths of the M methods with mean zero; None where no finite ones exist.

    Raises:
        ValueError: `wins` is not square, has a negative number, or a win of a method over itself.
    """
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or (wins < 0).any() or np.diag(wins).any():
        raise ValueError("expected a square table of wins with an empty diagonal")
    if not has_finite_strengths(wins):
        return None
    games, won = wins + wins.T, wins.sum(1)
    log_strength = np.zeros(len(wins))
    for _ in range(MOST_STEPS):
        strength = np.exp(log_strength)
        new = np.log(won / (games / (strength[:, None] + strength[None])).sum(1))
        new -= new.mean()
        done = np.abs(new - log_strength).max() < TOLERANCE
        log_strength = new
        if done:
            break
    return log_strength
