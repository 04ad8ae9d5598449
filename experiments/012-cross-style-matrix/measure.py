"""A subject that is itself a drawing, in style A, into scenes of style B: all pairs of the Toybox's styles.

    python experiments/012-cross-style-matrix/measure.py --out runs/012
    python experiments/012-cross-style-matrix/measure.py --out FOLDER --figure-only

Every (subject, A) is personalised once, in half of the default steps, and redrawn for one scene in every B. Judged is
what is inserted: the cut-out on white against the cut-out of the truth, the Toybox's drawing of the subject in B.
Methods: `personalized`; `tone`, the subject's own pixels in the scene's palette; `nothing`, its own pixels; and on some
B only, `handover 0.4` (photographs) and `no outline`. What rows.jsonl holds is not drawn again.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import (
    COMPLEXITY,
    SIZE,
    Judges,
    Row,
    Rows,
    arguments,
    by_subject,
    case_of,
    difference,
    figure,
    mean_with_interval,
    models_of,
    save_sheet,
)

from magic_insert import MagicInsert
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Scene, Subject
from magic_insert.data.subject_images import place
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES, style_phrase
from magic_insert.toybox.world import render_subjects

HERE = Path(__file__).resolve().parent
STEPS = 100
LIKE_PHOTOS = ("photo", "vintage")
CHECKED = ("cartoon", "watercolour", "ink", "charcoal")
SETTINGS = {
    "personalized": f"personalization.steps={STEPS}",
    "handover 0.4": f"personalization.steps={STEPS},style.handover=0.4",
    "no outline": f"personalization.steps={STEPS},style.outline=0",
    "tone": "stylizer=tone",
}
SHOWN = ("photo", "cartoon", "halftone", "ink", "woodcut")


def targets(method: str) -> list[str]:
    """The styles B that a method draws for."""
    few = {"handover 0.4": LIKE_PHOTOS, "no outline": CHECKED}
    return list(few.get(method, ALL_STYLES))


def cut_out(
    magic: MagicInsert, method: str, subject: Subject, scenes: list[Scene], seed: int
) -> list[Subject | None]:
    """What `method` makes of the subject for each scene, cut out; None where nothing can be cut out."""
    if method == "nothing":
        return [subject] * len(scenes)
    words = [style_phrase(scene.id.rsplit("-", 1)[0]) for scene in scenes]
    found: list[Subject | None] = []
    for redrawn in magic.redraw(subject, scenes, seed=seed, style_texts=words):
        try:
            found.append(magic.cut(redrawn))
        except UserError:
            found.append(None)
    return found


def on_white(cuts: list[Subject | None]) -> Tensor:
    """The cut-outs, each framed on white; a white picture where there is none."""
    return torch.stack([torch.ones(3, SIZE, SIZE) if cut is None else place(cut, SIZE)[0] for cut in cuts])


def measure(
    rows: Rows, models: dict[str, MagicInsert], judges: Judges, seed: int, number: int, own: str
) -> None:
    """The rows of one subject drawn in the style `own`."""
    case = case_of(seed, number, ALL_STYLES)
    alone = render_subjects(
        [case.spec] * (1 + len(ALL_STYLES)), [own, *ALL_STYLES], [COMPLEXITY] * (1 + len(ALL_STYLES)),
        [fold_in(seed, "own sheet", number), *[fold_in(seed, "texture", number)] * len(ALL_STYLES)], SIZE,
    )  # fmt: skip
    subject = Subject(alone.rgb[0], alone.alpha[0], f"subject-{number}-{own}", text=case.subject.text)
    truth = on_white([Subject(rgb, subject.alpha, "truth") for rgb in alone.rgb[1:]])
    learned = models["personalized"].personalize(subject)
    for method in ("nothing", *models):
        drawn_in = targets(method)
        at = [ALL_STYLES.index(style) for style in drawn_in]
        known = subject if method in ("nothing", "tone") else learned
        magic = models.get(method, models["tone"])
        cuts = cut_out(magic, method, known, [case.scenes[i] for i in at], seed)
        drawn = on_white(cuts)
        found = judges.likeness(drawn, truth[at])
        measured: list[Row] = [
            {"subject": number, "method": method, "own": own, "drawn_in": style, "cut": cuts[n] is not None}
            | {role: values[n] for role, values in found.items()}
            for n, style in enumerate(drawn_in)
        ]
        save_png(rows.file.parent / f"{method}-{own}-{number}.png", torch.cat(list(drawn), -1))
        save_png(rows.file.parent / f"truth-{number}.png", torch.cat(list(truth), -1))
        save_png(rows.file.parent / f"own-{own}-{number}.png", place(subject, SIZE)[0])
        rows.add(measured)


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
        "drawing into photo": (frame.own != "photo") & (frame.drawn_in == "photo"),
        "drawing into another seen drawing": (frame.own != "photo") & (frame.own != frame.drawn_in)
        & frame.drawn_in.isin(TRAIN_STYLES[1:]),
        "drawing into a held-out style": (frame.own != "photo") & (frame.own != frame.drawn_in)
        & ~frame.drawn_in.isin(TRAIN_STYLES),
    }  # fmt: skip
    lines = []
    for kind, chosen in kinds.items():
        for method in ("nothing", "tone", "personalized"):
            found = part(frame[chosen], method)
            pairs = found.assign(subject=found.own + "-" + found.drawn_in)
            lines.append(
                {"pairs": kind, "method": method, "cells": pairs.subject.nunique()}
                | {role: mean_with_interval(by_subject(pairs, role)) for role in ("identity", "style")}
            )
    sides = []
    for style in ALL_STYLES:
        line: Row = {"style": style}
        for side, other in (("own", "as A"), ("drawn_in", "as B")):
            for role in ("identity", "style"):
                found = part(frame, "personalized", **{side: style})
                line[f"{other}: {role}"] = round(float(found[found.own != found.drawn_in][role].mean()), 3)
        sides.append(line)
    checks = []
    for method in ("handover 0.4", "no outline"):
        for columns in [LIKE_PHOTOS[:1], LIKE_PHOTOS[1:]] if method == "handover 0.4" else [CHECKED]:
            found = frame[
                frame.drawn_in.isin(columns) & (frame.own != "photo") & (frame.own != frame.drawn_in)
            ]
            found = found.assign(subject=found.own + found.subject.astype(str))
            checks.append(
                {"against personalized": method, "drawn in": ", ".join(columns)}
                | {
                    r: mean_with_interval(difference(found, "method", method, "personalized", r))
                    for r in ("identity", "style")
                }
            )
    return "\n\n".join(pd.DataFrame(t).to_markdown(index=False) for t in (lines, sides, checks)) + "\n"


def draw_figure(path: Path, frame: pd.DataFrame) -> None:
    """Heat maps of identity and style, A down, B across."""
    with figure(path, 8.0, 9.2) as made:
        axes = made.subplots(2, 2)
        for row, method in enumerate(("personalized", "tone")):
            for column, role in enumerate(("style", "identity")):
                ax = axes[row, column]
                table = part(frame, method).pivot_table(index="own", columns="drawn_in", values=role)
                table = table.reindex(index=ALL_STYLES, columns=ALL_STYLES)
                shown = ax.imshow(table, vmin=0, vmax=1, cmap="viridis")
                ax.set_title(f"{method}: {role}, mean {np.nanmean(table):.2f}", fontsize=10)
                ax.set_xticks(range(len(ALL_STYLES)), ALL_STYLES, rotation=90, fontsize=7.5)
                ax.set_yticks(range(len(ALL_STYLES)), ALL_STYLES, fontsize=7.5)
                ax.grid(False)
                ax.set_ylabel("subject's own picture (A)" if column == 0 else "", fontsize=8.5)
                ax.set_xlabel("scene (B)" if row == 1 else "", fontsize=8.5)
                for edge in (12.5,):
                    ax.axvline(edge, color="white", linewidth=1.2)
                    ax.axhline(edge, color="white", linewidth=1.2)
        made.colorbar(shown, ax=axes, shrink=0.5, label="cosine to the truth (1: equal)")


def sheet(out: Path, number: int) -> None:
    """A of SHOWN down; own picture, then B of SHOWN across; the truth on top."""

    def cells(name: str) -> list[Tensor]:
        whole = load_rgb(out / name)
        return [whole[..., SIZE * ALL_STYLES.index(s) :][..., :SIZE] for s in SHOWN]

    rows = [[torch.ones(3, SIZE, SIZE), *cells(f"truth-{number}.png")]]
    rows += [
        [load_rgb(out / f"own-{a}-{number}.png"), *cells(f"personalized-{a}-{number}.png")] for a in SHOWN
    ]
    save_sheet(
        out / "pictures.jpg", rows, ["truth", *SHOWN], ["own (A)", *(f"into {s}" for s in SHOWN)], cell=112
    )


def main() -> None:
    args = arguments(__doc__, subjects=2).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.figure_only:
        frame = pd.read_csv(HERE / "rows.csv")
    else:
        rows, judges = Rows(args.out), Judges()
        models = models_of(
            MagicInsert.from_pretrained("micro"),
            [f"{n}:{s}" for n, s in SETTINGS.items()],
            args.out / "subjects",
        )
        for number in range(args.subjects):
            for own in ALL_STYLES:
                if {"subject": number, "own": own, "method": "tone"} not in rows:
                    measure(rows, models, judges, args.seed, number, own)
        frame = rows.frame
        frame.to_csv(args.out / "rows.csv", index=False)
        sheet(args.out, 0)
    (args.out / "table.md").write_text(tables(frame))
    draw_figure(args.out / "figure.png", frame)
    print(tables(frame))


if __name__ == "__main__":
    main()
