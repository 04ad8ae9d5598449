"""A learned judge of removals: logistic regression on the stored measurements, from verdicts of people or of the truth.

RORem trains a discriminator on people's verdicts and lets it judge the rest (arXiv 2501.00740); with some dozens of
verdicts a classifier of this size is what can be fitted. Torch-free.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from magic_insert.bootstrap.filters import quality
from magic_insert.core.errors import UserError

RIDGE = 1.0  # keeps the weights finite when the verdicts can be told apart perfectly
ROUNDS = 50
FEWEST = 4  # verdicts of each kind
REACH = 4.0  # spreads; filters.quality clips there too
Learned = dict[str, dict[str, float]]


def teach(values: Mapping[str, Mapping[str, Any]], verdicts: Mapping[str, bool]) -> Learned:
    """Fits the judge to `verdicts` (id -> accepted) of the removals `values` (id -> stored row).

    Raises:
        UserError: too few verdicts of a kind to learn from.
    """
    ids = sorted(set(values) & set(verdicts))
    yes = sum(verdicts[name] for name in ids)
    if min(yes, len(ids) - yes) < FEWEST:
        raise UserError(
            f"expected at least {FEWEST} accepted and {FEWEST} rejected removals to learn from, got {yes} and "
            f"{len(ids) - yes}; judge more of them"
        )
    names = sorted(values[ids[0]]["measures"])
    table = np.array([[values[name]["measures"][m] for m in names] for name in ids])
    mean, spread = table.mean(axis=0), table.std(axis=0)
    useful = spread > 1e-6
    names = [name for name, keep in zip(names, useful, strict=True) if keep]
    mean, spread = mean[useful], spread[useful]
    standard = ((table[:, useful] - mean) / spread).clip(-REACH, REACH)
    features = np.concatenate([np.ones((len(ids), 1)), standard, standard**2], axis=1)
    weights = _newton(features, np.array([float(verdicts[name]) for name in ids]))
    count = len(names)

    def named(column: Sequence[float]) -> dict[str, float]:
        return {name: round(float(value), 8) for name, value in zip(names, column, strict=True)}

    return {
        "bias": {"bias": round(float(weights[0]), 8)},
        "weight": named(list(weights[1 : 1 + count])),
        "square": named(list(weights[1 + count :])),
        "mean": named(list(mean)),
        "spread": named(list(spread)),
    }


def _newton(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Ridge logistic regression by Newton's method; the bias is not penalised."""
    weights = np.zeros(features.shape[1])
    penalty = RIDGE * np.eye(len(weights))
    penalty[0, 0] = 1e-6
    for _ in range(ROUNDS):
        probability = 1 / (1 + np.exp(-(features @ weights).clip(-50, 50)))
        gradient = features.T @ (probability - target) + penalty @ weights
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-10:
            break
    return weights


def left_out(values: Mapping[str, Mapping[str, Any]], verdicts: Mapping[str, bool]) -> dict[str, float]:
    """Judged without having been taught: each removal's probability from a judge of all the others.

    Verdicts whose removal leaves too few of a kind to learn from are not judged.
    """
    found = {}
    for name in sorted(set(values) & set(verdicts)):
        others = {other: verdict for other, verdict in verdicts.items() if other != name}
        try:
            found[name] = quality(teach(values, others), values[name]["measures"])
        except UserError:
            continue
    return found


def ranking(probability: Mapping[str, float], verdicts: Mapping[str, bool]) -> float | None:
    """Area under the ROC curve: the share of (accepted, rejected) pairs in the right order, ties counting half."""
    good = [p for name, p in probability.items() if verdicts[name]]
    bad = [p for name, p in probability.items() if not verdicts[name]]
    if not good or not bad:
        return None
    return sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))
