"""Which metric deserves trust: how well each orders results as the truth would, where the truth is known.

Three answers per metric and truth column, both turned so that more is better:
- `within`: Spearman's rank correlation over the pairs of one method, averaged over methods. Does it tell a method's
  good results from its bad ones?
- `pooled`: the same over all results of all methods together.
- `agreement`: of two methods on the same pair, how often does the metric prefer the one the truth prefers? One half is
  chance; a tie of the metric counts half, a tie of the truth is no question.

Floors and ceilings are left out: they are easy to tell apart and would flatter every metric. Intervals are clustered by
subject and background (`evaluation.intervals`). Shapes: N results, R draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from magic_insert.evaluation.columns import COSINE, Column
from magic_insert.evaluation.compare import Row, grouped, kind_of, present_columns
from magic_insert.evaluation.intervals import Array, Estimate, draw_weights, mean_interval, stretched

DRAWS = 500
CHUNK = 64


@dataclass(frozen=True)
class Trust:
    """How far `metric` may be believed about `truth`; an answer is None where nothing varies or nobody can disagree."""

    metric: Column
    truth: Column
    within: Estimate | None
    pooled: Estimate | None
    agreement: Estimate | None


def weighted_ranks(values: Array, weights: Array) -> Array:
    """Middle ranks of N `values` in each of R samples in which value i occurs `weights[r, i]` times (R x N)."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    last = np.searchsorted(group[order], np.arange(len(distinct)), side="right") - 1
    upto = np.cumsum(weights[:, order], 1)[:, last]
    counts = np.diff(upto, axis=1, prepend=0.0)
    return (upto - counts + (counts + 1) / 2)[:, group]


def weighted_spearman(one: Array, other: Array, weights: Array) -> Array:
    """Spearman's correlation of N values in each of R weighted samples; NaN where a sample does not vary."""
    total = weights.sum(1, keepdims=True)
    centred = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for values in (one, other):
            ranks = weighted_ranks(values, weights)
            centred.append(ranks - (weights * ranks).sum(1, keepdims=True) / total)
        first, second = centred
        covariance = (weights * first * second).sum(1)
        spread = np.sqrt((weights * first**2).sum(1) * (weights * second**2).sum(1))
        # Rounding leaves a spread of about 1e-13 where all ranks are equal.
        return np.where(spread > 1e-9, covariance / np.where(spread > 1e-9, spread, 1), np.nan)


def trust(rows: Sequence[Row], track: str, *, seed: int = 0, draws: int = DRAWS) -> list[Trust]:
    """Every metric of `track` against every truth column, in the order of the tables; constant columns are left out."""
    chosen = [row for row in rows if row["track"] == track and kind_of(row["method"]) == "method"]
    columns = [
        column
        for column in present_columns(chosen, track)
        if column.better != "neither"
        and len({row["values"][column.key] for row in chosen if column.key in row["values"]}) > 1
    ]
    truths = [column for column in columns if column.group == "truth"]
    return [
        trust_of(chosen, metric, truth, seed=seed, draws=draws)
        for metric in columns
        if metric.group != "truth"
        for truth in truths
    ]


def trust_of(
    rows: Sequence[Row], metric: Column, truth: Column, *, seed: int = 0, draws: int = DRAWS
) -> Trust:
    """`metric` against `truth` on those of `rows` (one track, methods only) that have both."""
    both = [row for row in rows if metric.key in row["values"] and truth.key in row["values"]]
    per_method = list(grouped(both, "method").values())
    return Trust(
        metric,
        truth,
        _correlation(per_method, metric, truth, seed, draws),
        _correlation([both], metric, truth, seed, draws),
        _agreement(both, metric, truth, seed),
    )


def _correlation(
    groups: Sequence[Sequence[Row]], metric: Column, truth: Column, seed: int, draws: int
) -> Estimate | None:
    """The mean over `groups` of the correlation inside each; the groups share their draws of clusters."""
    points, replicates, clusters, count = [], [], [], 0
    for part in groups:
        if len(part) < 3:
            continue
        said = np.array([metric.gain(row["values"][metric.key]) for row in part])
        true = np.array([truth.gain(row["values"][truth.key]) for row in part])
        point = weighted_spearman(said, true, np.ones((1, len(part))))[0]
        if not np.isfinite(point):
            continue
        weights, fewest = draw_weights(
            [row["subject"] for row in part], [row["background"] for row in part], seed=seed, draws=draws
        )
        chunks = [weighted_spearman(said, true, weights[i : i + CHUNK]) for i in range(0, draws, CHUNK)]
        points.append(float(point))
        replicates.append(np.concatenate(chunks))
        clusters.append(fewest)
        count += len(part)
    if not points:
        return None
    point = float(np.mean(points))
    return Estimate(point, *stretched(point, np.mean(replicates, 0), min(clusters)), count).within(COSINE)


def _agreement(rows: Sequence[Row], metric: Column, truth: Column, seed: int) -> Estimate | None:
    votes: list[float] = []
    subjects: list[str] = []
    backgrounds: list[str] = []
    pairs: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["pair_id"], row["seed"]), []).append(row)
    for part in pairs.values():
        for one, other in combinations(part, 2):
            said = metric.gain(one["values"][metric.key]) - metric.gain(other["values"][metric.key])
            true = truth.gain(one["values"][truth.key]) - truth.gain(other["values"][truth.key])
            if true == 0:
                continue
            votes.append(0.5 if said == 0 else float((said > 0) == (true > 0)))
            subjects.append(one["subject"])
            backgrounds.append(one["background"])
    if not votes:
        return None
    found = mean_interval(votes, subjects, backgrounds, seed=seed)
    # Several questions about one pair are no further trials.
    return found.no_narrower_than_exact(len(set(zip(subjects, backgrounds, strict=True))))
