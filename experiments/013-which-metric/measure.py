"""Every metric of the harness against the truth: all twenty scenes of ToyPlop, methods of today, pasting among them.

    python experiments/013-which-metric/measure.py --out runs/013 --weights FOLDER
    python experiments/013-which-metric/measure.py --out runs/013 --figure-only

Draws and judges with `magic-insert evaluate`, which learns the subjects with the shipped recipe. FOLDER holds the
weights of LPIPS's trunk and of AdaIN, which do not ship.
Agreement: of two methods on the same pair, how often does the metric prefer the one that is nearer to the truth? One
half is chance; Kendall's tau over methods is 2 agreement - 1. Within: Spearman's correlation over pairs inside a
method, mean over methods. Intervals: pigeonhole bootstrap over subjects and backgrounds.
Writes rows.csv, table.md, figure.png and pictures.jpg beside this script.
"""

import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import GROUPS, Row, arguments, figure, mean_with_interval, save_sheet

from magic_insert.core.jsonl import read_jsonl
from magic_insert.evaluation.diagnosis import Trust, trust_of
from magic_insert.evaluation.metrics import column, columns_in
from magic_insert.evaluation.statistics import Estimate, frame_of, kind_of
from magic_insert.toybox.world import toyplop_scenes

HERE = Path(__file__).resolve().parent
LEARNED = ("frog-01", "dinosaur-01", "bunny-01")  # those that the personalised methods draw
SUBJECTS = (*LEARNED, "owl-01", "robot-01", "car-01", "teapot-01", "mushroom-01")
EACH = 5  # scenes of a subject
STEPS = 10  # of a drawing
COMMON = [
    "benchmark.split=full", f"sampling.steps={STEPS}",
    # Of the training, what experiment 011 keeps, so that its subjects are found; the product is the default recipe's.
    "personalization.validation.every=25", "personalization.validation.edits=[]",
    "personalization.validation.scorer=none", "personalization.validation.seeds=1",
    "personalization.validation.steps=1",
]  # fmt: skip
PLAIN = "no_handover"  # the personalised model draws every step
AS_DRAWN = {"personalized": "as_drawn", PLAIN: "as_drawn_no_handover"}  # without the subject's own detail
HEIGHT = 0.75  # of its picture, which a redrawn subject fills alone: its lines and grain are made for that
INSERTERS = "inserter=[effect,diffusion,contact_shadow,copy_paste]"
# By track, what draws every pair and what draws those of learned subjects.
RUNS = {
    "stylize": {
        "all": ["stylizer=[instantstyle,adain,tone]", f"stylizers.tone.height={HEIGHT}"],
        "learned": [
            f"stylizer=[personalized,{PLAIN}:personalized,"
            + ",".join(f"{name}:personalized" for name in AS_DRAWN.values())
            + "]",
            *(f"stylizers.{name}.style.handover=1" for name in (PLAIN, AS_DRAWN[PLAIN])),
            *(f"stylizers.{name}.style.detail=0" for name in AS_DRAWN.values()),
            *(f"stylizers.{name}.height={HEIGHT}" for name in AS_DRAWN),
        ],
    },
    "insert": {
        "all": ["stylizer=[tone]", INSERTERS], "learned": ["stylizer=[personalized]", INSERTERS],
    },
}  # fmt: skip
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


def pairs_of(subjects: Sequence[str]) -> list[str]:
    """Each subject in EACH scenes; the eight of them fill every scene twice."""
    scenes = [name for name, _, _ in toyplop_scenes("full")]
    return [
        f"{name}__{scenes[(EACH * SUBJECTS.index(name) + k) % len(scenes)]}"
        for name in subjects
        for k in range(EACH)
    ]


def evaluate(args: Any, track: str, part: str) -> pd.DataFrame:
    """The rows of one track, of all subjects or of the learned ones."""
    # Composites have a folder of their own: the subjects in them are drawn for where they stand.
    out, chosen = args.out / (part if track == "stylize" else f"{part}-composites"), SUBJECTS[: args.subjects]
    pairs = pairs_of([name for name in chosen if part == "all" or name in LEARNED])
    words = [*COMMON, *RUNS[track][part], f"track={track}", f"out={out}", f"encoders.lpips={args.weights}"]
    words += [f"benchmark.pairs=[{','.join(pairs)}]", f"num_draws={args.draws if track == 'stylize' else 1}"]
    words.append(f"personalized={args.personalized or args.out / 'personalized'}")
    if "adain" in RUNS[track][part][0]:
        words.append(f"stylizers.adain.weights={args.weights}")
    run = "import sys; from magic_insert.cli.main import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", run, "evaluate", *words], check=True)
    return table_of(read_jsonl(out / "rows.jsonl"))


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


def by_style(rows: pd.DataFrame, track: str) -> pd.DataFrame:
    """Agreement with the headline truth in scenes of each group of styles, with the subject as it is."""
    frame, lines = frame_with(rows, track, pasted=True), {}
    for found in trusts(frame, track, TRUTHS[track][0]):
        words = "{:.2f} [{:.2f}, {:.2f}]".format(*over_subjects(frame, found))
        lines[found.metric.label] = {
            "metric": found.metric.label,
            "all, drawn again over subjects alone": words,
        }
    for group, styles in GROUPS.items():
        part = frame[frame["style"].isin(styles)]
        for found in trusts(part, track, TRUTHS[track][0]):
            line = lines[found.metric.label]
            line[f"{group} ({part['pair_id'].nunique()} pairs)"] = words_of(found.agreement)
    return pd.DataFrame(lines.values())


def over_subjects(frame: pd.DataFrame, trust: Trust) -> tuple[float, float, float]:
    """Agreement with its 95 % percentile interval over subjects alone: narrower than the harness's."""
    both = frame.dropna(subset=[trust.metric.key, trust.truth.key])
    index = ["subject", "pair_id", "seed"]
    one, other = (
        both.pivot(index=index, columns="method", values=of.key) * of.gain(1.0)
        for of in (trust.metric, trust.truth)
    )
    votes = []
    for first, second in combinations(one.columns, 2):
        lead, wanted = (np.sign(wide[first] - wide[second]).dropna() for wide in (one, other))
        votes.append(((1 + lead * wanted) / 2)[wanted != 0])
    sums = pd.concat(votes).groupby(level="subject").agg(["sum", "count"]).to_numpy()
    picks = np.random.default_rng(0).integers(len(sums), size=(2000, len(sums)))
    drawn = sums[picks].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(sums[:, 0].sum() / sums[:, 1].sum()), float(low), float(high)


def means(rows: pd.DataFrame, track: str) -> pd.DataFrame:
    """What each method reaches: plain means."""
    part = rows[rows.track == track].dropna(axis=1, how="all")
    numbers = [c for c in part.columns if c not in ABOUT]
    keep = [c for c in numbers if c.startswith("truth_") or c in SHOWN]
    return part.groupby("method", sort=False)[keep].mean().round(3).reset_index()


def paired(
    rows: pd.DataFrame, track: str, pairs: Sequence[tuple[str, str]], keys: Sequence[str]
) -> pd.DataFrame:
    """On the pairs of learned subjects, over pairs: what each method reaches, and its lead over another."""
    part = rows[(rows.track == track) & rows.subject.isin(LEARNED)]
    values = part.groupby(["method", "pair_id"])[list(keys)].mean()
    there = set(values.index.get_level_values("method"))
    pairs = [pair for pair in pairs if there.issuperset(pair)]
    found = {name: values.loc[name] for name in dict.fromkeys(name for pair in pairs for name in pair)}
    found |= {f"{one} - {other}": values.loc[one] - values.loc[other] for one, other in pairs}
    return pd.DataFrame(
        {"method": name} | {key: mean_with_interval(table[key].to_numpy(), 2) for key in keys}
        for name, table in found.items()
    )


def learned_means(rows: pd.DataFrame) -> list[str]:
    """Redrawn subjects and composites of the learned subjects: tables as text."""
    first, plain = AS_DRAWN
    others = (PLAIN, *AS_DRAWN.values(), "instantstyle", "adain", "tone", COPY_PASTE)
    pairs = [(first, other) for other in others] + [(AS_DRAWN[first], AS_DRAWN[plain])]
    stylize = paired(rows, "stylize", pairs, ("truth_lpips", *LIKENESS, "subject_mean", "style_csd"))
    whole = [(f"{first}+effect", other) for other in ("tone+effect", COPY_PASTE)]
    insert = paired(rows, "insert", whole, ("truth_lpips", *LIKENESS))
    found = {"stylize": stylize, "insert": insert}
    return [
        f"### {track}, pairs of learned subjects\n\n{table.to_markdown(index=False)}\n"
        for track, table in found.items()
    ]


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


def sheet(out: Path, pairs: list[str]) -> None:
    """Some pairs of the learned subjects: scene, subject, truth, and what every method makes of it."""
    names = {
        "personalized": "personalised", AS_DRAWN["personalized"]: "as drawn",
        AS_DRAWN[PLAIN]: "as drawn,\nno hand-over", "instantstyle": "InstantStyle",
        "adain": "AdaIN", "tone": "tone",
    }  # fmt: skip
    rows = []
    for pair in pairs[::2]:
        subject, scene = pair.split("__")
        inputs = out / "all" / "inputs"
        files = [inputs / f"backgrounds/{scene}.png", inputs / f"subjects/{subject}.png"]
        files.append(inputs / f"truth/{pair}/styled.png")
        for method in names:
            part = "learned" if "personalized" in method or "drawn" in method else "all"
            files.append(out / part / f"images/stylize/{method}/{pair}.0.png")
        rows.append([on_white(file) for file in files])
    save_sheet(
        HERE / "pictures.jpg",
        rows,
        [""] * len(rows),
        ["scene", "subject", "truth", *names.values()],
        cell=112,
    )


def on_white(file: Path) -> Tensor:
    """A picture or cut-out, as 3 h w."""
    picture = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return pil_to_tensor(Image.alpha_composite(white, picture).convert("RGB")) / 255


def main() -> None:
    parser = arguments(__doc__, subjects=len(SUBJECTS))
    parser.add_argument("--weights", type=Path, help="folder of LPIPS's trunk and AdaIN's networks")
    parser.add_argument("--personalized", type=Path, help="folder of subjects that were learned before")
    parser.add_argument("--draws", type=int, default=2, help="of redrawn subjects; composites have one")
    args = parser.parse_args()
    if not args.figure_only:
        parts = [evaluate(args, track, part) for track in RUNS for part in RUNS[track]]
        found = pd.concat(parts, ignore_index=True)
        found = found.drop_duplicates(["track", "method", "pair_id", "seed"])
        found.to_csv(HERE / "rows.csv", index=False)
        sheet(args.out, pairs_of([name for name in LEARNED if name in SUBJECTS[: args.subjects]]))
    rows = pd.read_csv(HERE / "rows.csv")
    parts = []
    for track in [track for track in RUNS if (rows.track == track).any()]:
        for pasted in (True, False):
            parts.append(f"### {track}, {'with' if pasted else 'without'} the subject as it is\n")
            parts.append(lines_of(rows, track, pasted=pasted).to_markdown(index=False) + "\n")
        parts += [f"### {track}, agreement with the first truth, by styles\n"]
        parts += [by_style(rows, track).to_markdown(index=False) + "\n"]
        parts += [f"### {track}, means\n", means(rows, track).to_markdown(index=False) + "\n"]
    parts += learned_means(rows)
    (HERE / "table.md").write_text(text := "\n".join(parts))
    draw(HERE / "figure.png", rows)
    print(text)


if __name__ == "__main__":
    main()
