"""A subject that is itself a drawing, in style A, into scenes of style B: all pairs of the Toybox's styles.

    python experiments/012-cross-style-matrix/measure.py --out runs/012
    python experiments/012-cross-style-matrix/measure.py --out runs/012 --figure-only

A subject in one of six A is personalised once and redrawn for one scene in every B. Judged is what is inserted: the
cut-out on white against the cut-out of the truth, the Toybox's drawing of the subject in B. Methods: `personalized`;
`tone`, the subject's own pixels in the scene's palette; `nothing`, its own pixels; and on some B only, `handover 0.4`
(photographs) and `no outline`. "As drawn" is the model's own drawing of the same sampling, without the subject's
detail. What rows.jsonl holds is not drawn again.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
import common

from magic_insert import MagicInsert
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Scene, Subject
from magic_insert.data.subject_images import place
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES, draw, style_phrase
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_subjects

HERE = Path(__file__).resolve().parent
PRODUCT = ",".join([*common.AS_PASTED, "sampling.steps=12"])  # of 25: half of the time
AS_DRAWN = ", as drawn"  # of a method: the same sampling without the subject's own detail
FREE = ("nothing", "tone")
LEARNED = ("cartoon", "halftone", "photo", "ink", "woodcut", "watercolour")  # A of the personalised subjects
LIKE_PHOTOS = ("photo", "vintage")
CHECKED = ("cartoon", "watercolour", "ink", "charcoal")
SETTINGS = {
    "personalized": PRODUCT,
    "handover 0.4": f"{PRODUCT},style.handover=0.4",
    "no outline": f"{PRODUCT},style.outline=0",
    "tone": f"stylizer=tone,{common.AS_PASTED[1]}",
}
SHOWN = ("photo", "cartoon", "halftone", "ink", "woodcut")


def targets(method: str) -> list[str]:
    """The styles B that a method draws for."""
    few = {"handover 0.4": LIKE_PHOTOS, "no outline": CHECKED}
    return list(few.get(method, ALL_STYLES))


def cut_outs(
    magic: MagicInsert, method: str, subject: Subject, scenes: list[Scene], seed: int
) -> dict[str, tuple[list[Subject | None], list[float | None]]]:
    """What `method` makes of the subject for each scene, cut out, and the share of steps of the personalised model.

    None where nothing can be cut out. Of a method that draws also what its model drew.
    """
    unknown: list[float | None] = [None] * len(scenes)
    if method == FREE[0]:
        return {method: ([subject] * len(scenes), unknown)}
    words = [style_phrase(scene.id.rsplit("-", 1)[0]) for scene in scenes]
    if method in FREE:
        redrawn = magic.redraw(subject, scenes, seed=seed, style_texts=words)
        return {method: ([magic.cut(one) for one in redrawn], unknown)}
    drawn, made = common.drawn_and_made(magic, subject, scenes, seed, words)
    shares = [one.record["handover"] for one in drawn]
    found: list[Subject | None] = []
    for one in drawn:
        try:
            found.append(magic.cut(one))
        except UserError:
            found.append(None)
    return {method + AS_DRAWN: (found, shares), method: ([magic.cut(one) for one in made], shares)}


def on_white(cuts: list[Subject | None]) -> Tensor:
    """The cut-outs, each framed on white; a white picture where there is none."""
    return torch.stack(
        [
            torch.ones(3, common.SIZE, common.SIZE) if cut is None else place(cut, common.SIZE)[0]
            for cut in cuts
        ]
    )


@cache
def known_case(seed: int, number: int) -> common.Case:
    """The subject with its scenes."""
    return common.case_of(seed, number, ALL_STYLES)


def measure(
    rows: common.Rows,
    models: dict[str, MagicInsert],
    judges: common.Judges,
    who: tuple[int, int, str],
    methods: Sequence[str],
) -> None:
    """The rows of one subject (seed, number and the style `own` that it is drawn in)."""
    seed, number, own = who
    case, studio = (
        known_case(seed, number),
        trace_subjects([known_case(seed, number).spec], SUPERSAMPLE * common.SIZE),
    )
    alpha = shrink(studio.coverage)[0]

    def drawn_in(style: str, sheet: str) -> Tensor:
        return shrink(draw(studio, [style], [common.COMPLEXITY], [fold_in(seed, sheet, number)]))[0]

    subject = Subject(drawn_in(own, "own sheet"), alpha, f"subject-{number}-{own}", text=case.subject.text)
    truth = on_white([Subject(drawn_in(style, "texture"), alpha, "truth") for style in ALL_STYLES])
    learned = subject if set(methods) <= set(FREE) else models["personalized"].personalize(subject)
    for method in methods:
        styles = targets(method)
        at = [ALL_STYLES.index(style) for style in styles]
        known = subject if method in FREE else learned
        made = cut_outs(models.get(method, models["tone"]), method, known, [case.scenes[i] for i in at], seed)
        for name, (cuts, shares) in made.items():
            drawn = on_white(cuts)
            found = judges.likeness(drawn, truth[at])
            save_png(rows.file.parent / f"{name}-{own}-{number}.png", torch.cat(list(drawn), -1))
            rows.add(
                {"subject": number, "method": name, "own": own, "drawn_in": style, "cut": cuts[n] is not None}
                | {"handover": shares[n]}
                | {role: values[n] for role, values in found.items()}
                for n, style in enumerate(styles)
            )
    save_png(rows.file.parent / f"truth-{number}.png", torch.cat(list(truth), -1))
    save_png(rows.file.parent / f"own-{own}-{number}.png", place(subject, common.SIZE)[0])


def part(frame: pd.DataFrame, method: str, **where: object) -> pd.DataFrame:
    """Rows of a method; `where` names columns and their one value, or a list of values."""
    found = frame[frame.method == method]
    for column, value in where.items():
        found = found[found[column].isin(value if isinstance(value, list | tuple) else [value])]
    return found


def tables(frame: pd.DataFrame) -> str:
    """Methods by kind of pair; what each A and each B costs; the two ablations, paired."""
    kinds = {
        "A = B": frame.own == frame.drawn_in,
        "photo into drawings": (frame.own == "photo") & (frame.drawn_in != "photo"),
        "photo into a seen drawing": (frame.own == "photo") & frame.drawn_in.isin(TRAIN_STYLES[1:]),
        "drawing into photo": (frame.own != "photo") & (frame.drawn_in == "photo"),
        "drawing into another seen drawing": (frame.own != "photo") & (frame.own != frame.drawn_in)
        & frame.drawn_in.isin(TRAIN_STYLES[1:]),
        "drawing into a held-out style": (frame.own != "photo") & (frame.own != frame.drawn_in)
        & ~frame.drawn_in.isin(TRAIN_STYLES),
    }  # fmt: skip
    lines = []
    for kind, chosen in kinds.items():
        for method in ("nothing", "tone", "personalized", "personalized" + AS_DRAWN):
            found = part(frame[chosen & frame.own.isin(LEARNED)], method)
            pairs = found.assign(subject=found.own + "-" + found.drawn_in)
            lines.append(
                {"pairs": kind, "method": method, "cells": pairs.subject.nunique()}
                | {
                    role: common.mean_with_interval(common.by_subject(pairs, role))
                    for role in ("identity", "style")
                }
                | {"style by subject": ", ".join(f"{v:.2f}" for v in common.by_subject(found, "style"))}
            )
    sides = []
    for style in ALL_STYLES:
        line: common.Row = {"style": style}
        for method, words in (("personalized", ""), ("personalized" + AS_DRAWN, AS_DRAWN)):
            for side, other in (("own", "as A"), ("drawn_in", "as B")):
                for role in ("identity", "style"):
                    found = part(frame, method, **{side: style})
                    mean = found[found.own != found.drawn_in][role].mean()
                    line[f"{other}: {role}{words}"] = round(float(mean), 3)
        sides.append(line)
    checks = []
    for method, columns in (
        ("handover 0.4", LIKE_PHOTOS[:1]), ("handover 0.4", LIKE_PHOTOS[1:]), ("no outline", CHECKED),
    ):  # fmt: skip
        found = frame[frame.drawn_in.isin(columns) & (frame.own != "photo") & (frame.own != frame.drawn_in)]
        found = found.assign(subject=found.own + found.subject.astype(str))
        for words in ("", AS_DRAWN):
            line = {"against personalized": method + words, "drawn in": ", ".join(columns)}
            for role in ("identity", "style"):
                less = common.difference(found, "method", method + words, "personalized" + words, role)
                line[role] = common.mean_with_interval(less)
            checks.append(line)
    return "\n\n".join(pd.DataFrame(t).to_markdown(index=False) for t in (lines, sides, checks)) + "\n"


def draw_figure(path: Path, frame: pd.DataFrame) -> None:
    """Heat maps of style and identity, A down, B across."""
    shown_rows = {"personalized": LEARNED, "personalized" + AS_DRAWN: LEARNED, "tone": ALL_STYLES}
    with common.figure(path, 8.0, 8.6) as made:
        axes = made.subplots(3, 2, height_ratios=[len(owns) for owns in shown_rows.values()])
        for row, (method, owns) in enumerate(shown_rows.items()):
            for column, role in enumerate(("style", "identity")):
                ax = axes[row, column]
                table = part(frame, method).pivot_table(index="own", columns="drawn_in", values=role)
                table = table.reindex(index=list(owns), columns=list(ALL_STYLES))
                shown = ax.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
                ax.set_title(f"{method}: {role}, mean {np.nanmean(table):.2f}", fontsize=9)
                last = row == len(shown_rows) - 1
                names = ALL_STYLES if last else [""] * len(ALL_STYLES)
                ax.set_xticks(range(len(ALL_STYLES)), names, rotation=90, fontsize=7.5)
                ax.set_yticks(range(len(owns)), owns, fontsize=7.5)
                ax.grid(False)
                ax.axvline(len(TRAIN_STYLES) - 0.5, color="white", linewidth=1.2)
                if last:
                    ax.set_xlabel("scene (B); right of the line never trained on", fontsize=8.5)
                if not column:
                    ax.set_ylabel("own picture (A)", fontsize=8.5)
        made.colorbar(shown, ax=axes, shrink=0.6, label="cosine to the truth (1: equal)")


def sheet(out: Path, number: int) -> None:
    """A of SHOWN down, as pasted and as drawn; own picture, then B of SHOWN across; the truth on top."""

    def cells(name: str) -> list[Tensor]:
        whole = load_rgb(out / name)
        return [whole[..., common.SIZE * ALL_STYLES.index(s) :][..., : common.SIZE] for s in SHOWN]

    rows = [[torch.ones(3, common.SIZE, common.SIZE), *cells(f"truth-{number}.png")]]
    labels = ["truth"]
    for own in SHOWN:
        for words in ("", AS_DRAWN):
            picture = load_rgb(out / f"own-{own}-{number}.png")
            rows.append([picture, *cells(f"personalized{words}-{own}-{number}.png")])
            labels.append(own + words.replace(" ", "\n", 1))
    across = ["own (A)", *(f"into {s}" for s in SHOWN)]
    common.save_sheet(HERE / "pictures.jpg", rows, labels, across, cell=96)


def main() -> None:
    parser = common.arguments(__doc__, subjects=2)
    parser.add_argument("--free", type=int, default=3, help="subjects of the methods without a training")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.figure_only:
        rows, judges = common.Rows(args.out), common.Judges()
        models = common.models_of(
            MagicInsert.from_pretrained("micro", overrides=common.AS_DRAWN),
            [f"{n}:{s}" for n, s in SETTINGS.items()],
            args.out / "subjects",
        )
        plan = [(n, own, FREE) for n in range(args.free) for own in ALL_STYLES]
        paid = tuple(name for name in SETTINGS if name not in FREE)
        plan += [(n, own, paid) for n in range(args.subjects) for own in LEARNED]
        for number, own, methods in plan:
            missing = [m for m in methods if {"subject": number, "own": own, "method": m} not in rows]
            if missing:
                measure(rows, models, judges, (args.seed, number, own), missing)
        rows.frame.to_csv(HERE / "rows.csv", index=False)
        if args.subjects:
            sheet(args.out, args.subjects - 1)
    common.publish(HERE, pd.read_csv(HERE / "rows.csv"), tables, draw_figure)


if __name__ == "__main__":
    main()
