"""How well a background will do: by its style's complexity, and by its distance from the styles of the training.

    python experiments/010-style-complexity-and-novelty/measure.py --out runs/010
    python experiments/010-style-complexity-and-novelty/measure.py --out runs/010 --figure-only

Each subject, learned from a photograph, is redrawn for scenes in every style at five complexities and in styles that
this script composes of the Toybox's. Truth is the Toybox's drawing in that very style. Judged are what is pasted (the
redrawn subject within its own outline on the truth's ground), the model's own drawing of the same sampling, a whole
picture without the subject's detail ("as drawn"), and the floor, the photograph where the redrawn subject is.
Insertion is judged apart: the true drawing, lit as in its own picture, is placed, and the effect region of the finished
picture compared with the truth. Distances from the training styles are of the scene alone (`distances`). LoRAs lie
beside `--out`, in `subjects`.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.transforms import Bbox
from scipy.stats import rankdata
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import (
    AS_PASTED,
    COMPLEXITY,
    GROUPS,
    SIZE,
    Judges,
    Row,
    Rows,
    arguments,
    by_subject,
    drawn_and_made,
    figure,
    framed_like,
    interval,
    mean_with_interval,
    pasted,
    publish,
    save_sheet,
    subject_spec,
)

from magic_insert import MagicInsert
from magic_insert.config.registry import STYLES
from magic_insert.core.fidelity import effect_of, effect_scores
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.records import Scene, Subject
from magic_insert.models.ip_adapter import picture_rows, style_embeds
from magic_insert.toybox.captions import caption
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES, draw
from magic_insert.toybox.styles.view import LOOKS, Style, View, gaussian, luminance, mix, posterise
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_scenes, trace_subjects

HERE = Path(__file__).resolve().parent
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SCENES = 6  # traced for each subject; styles take turns in them
FAINT = 0.02
POOR = 0.6  # style cosine below which a drawing is not in the scene's style
TUNED_ON = (0, 1)  # subjects of which thresholds are chosen; the others are reported
TUNED_STYLES = ("charcoal", "neon")  # of the held-out ones, and every other composed one
NUMBERS = ("identity", "style", "effect")
DRAWN = ("drawn_identity", "drawn_style")  # of the model's own drawing
FLOOR = ("photo_identity", "photo_style")  # of the photograph in its place


def drawn_as(v: View, name: str) -> Tensor:
    """The motif of `v` in another style of the Toybox."""
    found: Style = STYLES.get(name)
    return found(replace(v, style=name))


def blended(one: str, other: str, weight: float) -> Callable[[View], Tensor]:
    """`one` at weight 0, `other` at 1."""
    return lambda v: mix(drawn_as(v, one), drawn_as(v, other), weight)


def lines_over(lines: str, ground: str) -> Callable[[View], Tensor]:
    """The marks of a black-and-white style over another's colours."""
    return lambda v: drawn_as(v, ground) * luminance(drawn_as(v, lines))


def looked(name: str, look: str) -> Callable[[View], Tensor]:
    """A style in other colours."""
    return lambda v: LOOKS[look](drawn_as(v, name)).clamp(0, 1)


def pixel_neon(v: View) -> Tensor:
    """Neon in square pixels of four units."""
    picture, side = drawn_as(v, "neon"), round(4 * v.scale)
    small = torch.nn.functional.avg_pool2d(picture, side)
    return small.repeat_interleave(side, -1).repeat_interleave(side, -2)[..., : v.height, : v.width]


def noisy(v: View) -> Tensor:
    """A photograph in strong noise."""
    noise = torch.randn(v.sky.shape, generator=generator(v.seed, "noise"))
    return (drawn_as(v, "photo") + 0.25 * noise).clamp(0, 1)


COMPOSED: dict[str, Callable[[View], Tensor]] = {
    "ink on watercolour": lines_over("ink", "watercolour"),
    "pixel neon": pixel_neon,
    "cartoon-watercolour 1:1": blended("cartoon", "watercolour", 0.5),
    "pencil-oil 1:1": blended("pencil", "oil", 0.5),
    "halftone on papercut": lines_over("halftone", "papercut"),
    "photo-cartoon 1:1": blended("photo", "cartoon", 0.5),
    "cartoon negative": looked("cartoon", "inverted"),
    "blueprint negative": looked("blueprint", "negative"),
    "crayon, blue for red": looked("crayon", "blue for red"),
    "watercolour at night": looked("watercolour", "night"),
    "ink in wine": looked("ink", "wine"),
    "blurred photo": lambda v: gaussian(drawn_as(v, "photo"), 3 * v.scale),
    "photo in three tones": lambda v: posterise(drawn_as(v, "photo"), 3).clamp(0, 1),
    "photo in noise": noisy,
    "woodcut-neon 1:1": blended("woodcut", "neon", 0.5),
    "charcoal on papercut": lines_over("charcoal", "papercut"),
}
for _name, _draw in COMPOSED.items():
    STYLES.register(_name)(Style(_draw, f"as {_name}", True))
KINDS = {**dict.fromkeys(TRAIN_STYLES, "seen"), **dict.fromkeys(GROUPS["held out"], "held out")}


def cells_of(subject: int) -> list[tuple[str, float]]:
    """Style and complexity of every drawing of a subject: five complexities for the first two, three for the others."""
    levels = LEVELS if subject in TUNED_ON else LEVELS[::2]
    return [(style, level) for style in ALL_STYLES for level in levels] + [(s, COMPLEXITY) for s in COMPOSED]


def tuned(frame: pd.DataFrame) -> pd.Series:
    """Rows that a threshold may be chosen on."""
    new = [s for n, s in enumerate(COMPOSED) if n % 2 == 0] + list(TUNED_STYLES)
    return frame.subject.isin(TUNED_ON) & frame.drawn_in.isin([*TRAIN_STYLES, *new])


def reported(frame: pd.DataFrame) -> pd.Series:
    """Rows of other subjects, scenes and new styles than those that a threshold was chosen on."""
    new = [s for n, s in enumerate(COMPOSED) if n % 2] + [
        s for s in GROUPS["held out"] if s not in TUNED_STYLES
    ]
    return ~frame.subject.isin(TUNED_ON) & frame.drawn_in.isin([*TRAIN_STYLES, *new])


class Known:
    """Scenes in the training styles as rows of an encoder; how far others are from them."""

    def __init__(self, rows: Tensor, styles: list[str]) -> None:
        self.rows, names = rows, sorted(set(styles))
        at = torch.tensor([names.index(style) for style in styles])
        self.centres = torch.stack([rows[at == n].mean(0) for n in range(len(names))])
        within = rows - self.centres[at]
        spread = within.T @ within / len(rows)
        self.inverse = torch.linalg.inv(spread + 0.1 * spread.diagonal().mean() * torch.eye(len(spread)))

    def nearest(self, rows: Tensor) -> Tensor:
        """1 - mean cosine to the five nearest pictures."""
        return 1 - (rows @ self.rows.T).topk(5, dim=1).values.mean(1)

    def mahalanobis(self, rows: Tensor) -> Tensor:
        """Distance to the nearest style in units of the spread within styles (Lee et al. 2018), per dimension."""
        apart = rows[:, None] - self.centres
        squared = torch.einsum("ikd,de,ike->ik", apart, self.inverse, apart)
        return (squared.amin(1) / rows.shape[1]).sqrt()


def reference(count: int = 24) -> tuple[Tensor, list[str]]:
    """Training scenes in all training styles, complexities drawn evenly."""
    pictures, styles = [], []
    for number in range(count):
        name = fold_in(0, "known styles", number)
        place = sample_scene(name, "train")
        _, empty = trace_scenes([place], [subject_spec(name, 0)], SUPERSAMPLE * SIZE)
        for style in TRAIN_STYLES:
            level = float(torch.rand(1, generator=generator(name, "complexity", style)))
            pictures.append(shrink(draw(empty, [style], [level], [fold_in(name, style)])))
            styles.append(style)
    return torch.cat(pictures), styles


class Distances:
    """Distances of scenes from the training styles: by the model's own CLIP, and by the judge of style."""

    def __init__(self, pipe: object, judges: Judges) -> None:
        self.pipe, self.judges = pipe, judges
        pictures, styles = reference()
        self.model, self.judge = (Known(rows, styles) for rows in self.rows(pictures))

    def rows(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows of both encoders."""
        own = picture_rows(style_embeds(self.pipe, list(pictures))).cpu()
        return own, self.judges.embed("style", pictures)

    def __call__(self, pictures: Tensor) -> dict[str, list[float]]:
        """By name of the distance."""
        own, judge = self.rows(pictures)
        return {
            "clip_nearest": self.model.nearest(own).tolist(),
            "clip_mahalanobis": self.model.mahalanobis(own).tolist(),
            "judge_nearest": self.judge.nearest(judge).tolist(),
            "judge_mahalanobis": self.judge.mahalanobis(judge).tolist(),
        }


def measure(rows: Rows, magic: MagicInsert, judges: Judges, apart: Distances, seed: int, number: int) -> None:
    """The rows of one subject."""
    spec, cells = subject_spec(seed, number), cells_of(number)
    studio = trace_subjects([spec], SUPERSAMPLE * SIZE)
    paper = fold_in(seed, "texture", number)
    photo, alpha = shrink(draw(studio, ["photo"], [COMPLEXITY], [paper]))[0], shrink(studio.coverage)[0]
    subject = magic.personalize(Subject(photo, alpha, f"subject-{number}", text=caption(spec)))
    places = [sample_scene(fold_in(seed, "scene", number, n), "heldout") for n in range(SCENES)]
    traced = [trace_scenes([place], [spec], SUPERSAMPLE * SIZE) for place in places]
    scenes, truths, effects = [], [], []
    for n, (style, level) in enumerate(cells):
        turn = (list(KINDS).index(style) if style in KINDS else n) % SCENES
        salt = [fold_in(seed, style, number)]
        both, bare = (shrink(draw(g, [style], [level], salt))[0] for g in traced[turn])
        mask = shrink(traced[turn][0].coverage)[0]
        alone = shrink(draw(studio, [style], [level], [paper]))[0]
        scenes.append(Scene(bare, f"{n}-{number}"))
        truths.append(alone)
        drop = magic.place(Subject(alone, alpha, "true"), scenes[-1], bounding_box(mask), seed=seed)
        about = {
            "effect": effect_of(both[None], bare[None], mask[None])[0],
            "mask": mask,
            "covered": (torch.maximum(mask, drop.plane(drop.layers["subject"])) > FAINT).float(),
        }
        scores = [effect_scores(picture, both, bare, **about) for picture in (drop.scene.rgb, bare)]
        after, before = (score.get("effect_psnr", float("nan")) for score in scores)
        effects.append(after - before)
    far = apart(torch.stack([scene.rgb for scene in scenes]))
    truth = framed_like(torch.stack(truths), bounding_box(alpha))
    by_model, made = drawn_and_made(magic, subject, scenes, seed)
    drawn = torch.stack([one.rgb for one in by_model])
    ours = torch.stack([pasted(truth[n], one.rgb, one.alpha, subject) for n, one in enumerate(made)])
    plain = framed_like(photo[None], bounding_box(alpha))[0]
    floor = torch.stack([pasted(one, plain, None, subject) for one in truth])
    found = judges.likeness(ours, truth)
    for name, pictures in (("drawn", drawn), ("photo", floor)):
        found |= {f"{name}_{role}": values for role, values in judges.likeness(pictures, truth).items()}
    measured: list[Row] = []
    for n, (style, level) in enumerate(cells):
        row = {
            "subject": number,
            "drawn_in": style,
            "kind": KINDS.get(style, "composed"),
            "complexity": level,
        }
        row |= {role: values[n] for role, values in found.items()} | {"effect": effects[n]}
        measured.append(row | {name: values[n] for name, values in far.items()})
    folder = rows.file.parent
    shown = {"scene": [s.rgb for s in scenes], "drawn": drawn, "ours": ours, "truth": truth}
    for name, pictures in shown.items():
        save_png(folder / f"{name}-{number}.png", torch.cat(list(pictures), -1).clamp(0, 1))
    rows.add(measured)


# before.csv: the model's own drawing of other subjects (seed 8128), learned in 200 steps at a constant rate.
DISTANCES = ("clip_nearest", "clip_mahalanobis", "judge_nearest", "judge_mahalanobis")


def rank_correlation(
    frame: pd.DataFrame, distance: str, value: str, draws: int = 1000
) -> tuple[float, float, float]:
    """Spearman's rho over (style, complexity) means, 95 % interval over styles and subjects drawn again."""
    styles, subjects = frame.drawn_in.unique(), frame.subject.unique()
    table = frame.assign(cell=frame.drawn_in + "@" + frame.complexity.astype(str))
    by = [
        table.pivot_table(index="cell", columns="subject", values=name, sort=False)
        for name in (distance, value)
    ]
    owner = np.array([cell.split("@")[0] for cell in by[0].index])
    places = {style: np.flatnonzero(owner == style) for style in styles}
    both = np.stack([part.to_numpy() for part in by])

    def rho(rows: np.ndarray, columns: np.ndarray) -> float:
        drawn = both[:, rows][:, :, columns]
        drawn = drawn[:, ~np.isnan(drawn).all(axis=(0, 2))]  # complexities of other subjects
        return float(np.corrcoef(rankdata(np.nanmean(drawn, axis=2), axis=1))[0, 1])

    rng, every = np.random.default_rng(0), np.arange(len(owner))
    found = []
    for _ in range(draws):
        rows = np.concatenate([places[styles[i]] for i in rng.integers(len(styles), size=len(styles))])
        found.append(rho(rows, rng.integers(len(subjects), size=len(subjects))))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return rho(every, np.arange(len(subjects))), float(low), float(high)


def threshold(frame: pd.DataFrame, distance: str, style: str) -> tuple[float, float]:
    """The distance that best tells subjects of poor `style` from others, and its balanced accuracy."""
    poor, best = frame[style] < POOR, (float("nan"), 0.0)
    for candidate in np.quantile(frame[distance], np.linspace(0.02, 0.98, 97)):
        accuracy = balanced(frame[distance] > candidate, poor)
        best = max(best, (float(candidate), accuracy), key=lambda pair: pair[1])
    return best


def balanced(flagged: pd.Series, poor: pd.Series) -> float:
    """Mean of the shares of poor ones flagged and of others left alone."""
    return float(0.5 * (flagged[poor].mean() + (~flagged[~poor]).mean()))


def carried(frame: pd.DataFrame, before: pd.DataFrame) -> list[Row]:
    """Thresholds on the drawing's style of one run, judged on the other; 95 % intervals over styles."""
    rng, lines = np.random.default_rng(0), []
    runs = {"before to now": (before, frame), "now to before": (frame, before)}
    for distance in DISTANCES:
        for name, (one, other) in runs.items():
            limit, _ = threshold(one, distance, "drawn_style")
            line: Row = {"distance": distance, "chosen, judged": name, "threshold": round(limit, 3)}
            for which, part in (("all styles", other), ("new", other[other.kind != "seen"])):
                styles = [rows for _, rows in part.groupby("drawn_in")]
                draws = [rng.integers(len(styles), size=len(styles)) for _ in range(300)]
                found = [
                    balanced(rows[distance] > limit, rows.drawn_style < POOR)
                    for rows in (part, *(pd.concat([styles[i] for i in draw]) for draw in draws))
                ]
                low, high = np.nanquantile(found[1:], [0.025, 0.975])
                line[f"balanced accuracy, {which}"] = f"{found[0]:.2f} [{low:.2f}, {high:.2f}]"
            lines.append(line)
    return lines


def tables(frame: pd.DataFrame) -> str:
    """By complexity, group and style; distances and their thresholds, also those of the subjects of before."""
    numbers = [*NUMBERS, *DRAWN, *FLOOR]
    groups = {"photo": ["photo"], "seen drawings": GROUPS["drawn"], "held out": GROUPS["held out"]}
    lines = [
        {"styles": name, "complexity": level}
        | {number: mean_with_interval(by_subject(found, number)) for number in numbers}
        for name, styles in groups.items()
        for level, found in frame[frame.drawn_in.isin(styles)].groupby("complexity")
    ]
    slopes = []
    for name, styles in groups.items():
        part = frame[frame.drawn_in.isin(styles)]
        line: Row = {"styles": name}
        for number in numbers:
            each = [
                np.polyfit(p.complexity, p[number], 1)[0]
                for _, p in part.dropna(subset=[number]).groupby("subject")
            ]
            line[f"{number} per unit of complexity"] = mean_with_interval(np.array(each))
        slopes.append(line)
    middle = frame[frame.complexity == COMPLEXITY]
    kinds = {
        **{name: middle[middle.drawn_in.isin(styles)] for name, styles in groups.items()},
        "composed": middle[middle.kind == "composed"],
        "all new": middle[middle.kind != "seen"],
    }
    over = {
        f"{role}, {one} minus {other}": (mine, floor)
        for role in ("identity", "style")
        for one, other, mine, floor in (
            ("pasted", "drawn", role, f"drawn_{role}"),
            ("pasted", "photograph", role, f"photo_{role}"),
        )
    }
    compared = [
        {"styles": name}
        | {label: mean_with_interval(by_subject(part, value), 2)
           for label, value in (("identity", "identity"), ("style", "style"))}
        | {label: mean_with_interval(by_subject(part.assign(d=part[mine] - part[floor]), "d"), 2)
           for label, (mine, floor) in over.items()}
        for name, part in kinds.items()
    ]  # fmt: skip
    styles = [
        {"drawn in": style, "kind": found.kind.iloc[0]}
        | {number: mean_with_interval(by_subject(found, number), 2) for number in numbers}
        | {name: round(float(found[name].mean()), 3) for name in DISTANCES}
        for style, found in middle.groupby("drawn_in", sort=False)
    ]
    rules, new, rest = [], frame[frame.kind != "seen"], frame[reported(frame)]
    falls = [
        {"value": value, "distance": distance}
        | {f"rho, {name}": "{:.2f} [{:.2f}, {:.2f}]".format(*rank_correlation(part, distance, value))
           for name, part in (("all styles", frame), ("new", new))}
        for value in (*NUMBERS, *DRAWN)
        for distance in DISTANCES
    ]  # fmt: skip
    for value in ("style", "drawn_style"):
        for distance in DISTANCES:
            limit, accuracy = threshold(frame[tuned(frame)], distance, value)
            flagged, poor = rest[distance] > limit, rest[value] < POOR
            rules.append(
                {"distance": distance, "of": value}
                | {"threshold": round(limit, 3), "balanced accuracy, tuning": round(accuracy, 2),
                   "reported": round(balanced(flagged, poor), 2), "flagged": f"{flagged.mean():.0%}",
                   "poor": f"{poor.mean():.0%}", "poor among flagged": f"{poor[flagged].mean():.0%}",
                   "poor among others": f"{poor[~flagged].mean():.0%}"}
            )  # fmt: skip
    moved = carried(frame, pd.read_csv(HERE / "before.csv"))
    every = (lines, slopes, compared, styles, falls, rules, moved)
    return "\n\n".join(pd.DataFrame(table).to_markdown(index=False) for table in every) + "\n"


def draw_figure(path: Path, frame: pd.DataFrame, distance: str = "clip_mahalanobis") -> None:
    """Scores by complexity, as pasted and as drawn; style of either by distance, one point a style."""
    with figure(path, 8.0, 9.8) as made:
        grid = made.add_gridspec(3, 3, height_ratios=(1, 1.3, 1.3))
        groups = {"photo": ["photo"], "seen drawings": GROUPS["drawn"], "held out": GROUPS["held out"]}
        names = {
            "identity": "identity (cosine)",
            "style": "style (cosine)",
            "effect": "effect over nothing, dB",
        }
        top = [made.add_subplot(grid[0, column]) for column in range(3)]
        for ax, number in zip(top, NUMBERS, strict=True):
            for shift, (name, styles) in enumerate(groups.items()):
                part, place = frame[frame.drawn_in.isin(styles)], np.array(LEVELS) + 0.012 * (shift - 1)
                found = [interval(by_subject(p, number)) for _, p in part.groupby("complexity")]
                mean, low, high = map(np.array, zip(*found, strict=True))
                ax.errorbar(place, mean, (mean - low, high - mean), marker="o", markersize=4, capsize=2,
                            color=f"C{shift}", label=name)  # fmt: skip
                if f"drawn_{number}" in DRAWN:
                    drawn = [by_subject(p, f"drawn_{number}").mean() for _, p in part.groupby("complexity")]
                    ax.plot(place, drawn, marker="o", markersize=4, markerfacecolor="white",
                            linestyle="--", linewidth=1, color=f"C{shift}")  # fmt: skip
            ax.set_xlabel("complexity of the style")
            ax.set_ylabel(names[number])
        # One handle for both kinds of line.
        top[0].plot([], [], marker="o", color="0.3", markersize=4, label="as pasted")
        top[0].plot(
            [], [], marker="o", color="0.3", markersize=4, markerfacecolor="white", linestyle="--", linewidth=1,
            label="as drawn",
        )  # fmt: skip
        made.legend(*top[0].get_legend_handles_labels(), fontsize=8.5, loc="outside upper center", ncols=5)
        middle = frame[frame.complexity == COMPLEXITY]
        for row, (value, name) in enumerate({"style": "as pasted", "drawn_style": "as drawn"}.items(), 1):
            ax = made.add_subplot(grid[row, :])
            scatter(ax, middle, distance, value)
            ax.set_ylabel(f"style, {name} (cosine)")
            limit, _ = threshold(frame[tuned(frame)], distance, value)
            ax.axvline(limit, color="#5f6b7c", linestyle="--", linewidth=1)
            ax.text(
                limit, 0.02, " threshold", color="#5f6b7c", fontsize=8, transform=ax.get_xaxis_transform()
            )


def scatter(ax: Any, middle: pd.DataFrame, distance: str, value: str) -> None:
    """One point a style, a line with its interval over styles; new styles are named."""
    table = middle.groupby(["kind", "drawn_in"])[[distance, value]].mean().reset_index()
    for kind, marker in (("seen", "o"), ("held out", "D"), ("composed", "^")):
        part = table[table.kind == kind]
        ax.scatter(part[distance], part[value], marker=marker, s=28, label=kind)
    x, y = table[distance].to_numpy(), table[value].to_numpy()
    at, rng = np.linspace(x.min(), x.max(), 50), np.random.default_rng(0)
    draws = [rng.integers(len(x), size=len(x)) for _ in range(1000)]
    fits = np.array([np.polyval(np.polyfit(x[i], y[i], 1), at) for i in draws])
    ax.plot(at, np.polyval(np.polyfit(x, y, 1), at), color="#5f6b7c", linewidth=1.2)
    ax.fill_between(at, *np.quantile(fits, [0.025, 0.975], axis=0), color="#5f6b7c", alpha=0.15)
    ax.axhline(POOR, color="#5f6b7c", linestyle=":", linewidth=1)
    ax.set_xlabel(f"distance of the scene from the training styles ({distance.replace('_', ', ')})")
    ax.set_ylim(y.min() - 0.15, 1.1)
    ax.legend(fontsize=8, loc="lower left")
    new = table[table.kind != "seen"].sort_values(value, ascending=False)
    label_apart(ax, [(row.drawn_in, (row[distance], row[value])) for _, row in new.iterrows()])


def label_apart(ax: Any, points: list[tuple[str, tuple[float, float]]]) -> None:
    """Names points, each beside its own, at the first of eight places where no other name is."""
    ax.figure.draw_without_rendering()
    taken: list[Any] = [ax.transData.transform(at) for _, at in points]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in taken]
    places = [(dx, dy, side) for dy in (3, -8, 11, -16) for dx, side in ((4, "left"), (-4, "right"))]
    for name, at in points:
        for dx, dy, side in places:
            text = ax.annotate(name, at, (dx, dy), textcoords="offset points", fontsize=6.5, ha=side)
            box = text.get_window_extent()
            if not box.count_overlaps(taken) and ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1:
                break
            if (dx, dy, side) != places[-1]:
                text.remove()
        taken.append(box)


def sheet(out: Path, number: int) -> None:
    """Scene, redrawn and truth in some seen, held-out and composed styles."""
    shown = ["cartoon", "woodcut", "neon", *list(COMPOSED)[:9]]
    at = [cells_of(number).index((style, COMPLEXITY)) for style in shown]
    rows = []
    for name in ("scene", "drawn", "ours", "truth"):
        whole = load_rgb(out / f"{name}-{number}.png")
        rows.append([whole[..., SIZE * n : SIZE * (n + 1)] for n in at])
    labels = [style.replace(" ", "\n", 1) for style in shown]
    save_sheet(HERE / "pictures.jpg", rows, ["scene", "as drawn", "ours", "truth"], labels, cell=100)


def main() -> None:
    args = arguments(__doc__, subjects=3).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.figure_only:
        rows, judges = Rows(args.out), Judges()
        magic = MagicInsert.from_pretrained("micro", overrides=AS_PASTED).using(
            subjects=args.out.parent / "subjects"
        )
        apart = Distances(magic.models.pipe, judges)
        for number in range(args.subjects):
            if {"subject": number} not in rows:
                measure(rows, magic, judges, apart, args.seed, number)
        rows.frame.to_csv(HERE / "rows.csv", index=False)
        sheet(args.out, 0)
    publish(HERE, pd.read_csv(HERE / "rows.csv"), tables, draw_figure)


if __name__ == "__main__":
    main()
