"""Redrawn subjects against the truth: fresh subjects x styles, one row of settings after another.

    python experiments/007-handover/measure.py --out runs/007 --subjects 8 --setting shipped \
        --setting none:style.handover=1,style.outline=0 [--lpips FOLDER] [--styles cartoon,ink]

The truth is the Toybox drawing of the same view in the style. Identity and style are cosines of the micro judges to
the truth; LPIPS needs the folder with the trunk of AlexNet. Subjects and scenes come from `--seed`, the recipe
from another one. Writes table.md, rows.jsonl and sheet.png (one column per style, one row per subject and setting).
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from torch.nn.functional import normalize

from magic_insert import MagicInsert
from magic_insert.core.fidelity import decibel
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import append_jsonl
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Scene, Subject
from magic_insert.models.encoders.micro import load_encoders
from magic_insert.models.encoders.paper import load_lpips
from magic_insert.paths import micro_dir
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.world import render_pairs, render_subjects

SIZE, COMPLEXITY = 128, 0.5


def toybox_subject(seed: int, number: int, styles: list[str]) -> tuple[Subject, torch.Tensor, list[Scene]]:
    """A held-out subject as a photograph, its truth in every style [V 3 H W], and a scene in every style."""
    spec = replace(sample_subject(fold_in(seed, "subject", number), "heldout"), pose="stand")
    drawn = ["photo", *styles]
    seeds = [fold_in(seed, "texture", number)] * len(drawn)
    alone = render_subjects([spec] * len(drawn), drawn, [COMPLEXITY] * len(drawn), seeds, SIZE)
    scenes = []
    for style in styles:
        place = sample_scene(fold_in(seed, "scene", number, style), "heldout")
        pair = render_pairs([place], [spec], [style], [COMPLEXITY], [fold_in(seed, style, number)], SIZE)
        scenes.append(Scene(pair.without[0], f"{style}-{number}"))
    return Subject(alone.rgb[0], alone.alpha[0], f"subject-{number}"), alone.rgb[1:], scenes


def mean_with_interval(values: pd.Series) -> str:
    """Mean and 95 % BCa interval over subjects; a single one has none."""
    by_subject = values.groupby(level="subject").mean().to_numpy()
    if len(by_subject) < 3 or np.ptp(by_subject) == 0:
        return f"{by_subject.mean():.3f}"
    low, high = bootstrap((by_subject,), np.mean, random_state=0).confidence_interval
    return f"{by_subject.mean():.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7007)
    parser.add_argument("--styles", type=lambda text: text.split(","), default=list(ALL_STYLES))
    parser.add_argument("--setting", action="append", required=True, help="NAME or NAME:key=value,key=value")
    parser.add_argument("--lpips", type=Path)
    parser.add_argument("--model", default="micro")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judges = load_encoders(micro_dir() / "encoders")
    lpips = load_lpips(args.lpips) if args.lpips else None
    rows, sheet = [], []
    for number in range(args.subjects):
        subject, truth, scenes = toybox_subject(args.seed, number, args.styles)
        sheet.append(truth)
        for setting in args.setting:
            name, _, words = setting.partition(":")
            magic = MagicInsert.from_pretrained(args.model, overrides=words.split(",") if words else ())
            magic = magic.using(subjects=args.out / "subjects")
            learned = magic.personalize(subject)
            drawn = torch.stack([r.rgb.float().cpu() for r in magic.redraw(learned, scenes, seed=args.seed)])
            sheet.append(drawn)
            cosines = {
                role: (
                    normalize(e.embed_images(drawn), dim=-1) * normalize(e.embed_images(truth), dim=-1)
                ).sum(-1)
                for role, e in (("identity", judges["identity"]), ("style", judges["style"]))
            }
            for n, style in enumerate(args.styles):
                row = {"subject": number, "setting": name, "drawn_in": style}
                row |= {role: round(float(values[n]), 4) for role, values in cosines.items()}
                row["psnr"] = round(decibel(float((drawn[n] - truth[n]).square().mean())), 3)
                if lpips is not None:
                    row["lpips"] = round(float(lpips(drawn[n : n + 1], truth[n : n + 1])), 4)
                rows.append(row)
                append_jsonl(args.out / "rows.jsonl", row)
            print(
                f"subject {number} {name}: "
                + str(pd.DataFrame(rows[-len(args.styles) :]).mean(numeric_only=True).round(3).to_dict()),
                flush=True,
            )
    table = pd.DataFrame(rows)
    groups = {
        "photo": ["photo"],
        "drawn": list(TRAIN_STYLES[1:]),
        "held out": [s for s in ALL_STYLES if s not in TRAIN_STYLES],
    }
    numbers = [c for c in ("lpips", "identity", "style", "psnr") if c in table]
    lines = []
    for name, styles in groups.items():
        part = table[table.drawn_in.isin(styles)]
        for setting, found in part.groupby("setting", sort=False):
            cells = {c: mean_with_interval(found.set_index("subject")[c]) for c in numbers}
            lines.append({"styles": name, "setting": setting, **cells})
    by_style = table.pivot_table(index="drawn_in", columns="setting", values=numbers, sort=False).round(3)
    text = pd.DataFrame(lines).to_markdown(index=False) + "\n\n" + by_style.to_markdown() + "\n"
    (args.out / "table.md").write_text(text)
    print(text)
    save_png(args.out / "sheet.png", torch.cat([torch.cat(list(row), -1) for row in sheet], -2).clamp(0, 1))


if __name__ == "__main__":
    main()
