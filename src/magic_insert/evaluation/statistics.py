"""Means with intervals, paired differences and win rates over a grid of subjects and backgrounds.

Neither the rows nor the columns of the grid are independent: twenty pictures of one subject are not twenty subjects.
The *pigeonhole bootstrap* (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007, section 3)
draws subjects and backgrounds with replacement, each on its own; a pair weighs as often as its subject times its
background were drawn. With few clusters percentiles are too narrow, so their distance from the mean is stretched by the
ratio of Student's quantile (degrees of freedom: the smaller number of clusters less one) to the normal one. Measured
coverage of the 95 % interval over 400 worlds each: 0.97 with 5 x 4 clusters, 0.95 with 35 x 20, and up to 1.00 where
the values of a cluster have nothing in common. tests/unit/test_statistics.py repeats it small.

Rows of floors and ceilings (methods called "floor:..." and "ceiling:...") are judged like any other but never compared
as methods. Shapes: N values, R draws, M methods.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from scipy.stats import binomtest, norm, t

from magic_insert.core.rand import fold_in
from magic_insert.evaluation.metrics import Column, columns_in, primary_columns

DRAWS = 2000
LEVEL = 0.95
KINDS = ("floor", "method", "ceiling")
OURS = "personalized"
ABOUT = ["method", "pair_id", "seed", "subject", "background", "style"]  # of a row, beside its values
Array = NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` values with its interval; `low` and `high` are None where one cluster leaves nothing to vary."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def within(self, bounds: tuple[float, float]) -> "Estimate":
        """The same with an interval that claims nothing impossible: its ends lie inside `bounds`."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(bounds[0], self.low), high=min(bounds[1], self.high))

    def no_narrower_than_exact(self, num: int) -> "Estimate":
        """For a share: the interval widened to the exact binomial one of `num` trials, and kept inside [0, 1].

        Where one side wins everything nothing varies between draws, but a few trials are still only a few trials.
        """
        if self.low is None or self.high is None:
            return self
        wins = self.mean * num
        least = exact_interval(math.floor(wins + 1e-9), num)[0]
        most = exact_interval(math.ceil(wins - 1e-9), num)[1]
        return replace(self, low=min(self.low, least), high=max(self.high, most)).within((0.0, 1.0))

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Summary:
    """One method: its `kind` (floor, method, ceiling, printed), the number of its rows if known, and an estimate per
    column. `best` names the columns it leads."""

    method: str
    kind: str
    num_rows: int | None
    estimates: Mapping[str, Estimate]
    best: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Paired:
    """`method` against `reference` on the pairs and seeds that both have.

    `difference` is the mean of method - reference in the column's own unit. `win_rate` is the share in which the method
    is the better one, a tie counting half; its interval is the wider of the clustered and the exact binomial one. None
    where the column has no better side.
    """

    method: str
    reference: str
    column: str
    difference: Estimate
    win_rate: Estimate | None


# The pigeonhole bootstrap


@lru_cache(maxsize=64)
def cluster_draws(axis: str, names: tuple[str, ...], seed: int, draws: int) -> Array:
    """How often each cluster is drawn, `draws` x clusters. Equal names give equal draws, so methods are paired."""
    stream = np.random.Generator(np.random.PCG64(fold_in(seed, "pigeonhole bootstrap", axis, *names)))
    return stream.multinomial(len(names), [1 / len(names)] * len(names), size=draws).astype(np.float64)


# The columns of one method share their labels; a few entries hold them while a table is made.
@lru_cache(maxsize=4)
def draw_weights(
    first: tuple[str, ...], second: tuple[str, ...], *, seed: int, draws: int = DRAWS
) -> tuple[Array, int]:
    """How often each of N values is drawn when the clusters `first` and `second` of the values are drawn.

    Returns the weights, draws x N, and the smaller number of clusters among those axes that vary (0: none does).
    """
    weights = np.ones((draws, len(first)))
    varying = []
    for axis, labels in (("first", first), ("second", second)):
        names, index = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        if len(names) > 1:
            varying.append(len(names))
            weights *= cluster_draws(axis, tuple(names.tolist()), seed, draws)[:, index]
    weights.setflags(write=False)
    return weights, min(varying, default=0)


def stretched(point: float, replicates: Array, clusters: int) -> tuple[float | None, float | None]:
    """The interval about `point` from its bootstrap `replicates`, widened for few `clusters`; None below two."""
    finite = replicates[np.isfinite(replicates)]
    if clusters < 2 or not finite.size:
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    widen = float(t.ppf(1 - tail, clusters - 1) / norm.ppf(1 - tail))
    return point - max(0.0, point - float(low)) * widen, point + max(0.0, float(high) - point) * widen


def mean_interval(
    values: Sequence[float] | Array | pd.Series,
    first: Sequence[str] | pd.Series,
    second: Sequence[str] | pd.Series,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """The plain mean of `values` with its 95 % interval under the clusters `first` and `second` (labels per value).

    Raises:
        ValueError: there is no value, or the lengths differ.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size or not len(numbers) == len(first) == len(second):
        raise ValueError(
            f"expected one label of each axis per value, got {len(numbers)}, {len(first)} and {len(second)}"
        )
    # Values of one cell of the grid are always drawn together: their sum and their number are all that is needed.
    cells, place = np.unique(np.array([first, second], dtype=str), axis=1, return_inverse=True)
    sums, counts = np.bincount(place, numbers), np.bincount(place).astype(np.float64)
    weights, clusters = draw_weights(*map(tuple, cells.tolist()), seed=seed, draws=draws)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A draw that hits no cell of a sparse grid divides by zero and is left out as NaN.
        replicates = weights @ sums / (weights @ counts)
    point = float(numbers.mean())
    return Estimate(point, *stretched(point, replicates, clusters), len(numbers))


# Choices between two


def exact_interval(wins: int, num: int) -> tuple[float, float]:
    """The limits of the chance behind `wins` out of `num` (Clopper and Pearson 1934): at least as wide as promised."""
    found = binomtest(wins, num).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def bradley_terry(wins: Array) -> Array | None:
    """Log-strengths s of the M methods with mean zero, by maximum likelihood: P(i beats j) = 1 / (1 + exp(s_j - s_i)).

    `wins`[i, j] is how often i was preferred to j (Bradley and Terry 1952). None where no finite maximum exists: a
    method, or a group of them, won or lost everything, or two groups never met (Hunter 2004, assumption 1).
    """
    if connected_components(wins > 0, connection="strong")[0] > 1:
        return None

    def loss(strength: Array) -> tuple[float, Array]:
        lead = strength[:, None] - strength[None]
        missed = wins * expit(-lead)
        return float((wins * np.logaddexp(0, -lead)).sum()), missed.sum(0) - missed.sum(1)

    found = minimize(loss, np.zeros(len(wins)), jac=True, method="BFGS", options={"gtol": 1e-9 * wins.sum()})
    return np.asarray(found.x - found.x.mean(), dtype=np.float64)


# Methods and their rows


def kind_of(method: str) -> str:
    """`floor`, `ceiling` or `method`, by the name."""
    kind, colon, _ = method.partition(":")
    return kind if colon and kind in KINDS else "method"


def frame_of(rows: Iterable[Row], track: str) -> pd.DataFrame:
    """The rows of `track`: ABOUT, `kind`, and each value that any row has, NaN in the others; floors come first.

    A style that nobody named is called "unknown".
    """
    listed = [{**{key: row[key] for key in ABOUT}, **row["values"]} for row in rows if row["track"] == track]
    frame = pd.DataFrame(listed, columns=None if listed else ABOUT)
    frame["style"] = frame["style"].fillna("unknown")
    kinds = frame["method"].map(kind_of)
    frame.insert(0, "kind", kinds)
    return frame.iloc[kinds.map(KINDS.index).argsort(kind="stable")].reset_index(drop=True)


def methods_of(frame: pd.DataFrame, kind: str | None = None) -> list[str]:
    """Method names: floors, then methods in the order of their first row, then ceilings; or those of one `kind`."""
    chosen = frame if kind is None else frame[frame["kind"] == kind]
    return list(chosen["method"].unique())


def present_columns(frame: pd.DataFrame, track: str) -> list[Column]:
    """The columns for which any row of `track` has a value, in the order of the tables.

    A column of texts only where every pair has one: its mean would be that of other pairs than those beside it.

    Raises:
        UserError: a value that is no column of this track.
    """
    keys = [key for key in frame.columns if key not in ("kind", *ABOUT)]
    whole = frame.groupby("pair_id")[keys].count().gt(0).all()
    return [column for column in columns_in(track, keys) if not column.of_texts or whole[column.key]]


def estimates_of(frame: pd.DataFrame, columns: Iterable[Column], *, seed: int = 0) -> dict[str, Estimate]:
    """The mean of each column over the rows that have it; a column that none has is left out."""
    found: dict[str, Estimate] = {}
    for column in columns:
        if not (having := frame.dropna(subset=column.key)).empty:
            mean = mean_interval(having[column.key], having["subject"], having["background"], seed=seed)
            found[column.key] = mean.within(column.bounds)
    return found


def summaries(frame: pd.DataFrame, columns: Sequence[Column], *, seed: int = 0) -> list[Summary]:
    """One summary per method: floors, methods, ceilings."""
    return [
        Summary(str(name), kind_of(str(name)), len(part), estimates_of(part, columns, seed=seed))
        for name, part in frame.groupby("method", sort=False)
    ]


def breakdown(
    frame: pd.DataFrame, columns: Sequence[Column], by: str, *, seed: int = 0
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Estimates by method and by the value of `by` ("style", "subject" or "background")."""
    found: dict[str, dict[str, dict[str, Estimate]]] = {method: {} for method in methods_of(frame)}
    for (method, value), part in frame.groupby(["method", by]):
        found[method][str(value)] = estimates_of(part, columns, seed=seed)
    return found


def reference_method(frame: pd.DataFrame) -> str | None:
    """The method that others are compared with: our own if it is there, else the first; None if only floors are."""
    names = methods_of(frame, "method")
    ours = [name for name in names if name == OURS or name.startswith(OURS + "+")]
    # Pasting is an inserter only by name: whoever inserts goes before it.
    ours.sort(key=lambda name: name.endswith("+copy_paste"))
    return next(iter(ours + names), None)


def paired(
    frame: pd.DataFrame, column: Column, method: str, reference: str, *, seed: int = 0
) -> Paired | None:
    """`method` against `reference` in one column; None if they share no pair."""
    sides = frame[frame["method"].isin([method, reference])]
    wide = sides.pivot(
        index=["pair_id", "seed", "subject", "background"], columns="method", values=column.key
    )
    wide = wide.reindex(columns=[method, reference]).dropna().reset_index()
    if wide.empty:
        return None
    differences = (wide[method] - wide[reference]).to_numpy(np.float64)
    difference = mean_interval(differences, wide["subject"], wide["background"], seed=seed)
    if column.better == "neither":
        return Paired(method, reference, column.key, difference, None)
    wins = (np.sign(column.gain(1.0) * differences) + 1) / 2
    rate = mean_interval(wins, wide["subject"], wide["background"], seed=seed)
    return Paired(method, reference, column.key, difference, rate.no_narrower_than_exact(len(wins)))


def paired_table(frame: pd.DataFrame, columns: Sequence[Column], *, seed: int = 0) -> list[Paired]:
    """Every method against the reference method in every one of `columns` that stands for its group."""
    reference = reference_method(frame)
    found = [
        paired(frame, column, name, reference, seed=seed)
        for name in methods_of(frame, "method")
        if reference is not None and name != reference
        for column in primary_columns(columns)
    ]
    return [result for result in found if result is not None]
