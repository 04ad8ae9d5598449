"""Every metric of the harness against the truth: all twenty scenes of ToyPlop, methods of today, pasting among them.

    python experiments/013-which-metric/measure.py --out runs/013 --personalized runs/011/subjects --weights FOLDER
    python experiments/013-which-metric/measure.py --out runs/013 --figure-only

Draws and judges with `magic-insert evaluate`; two subjects were learned by experiment 011. FOLDER holds the weights of
LPIPS's trunk and of AdaIN, which do not ship.
Agreement: of two methods on the same pair, how often does the metric prefer the one that is nearer to the truth? One
half is chance; Kendall's tau over methods is 2 agreement - 1. Within: Spearman's correlation over pairs inside a
method, mean over methods. Intervals: pigeonhole bootstrap over subjects and backgrounds.
Writes rows.csv, table.md and figure.png beside this script.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import Row, arguments, figure

from magic_insert.core.jsonl import read_jsonl
from magic_insert.evaluation.diagnosis import Trust, trust_of
from magic_insert.evaluation.rows import column, columns_in
from magic_insert.evaluation.statistics import Estimate, frame_of, kind_of
from magic_insert.toybox.world import toyplop_scenes

HERE = Path(__file__).resolve().parent
LEARNED = ("frog-01", "dinosaur-01")  # by experiment 011
OTHERS = ("bunny-01", "owl-01", "robot-01", "car-01", "teapot-01", "mushroom-01")
STEPS = 10  # of a drawing
COMMON = [
    "benchmark.split=full", f"sampling.steps={STEPS}",
    # As experiment 011 learned them, so that its subjects are found.
    "personalization.validation.every=25", "personalization.validation.edits=[]",
    "personalization.validation.scorer=none", "personalization.validation.seeds=1",
    "personalization.validation.steps=1",
]  # fmt: skip
# What is run in each track, on every pair and on those of learned subjects.
RUNS = {
    "stylize": ("stylizer=[instantstyle,adain]", "stylizer=[personalized]"),
    "insert": (
        "stylizer=[tone] inserter=[effect,diffusion,contact_shadow,copy_paste]",
        "stylizer=[personalized] inserter=[effect,copy_paste]",
    ),
}
COPY_PASTE = "floor:copy_paste"
ABOUT = ["track", "method", "pair_id", "seed", "subject", "background", "style"]
# Truths by track, the first one is the headline.
TRUTHS = {
    "stylize": ("truth_lpips", "truth_psnr", "truth_ssim"),
    "insert": ("truth_effect_psnr", "truth_shadow_iou", "truth_lpips"),
}
SHOWN = (
    "subject_dino", "subject_clip_i", "subject_mean", "style_csd", "style_clip_t", "style_mean", "inside_identity",
    "inside_style",
)  # fmt: skip
LIKENESS = ("truth_identity", "truth_style")


def pairs_of() -> tuple[list[str], list[str]]:
    """Two subjects in every scene, a learned one and another; all pairs, and those of the learned."""
    scenes = [name for name, _, _ in toyplop_scenes("full")]
    mine, others = (
        [f"{subjects[i % len(subjects)]}__{scene}" for i, scene in enumerate(scenes)]
        for subjects in (LEARNED, OTHERS)
    )
    return [*mine, *others], mine


def evaluate(args: Any, track: str) -> pd.DataFrame:
    """The rows of one track."""
    found = []
    runs = zip(("all", "learned"), RUNS[track], pairs_of(), strict=True)
    for name, methods, pairs in list(runs)[: 1 if args.unlearned else 2]:
        words = [
            *COMMON,
            *methods.split(),
            f"track={track}",
            f"out={args.out / name}",
            f"num_draws={args.draws}",
        ]
        words += [f"benchmark.pairs=[{','.join(pairs)}]", f"encoders.lpips={args.weights}"]
        if "adain" in methods:
            words.append(f"stylizers.adain.weights={args.weights}")
        if args.personalized:
            words.append(f"personalized={args.personalized}")
        run = "import sys; from magic_insert.cli.main import main; main(sys.argv[1:])"
        subprocess.run([sys.executable, "-c", run, "evaluate", *words], check=True)
        found.append(table_of(read_jsonl(args.out / name / "rows.jsonl")))
    return pd.concat(found, ignore_index=True).drop_duplicates(["track", "method", "pair_id", "seed"])


def table_of(rows: list[Row]) -> pd.DataFrame:
    """Rows as a flat table."""
    flat = [{**{key: row[key] for key in ABOUT}, **row["values"]} for row in rows]
    return pd.DataFrame(flat).round(4)


def frame_with(rows: pd.DataFrame, track: str, *, pasted: bool) -> pd.DataFrame:
    """The methods of a track; with `pasted`, the subject as it is counts as one of them."""
    part = rows[rows.track == track]
    if pasted:
        part = part.replace({"method": {COPY_PASTE: "as it is"}})
    records = [
        {**{key: row[key] for key in ABOUT}, "values": {k: v for k, v in row.items() if k not in ABOUT and v == v}}
        for row in part.to_dict("records")
    ]  # fmt: skip
    found = frame_of(records, track)
    return found[found["method"].map(kind_of) == "method"]


def metrics_of(frame: pd.DataFrame, track: str) -> list[Any]:
    """Columns that somebody without the truth could compute, those with a better side."""
    found = columns_in(track, [key for key in frame.columns if key not in ("kind", *ABOUT)])
    return [
        c
        for c in found
        if c.group not in ("truth", "likeness") and c.better != "neither" and frame[c.key].nunique() > 1
    ]


def trusts(frame: pd.DataFrame, track: str, truth: str) -> list[Trust]:
    """Every metric, and likeness to the truth by the same encoders, against `truth`."""
    likeness = [column(track, key) for key in LIKENESS if key in frame]
    return [
        trust_of(frame, metric, column(track, truth)) for metric in [*metrics_of(frame, track), *likeness]
    ]


def words_of(found: Estimate | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def lines_of(rows: pd.DataFrame, track: str, *, pasted: bool) -> pd.DataFrame:
    """Agreement with every truth, and the correlation inside a method with the headline one."""
    frame, lines = frame_with(rows, track, pasted=pasted), {}
    for truth in [t for t in TRUTHS[track] if t in frame and frame[t].notna().any()]:
        for found in trusts(frame, track, truth):
            line = lines.setdefault(found.metric.label, {"metric": found.metric.label})
            line[f"agreement, {found.truth.label}"] = words_of(found.agreement)
            line[f"within, {found.truth.label}"] = words_of(found.within)
    return pd.DataFrame(lines.values())


def means(rows: pd.DataFrame, track: str) -> pd.DataFrame:
    """What each method reaches: plain means."""
    part = rows[rows.track == track].dropna(axis=1, how="all")
    numbers = [c for c in part.columns if c not in ABOUT]
    keep = [c for c in numbers if c.startswith("truth_") or c in SHOWN]
    return part.groupby("method", sort=False)[keep].mean().round(3).reset_index()


def draw(path: Path, rows: pd.DataFrame) -> None:
    """Agreement of every metric with the truth, with and without pasting; beside it, composites."""
    with figure(path, 9.0, 4.8) as made:
        there = [track for track in TRUTHS if (rows.track == track).any()]
        panels = made.subplots(1, len(there), squeeze=False)[0]
        for axes, track in zip(panels, there, strict=True):
            truth = next(
                t for t in TRUTHS[track] if rows[rows.track == track].get(t, pd.Series()).notna().any()
            )
            for nudge, pasted in enumerate((True, False)):
                found = trusts(frame_with(rows, track, pasted=pasted), track, truth)
                found = [f for f in found if f.agreement is not None and f.agreement.low is not None]
                if pasted:
                    order = [f.metric.label for f in sorted(found, key=lambda f: f.agreement.mean)]
                by_label = {f.metric.label: f.agreement for f in found}
                shown = [(i, by_label[n]) for i, n in enumerate(order) if n in by_label]
                middle = np.array([e.mean for _, e in shown])
                reach = [middle - [e.low for _, e in shown], [e.high for _, e in shown] - middle]
                place = [i + 0.15 - 0.3 * nudge for i, _ in shown]
                label = "methods and the subject as it is" if pasted else "methods alone"
                axes.errorbar(
                    middle, place, xerr=np.clip(reach, 0, None), fmt="o", capsize=2, label=label, markersize=4
                )
            axes.axvline(0.5, color="0.5", linewidth=0.8)
            axes.set_yticks(range(len(order)), order, fontsize=8)
            axes.set(xlim=(0, 1), xlabel=f"agreement with {column(track, truth).label}")
            axes.set_title({"stylize": "redrawn subjects", "insert": "composites"}[track])
        handles, names = panels[0].get_legend_handles_labels()
        made.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9)


def main() -> None:
    parser = arguments(__doc__, subjects=2)
    parser.add_argument("--personalized", type=Path, help="folder of subjects that were learned before")
    parser.add_argument("--weights", type=Path, help="folder of LPIPS's trunk and AdaIN's networks")
    parser.add_argument("--unlearned", action="store_true", help="leave out what has to be personalised")
    parser.add_argument("--tracks", type=lambda text: text.split(","), default=list(RUNS))
    parser.add_argument("--draws", type=int, default=1)
    args = parser.parse_args()
    if not args.figure_only:
        found = pd.concat([evaluate(args, track) for track in args.tracks], ignore_index=True)
        found.to_csv(HERE / "rows.csv", index=False)
    rows = pd.read_csv(HERE / "rows.csv")
    parts = []
    for track in [track for track in RUNS if (rows.track == track).any()]:
        for pasted in (True, False):
            parts.append(f"### {track}, {'with' if pasted else 'without'} the subject as it is\n")
            parts.append(lines_of(rows, track, pasted=pasted).to_markdown(index=False) + "\n")
        parts += [f"### {track}, means\n", means(rows, track).to_markdown(index=False) + "\n"]
    (HERE / "table.md").write_text(text := "\n".join(parts))
    draw(HERE / "figure.png", rows)
    print(text)


if __name__ == "__main__":
    main()
