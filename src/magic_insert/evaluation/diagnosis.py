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

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from magic_insert.evaluation import statistics
from magic_insert.evaluation.metrics import COSINE, Column, column

TRUST_DRAWS = 500
TRUST_PAIRS = 4  # of fewer pairs every interval spans everything
CHUNK = 64
LOST = 0.25
COPIED = 0.75
VISIBLE_DB = 40.0
VISIBLE_SHIFT = 1 / 255
NO_EFFECT = 0.002  # share of the picture: a fifteenth of the usual shadow, below which no eye finds it
MISPLACED_IOU = 0.1
# A floor and a ceiling closer than this say nothing: a photograph on a photograph, a weak encoder.
MIN_SPAN = 0.05

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


# Severity and evidence, or None if the result does not fail this way (or cannot be judged).
Verdict = tuple[float, str] | None
# Share of the way from floor (0) to ceiling (1), which it may leave, and a sentence with the number and its frame.
Place = tuple[float, str] | None


class References:
    """Values of the floors and ceilings of one track, per pair where there are such rows, else their mean."""

    def __init__(self, frame: pd.DataFrame, track: str, metrics: str) -> None:
        self.track, self.metrics = track, metrics
        given = frame[frame["kind"] != "method"]
        self.keys = [key for key in frame.columns if key not in ("kind", *statistics.ABOUT)]
        self.of_pair = given.groupby(["method", "pair_id"])[self.keys].mean().to_dict("index")
        self.of_all = given.groupby("method")[self.keys].mean().to_dict("index")

    def value(self, methods: Sequence[str], pair_id: str, key: str) -> float | None:
        """The column `key` of the first of `methods` that has it; None if none has."""
        for method in methods:
            for found in (self.of_pair.get((method, pair_id), {}), self.of_all.get(method, {})):
                if not pd.isna(found.get(key)):
                    return float(found[key])
        return None


@dataclass(frozen=True)
class Result:
    """One result, its `values` by column, among the floors and ceilings of its track."""

    pair_id: str
    values: Mapping[str, float]
    references: References

    def place(self, keys: Sequence[str], floors: Sequence[str], ceilings: Sequence[str]) -> Place:
        """Where it stands in the first of `keys` that it has; None without a floor clearly below a ceiling."""
        key = next((key for key in keys if key in self.values), None)
        if key is None:
            return None
        floor, ceiling = (self.references.value(names, self.pair_id, key) for names in (floors, ceilings))
        if floor is None or ceiling is None or ceiling - floor < MIN_SPAN:
            return None
        found = column(self.references.track, key).judged_with(self.references.metrics)
        value, low, high = (found.text(number) for number in (self.values[key], floor, ceiling))
        share = (self.values[key] - floor) / (ceiling - floor)
        return share, f"{found.label} {value}, {share:.0%} of the way from {low} (floor) to {high} (ceiling)"


def _short(place: Place) -> Verdict:
    if place is None or place[0] >= LOST:
        return None
    return min(1.0, 1 - place[0] / LOST), place[1]


def pasted_subject(result: Result) -> Verdict:
    """The reference was copied, style and all: style at the floor of copy-paste, identity near its height."""
    style = _short(result.place(STYLE, PASTED, BEST))
    identity = result.place(IDENTITY, NOBODY, PASTED)
    if style is None or identity is None or identity[0] <= COPIED:
        return None
    return style[0], f"{style[1]}; {identity[1]}"


def background_changed(result: Result) -> Verdict:
    """Pixels that the subject cannot have touched are visibly not the background's."""
    level, shift = result.values.get("outside_psnr"), result.values.get("outside_shift", 0.0)
    if level is None or (level >= VISIBLE_DB and shift <= VISIBLE_SHIFT):
        return None
    severity = max((VISIBLE_DB - level) / 20, (shift - VISIBLE_SHIFT) * 255 / 12)
    evidence = f"outside PSNR {level:.1f} dB (below {VISIBLE_DB:.0f} is visible), shift {shift * 255:.1f} grey levels"
    return min(1.0, max(0.0, severity)), evidence


def missing_shadow(result: Result) -> Verdict:
    """The picture beside the subject hardly changed, although the true one has a shadow or a reflection there."""
    area = result.values.get("effect_area")
    wanted = result.references.value(("ceiling:truth",), result.pair_id, "effect_area")
    if area is None or (wanted is not None and wanted < NO_EFFECT):
        return None
    least = NO_EFFECT if wanted is None else LOST * wanted
    if area >= least:
        return None
    against = f"below {least:.2%}" if wanted is None else f"the truth has {wanted:.2%}"
    return 1 - area / least, f"effect on {area:.2%} of the picture, {against}"


def misplaced_shadow(result: Result) -> Verdict:
    """There is an effect, but hardly any of it lies where the true one does."""
    overlap, area = result.values.get("truth_shadow_iou"), result.values.get("effect_area", 0.0)
    if overlap is None or overlap >= MISPLACED_IOU or area < NO_EFFECT or missing_shadow(result):
        return None
    return 1 - overlap / MISPLACED_IOU, f"shadow IoU {overlap:.2f} (below {MISPLACED_IOU})"


@dataclass(frozen=True)
class Signature:
    """A known failure: its name, the track it is seen in, what finds it, and what to turn.

    `by_encoder`: whether it is found by embeddings; without, by pixels.
    """

    name: str
    track: str
    check: Callable[[Result], Verdict]
    turn: str
    by_encoder: bool = True


SIGNATURES = (
    # The subject is hardly nearer to its reference than a stranger is.
    Signature(
        "identity lost", "stylize", lambda result: _short(result.place(IDENTITY, NOBODY, BEST)),
        "more personalization.steps or a higher personalization.lr_unet and rank; lower style.scale; "
        "stylizer=personalized_canny where the pose may stay",
    ),
    # The subject kept its own style: hardly nearer to the background's than the bare photograph, and not a copy.
    Signature(
        "style mismatch", "stylize",
        lambda result: None if pasted_subject(result) else _short(result.place(STYLE, PASTED, BEST)),
        "raise style.scale, style.degree or style.guidance; style.blocks=all; name the style in style.prompt; "
        "fewer personalization.steps",
    ),
    Signature(
        "copied, not redrawn", "stylize", pasted_subject,
        "fewer personalization.steps or a lower personalization.lr_unet (the subject is overlearned); "
        "raise style.scale",
    ),
    # Inside the composite the subject is hardly nearer to its reference than the bare background is.
    Signature(
        "identity lost in the picture", "insert",
        lambda result: _short(result.place(("inside_identity",), NOBODY, BEST)),
        "look at the stylize track of the pair first; a larger box; inserter.steps up; inserter.name=bootstrapped",
    ),
    # Inside the composite the subject's style is hardly nearer to the background's than the pasted photograph's.
    Signature(
        "pasted look", "insert", lambda result: _short(result.place(("inside_style",), PASTED, BEST)),
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


def diagnose(frame: pd.DataFrame, track: str, facts: Mapping[str, Any]) -> list[Finding]:
    """Every failure of every method's result in `track`, the worst first. Floors and ceilings are not accused."""
    references, found = References(frame, track, str(facts.get("metrics"))), []
    for row in frame[frame["kind"] == "method"].to_dict("records"):
        values = {key: row[key] for key in references.keys if not pd.isna(row[key])}
        result = Result(row["pair_id"], values, references)
        about = (track, row["method"], row["pair_id"], row["seed"])
        for signature in signatures_of(track, facts):
            if (verdict := signature.check(result)) is not None:
                severity, evidence = round(verdict[0], 4), verdict[1]
                found.append(Finding(*about, signature.name, severity, evidence, signature.turn))
    return sorted(found, key=lambda f: (-f.severity, f.method, f.pair_id, f.seed, f.signature))


def shares(
    frame: pd.DataFrame, track: str, findings: Sequence[Finding], facts: Mapping[str, Any]
) -> Mapping[tuple[str, str], tuple[int, int]]:
    """By method and signature: how many of the method's results fail this way, out of how many."""
    failed = Counter((finding.method, finding.signature) for finding in findings)
    totals = frame.loc[frame["kind"] == "method", "method"].value_counts(sort=False)
    names = [signature.name for signature in signatures_of(track, facts)]
    return {(m, name): (failed[m, name], int(total)) for m, total in totals.items() for name in names}


@dataclass(frozen=True)
class Trust:
    """How far `metric` may be believed about `truth`; an answer is None where nothing varies or nobody can disagree."""

    metric: Column
    truth: Column
    within: statistics.Estimate | None
    pooled: statistics.Estimate | None
    agreement: statistics.Estimate | None


def weighted_ranks(values: statistics.Array, weights: statistics.Array) -> statistics.Array:
    """Middle ranks of N `values` in each of R samples in which value i occurs `weights[r, i]` times (R x N)."""
    distinct, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    last = np.searchsorted(group[order], np.arange(len(distinct)), side="right") - 1
    upto = np.cumsum(weights[:, order], 1)[:, last]
    counts = np.diff(upto, axis=1, prepend=0.0)
    return (upto - counts + (counts + 1) / 2)[:, group]


def weighted_spearman(
    one: statistics.Array, other: statistics.Array, weights: statistics.Array
) -> statistics.Array:
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


def trust(frame: pd.DataFrame, track: str, facts: Mapping[str, Any], *, seed: int = 0) -> list[Trust]:
    """Every metric of `track` against every truth column, in the order of the tables; constant columns are left out.

    Empty for fewer than TRUST_PAIRS pairs.
    """
    methods = frame[frame["kind"] == "method"].dropna(axis=1, how="all")
    if methods["pair_id"].nunique() < TRUST_PAIRS:
        return []
    columns = [
        column.judged_with(str(facts.get("metrics")))
        for column in statistics.present_columns(methods, track)
        if column.better != "neither" and methods[column.key].nunique() > 1
    ]
    truths = [column for column in columns if column.group == "truth"]
    metrics = [column for column in columns if column.group != "truth"]
    return [trust_of(methods, metric, truth, seed=seed) for metric in metrics for truth in truths]


def trust_of(frame: pd.DataFrame, metric: Column, truth: Column, *, seed: int = 0) -> Trust:
    """`metric` against `truth` on those rows of methods that have both."""
    both = frame.dropna(subset=[metric.key, truth.key])
    both = both.assign(found=metric.gain(1.0) * both[metric.key], true=truth.gain(1.0) * both[truth.key])
    per_method = [part for _, part in both.groupby("method", sort=False)]
    within, pooled = (_correlation(groups, seed) for groups in (per_method, [both]))
    return Trust(metric, truth, within, pooled, _agreement(both, seed))


def _correlation(groups: Sequence[pd.DataFrame], seed: int) -> statistics.Estimate | None:
    """The mean over `groups` of the correlation inside each; the groups share their draws of clusters."""
    points, replicates, clusters, count = [], [], [], 0
    for part in groups:
        found, true = (part[name].to_numpy(np.float64) for name in ("found", "true"))
        point = weighted_spearman(found, true, np.ones((1, len(part))))[0] if len(part) >= 3 else np.nan
        if not np.isfinite(point):
            continue
        clusters_of = tuple(part["subject"]), tuple(part["background"])
        weights, fewest = statistics.draw_weights(*clusters_of, seed=seed, draws=TRUST_DRAWS)
        chunks = [weights[i : i + CHUNK] for i in range(0, TRUST_DRAWS, CHUNK)]
        points.append(float(point))
        replicates.append(np.concatenate([weighted_spearman(found, true, chunk) for chunk in chunks]))
        clusters.append(fewest)
        count += len(part)
    if not points:
        return None
    point = float(np.mean(points))
    ends = statistics.stretched(point, np.mean(replicates, 0), min(clusters))
    return statistics.Estimate(point, *ends, count).within(COSINE)


def _agreement(both: pd.DataFrame, seed: int) -> statistics.Estimate | None:
    index = ["pair_id", "seed", "subject", "background"]
    found, true = (both.pivot(index=index, columns="method", values=name) for name in ("found", "true"))
    votes = []
    for one, other in combinations(statistics.methods_of(both), 2):
        lead, wanted = (np.sign(wide[one] - wide[other]).dropna() for wide in (found, true))
        asked = wanted != 0
        votes.append(((1 + lead * wanted) / 2)[asked])
    if not votes or (answers := pd.concat(votes)).empty:
        return None
    subjects, backgrounds = (answers.index.get_level_values(name) for name in ("subject", "background"))
    estimate = statistics.mean_interval(answers.to_numpy(), list(subjects), list(backgrounds), seed=seed)
    # Several questions about one pair are no further trials.
    return estimate.no_narrower_than_exact(len(set(zip(subjects, backgrounds, strict=True))))
