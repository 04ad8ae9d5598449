"""From stored measurements of removals to the set S' that is trained on (paper, section 3). Torch-free.

A filter looks at one removal's measurements and answers with a score in [0, 1]; 1 is certainly good. A removal is kept
when its *worst* score reaches `filter.threshold`, so threshold 0 keeps everything, 1 only what no filter doubts at all,
and the filter with the worst score is the one that is named; of each style at most so many, the best first. Where the
truth is known: precision and recall of the decision, and how the kept differ from all (bias).

Add a filter: a frozen dataclass with `score`, an entry in the registry, and a YAML of its name in conf/filter.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from magic_insert.config.fields import Range
from magic_insert.config.freeze import typed
from magic_insert.config.registry import FILTERS
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_record

Record = TypeVar("Record")
Measures = Mapping[str, float]
Values = Mapping[str, Mapping[str, Any]]  # id -> stored row of a removal
# Every measurement, in the order in which it is stored; the last one only where a filter asks for it.
MEASURES = ("residue", "drift", "seam", "hallucination", "effect_area", "mask_area", "border", "cycle")
TOO_MANY = "keep_at_most_per_style"
REACH = 4.0  # spreads; nothing was learned about what lies farther out


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
    """A small classifier that `magic-insert review` learned from verdicts, as RORem trains its judge on people's."""

    weights: str = "runs/review/quality.json"
    """The file that `magic-insert review` wrote."""

    def conflicts(self, at: str) -> Iterator[str]:
        yield from _flaw(lambda: self._quality, f"{at}weights", self.weights)

    @property
    def _quality(self) -> "Quality":
        return _read_once(self.weights, Quality)

    @property
    def asks_for_cycle(self) -> bool:
        """Whether it was learned from removals whose cycle was measured."""
        return "cycle" in self._quality.terms

    def score(self, name: str, measures: Measures) -> float:
        """Its probability that a person accepts the removal."""
        return self._quality.probability(measures)


@dataclass(frozen=True)
class People:
    """A verdict file of `magic-insert review`; what nobody judged is not kept."""

    verdicts: str = "verdicts.json"
    """The file that the page of `magic-insert review` saved."""

    def conflicts(self, at: str) -> Iterator[str]:
        yield from _flaw(lambda: read_verdicts(self.verdicts), f"{at}verdicts", self.verdicts)

    def score(self, name: str, measures: Measures) -> float:
        """1 for accept, 0 otherwise."""
        return float(read_verdicts(self.verdicts).get(name, False))


def _flaw(read: Callable[[], Any], key: str, path: str) -> Iterator[str]:
    """What is wrong with the file of `magic-insert review` at `path`, so that it is refused before anything is made."""
    try:
        read()
    except UserError as error:
        yield f"expected {key} to be a file of magic-insert review, got {path} ({error}); set {key}=PATH"


@dataclass(frozen=True)
class Verdicts:
    """What a verdict file holds."""

    verdicts: dict[str, Literal["accept", "reject"]]


def read_verdicts(path: str | Path) -> dict[str, bool]:
    """id -> accepted, of a verdict file {"verdicts": {id: "accept" | "reject"}}.

    Raises:
        UserError: no such file, or something else in it.
    """
    return {name: word == "accept" for name, word in _read_once(path, Verdicts).verdicts.items()}


def _read_once(path: str | Path, record: type[Record]) -> Record:
    """The record in a file that may not be there; a changed file is read anew."""
    wanted: Any = record
    return _read(str(path), sha256_file(path) if Path(path).is_file() else "", wanted)


@cache
def _read(path: str, checksum: str, record: Any) -> Any:
    return read_record(path, record)


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
    values: Values,
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
    best_first = sorted(passing, key=lambda item: -item.score)
    rank = {
        item.id: [other for other in best_first if other.style == item.style].index(item) for item in passing
    }
    accepted = {name for name, place in rank.items() if place < (keep_at_most_per_style or len(judged))}
    if not accepted:
        raise UserError(f"expected removals that pass filter.threshold={threshold:g}, got {_best_of(judged)}")
    return Selection(
        tuple(judged),
        tuple(item.id for item in judged if item.id in accepted),
        {item.id: TOO_MANY if item.id in rank else item.worst for item in judged if item.id not in accepted},
    )


def _best_of(judged: Sequence[Judged]) -> str:
    """What an empty selection came nearest to, and the threshold that keeps it."""
    if not judged:
        return "no removals at all"
    best = max(judged, key=lambda item: item.score)
    enough = math.floor(100 * best.score) / 100
    return f"a best score of {best.score:.3f} ({best.id}, {best.worst}); set filter.threshold={enough:g}" + (
        " or lower" if enough else ""
    )


def acceptance(selection: Selection) -> dict[str, float]:
    """Share of each style's removals that were kept."""
    kept = set(selection.accepted)
    total = Counter(item.style for item in selection.judged)
    good = Counter(item.style for item in selection.judged if item.id in kept)
    return {style: round(good[style] / total[style], 4) for style in sorted(total)}


def truth_report(selection: Selection, values: Values, good_db: float) -> dict[str, float | None] | None:
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


def bias_report(selection: Selection, values: Values) -> dict[str, dict[str, Any]]:
    """Does the filter keep what is easy to remove? Size, contrast and styles of the kept beside all."""
    style = {item.id: item.style for item in selection.judged}
    groups = {"accepted": list(selection.accepted), "all": list(values)}

    def beside(numbers: Mapping[str, float], digits: int = 6) -> dict[str, float]:
        return {
            group: round(sum(numbers[name] for name in names) / len(names), digits)
            for group, names in groups.items()
        }

    facts = {
        fact: {name: row["facts"][fact] for name, row in values.items()} for fact in ("size", "contrast")
    }
    shares = {
        one: {name: float(style[name] == one) for name in values} for one in sorted(set(style.values()))
    }
    return {
        **{fact: beside(numbers) for fact, numbers in facts.items()},
        "style": {one: beside(numbers, 4) for one, numbers in shares.items()},
    }


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


@dataclass(frozen=True)
class Term:
    """What one measurement says: standardised by `mean` and `spread`, times `weight`, its square times `square`."""

    weight: float
    square: float
    mean: float
    spread: float

    def __post_init__(self) -> None:
        if not self.spread > 0:
            raise UserError("a spread that is not above 0")


@dataclass(frozen=True)
class Quality:
    """A learned judge of removals: logistic regression on standardised measurements and their squares.

    RORem trains a discriminator on people's verdicts and lets it judge the rest (arXiv 2501.00740); with some dozens of
    verdicts a classifier of this size is what can be fitted.
    """

    bias: float
    terms: dict[str, Term]

    def __post_init__(self) -> None:
        if strange := set(self.terms) - set(MEASURES):
            raise UserError(f"measurements that do not exist ({', '.join(sorted(strange))})")

    def probability(self, measures: Measures) -> float:
        """That a person accepts the removal."""
        total = self.bias
        for name, term in self.terms.items():
            value = min(REACH, max(-REACH, (measures[name] - term.mean) / term.spread))
            total += term.weight * value + term.square * value * value
        return 1.0 / (1.0 + math.exp(-min(50.0, max(-50.0, total))))
