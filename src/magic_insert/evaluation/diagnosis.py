"""What went wrong where, and which metric deserves trust: readings of finished rows.

Diagnosis: the method's known ways to fail, named per result with the number that shows it and what to turn. A number is
judged by where it stands between a floor and a ceiling *of the same pair* (their mean over pairs where the pair itself
has none): 0 is the floor, 1 the ceiling. A result that stays in the lowest LOST of that span has lost what the column
measures. So the thresholds move with the encoder and with the subject, and an encoder whose floor and ceiling nearly
coincide accuses nobody. Encoders trained on the Toybox alone judge Toybox pictures only (`encoders_are_blind`). Two
numbers need no floor: a background that visibly changed (VISIBLE_DB and VISIBLE_SHIFT), because the right answer is the
background itself. Known failures: paper, sections 4 and 6 (identity, style, realism of the insertion are its raters'
three criteria) and the measured darkening and softening of the official results (about 29 dB and 4 to 13 grey levels).

Trust: how well each metric orders results as the truth would, where it is known, all turned so that more is better:
- `within`: Spearman's rank correlation over the pairs of one method, averaged over methods. Does it tell a method's
  good results from its bad ones?
- `pooled`: the same over all results of all methods together.
- `agreement`: of two methods on the same pair, how often does the metric prefer the one the truth prefers? One half is
  chance; a tie of the metric counts half, a tie of the truth is no question.
Floors and ceilings are left out: they are easy to tell apart and would flatter every metric.
Shapes: N results, R draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from magic_insert.evaluation.rows import COSINE, Column, column
from magic_insert.evaluation.statistics import (
    Array,
    Estimate,
    Row,
    draw_weights,
    grouped,
    kind_of,
    mean_interval,
    present_columns,
    stretched,
)

TRUST_DRAWS = 500
CHUNK = 64
LOST = 0.25
COPIED = 0.75
VISIBLE_DB = 40.0
VISIBLE_SHIFT = 1 / 255
NO_EFFECT = 0.002  # share of the picture: a fifteenth of the usual shadow, below which no eye finds it
MISPLACED_IOU = 0.1
MIN_SPAN = (
    0.05  # a floor and a ceiling closer than this say nothing: a photograph on a photograph, a weak encoder
)

IDENTITY = ("subject_dino", "subject_dinov2", "subject_clip_i")
STYLE = ("style_csd", "style_clip_i")
NOBODY = ("floor:random_subject", "floor:background")
PASTED = ("floor:copy_paste",)
BEST = ("ceiling:truth", "ceiling:self")


@dataclass(frozen=True)
class Finding:
    """One failure of one result. `severity` in [0, 1], 1 is worst; `evidence` is a sentence with the number."""

    track: str
    method: str
    pair_id: str
    seed: int
    signature: str
    severity: float
    evidence: str
    turn: str


@dataclass(frozen=True)
class Place:
    """Where a value stands: `share` of the way from `floor` to `ceiling`."""

    column: Column
    value: float
    floor: float
    ceiling: float

    @property
    def share(self) -> float:
        """0 at the floor, 1 at the ceiling; may lie outside."""
        return (self.value - self.floor) / (self.ceiling - self.floor)

    @property
    def sentence(self) -> str:
        """The number and its frame."""
        text = self.column.text
        return (
            f"{self.column.label} {text(self.value)}, {self.share:.0%} of the way from "
            f"{text(self.floor)} (floor) to {text(self.ceiling)} (ceiling)"
        )


class References:
    """Values of the floors and ceilings of one track, per pair where there are such rows, else their mean."""

    def __init__(self, rows: Sequence[Row], track: str, facts: Mapping[str, Any]) -> None:
        self._metrics = str(facts.get("metrics"))
        self._blind = encoders_are_blind(facts)
        self._of_pair: dict[tuple[str, str, str], list[float]] = {}
        self._of_all: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if row["track"] != track or kind_of(row["method"]) == "method":
                continue
            for key, value in row["values"].items():
                self._of_pair.setdefault((row["method"], row["pair_id"], key), []).append(value)
                self._of_all.setdefault((row["method"], key), []).append(value)

    def value(self, methods: Sequence[str], pair_id: str, key: str) -> float | None:
        """The column `key` of the first of `methods` that has it; None if none has."""
        for method in methods:
            found = self._of_pair.get((method, pair_id, key)) or self._of_all.get((method, key))
            if found:
                return sum(found) / len(found)
        return None

    def place(
        self, row: Row, keys: Sequence[str], floors: Sequence[str], ceilings: Sequence[str]
    ) -> Place | None:
        """Where `row` stands in the first of `keys` that it has, which an encoder made.

        None without a floor clearly below a ceiling, and where the encoders know nothing.
        """
        key = next((key for key in keys if key in row["values"]), None)
        if key is None or self._blind:
            return None
        floor, ceiling = (self.value(names, row["pair_id"], key) for names in (floors, ceilings))
        if floor is None or ceiling is None or ceiling - floor < MIN_SPAN:
            return None
        return Place(column(row["track"], key).judged_with(self._metrics), row["values"][key], floor, ceiling)


# What a check returns: severity and evidence, or None if the result does not fail this way (or cannot be judged).
Verdict = tuple[float, str] | None


@dataclass(frozen=True)
class Signature:
    """A known failure: its name, the track it is seen in, what finds it, and what to turn.

    `by_encoder`: whether it is found by embeddings; without, by pixels.
    """

    name: str
    track: str
    check: Callable[[Row, References], Verdict]
    turn: str
    by_encoder: bool = True


def _short(place: Place | None) -> Verdict:
    if place is None or place.share >= LOST:
        return None
    return min(1.0, 1 - place.share / LOST), place.sentence


def identity_lost(row: Row, references: References) -> Verdict:
    """The subject is hardly nearer to its reference than a stranger is."""
    return _short(references.place(row, IDENTITY, NOBODY, BEST))


def style_mismatch(row: Row, references: References) -> Verdict:
    """The subject kept its own style: hardly nearer to the background's than the bare photograph, and not a copy."""
    return None if pasted_subject(row, references) else _short(references.place(row, STYLE, PASTED, BEST))


def pasted_subject(row: Row, references: References) -> Verdict:
    """The reference was copied, style and all: style at the floor of copy-paste, identity near its height."""
    style = _short(references.place(row, STYLE, PASTED, BEST))
    identity = references.place(row, IDENTITY, NOBODY, PASTED)
    if style is None or identity is None or identity.share <= COPIED:
        return None
    copied = f"{identity.column.label} {identity.column.text(identity.value)}, {identity.share:.0%} of a plain copy"
    return style[0], f"{style[1]}; {copied}"


def inside_identity_lost(row: Row, references: References) -> Verdict:
    """Inside the composite the subject is hardly nearer to its reference than the bare background is."""
    return _short(references.place(row, ("inside_identity",), NOBODY, BEST))


def pasted_look(row: Row, references: References) -> Verdict:
    """Inside the composite the subject's style is hardly nearer to the background's than the pasted photograph's."""
    return _short(references.place(row, ("inside_style",), PASTED, BEST))


def background_changed(row: Row, references: References) -> Verdict:
    """Pixels that the subject cannot have touched are visibly not the background's."""
    del references  # the right answer is the background itself
    level, shift = row["values"].get("outside_psnr"), row["values"].get("outside_shift", 0.0)
    if level is None or (level >= VISIBLE_DB and shift <= VISIBLE_SHIFT):
        return None
    severity = max((VISIBLE_DB - level) / 20, (shift - VISIBLE_SHIFT) * 255 / 12)
    return (
        min(1.0, max(0.0, severity)),
        f"outside PSNR {level:.1f} dB (below {VISIBLE_DB:.0f} is visible), shift {shift * 255:.1f} grey levels",
    )


def missing_shadow(row: Row, references: References) -> Verdict:
    """The picture beside the subject hardly changed, although the true one has a shadow or a reflection there."""
    area = row["values"].get("effect_area")
    wanted = references.value(("ceiling:truth",), row["pair_id"], "effect_area")
    if area is None or (wanted is not None and wanted < NO_EFFECT):
        return None
    least = NO_EFFECT if wanted is None else LOST * wanted
    if area >= least:
        return None
    against = f"below {least:.2%}" if wanted is None else f"the truth has {wanted:.2%}"
    return 1 - area / least, f"effect on {area:.2%} of the picture, {against}"


def misplaced_shadow(row: Row, references: References) -> Verdict:
    """There is an effect, but hardly any of it lies where the true one does."""
    overlap = row["values"].get("truth_shadow_iou")
    if overlap is None or overlap >= MISPLACED_IOU or missing_shadow(row, references):
        return None
    if row["values"].get("effect_area", 0.0) < NO_EFFECT:
        return None
    return 1 - overlap / MISPLACED_IOU, f"shadow IoU {overlap:.2f} (below {MISPLACED_IOU})"


SIGNATURES = (
    Signature(
        "identity lost", "stylize", identity_lost,
        "more personalization.steps or a higher personalization.lr_unet and rank; lower style.scale; "
        "stylizer=personalized_canny where the pose may stay",
    ),
    Signature(
        "style mismatch", "stylize", style_mismatch,
        "raise style.scale, style.degree or style.guidance; style.blocks=all; name the style in style.prompt; "
        "fewer personalization.steps",
    ),
    Signature(
        "copied, not redrawn", "stylize", pasted_subject,
        "fewer personalization.steps or a lower personalization.lr_unet (the subject is overlearned); "
        "raise style.scale",
    ),
    Signature(
        "identity lost in the picture", "insert", inside_identity_lost,
        "look at the stylize track of the pair first; a larger box; inserter.steps up; inserter.name=bootstrapped",
    ),
    Signature(
        "pasted look", "insert", pasted_look,
        "look at the stylize track of the pair first: raise style.scale; then inserter.name=bootstrapped",
    ),
    Signature(
        "background changed", "insert", background_changed,
        "raise inserter.threshold; lower inserter.reach; inserter.reference=vae: only the effect may change pixels",
        by_encoder=False,
    ),
    Signature(
        "missing shadow", "insert", missing_shadow,
        "inserter.name=bootstrapped inserter.run=FOLDER for drawings; lower inserter.threshold; raise inserter.reach",
        by_encoder=False,
    ),
    Signature(
        "misplaced shadow", "insert", misplaced_shadow,
        "raise inserter.steps; inserter.reference=unmasked; more bootstrap rounds for this style",
        by_encoder=False,
    ),
)  # fmt: skip


def encoders_are_blind(facts: Mapping[str, Any]) -> bool:
    """Whether the pictures are of a world that the encoders never saw: micro encoders, and no Toybox benchmark."""
    benchmark = str(facts.get("benchmark", {}).get("name"))
    return facts.get("metrics") == "micro" and not benchmark.startswith("toyplop")


def signatures_of(track: str, facts: Mapping[str, Any]) -> list[Signature]:
    """The failures that can be found in `track`: those that need an encoder only where the encoders know the world."""
    blind = encoders_are_blind(facts)
    return [s for s in SIGNATURES if s.track == track and not (s.by_encoder and blind)]


def diagnose(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[Finding]:
    """Every failure of every method's result, the worst first. Floors and ceilings are not accused."""
    references = {track: References(rows, track, facts) for track in {row["track"] for row in rows}}
    found = []
    for row in rows:
        if kind_of(row["method"]) != "method":
            continue
        for signature in signatures_of(row["track"], facts):
            verdict = signature.check(row, references[row["track"]])
            if verdict is not None:
                found.append(
                    Finding(
                        row["track"], row["method"], row["pair_id"], row["seed"], signature.name,
                        round(verdict[0], 4), verdict[1], signature.turn,
                    )
                )  # fmt: skip
    return sorted(found, key=lambda f: (-f.severity, f.track, f.method, f.pair_id, f.seed, f.signature))


def shares(
    rows: Sequence[Row], findings: Sequence[Finding], facts: Mapping[str, Any]
) -> Mapping[tuple[str, str, str], tuple[int, int]]:
    """By track, method and signature: how many of the method's results fail this way, out of how many."""
    totals: dict[tuple[str, str], int] = {}
    for row in rows:
        if kind_of(row["method"]) == "method":
            totals[row["track"], row["method"]] = totals.get((row["track"], row["method"]), 0) + 1
    failed = {
        (track, method, signature.name): (0, total)
        for (track, method), total in totals.items()
        for signature in signatures_of(track, facts)
    }
    for finding in findings:
        key = (finding.track, finding.method, finding.signature)
        failed[key] = (failed[key][0] + 1, failed[key][1])
    return failed


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


def trust(
    rows: Sequence[Row], track: str, facts: Mapping[str, Any], *, seed: int = 0, draws: int = TRUST_DRAWS
) -> list[Trust]:
    """Every metric of `track` against every truth column, in the order of the tables; constant columns are left out."""
    chosen = [row for row in rows if row["track"] == track and kind_of(row["method"]) == "method"]
    metrics = str(facts.get("metrics"))
    columns = [
        column.judged_with(metrics)
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
    rows: Sequence[Row], metric: Column, truth: Column, *, seed: int = 0, draws: int = TRUST_DRAWS
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
        clusters_of = (tuple(row[axis] for row in part) for axis in ("subject", "background"))
        weights, fewest = draw_weights(*clusters_of, seed=seed, draws=draws)
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
