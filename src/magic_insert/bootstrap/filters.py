"""Filters: each looks at one stored measurement and answers with a score in [0, 1]; 1 is certainly good. Torch-free.

A removal is kept when its *worst* score reaches `filter.threshold`, so threshold 0 keeps everything, 1 only what no
filter doubts at all, and the filter with the worst score is the one that is named. Add one: a frozen dataclass with
`score`, and a YAML of its name in conf/filter.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from magic_insert.config.fields import Range
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


Share = Annotated[float, Range(0)]


@dataclass(frozen=True)
class Falling:
    """1 up to `good`, 0 from `bad` on, linear between; of the measurement `measure`."""

    good: Share
    """Up to here the score is 1."""
    bad: Share
    """From here on the score is 0."""
    measure: ClassVar[str]
    asks_for_cycle: ClassVar[bool] = False

    def conflicts(self, at: str) -> Iterator[str]:
        if not self.good < self.bad:
            yield f"expected {at}good below {at}bad, got {self.good:g} and {self.bad:g}; set both"

    def score(self, name: str, measures: Measures) -> float:
        """Falls with the measurement."""
        return min(1.0, max(0.0, (self.bad - measures[self.measure]) / (self.bad - self.good)))


@dataclass(frozen=True)
class Residue(Falling):
    """How much of the subject's drawing is left in the hole (correlation of fine detail)."""

    good: Share = 0.05
    bad: Share = 0.6
    measure = "residue"


@dataclass(frozen=True)
class Drift(Falling):
    """Change outside subject and effect, against the no-op reconstruction."""

    good: Share = 0.025
    bad: Share = 0.08
    measure = "drift"


@dataclass(frozen=True)
class Seam(Falling):
    """An edge along the old outline that its neighbourhood does not have."""

    good: Share = 0.005
    bad: Share = 0.1
    measure = "seam"


@dataclass(frozen=True)
class Hallucination(Falling):
    """Colours in the hole that nothing around it has: a new object, or what is left of the old one."""

    good: Share = 0.04
    bad: Share = 0.25
    measure = "hallucination"


@dataclass(frozen=True)
class Cycle(Falling):
    """Putting the subject back must give the original's shadow back. Needs a fair inserter to mean much."""

    good: Share = 0.05
    bad: Share = 0.4
    measure = "cycle"
    asks_for_cycle = True


@dataclass(frozen=True)
class Between:
    """1 inside the bounds, else 0; of the measurement `measure`."""

    low: Share
    """The smallest share of the picture that passes."""
    high: Share
    """The largest share of the picture that passes."""
    measure: ClassVar[str]

    def conflicts(self, at: str) -> Iterator[str]:
        if not self.low < self.high:
            yield f"expected {at}low below {at}high, got {self.low:g} and {self.high:g}; set both"

    def score(self, name: str, measures: Measures) -> float:
        """1 inside the bounds, else 0."""
        return float(self.low <= measures[self.measure] <= self.high)


@dataclass(frozen=True)
class EffectArea(Between):
    """The removal must have taken a shadow or reflection away, and not half the picture.

    ObjectDrop's rule, a lower bound (arXiv 2403.18818, section 4.2); the upper one is ours.
    """

    low: Share = 0.005
    high: Share = 0.25
    measure = "effect_area"


@dataclass(frozen=True)
class MaskArea(Between):
    """The subject's share of the picture (ObjectDrop: 0.05 to 0.5; its photographs are closer than our drop places)."""

    low: Share = 0.02
    high: Share = 0.5
    measure = "mask_area"


@dataclass(frozen=True)
class Border:
    """At most this share of the lower edge may be the subject, or its shadow lies outside (ObjectDrop: 0.2)."""

    most: Annotated[float, Range(0, 1)] = 0.2
    """The largest share that passes."""

    def score(self, name: str, measures: Measures) -> float:
        """1 up to `most`, else 0."""
        return float(measures["border"] <= self.most)


@dataclass(frozen=True)
class Learned:
    """A small classifier that `magic-insert review` taught from verdicts, as RORem trains its judge on people's."""

    weights: str = "runs/review/quality.json"
    """The file that `magic-insert review` wrote."""

    def conflicts(self, at: str) -> Iterator[str]:
        if not Path(self.weights).is_file():
            yield (
                f"expected {at}weights to be a file of magic-insert review, got nothing at {self.weights}; "
                f"set {at}weights=PATH"
            )
        elif not is_learned(self._learned()):
            yield (
                f"expected what magic-insert review learned (quality.json) in {self.weights}, got something else; "
                f"set {at}weights=PATH"
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

    verdicts: str = "verdicts.json"
    """The file that the page of `magic-insert review` saved."""

    def conflicts(self, at: str) -> Iterator[str]:
        if not Path(self.verdicts).is_file():
            yield (
                f"expected {at}verdicts to be a file of magic-insert review, got nothing at {self.verdicts}; "
                f"set {at}verdicts=PATH"
            )

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
