"""Identity against obedience to an edit, over the length of a personalisation, with and without the hand-over.

    python experiments/011-fidelity-and-editability/measure.py --out runs/011
    python experiments/011-fidelity-and-editability/measure.py --out runs/011 --figure-only

One training a subject; the products of earlier steps are those that its validation keeps. Every picture is compared
with two truths, rendered in its style: the subject as it is and as the edit asks for. Obedience is where the picture
lies between them, 0 at the first and 1 at the second, by cosine of the encoder that tells them apart best.
Writes rows.csv, judges.csv, table.md, figure.png and pictures.jpg beside this script. again.csv: rows of the first
recipe from the same command on a later day.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import AS_DRAWN, SIZE, Judges, Row, Rows, arguments, figure, framed_like, models_of, save_sheet

from magic_insert import MagicInsert
from magic_insert.config.schema.evaluation import BenchmarkConfig
from magic_insert.core.digest import digest
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Scene, Subject
from magic_insert.data.benchmark_sources import ToyPlop
from magic_insert.toybox.captions import caption
from magic_insert.toybox.subjects import SubjectSpec
from magic_insert.toybox.world import COMPLEXITY, render_subjects
from magic_insert.training.personalize import pick_best, step_folder

HERE = Path(__file__).resolve().parent
SUBJECTS = ("frog-01", "dinosaur-01", "person-01")  # of ToyPlop: figures that wear nothing
LENGTHS = (25, 50, 100, 200)
PHOTO, DRAWN = ("room-01",), ("cave-04", "playground-03")  # scenes of ToyPlop
EDITS = {"sitting": {"pose": "sit"}, "with a red hat": {"accessory": "hat", "accessory_colour": "red"}}
# Condition -> scenes and hand-over.
CONDITIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "photograph": (PHOTO, "1"),
    "drawing, no hand-over": (DRAWN, "1"),
    "drawing, hand-over 0.4": (DRAWN, "0.4"),
}
# Recipes of the training; the first, with the paper's batch, is what everything but the table of recipes is about.
MAIN, SHIPPED = "batch 1, rank 32", "as shipped"
CONSTANT = ["personalization.steps=200", "personalization.lr_schedule=constant"]
RECIPES = {
    MAIN: [*CONSTANT, "personalization.batch_size=1"],
    "batch 4, rank 32": CONSTANT,
    "batch 1, rank 4": [
        *CONSTANT, "personalization.batch_size=1", "personalization.rank=4", "personalization.alpha=4"
    ],
    SHIPPED: ["personalization.steps=120"],  # batch 4, rank 32, a falling rate
}  # fmt: skip
# What a training keeps of its way.
KEPT = [
    "personalization.validation.every=25", "personalization.validation.edits=[]",
    "personalization.validation.scorer=none", "personalization.validation.seeds=1",
    "personalization.validation.steps=1",
]  # fmt: skip
ABOUT = ("recipe", "subject", "steps", "condition", "edit")  # of a row
STEPS = 10  # of a drawing
TOLERANCE = 0.05  # of the product's rule
ALIKE = 0.9  # of the best identity, what the other rule asks first


def setting(recipe: str, handover: str, edit: str) -> list[str]:
    """Overrides of one recipe, condition and edit."""
    return [
        *RECIPES[recipe],
        *KEPT,
        f"sampling.steps={STEPS}",
        f"style.handover={handover}",
        f"sampling.prompt_suffix={edit}",
    ]


def lengths_of(recipe: str) -> Sequence[int]:
    """Steps whose products are judged: of a falling rate the last one alone."""
    return (120,) if recipe == SHIPPED else LENGTHS


def truth_of(spec: SubjectSpec, style: str, seed: int, **changes: Any) -> Tensor:
    """The subject in a style, as a picture of it is framed; 3 S S."""
    changed = replace(spec, **changes)
    made = render_subjects([changed], [style], [COMPLEXITY], [seed], SIZE)
    return framed_like(made.rgb, bounding_box(made.alpha[0]))[0]


class Answers:
    """What each picture should look like, plain and edited, and how well each encoder tells the two apart."""

    def __init__(self, bench: ToyPlop, judges: Judges, names: Sequence[str]) -> None:
        self.judges, self.found = judges, {}
        self.styles = {scene: bench.scenes[scene][2] for scene in {*PHOTO, *DRAWN}}
        for name in names:
            for style in set(self.styles.values()):
                for edit, changes in {"": {}, **EDITS}.items():
                    for seed, turn in ((1, 0.0), (2, 12.0)):
                        spec = replace(bench.specs[name], yaw_deg=bench.specs[name].yaw_deg + turn)
                        self.found[name, style, edit, seed] = truth_of(
                            spec, style, fold_in(seed, name), **changes
                        )

    def cosine(self, role: str, picture: Tensor, truth: Tensor) -> float:
        one, other = self.judges.embed(role, torch.stack([picture, truth]))
        return float(one @ other)

    def obedience(self, role: str, picture: Tensor, name: str, style: str, edit: str) -> float:
        """0 where the picture is as near to the unedited truth as that truth itself, 1 the same of the edited one."""
        plain, wanted = (self.found[name, style, which, 1] for which in ("", edit))
        apart = 1 - self.cosine(role, plain, wanted)
        lead = self.cosine(role, picture, wanted) - self.cosine(role, picture, plain)
        return 0.5 + 0.5 * lead / max(apart, 1e-3)

    def accuracy(self) -> list[Row]:
        """Each encoder on renders whose answer is known, turned by 12 degrees: edited and not."""
        rows = []
        for name, style, edit, seed in self.found:
            if seed == 2 and edit:
                for role in ("identity", "clip", "style"):
                    for which in ("", edit):
                        value = self.obedience(role, self.found[name, style, which, 2], name, style, edit)
                        right = (value > 0.5) == bool(which)
                        rows.append({"role": role, "subject": name, "style": style, "edit": edit, "edited": bool(which),
                                     "obedience": value, "right": right})  # fmt: skip
        return rows


def measure(args: Any) -> None:
    """All rows."""
    bench, judges = ToyPlop(BenchmarkConfig("toyplop", split="full")), Judges()
    rows, home = Rows(args.out), args.out / "subjects"
    names = SUBJECTS[: args.subjects]
    answers = Answers(bench, judges, SUBJECTS)
    pd.DataFrame(answers.accuracy()).round(4).to_csv(HERE / "judges.csv", index=False)
    whole = MagicInsert.from_pretrained("micro", overrides=AS_DRAWN)
    scenes = {name: Scene(bench.background(name), name) for name in {*PHOTO, *DRAWN}}
    for recipe in args.recipes:
        settings = {
            f"{condition}|{edit}": setting(recipe, handover, edit)
            for condition, (_, handover) in CONDITIONS.items()
            for edit in ("", *EDITS)
        }
        magics = models_of(whole, [f"{name}:{','.join(words)}" for name, words in settings.items()], home)
        for name in names:
            subject = replace(bench.subject(name), text=caption(bench.specs[name]))
            learned = next(iter(magics.values())).personalize(subject)
            assert learned.run is not None
            for length in lengths_of(recipe):
                shorter = replace(learned, run=step_folder(learned.run, length))
                for key, magic in magics.items():
                    what = dict(zip(ABOUT, (recipe, name, length, *key.split("|")), strict=True))
                    if what not in rows:
                        rows.add(rows_of(magic, shorter, scenes, answers, args.out, what))
            print(recipe, name, flush=True)
    rows.frame.to_csv(HERE / "rows.csv", index=False)
    if MAIN in args.recipes:
        sheet(args.out)


def picture_file(out: Path, what: Row, draw: int) -> Path:
    return out / "pictures" / f"{digest([str(what[key]) for key in ABOUT] + [str(draw)])}.png"


def rows_of(
    magic: MagicInsert, subject: Subject, scenes: dict[str, Scene], answers: Answers, out: Path, what: Row
) -> list[Row]:
    """Both pictures of one condition, drawn and judged."""
    name, edit, places = what["subject"], what["edit"], CONDITIONS[what["condition"]][0]
    ids = [f"{name}-{place}-{draw}" for draw, place in enumerate(places)]
    drawn = magic.redraw(subject, [scenes[place] for place in places], seed=11, ids=ids)
    found = []
    for draw, (place, made) in enumerate(zip(places, drawn, strict=True)):
        picture, style = made.rgb.float().cpu(), answers.styles[place]
        save_png(picture_file(out, what, draw), picture)
        row: Row = {**what, "draw": draw, "style": style}
        row["identity"] = answers.cosine("identity", picture, answers.found[name, style, "", 1])
        row["style likeness"] = answers.cosine("style", picture, answers.found[name, style, "", 1])
        for wanted in EDITS:
            for role in ("identity", "clip"):
                row[f"{wanted}, {role}"] = answers.obedience(role, picture, name, style, wanted)
        if edit:
            text = answers.judges.encoders["clip"].embed_texts([f"a toy {edit}"])
            row["prompt"] = float(
                answers.judges.embed("clip", picture[None])[0]
                @ torch.nn.functional.normalize(text, dim=-1)[0]
            )
        found.append(row)
    return found


def sheet(out: Path) -> None:
    """One subject over length, plain and edited, without and with the hand-over."""
    name, rows, labels = SUBJECTS[0], [], []
    for condition in list(CONDITIONS)[1:]:
        for edit in ("", *EDITS):
            shown = [
                dict(zip(ABOUT, (MAIN, name, length, condition, edit), strict=True)) for length in LENGTHS
            ]
            rows.append([load_rgb(picture_file(out, what, 0)) for what in shown])
            labels.append(f"{'hand-over' if '0.4' in condition else 'none'}: {edit or 'plain'}")
    save_sheet(HERE / "pictures.jpg", rows, labels, [f"{length} steps" for length in LENGTHS])


def best_role(judges: pd.DataFrame) -> str:
    """The encoder that tells edited from unedited truths best; ties go to the larger spread."""
    found = judges[judges.role != "style"].groupby("role").right.mean()
    return str(found.idxmax())


def cells(frame: pd.DataFrame, value: str) -> pd.Series:
    """One number for each subject, the mean of its pictures: what is resampled."""
    return frame.groupby("subject")[value].mean()


def words_of(values: Any) -> str:
    """Mean and 95 % percentile interval over subjects."""
    mean, low, high = interval(values)
    return f"{mean:.3f}" if len(values) < 3 else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def interval(cells: Any) -> tuple[float, float, float]:
    """Mean and 95 % interval over subjects (of three: their range); the mean alone for fewer than three."""
    values = np.asarray(cells)
    if len(values) < 3:
        return (float(values.mean()),) * 3  # type: ignore[return-value]
    drawn = values[np.random.default_rng(0).integers(len(values), size=(2000, len(values)))].mean(1)
    return float(values.mean()), *map(float, np.percentile(drawn, (2.5, 97.5)))  # type: ignore[return-value]


def curves(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """By condition and length: identity of the plain picture, obedience to each edit, identity of edited pictures."""
    lines = []
    for (condition, steps), part in rows.groupby(["condition", "steps"], sort=False):
        plain = part[part.edit.isna() | (part.edit == "")]
        line: Row = {
            "condition": condition,
            "steps": steps,
            "identity, plain": cells(plain, "identity"),
        }
        line["style likeness"] = cells(plain, "style likeness")
        for edit in EDITS:
            asked = part[part.edit == edit]
            line[edit] = cells(asked, f"{edit}, {role}")
            line[f"{edit}, unasked"] = cells(plain, f"{edit}, {role}")
            line[f"{edit}, obeyed"] = float((asked[f"{edit}, {role}"] > 0.5).mean())
        lines.append(line)
    return pd.DataFrame(lines)


def picks(rows: pd.DataFrame) -> pd.DataFrame:
    """The product's rule, and the same with identity asked first, on the photographs; judged on the drawings."""
    lines = []
    for name, mine in rows.groupby("subject", sort=False):
        first = mine[(mine.condition == "photograph") & (mine.draw == 0)]
        scored = []
        for steps, part in first.groupby("steps"):
            plain = part[part.edit.isna() | (part.edit == "")]
            scored.append(
                {"step": int(steps), "identity": plain.identity.mean(), "prompt": part.prompt.mean()}
            )
        step = pick_best(scored, TOLERANCE)
        alike = [
            row for row in scored if row["identity"] >= ALIKE * max(other["identity"] for other in scored)
        ]
        safe = max(alike, key=lambda row: row["prompt"])["step"]
        others = mine[~((mine.condition == "photograph") & (mine.draw == 0))]
        line: Row = {"subject": name, "picked": step, "picked, identity first": safe}
        for row in scored:
            line[f"own photograph at {row['step']}: identity, prompt"] = (
                f"{row['identity']:.2f}, {row['prompt']:.2f}"
            )
        for label, steps in (("picked", step), ("identity first", safe), ("last", max(LENGTHS))):
            part = others[others.steps == steps]
            plain = part[part.edit.isna() | (part.edit == "")]
            line[f"identity, {label}"] = round(plain.identity.mean(), 3)
            line[f"prompt, {label}"] = round(part.prompt.mean(), 3)
        lines.append(line)
    return pd.DataFrame(lines)


def by_recipe_of(rows: pd.DataFrame, role: str, shared: bool = True) -> dict[str, pd.DataFrame]:
    """`curves` of every recipe, with `shared` over the subjects alone that all of them have learned."""
    found = {name: rows[rows.recipe == name] for name in RECIPES if name in set(rows.recipe)}
    if shared:
        names = set.intersection(*(set(part.subject) for part in found.values()))
        found = {name: part[part.subject.isin(names)] for name, part in found.items()}
    return {name: curves(part, role) for name, part in found.items()}


def recipes(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """Every other recipe minus the first, over the subjects that both have learned, on the photograph and on drawings
    with the hand-over: identity, obedience, and what the words add to the plain picture."""
    lines = []
    for name in [name for name in RECIPES if name not in (MAIN, SHIPPED) and name in set(rows.recipe)]:
        found = by_recipe_of(rows[rows.recipe.isin((MAIN, name))], role)
        for condition in [name for name in CONDITIONS if "no hand-over" not in name]:
            for steps in LENGTHS:
                mine, base = (
                    part[(part.condition == condition) & (part.steps == steps)].iloc[0]
                    for part in (found[name], found[MAIN])
                )
                line: Row = {
                    "recipe": name, "condition": condition, "steps": steps,
                    "subjects": len(mine["identity, plain"]),
                    "identity": f"{mine['identity, plain'].mean():.3f}",
                    "against the first": words_of(mine["identity, plain"] - base["identity, plain"]),
                }  # fmt: skip
                for edit in EDITS:
                    line[f"{edit}, against the first"] = words_of(mine[edit] - base[edit])
                    more = [cell[edit] - cell[f"{edit}, unasked"] for cell in (mine, base)]
                    line[f"{edit}, added by the words"] = words_of(more[0] - more[1])
                lines.append(line)
    return pd.DataFrame(lines)


def shipped(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """The shipped recipe, and the same at a constant rate: by condition, identity and what the words add."""
    lines, batch = [], "batch 4, rank 32"
    if not {SHIPPED, batch} <= set(rows.recipe):
        return pd.DataFrame()
    found = by_recipe_of(rows[rows.recipe.isin((SHIPPED, batch))], role)
    for _, mine in found[SHIPPED].iterrows():
        line: Row = {"condition": mine.condition, "steps": mine.steps}
        line["identity"] = words_of(mine["identity, plain"])
        line |= {f"added by {edit}": words_of(mine[edit] - mine[f"{edit}, unasked"]) for edit in EDITS}
        for steps in (100, 200):
            base = found[batch]
            base = base[(base.condition == mine.condition) & (base.steps == steps)].iloc[0]
            line[f"identity, minus {batch} at {steps}"] = words_of(
                mine["identity, plain"] - base["identity, plain"]
            )
            for edit in EDITS:
                more = [cell[edit] - cell[f"{edit}, unasked"] for cell in (mine, base)]
                line[f"{edit}, minus {batch} at {steps}"] = words_of(more[0] - more[1])
        lines.append(line)
    return pd.DataFrame(lines)


def repeated(rows: pd.DataFrame, again: pd.DataFrame, role: str) -> pd.DataFrame:
    """The first recipe, trained again by the same command: how far identity and what the words add come out apart."""
    lines = []
    for name, second in again.groupby("subject", sort=False):
        first = rows[(rows.recipe == MAIN) & (rows.subject == name)]
        pair = [curves(part, role).set_index(["condition", "steps"]) for part in (first, second)]
        line: Row = {"subject": name, "cells": len(pair[0])}
        found = {"identity": [table["identity, plain"].map(np.mean) for table in pair]}
        for edit in EDITS:
            found[f"added by {edit}"] = [
                (table[edit].map(np.mean) - table[f"{edit}, unasked"].map(np.mean)) for table in pair
            ]
        for label, (one, other) in found.items():
            apart = other - one
            line[f"{label}: mean"] = f"{apart.mean():+.3f}"
            line[f"{label}: mean without sign, most"] = f"{apart.abs().mean():.3f}, {apart.abs().max():.3f}"
        lines.append(line)
    return pd.DataFrame(lines)


def added(rows: pd.DataFrame, role: str) -> pd.DataFrame:
    """What the words add: obedience of the edited picture over that of the plain one, subject by subject."""
    lines = []
    for recipe, found in by_recipe_of(rows, role, shared=False).items():
        for _, cell in found.iterrows():
            line: Row = {"recipe": recipe, "condition": cell.condition, "steps": cell.steps}
            line["subjects"] = len(cell["identity, plain"])
            line |= {edit: words_of(cell[edit] - cell[f"{edit}, unasked"]) for edit in EDITS}
            lines.append(line)
    return pd.DataFrame(lines)


def table(rows: pd.DataFrame, judges: pd.DataFrame, role: str) -> str:
    """All tables."""
    everything, rows = rows, rows[rows.recipe == MAIN]
    found = curves(rows, role)
    shown = found.map(lambda cell: words_of(cell) if isinstance(cell, pd.Series) else cell)
    accuracy = judges.groupby(["role", "edit"]).right.agg(["mean", "count"]).reset_index().round(3)
    paired = []
    for one, other, steps in [
        ("drawing, hand-over 0.4", "drawing, no hand-over", max(LENGTHS)),
        ("drawing, hand-over 0.4", "drawing, no hand-over", 100),
    ]:
        a, b = (found[(found.condition == c) & (found.steps == steps)].iloc[0] for c in (one, other))
        line = {"difference": f"{one} - {other}, {steps} steps"}
        paired.append(line | {k: words_of(a[k] - b[k]) for k in ("identity, plain", *EDITS)})
    for condition in CONDITIONS:
        mine = found[found.condition == condition].set_index("steps")
        for low, high in ((LENGTHS[0], 100), (100, LENGTHS[-1])):
            line = {"difference": f"{condition}: {high} - {low} steps"}
            paired.append(
                line
                | {k: words_of(mine.loc[high, k] - mine.loc[low, k]) for k in ("identity, plain", *EDITS)}
            )
    parts = [
        shown,
        added(everything, role),
        pd.DataFrame(paired),
        picks(rows),
        recipes(everything, role),
        shipped(everything, role),
        repeated(everything, pd.read_csv(HERE / "again.csv"), role),
        accuracy,
    ]
    return (
        "\n\n".join(part.to_markdown(index=False) for part in parts if len(part))
        + f"\n\nObedience by the {role} encoder.\n"
    )


def draw(path: Path, rows: pd.DataFrame, role: str) -> None:
    """Identity, and what an edit's words add, over training length: above a line a condition, below a line a recipe."""
    by_recipe = by_recipe_of(rows, role)
    main = curves(rows[rows.recipe == MAIN], role)
    above = {str(name): part for name, part in main.groupby("condition", sort=False)}
    below = {name: found[found.condition == "photograph"] for name, found in by_recipe.items()}
    with figure(path, 10.0, 6.2) as made:
        panels = made.subplots(2, 3, sharex=True, sharey="col")
        for line, named, head in zip(panels, (above, below), (MAIN, "photograph, all recipes"), strict=True):
            for number, (name, found) in enumerate(named.items()):
                colour = f"C{number + (0 if named is above else 3)}"
                lengths(line[0], found.steps, found["identity, plain"], 0.09 * (number - 1), colour, name)
                for axes, edit in zip(line[1:], EDITS, strict=True):
                    more = found[edit].combine(found[f"{edit}, unasked"], lambda one, other: one - other)
                    lengths(axes, found.steps, more, 0.09 * (number - 1), colour, name)
            line[0].legend(fontsize=8.5, loc="lower left", title=head)
            for axes in line[1:]:
                axes.axhline(0, color="0.6", linewidth=0.8)
        panels[0, 0].set_title("identity of the plain picture")
        for line in panels:
            line[1].set_ylabel("obedience, asked minus unasked", fontsize=8.5)
        for axes, edit in zip(panels[0, 1:], EDITS, strict=True):
            axes.set_title(f'added by "{edit}"')
        for axes in panels[1]:
            axes.set_xlabel("training steps")
            axes.set_xticks(range(len(LENGTHS)), [str(n) for n in LENGTHS])


def lengths(axes: Any, steps: pd.Series, found: pd.Series, nudge: float, colour: str, name: str) -> None:
    """Mean by training length with its interval, and every subject as a small dot."""
    middle, low, high = np.array([interval(values) for values in found]).T
    place = np.log2(steps.to_numpy(dtype=float) / LENGTHS[0]) + nudge
    reach = (middle - low, high - middle)
    axes.errorbar(place, middle, reach, marker="o", capsize=3, elinewidth=0.8, label=name, color=colour)
    for at, values in zip(place, found, strict=True):
        axes.plot(
            [at] * len(values), values, "o", markersize=3.5, color=colour, markerfacecolor="white", zorder=3
        )


def main() -> None:
    parser = arguments(__doc__, subjects=len(SUBJECTS))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    args = parser.parse_args()
    if not args.figure_only:
        measure(args)
    rows, judges = pd.read_csv(HERE / "rows.csv"), pd.read_csv(HERE / "judges.csv")
    role = best_role(judges)
    if MAIN not in set(rows.recipe):  # everything else is held against it
        print(added(rows, role).to_markdown(index=False))
        return
    (HERE / "table.md").write_text(text := table(rows, judges, role))
    draw(HERE / "figure.png", rows, role)
    print(text)


if __name__ == "__main__":
    main()
