"""The method's known ways to fail, named per result with the number that says so and what to turn.

A number is judged by where it stands between a floor and a ceiling *of the same pair* (their mean over pairs where the
pair itself has none): 0 is the floor, 1 the ceiling. A result that stays in the lowest LOST of that span has lost what
the column measures. So the thresholds move with the encoder and with the subject, and a weak encoder, whose floor and
ceiling nearly coincide, accuses nobody. Two numbers need no floor: a background that visibly changed (VISIBLE_DB and
VISIBLE_SHIFT), because the right answer is the background itself.

Known failures: paper, sections 4 and 6 (identity, style, realism of the insertion are its raters' three criteria) and
the measured darkening and softening of the official results (about 29 dB and 4 to 13 grey levels).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from magic_insert.evaluation.columns import Column, column
from magic_insert.evaluation.compare import Row, kind_of

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

    def __init__(self, rows: Sequence[Row], track: str) -> None:
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
        """Where `row` stands in the first of `keys` that it has; None without a floor clearly below a ceiling."""
        key = next((key for key in keys if key in row["values"]), None)
        if key is None:
            return None
        floor, ceiling = (self.value(names, row["pair_id"], key) for names in (floors, ceilings))
        if floor is None or ceiling is None or ceiling - floor < MIN_SPAN:
            return None
        return Place(column(row["track"], key), row["values"][key], floor, ceiling)


# What a check returns: severity and evidence, or None if the result does not fail this way (or cannot be judged).
Verdict = tuple[float, str] | None


@dataclass(frozen=True)
class Signature:
    """A known failure: its name, the track it is seen in, what finds it, and what to turn."""

    name: str
    track: str
    check: Callable[[Row, References], Verdict]
    turn: str


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
    ),
    Signature(
        "missing shadow", "insert", missing_shadow,
        "inserter.name=bootstrapped inserter.run=FOLDER for drawings; lower inserter.threshold; raise inserter.reach",
    ),
    Signature(
        "misplaced shadow", "insert", misplaced_shadow,
        "raise inserter.steps; inserter.reference=unmasked; more bootstrap rounds for this style",
    ),
)  # fmt: skip


def diagnose(rows: Sequence[Row]) -> list[Finding]:
    """Every failure of every method's result, the worst first. Floors and ceilings are not accused."""
    references = {track: References(rows, track) for track in {row["track"] for row in rows}}
    found = []
    for row in rows:
        if kind_of(row["method"]) != "method":
            continue
        for signature in SIGNATURES:
            if signature.track != row["track"]:
                continue
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
    rows: Sequence[Row], findings: Sequence[Finding]
) -> Mapping[tuple[str, str, str], tuple[int, int]]:
    """By track, method and signature: how many of the method's results fail this way, out of how many."""
    totals: dict[tuple[str, str], int] = {}
    for row in rows:
        if kind_of(row["method"]) == "method":
            totals[row["track"], row["method"]] = totals.get((row["track"], row["method"]), 0) + 1
    failed = {
        (track, method, signature.name): (0, total)
        for (track, method), total in totals.items()
        for signature in SIGNATURES
        if signature.track == track
    }
    for finding in findings:
        key = (finding.track, finding.method, finding.signature)
        failed[key] = (failed[key][0] + 1, failed[key][1])
    return failed
