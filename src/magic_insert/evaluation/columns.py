"""The columns of both tracks, in the order of every table: what each number means, which way is better, how it prints.

A value outside these columns is refused by name: a misspelt column must not vanish from a table.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from magic_insert.core.errors import UserError

TRACKS = ("stylize", "insert")
COSINE, SHARE, ANY = (-1.0, 1.0), (0.0, 1.0), (-math.inf, math.inf)
NOT_NEGATIVE = (0.0, math.inf)
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Column:
    """`key` in the rows, `label` in tables, which way is `better`, `unit` ("" for plain numbers), printed `decimals`.

    No value can lie outside `bounds`.

    `group` is what the column speaks of: subject, style, image, background, inside, effect or truth. `primary` columns
    stand in the paired comparisons and in the breakdowns. `of_texts`: no value for what nobody put into words.
    """

    key: str
    label: str
    group: str
    better: Better
    unit: str
    decimals: int
    primary: bool = False
    bounds: tuple[float, float] = COSINE
    of_texts: bool = False

    @property
    def arrow(self) -> str:
        """The direction as a sign for a table head."""
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]

    def gain(self, value: float) -> float:
        """`value` turned so that more is better."""
        return -value if self.better == "lower" else value

    @property
    def heading(self) -> str:
        """Label, direction and unit, as a table's head shows them."""
        return " ".join(
            part for part in (self.label, self.arrow, f"[{self.unit}]" if self.unit else "") if part
        )

    def text(self, value: float) -> str:
        """The value as tables print it."""
        return f"{value:.{self.decimals}f}"


COLUMNS: dict[str, tuple[Column, ...]] = {
    "stylize": (
        Column("subject_dino", "DINO", "subject", "higher", "", 3),
        Column("subject_clip_i", "CLIP-I", "subject", "higher", "", 3),
        Column("subject_clip_t_simple", "CLIP-T simple", "subject", "higher", "", 3, of_texts=True),
        Column("subject_clip_t_detailed", "CLIP-T detailed", "subject", "higher", "", 3, of_texts=True),
        Column("subject_mean", "subject mean", "subject", "higher", "", 3, primary=True, of_texts=True),
        Column("subject_dinov2", "DINOv2", "subject", "higher", "", 3),
        Column("style_clip_i", "style CLIP-I", "style", "higher", "", 3),
        Column("style_csd", "CSD", "style", "higher", "", 3),
        Column("style_clip_t", "style CLIP-T", "style", "higher", "", 3, of_texts=True),
        Column("style_mean", "style mean", "style", "higher", "", 3, primary=True, of_texts=True),
        Column("image_reward", "ImageReward", "image", "higher", "", 3, bounds=ANY),
        Column("truth_psnr", "truth PSNR", "truth", "higher", "dB", 2, primary=True, bounds=ANY),
        Column("truth_ssim", "truth SSIM", "truth", "higher", "", 3),
        Column("truth_lpips", "truth LPIPS", "truth", "lower", "", 3, bounds=NOT_NEGATIVE),
    ),
    "insert": (
        Column("outside_psnr", "outside PSNR", "background", "higher", "dB", 2, bounds=ANY),
        Column("outside_lpips", "outside LPIPS", "background", "lower", "", 3, bounds=NOT_NEGATIVE),
        Column("outside_equal", "outside equal", "background", "higher", "", 3, primary=True, bounds=SHARE),
        Column("outside_shift", "outside shift", "background", "lower", "", 4, bounds=NOT_NEGATIVE),
        Column("inside_identity", "inside identity", "inside", "higher", "", 3, primary=True),
        Column("inside_style", "inside style", "inside", "higher", "", 3, primary=True),
        Column("effect_area", "effect area", "effect", "neither", "", 3, bounds=SHARE),
        Column("truth_psnr", "truth PSNR", "truth", "higher", "dB", 2, primary=True, bounds=ANY),
        Column("truth_ssim", "truth SSIM", "truth", "higher", "", 3),
        Column("truth_lpips", "truth LPIPS", "truth", "lower", "", 3, bounds=NOT_NEGATIVE),
        Column(
            "truth_effect_psnr", "truth effect PSNR", "truth", "higher", "dB", 2, primary=True, bounds=ANY
        ),
        Column("truth_shadow_iou", "shadow IoU", "truth", "higher", "", 3, bounds=SHARE),
        Column("truth_mask_iou", "mask IoU", "truth", "higher", "", 3, bounds=SHARE),
    ),
}
# The two axes of the subject-style plot: for each, the first of these that has values.
AXES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stylize": (
        ("subject_mean", "subject_dino", "subject_clip_i"),
        ("style_mean", "style_csd", "style_clip_i"),
    ),
    "insert": (("inside_identity",), ("inside_style",)),
}


def column(track: str, key: str) -> Column:
    """The column `key` of `track`.

    Raises:
        UserError: no such track or column.
    """
    for found in columns_of(track):
        if found.key == key:
            return found
    keys = ", ".join(found.key for found in columns_of(track))
    raise UserError(f"expected a column of the track {track} ({keys}), got {key!r}; correct the rows")


def columns_of(track: str) -> tuple[Column, ...]:
    """All columns of `track` in the order of the tables.

    Raises:
        UserError: no such track.
    """
    if track not in COLUMNS:
        raise UserError(f"expected a track of {', '.join(TRACKS)}, got {track!r}; correct the rows")
    return COLUMNS[track]


def columns_in(track: str, keys: Iterable[str]) -> list[Column]:
    """The columns of `track` among `keys`, in the order of the tables.

    Raises:
        UserError: a key is no column of this track.
    """
    present = set(keys)
    for key in sorted(present):
        column(track, key)
    return [found for found in columns_of(track) if found.key in present]


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
