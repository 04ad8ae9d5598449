"""Filters: each looks at one stored measurement and answers with a score in [0, 1]; 1 is certainly good. Torch-free.

A removal is kept when its *worst* score reaches `filter.threshold`, so threshold 0 keeps everything, 1 only what no
filter doubts at all, and the filter with the worst score is the one that is named. Add one: a frozen dataclass with
`score`, and a YAML of its name in conf/filter.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from magic_insert.config.checks import at_least, within
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json

Measures = Mapping[str, float]
LEARNED = {"bias", "weight", "square", "mean", "spread"}
# Every measurement, in the order in which it is stored; the last one only where a filter asks for it.
MEASURES = ("residue", "drift", "seam", "hallucination", "effect_area", "mask_area", "border", "cycle")


@runtime_checkable
class Filter(Protocol):
    """What `select` asks of a filter."""

    def score(self, name: str, measures: Measures) -> float:
        """How good the removal `name` is, in [0, 1]."""
        ...


def ask_for_cycle(filters: Iterable[Filter]) -> bool:
    """Whether one of `filters` looks at the cycle, for which every subject has to be put back."""
    return any(getattr(judge, "asks_for_cycle", False) for judge in filters)


def falling(value: float, good: float, bad: float) -> float:
    """1 up to `good`, 0 from `bad` on, linear between."""
    return min(1.0, max(0.0, (bad - value) / (bad - good)))


@dataclass(frozen=True)
class Residue:
    """How much of the subject's drawing is left in the hole (correlation of fine detail)."""

    good: float
    bad: float

    def __post_init__(self) -> None:
        _ordered("residue", self.good, self.bad)

    def score(self, name: str, measures: Measures) -> float:
        """Falls with the residue."""
        return falling(measures["residue"], self.good, self.bad)


@dataclass(frozen=True)
class Drift:
    """Change outside subject and effect, against the no-op reconstruction."""

    good: float
    bad: float

    def __post_init__(self) -> None:
        _ordered("drift", self.good, self.bad)

    def score(self, name: str, measures: Measures) -> float:
        """Falls with the drift."""
        return falling(measures["drift"], self.good, self.bad)


@dataclass(frozen=True)
class Seam:
    """An edge along the old outline that its neighbourhood does not have."""

    good: float
    bad: float

    def __post_init__(self) -> None:
        _ordered("seam", self.good, self.bad)

    def score(self, name: str, measures: Measures) -> float:
        """Falls with the seam."""
        return falling(measures["seam"], self.good, self.bad)


@dataclass(frozen=True)
class Hallucination:
    """Colours in the hole that nothing around it has: a new object, or what is left of the old one."""

    good: float
    bad: float

    def __post_init__(self) -> None:
        _ordered("hallucination", self.good, self.bad)

    def score(self, name: str, measures: Measures) -> float:
        """Falls with the distance of colours."""
        return falling(measures["hallucination"], self.good, self.bad)


@dataclass(frozen=True)
class EffectArea:
    """The removal must have taken a shadow or reflection away, and not half the picture.

    ObjectDrop's rule, a lower bound (arXiv 2403.18818, section 4.2); the upper one is ours.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered("effect_area", self.low, self.high)

    def score(self, name: str, measures: Measures) -> float:
        """1 inside the bounds, else 0."""
        return float(self.low <= measures["effect_area"] <= self.high)


@dataclass(frozen=True)
class MaskArea:
    """The subject's share of the picture (ObjectDrop: 0.05 to 0.5; its photographs are closer than our drop places)."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered("mask_area", self.low, self.high)

    def score(self, name: str, measures: Measures) -> float:
        """1 inside the bounds, else 0."""
        return float(self.low <= measures["mask_area"] <= self.high)


@dataclass(frozen=True)
class Border:
    """At most this share of the lower edge may be the subject, or its shadow lies outside (ObjectDrop: 0.2)."""

    most: float

    def __post_init__(self) -> None:
        within("filter.rules.border.most", self.most, 0, 1)

    def score(self, name: str, measures: Measures) -> float:
        """1 up to `most`, else 0."""
        return float(measures["border"] <= self.most)


@dataclass(frozen=True)
class Cycle:
    """Putting the subject back must give the original's shadow back."""

    good: float
    bad: float
    asks_for_cycle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _ordered("cycle", self.good, self.bad)

    def score(self, name: str, measures: Measures) -> float:
        """Falls with what is wrong in the region of the effect."""
        return falling(measures["cycle"], self.good, self.bad)


@dataclass(frozen=True)
class Learned:
    """A small classifier that `magic-insert review` taught from verdicts, as RORem trains its judge on people's."""

    weights: str

    def __post_init__(self) -> None:
        _require_file("filter.rules.learned.weights", self.weights)
        if not is_learned(self._learned()):
            raise UserError(
                f"expected what magic-insert review learned (quality.json) in {self.weights}, got something else; "
                "set filter.rules.learned.weights=PATH"
            )

    def _learned(self) -> Any:
        return _read(self.weights, sha256_file(self.weights))

    @property
    def asks_for_cycle(self) -> bool:
        """Whether it was taught by removals whose cycle was measured."""
        return "cycle" in self._learned()["weight"]

    def score(self, name: str, measures: Measures) -> float:
        """Its probability that a person accepts the removal."""
        return quality(self._learned(), measures)


@dataclass(frozen=True)
class People:
    """A verdict file of `magic-insert review`; what nobody judged is not kept."""

    verdicts: str

    def __post_init__(self) -> None:
        _require_file("filter.rules.people.verdicts", self.verdicts)

    def score(self, name: str, measures: Measures) -> float:
        """1 for accept, 0 otherwise."""
        return float(read_verdicts(self.verdicts).get(name, False))


def is_learned(found: Any) -> bool:
    """Whether `found` is a judge as `quality.teach` makes it: five tables of finite numbers, no spread of zero."""
    if not isinstance(found, dict) or set(found) != LEARNED:
        return False
    tables = list(found.values())
    if not all(isinstance(table, dict) for table in tables):
        return False
    numbers = [value for table in tables for value in table.values()]
    known = set(found["weight"]) <= set(MEASURES) and set(found["bias"]) == {"bias"}
    alike = all(set(found[name]) == set(found["weight"]) for name in ("square", "mean", "spread"))
    finite = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    return known and alike and finite and all(value > 0 for value in found["spread"].values())


def quality(learned: Mapping[str, Mapping[str, float]], measures: Measures) -> float:
    """Logistic function of the standardised measurements and their squares: the probability of "accept"."""
    total = learned["bias"]["bias"]
    for name, weight in learned["weight"].items():
        value = (measures[name] - learned["mean"][name]) / learned["spread"][name]
        value = min(4.0, max(-4.0, value))  # nothing was learned about what lies farther out
        total += weight * value + learned["square"][name] * value * value
    return 1.0 / (1.0 + math.exp(-min(50.0, max(-50.0, total))))


def read_verdicts(path: str | Path) -> dict[str, bool]:
    """id -> accepted, of a verdict file {"verdicts": {id: "accept" | "reject"}}.

    Raises:
        UserError: no such file, or something else in it.
    """
    stored = _read(str(path), sha256_file(path)) if Path(path).is_file() else read_json(path)
    verdicts = stored.get("verdicts") if isinstance(stored, dict) else None
    if not isinstance(verdicts, dict) or not all(v in ("accept", "reject") for v in verdicts.values()):
        raise UserError(
            f'expected {{"verdicts": {{ID: "accept" or "reject"}}}} in {path}, got something else; '
            "save it from the page of magic-insert review"
        )
    return {name: verdict == "accept" for name, verdict in verdicts.items()}


@cache
def _read(path: str, checksum: str) -> Any:
    """The JSON file with these bytes; a changed file is read anew."""
    return read_json(path)


def _require_file(key: str, path: str) -> None:
    if not Path(path).is_file():
        raise UserError(
            f"expected {key} to be a file of magic-insert review, got nothing at {path}; set {key}=PATH"
        )


def _ordered(rule: str, first: float, second: float) -> None:
    at_least(f"filter.rules.{rule}", first, 0)
    if not first < second:
        raise UserError(
            f"expected rising bounds in filter.rules.{rule}, got {first:g} and {second:g}; set both, the smaller first"
        )
