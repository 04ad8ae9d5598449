"""Ridge logistic regression: what parts two kinds of rows, as log odds that are linear in their numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Numbers = NDArray[np.float64]


def ridge_logistic(rows: Numbers, target: Numbers, penalty: float, *, bias_penalty: float) -> Numbers:
    """Bias and weights whose log odds fit `target` best, by the sum of the cross entropies of all rows.

    Args:
        rows: N x F, of about one size.
        target: N, 0 or 1.
        penalty: half of it times the squares of the weights is added; `bias_penalty` is that of the bias.

    Returns:
        1 + F numbers, the bias first.
    """
    features = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    weighed = np.array([bias_penalty, *[penalty] * rows.shape[1]])

    def loss(weights: Numbers) -> tuple[float, Any]:
        total = features @ weights
        gradient = features.T @ (1 / (1 + np.exp(-total.clip(-50, 50))) - target) + weighed * weights
        return float(np.logaddexp(0, total).sum() - target @ total + weighed @ weights**2 / 2), gradient

    return np.asarray(minimize(loss, np.zeros(len(weighed)), jac=True, tol=1e-10).x)
