"""Metrics: from one sample (pictures, masks, embeddings) to the columns of its row, whatever method made it; what each
number of a row means and how it prints.

A metric is its columns and a function of a `Sample`. Those below are always measured; a further one is a `Metric` in a
file of its own, registered in `METRICS` or by an entry point of the group `magic_insert.metrics`, and measured with
`extra_metrics=[NAME]`. What cannot be had (no encoder, no truth, no pixel to judge) is left out, never filled with a
number. A value outside the columns is refused by name: a misspelt column must not vanish from a table.
Protocol: paper, section 5. Shapes: D embedding dimensions, H W pixels; pictures and masks are in [0, 1].
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from magic_insert.config.registry import METRICS
from magic_insert.core.compositing import resize
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import decibel, effect_of, effect_scores, iou, ssim
from magic_insert.core.images import as_levels
from magic_insert.core.masks import bounding_box, dilate
from magic_insert.data.benchmarks import IN_BOX, Truth

MARGIN = 0.5  # without a truth: how far an effect may reach from the subject, in its longer sides
TRUTH_MARGIN_PX = 2  # with a truth: a shadow's soft edge below the threshold of its mask
ENCODERS = ("DINO", "CLIP", "CSD")  # whose names the paper gave its columns
BY_ENCODER = ("subject", "style", "inside", "likeness")  # groups of columns that encoders fill
COSINE, SHARE, ANY = (-1.0, 1.0), (0.0, 1.0), (-math.inf, math.inf)
NOT_NEGATIVE = (0.0, math.inf)
Better = Literal["higher", "lower", "neither"]

# A perceptual distance: two batches B3HW in [0, 1] to B numbers, such as `models.encoders.Lpips`.
Distance = Callable[[Tensor, Tensor], Tensor]
Vectors = Mapping[str, Tensor]
Picture = Float[Tensor, "3 H W"]
Mask = Float[Tensor, "1 H W"]


@dataclass(frozen=True)
class Sample:
    """Everything of one row that a metric may look at; embeddings are by role: dino, dinov2, clip_i, clip_t, csd.

    `picture`: the redrawn subject or the composite, and `made` its embeddings; in a composite those of the subject's
    box. `subject`, `scene`, `answer`: embeddings of the reference subject, of the background, and of the true picture.
    `words` and `texts`: what the subject is ("simple", "detailed") and how the background is drawn ("style"), as text
    and as embeddings by clip_t. `background`, `mask`, `expected`, of insertions: the background's picture, coverage of
    the subject in the composite, and where the subject's own picture (with a truth: the true subject) would cover it.
    """

    track: str
    made: Vectors
    subject: Vectors
    scene: Vectors
    answer: Vectors = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    texts: Vectors = field(default_factory=dict)
    picture: Float[Tensor, "3 _ _"] | None = None
    background: Picture | None = None
    mask: Mask | None = None
    expected: Mask | None = None
    truth: Truth | None = None
    encoders: Mapping[str, Any] = field(default_factory=dict)
    lpips: Distance | None = None

    def insertion(self) -> tuple[Tensor, Tensor, Tensor]:
        """Composite, background and mask.

        Raises:
            UserError: they have different sizes.
        """
        assert self.picture is not None
        assert self.background is not None
        assert self.mask is not None
        _same_size(composite=self.picture, background=self.background, mask=self.mask)
        return self.picture, self.background, self.mask


@dataclass(frozen=True)
class Column:
    """`key` in the rows, `label` in tables, which way is `better`, `unit` ("" for plain numbers), printed `decimals`.

    No value can lie outside `bounds`.

    `group` is what the column speaks of: subject, style, image, background, inside, effect, likeness or truth.
    `primary` columns stand in the paired comparisons and in the breakdowns. `of_texts`: no value for what nobody put
    into words.
    """

    key: str
    label: str
    group: str
    better: Better = "higher"
    unit: str = ""
    decimals: int = 3
    primary: bool = False
    bounds: tuple[float, float] = COSINE
    of_texts: bool = False

    def judged_with(self, metrics: str) -> "Column":
        """The column as a set of encoders fills it: micro encoders play the roles of others, and the label says so."""
        if metrics != "micro" or self.group not in BY_ENCODER:
            return self
        role = " role" if any(name in self.label for name in ENCODERS) else ""
        return replace(self, label=f"{self.label}{role} (micro)")

    def gain(self, value: float) -> float:
        """`value` turned so that more is better."""
        return -value if self.better == "lower" else value

    @property
    def heading(self) -> str:
        """Label, direction and unit, as a table's head shows them."""
        arrow = {"higher": "↑", "lower": "↓", "neither": ""}[self.better]
        return " ".join(filter(None, (self.label, arrow, self.unit and f"[{self.unit}]")))

    def text(self, value: float) -> str:
        """The value as tables print it."""
        return f"{value:.{self.decimals}f}"


@dataclass(frozen=True)
class Metric:
    """`columns` of each track that it fills, and `values`: from a sample to those of them that can be had."""

    columns: Mapping[str, tuple[Column, ...]]
    values: Callable[[Sample], dict[str, float]]


def fills(**columns: tuple[Column, ...]) -> Callable[[Callable[[Sample], dict[str, float]]], Metric]:
    """The function below as a metric that fills these columns of each track, in the order of every table."""
    return lambda values: Metric(columns, values)


def cosine(first: Tensor, second: Tensor, column: str) -> float:
    """`<a, b> / (|a| |b|)` in [-1, 1], neither scaled by 100 nor clipped at 0.

    Raises:
        UserError: the embeddings are not finite, or one is zero; `column` is named.
    """
    norms = first.double().norm() * second.double().norm()
    if not (torch.isfinite(norms) and norms > 0):
        raise UserError(
            f"expected finite embeddings for {column}, got NaN, infinity or zeros; check the encoder's weights"
        )
    return float((first.double() @ second.double() / norms).clamp(-1, 1))


# Track stylize: the redrawn subject before insertion (paper, Tables 1 to 3)


@fills(
    stylize=(
        Column("subject_dino", "DINO", "subject"),
        Column("subject_clip_i", "CLIP-I", "subject"),
        Column("subject_clip_t_simple", "CLIP-T simple", "subject", of_texts=True),
        Column("subject_clip_t_detailed", "CLIP-T detailed", "subject", of_texts=True),
        Column("subject_mean", "subject mean", "subject", primary=True, of_texts=True),
        Column("subject_dinov2", "DINOv2", "subject"),
    )
)
def subject(sample: Sample) -> dict[str, float]:
    """Against the reference subject and the texts about it; `subject_mean` only when all four are there."""
    made, reference, texts = sample.made.get, sample.subject.get, sample.texts.get
    values = _cosines(
        subject_dino=(made("dino"), reference("dino")),
        subject_clip_i=(made("clip_i"), reference("clip_i")),
        subject_clip_t_simple=(made("clip_t"), texts("simple")),
        subject_clip_t_detailed=(made("clip_t"), texts("detailed")),
    )
    mean = {"subject_mean": sum(values.values()) / 4} if len(values) == 4 else {}
    return values | mean | _cosines(subject_dinov2=(made("dinov2"), reference("dinov2")))


@fills(
    stylize=(
        Column("style_clip_i", "style CLIP-I", "style"),
        Column("style_csd", "CSD", "style"),
        Column("style_clip_t", "style CLIP-T", "style", of_texts=True),
        Column("style_mean", "style mean", "style", primary=True, of_texts=True),
    )
)
def style(sample: Sample) -> dict[str, float]:
    """Against the background and the text about its style; `style_mean` only when all three are there."""
    made, scene = sample.made.get, sample.scene.get
    values = _cosines(
        style_clip_i=(made("clip_i"), scene("clip_i")),
        style_csd=(made("csd"), scene("csd")),
        style_clip_t=(made("clip_t"), sample.texts.get("style")),
    )
    return values | ({"style_mean": sum(values.values()) / 3} if len(values) == 3 else {})


@fills(stylize=(Column("image_reward", "ImageReward", "image", bounds=ANY),))
def image_reward(sample: Sample) -> dict[str, float]:
    """The reward of the picture for the simple text."""
    scorer = sample.encoders.get("image_reward")
    if scorer is None or sample.picture is None:
        return {}
    reward = scorer.score(sample.picture[None], [sample.words["simple"]])[0]
    return {"image_reward": _finite(float(reward), "image_reward")}


# Track insert: what an insertion kept of the background and what it put into it


def effect_region(mask: Mask, effect: Mask | None = None) -> Bool[Tensor, "1 H W"]:
    """Where an insertion of the subject `mask` may change the background; everything else is the outside.

    With the true `effect` it is subject and effect, grown by TRUTH_MARGIN_PX; without, the subject grown by MARGIN of
    the longer side of its box.

    Raises:
        UserError: the mask is empty.
    """
    box = bounding_box(mask, IN_BOX)
    if effect is not None:
        return dilate(torch.maximum((mask > 0).float(), (effect > 0).float()), TRUTH_MARGIN_PX) > 0
    return dilate((mask > 0).float(), round(MARGIN * max(box.w, box.h))) > 0


def subject_crop(image: Picture, mask: Mask) -> Float[Tensor, "3 s s"]:
    """The subject's box cut out of the picture, on a white square so that a centre crop loses nothing.

    Raises:
        UserError: the mask is empty.
    """
    box = bounding_box(mask, IN_BOX)
    side = max(box.w, box.h)
    top, left = (side - box.h) // 2, (side - box.w) // 2
    frame = (left, side - box.w - left, top, side - box.h - top)
    return functional.pad(image[box.pixels], frame, value=1.0)


@fills(
    insert=(
        Column("outside_psnr", "outside PSNR (mean)", "background", unit="dB", decimals=2, bounds=ANY),
        Column("outside_lpips", "outside LPIPS", "background", "lower", bounds=NOT_NEGATIVE),
        Column("outside_equal", "outside equal", "background", primary=True, bounds=SHARE),
        Column("outside_shift", "outside shift", "background", "lower", decimals=4, bounds=NOT_NEGATIVE),
    )
)
def background(sample: Sample) -> dict[str, float]:
    """How well the outside was kept; left out where the region covers the whole picture.

    The region is that of the method's own subject and the expected one together: a subject may stand where its method
    put it, and what it changes beyond that is damage. So it differs between methods that place the subject differently.
    `outside_lpips` is that of the picture with the region painted over by the background, `outside_equal` the share of
    pixels equal in all three 8-bit channels, `outside_shift` the root mean square over channels of the mean difference.
    """
    composite, scene, mask = sample.insertion()
    allowed = mask if sample.expected is None else torch.maximum(mask, sample.expected)
    outside = ~effect_region(allowed, None if sample.truth is None else sample.truth.effect)
    if not bool(outside.any()):
        return {}
    difference = (composite - scene)[:, outside[0]].double()
    values = {"outside_psnr": decibel(float(difference.square().mean()))}
    if sample.lpips is not None:
        kept = torch.where(outside, composite, scene)
        values["outside_lpips"] = _finite(float(sample.lpips(kept[None], scene[None])), "outside_lpips")
    equal = (as_levels(composite) == as_levels(scene)).all(dim=0)
    values["outside_equal"] = float(equal[outside[0]].double().mean())
    values["outside_shift"] = float(difference.mean(dim=1).square().mean().sqrt())
    return values


@fills(
    insert=(
        Column("inside_identity", "inside identity", "inside", primary=True),
        Column("inside_style", "inside style", "inside", primary=True),
    )
)
def inside(sample: Sample) -> dict[str, float]:
    """The subject in the composite: its identity against the reference subject, its style against the background."""
    made = sample.made.get
    return _cosines(
        inside_identity=(made("dino"), sample.subject.get("dino")),
        inside_style=(made("csd"), sample.scene.get("csd")),
    )


@fills(insert=(Column("effect_area", "effect area", "effect", "neither", bounds=SHARE),))
def effect(sample: Sample) -> dict[str, float]:
    """`effect_area`, the share of the picture that changed visibly beyond the subject."""
    composite, scene, mask = sample.insertion()
    return {"effect_area": float(effect_of(composite[None], scene[None], mask[None]).double().mean())}


# Both tracks, with a truth

TRUTH_COLUMNS = (
    Column("truth_psnr", "truth PSNR (mean)", "truth", unit="dB", decimals=2, primary=True, bounds=ANY),
    Column("truth_ssim", "truth SSIM", "truth"),
    Column("truth_lpips", "truth LPIPS", "truth", "lower", bounds=NOT_NEGATIVE),
    Column("truth_identity", "identity to truth", "likeness"),
    Column("truth_style", "style to truth", "likeness"),
)


@fills(stylize=TRUTH_COLUMNS, insert=TRUTH_COLUMNS)
def truth(sample: Sample) -> dict[str, float]:
    """How close the picture is to the one that should have come out, in pixels and by identity and style encoder."""
    if sample.truth is None or sample.picture is None:
        return {}
    image, answer = sample.picture, sample.truth.composite
    if sample.track == "stylize":
        answer = sample.truth.styled
        image = resize(image, *answer.shape[-2:])
    _same_size(image=image, truth=answer)
    values = {
        "truth_psnr": decibel(float((image.double() - answer.double()).square().mean())),
        "truth_ssim": _finite(ssim(image, answer), "truth_ssim"),
    }
    if sample.lpips is not None:
        values["truth_lpips"] = _finite(float(sample.lpips(image[None], answer[None])), "truth_lpips")
    made, wanted = sample.made.get, sample.answer.get
    return values | _cosines(
        truth_identity=(made("dino"), wanted("dino")), truth_style=(made("csd"), wanted("csd"))
    )


@fills(
    insert=(
        Column(
            "truth_effect_psnr", "truth effect PSNR (mean)", "truth", unit="dB", decimals=2, primary=True,
            bounds=ANY,
        ),
        Column("truth_rest_psnr", "truth rest PSNR (mean)", "truth", unit="dB", decimals=2, bounds=ANY),
        Column("truth_shadow_iou", "shadow IoU", "truth", bounds=SHARE),
        Column("truth_side", "sun side right", "truth", decimals=2, bounds=SHARE),
        Column("truth_contact", "contact", "effect", "neither", decimals=2, bounds=ANY),
        Column("truth_mask_iou", "mask IoU", "truth", bounds=SHARE),
    )
)  # fmt: skip
def shadow(sample: Sample) -> dict[str, float]:
    """Shadow, reflection and place against the truth: `core.fidelity.effect_scores`, and `truth_mask_iou` of the masks.

    What lies under either subject, the true one and the method's, counts for none of them.
    """
    if (answer := sample.truth) is None:
        return {}
    composite, scene, mask = sample.insertion()
    _same_size(
        composite=composite, truth=answer.composite, truth_mask=answer.mask, truth_effect=answer.effect
    )
    scores = effect_scores(
        composite, answer.composite, scene,
        effect=answer.effect, mask=answer.mask, covered=torch.maximum(mask, answer.mask),
    )  # fmt: skip
    values = {f"truth_{name}": value for name, value in scores.items()}
    return values | {"truth_mask_iou": iou(mask > 0.5, answer.mask > 0.5)}


def _cosines(**pairs: tuple[Tensor | None, Tensor | None]) -> dict[str, float]:
    return {
        column: cosine(one, other, column)
        for column, (one, other) in pairs.items()
        if one is not None and other is not None
    }


def _finite(value: float, column: str) -> float:
    if not math.isfinite(value):
        raise UserError(
            f"expected a finite {column}, got {value}; check the picture and the encoder's weights"
        )
    return value


def _same_size(**pictures: Tensor) -> None:
    sizes = {name: tuple(picture.shape[-2:]) for name, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {h} x {w}" for name, (h, w) in sizes.items())
        raise UserError(f"expected pictures of one size, got {found}; make them the background's size")


# Columns by name

# The two axes of the subject-style plot: for each, the first of these that has values.
AXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stylize": (
        ("subject_mean", "subject_dino", "subject_clip_i"),
        ("style_mean", "style_csd", "style_clip_i"),
    ),
    "insert": (("inside_identity",), ("inside_style",)),
}


def columns_of(track: str) -> tuple[Column, ...]:
    """The columns of `track` that are always measured, in the order of the tables."""
    return _columns(track, METRICS.own)


def columns_in(track: str, keys: Iterable[str]) -> list[Column]:
    """The columns of `track` among `keys`, in the order of the tables; further metrics only where a key asks for them.

    Raises:
        UserError: a key is no column of this track.
    """
    wanted, known = set(keys), columns_of(track)
    if wanted - {found.key for found in known}:
        known = (*known, *_columns(track, [name for name in METRICS.names() if name not in METRICS.own]))
    if strange := sorted(wanted - {found.key for found in known}):
        names = ", ".join(found.key for found in known)
        raise UserError(
            f"expected a column of the track {track} ({names}), got {strange[0]!r}; correct the rows, or install the "
            "package that measures it"
        )
    return [found for found in known if found.key in wanted]


def column(track: str, key: str) -> Column:
    """The column `key` of `track`.

    Raises:
        UserError: no such column.
    """
    return columns_in(track, [key])[0]


def _columns(track: str, metrics: Iterable[str]) -> tuple[Column, ...]:
    return tuple(found for name in metrics for found in METRICS.get(name).columns.get(track, ()))


def primary_columns(columns: Sequence[Column]) -> list[Column]:
    """Those of `columns` that stand for their group: the primary ones; all of a group that has no primary one here."""
    covered = {found.group for found in columns if found.primary}
    return [
        found
        for found in columns
        if found.primary or (found.group not in covered and found.better != "neither")
    ]


def axes_of(track: str, columns: Sequence[Column]) -> tuple[Column, Column] | None:
    """The columns of the subject-style plot among `columns`; None if a side has none."""
    by_key = {found.key: found for found in columns}
    sides = [next((by_key[key] for key in side if key in by_key), None) for side in AXES[track]]
    return (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None
