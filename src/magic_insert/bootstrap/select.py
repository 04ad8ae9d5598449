"""Select: from stored measurements to the set S' that is trained on, and what that set is like. Torch-free.

A removal's score is the worst of its filters' scores; it is kept from `threshold` on, at most so many per style, the
best first. Where the truth is known, precision and recall of the decision, and how the kept differ from all (bias).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magic_insert.bootstrap.filters import Filter
from magic_insert.config.freeze import typed
from magic_insert.config.registry import FILTERS
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError

TOO_MANY = "keep_at_most_per_style"


@dataclass(frozen=True)
class Judged:
    """One removal after the filters: the worst score and the filter it came from."""

    id: str
    style: str
    score: float
    worst: str


@dataclass(frozen=True)
class Selection:
    """`rejected`: id -> the filter that refused it (or `keep_at_most_per_style`)."""

    judged: tuple[Judged, ...]
    accepted: tuple[str, ...]
    rejected: Mapping[str, str]


def select(
    values: Mapping[str, Mapping[str, Any]],
    styles: Mapping[str, str],
    filters: Mapping[str, Filter],
    *,
    threshold: float,
    keep_at_most_per_style: int | None,
) -> Selection:
    """Judges the removals `values` (id -> stored row, in order); `styles` tells each one's style.

    Raises:
        UserError: nothing is kept; names the threshold and the best score.
    """
    judged = []
    for name, row in values.items():
        scores = {rule: judge.score(name, row["measures"]) for rule, judge in filters.items()}
        worst = min(scores, key=lambda rule: scores[rule])
        judged.append(Judged(name, styles[name], round(scores[worst], 6), worst))
    passing = [item for item in judged if item.score >= threshold]
    accepted = {item.id for item in passing}
    if keep_at_most_per_style is not None:
        accepted = {
            item.id
            for style in {item.style for item in passing}
            for item in sorted((i for i in passing if i.style == style), key=lambda i: -i.score)[
                :keep_at_most_per_style
            ]
        }
    if not accepted:
        best = max(judged, key=lambda item: item.score, default=None)
        seen = (
            "no removals at all"
            if best is None
            else f"a best score of {best.score:.3f} ({best.id}, {best.worst})"
        )
        enough = 0.0 if best is None else math.floor(100 * best.score) / 100
        lower = "" if best is None else f"; set filter.threshold={enough:g}" + (" or lower" if enough else "")
        raise UserError(f"expected removals that pass filter.threshold={threshold:g}, got {seen}{lower}")
    passed = {item.id for item in passing}
    return Selection(
        tuple(judged),
        tuple(item.id for item in judged if item.id in accepted),
        {
            item.id: TOO_MANY if item.id in passed else item.worst
            for item in judged
            if item.id not in accepted
        },
    )


def acceptance(selection: Selection) -> dict[str, float]:
    """Share of each style's removals that were kept."""
    kept = set(selection.accepted)
    total = Counter(item.style for item in selection.judged)
    good = Counter(item.style for item in selection.judged if item.id in kept)
    return {style: round(good[style] / total[style], 4) for style in sorted(total)}


def truth_report(
    selection: Selection, values: Mapping[str, Mapping[str, Any]], good_db: float
) -> dict[str, float | None] | None:
    """Precision and recall of the filter against the Toybox: truly good = `psnr` of at least `good_db`.

    None where the truth is unknown; recall is None when nothing is truly good.
    """
    if any(row["truth"] is None for row in values.values()):
        return None
    good = {name for name, row in values.items() if row["truth"]["psnr"] >= good_db}
    kept = set(selection.accepted)
    return {
        "precision": round(len(good & kept) / len(kept), 4),
        "recall": round(len(good & kept) / len(good), 4) if good else None,
        "base_rate": round(len(good) / len(values), 4),
        "good_db": good_db,
        "psnr_accepted": _mean([values[name]["truth"]["psnr"] for name in selection.accepted]),
        "psnr_all": _mean([row["truth"]["psnr"] for row in values.values()]),
    }


def bias_report(
    selection: Selection, values: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float] | dict[str, dict[str, float]]]:
    """Does the filter keep what is easy to remove? Size, contrast and styles of the kept beside all."""
    everything, kept = list(values), list(selection.accepted)
    report: dict[str, Any] = {
        fact: {
            "accepted": _mean([values[name]["facts"][fact] for name in kept]),
            "all": _mean([values[name]["facts"][fact] for name in everything]),
        }
        for fact in ("size", "contrast")
    }
    style = {item.id: item.style for item in selection.judged}
    report["style"] = {
        name: {
            "accepted": round(sum(style[i] == name for i in kept) / len(kept), 4),
            "all": round(sum(style[i] == name for i in everything) / len(everything), 4),
        }
        for name in sorted(set(style.values()))
    }
    return report


def rejected_by(selection: Selection) -> dict[str, int]:
    """How many each filter refused."""
    return dict(sorted(Counter(selection.rejected.values()).items()))


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)


def build_filters(rules: Mapping[str, Any]) -> dict[str, Filter]:
    """The filters of `filter.rules`, by their registered names.

    Raises:
        UserError: a rule names no filter, or its bounds do not fit.
    """
    return {
        name: typed(FILTERS.get(name), settings, f"filter.rules.{name}") for name, settings in rules.items()
    }


def rule_settings(filters: Mapping[str, Filter]) -> dict[str, Any]:
    """The settings of filters with files told by their bytes: a verdict file that is changed is another selection."""
    return {
        name: {
            key: sha256_file(value) if key in ("weights", "verdicts") else value
            for key, value in asdict(judge).items()  # type: ignore[call-overload]
        }
        for name, judge in filters.items()
    }
