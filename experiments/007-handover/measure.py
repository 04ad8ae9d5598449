"""Redrawn subjects against the truth: fresh subjects x styles, one table row per setting.

    python experiments/007-handover/measure.py --out runs/007 --subjects 8 --setting ours \
        --setting instantstyle_canny:stylizer=instantstyle_canny [--lpips FOLDER] [--styles cartoon,ink]

The truth is the Toybox drawing of the same view in the style, framed as the subject is framed for the model. Identity
and style are cosines of the micro judges to the truth; LPIPS needs the folder with the trunk of AlexNet. The setting
`truth` is the truth through the autoencoder. Subjects and scenes come from `--seed`; recipes were chosen with another.
Subjects know their caption as `subject_text`, unless `--no-text`. What rows.jsonl holds is not drawn again; table.md
is written after each setting, sheet-N.png (one column per style, the truth above the settings) after each subject.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

from magic_insert import MagicInsert
from magic_insert.core.fidelity import decibel
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl, read_jsonl
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.data.subject_images import FILL
from magic_insert.models.encoders.micro import load_encoders
from magic_insert.models.encoders.paper import load_lpips
from magic_insert.models.pipeline import decode, encode
from magic_insert.paths import micro_dir
from magic_insert.toybox.captions import caption
from magic_insert.toybox.scenes import sample_scene
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES, style_phrase
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.world import render_pairs, render_subjects

SIZE, COMPLEXITY = 128, 0.5
GROUPS = {
    "photo": ["photo"],
    "drawn": list(TRAIN_STYLES[1:]),
    "held out": [s for s in ALL_STYLES if s not in TRAIN_STYLES],
}


@dataclass(frozen=True)
class Case:
    """A held-out subject as a photograph, its truth in every style (V 3 S S), and a scene in every style."""

    subject: Subject
    truth: Tensor
    scenes: list[Scene]


def case_of(seed: int, number: int, styles: list[str], text: bool) -> Case:
    """Case `number` of `seed`."""
    spec = replace(sample_subject(fold_in(seed, "subject", number), "heldout"), pose="stand")
    drawn = ["photo", *styles]
    seeds = [fold_in(seed, "texture", number)] * len(drawn)
    alone = render_subjects([spec] * len(drawn), drawn, [COMPLEXITY] * len(drawn), seeds, SIZE)
    scenes = []
    for style in styles:
        place = sample_scene(fold_in(seed, "scene", number, style), "heldout")
        pair = render_pairs([place], [spec], [style], [COMPLEXITY], [fold_in(seed, style, number)], SIZE)
        scenes.append(Scene(pair.without[0], f"{style}-{number}"))
    words = caption(spec) if text else ""
    subject = Subject(alone.rgb[0], alone.alpha[0], f"subject-{number}", text=words)
    return Case(subject, framed_like(alone.rgb[1:], bounding_box(alone.alpha[0])), scenes)


def framed_like(pictures: Tensor, box: Box) -> Tensor:
    """Whole pictures scaled and moved as `place` does a cut-out with this bounding box."""
    height, width = (round(side / max(box.h, box.w) * SIZE * FILL) for side in (box.h, box.w))
    at = torch.arange(SIZE) + 0.5
    y = ((at - round((SIZE - height) / 2)) / height * box.h + box.y) / pictures.shape[-2] * 2 - 1
    x = ((at - round((SIZE - width) / 2)) / width * box.w + box.x) / pictures.shape[-1] * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None].expand(len(pictures), -1, -1, -1)
    return grid_sample(pictures, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


@torch.no_grad()
def draw(magic: MagicInsert, setting: str, case: Case, seed: int) -> Tensor:
    """What `setting` makes of the case, V 3 S S."""
    if setting == "truth":
        vae = magic.models.pipe.vae
        return decode(vae, encode(vae, case.truth)).float().cpu()
    subject = case.subject
    if magic.settings.stylizer.name == "personalized":
        subject = magic.personalize(subject)
    words = [style_phrase(scene.id.rsplit("-", 1)[0]) for scene in case.scenes]
    return torch.stack(
        [r.rgb.float().cpu() for r in magic.redraw(subject, case.scenes, seed=seed, style_texts=words)]
    )


def mean_with_interval(values: pd.Series) -> str:
    """Mean and 95 % BCa interval over subjects; fewer than three have none."""
    by_subject = values.groupby(level="subject").mean().to_numpy()
    if len(by_subject) < 3 or np.ptp(by_subject) == 0:
        return f"{by_subject.mean():.3f}"
    low, high = bootstrap((by_subject,), np.mean, random_state=0).confidence_interval
    return f"{by_subject.mean():.3f} [{low:.3f}, {high:.3f}]"


def tables(rows: list[dict[str, object]]) -> str:
    """By group of styles with intervals, and by style."""
    table = pd.DataFrame(rows)
    numbers = [c for c in ("lpips", "identity", "style", "psnr") if c in table]
    lines = []
    for name, styles in GROUPS.items():
        for setting, found in table[table.drawn_in.isin(styles)].groupby("setting", sort=False):
            indexed = found.set_index("subject")
            cells = {c: mean_with_interval(indexed[c]) for c in numbers}
            lines.append({"styles": name, "setting": setting, "subjects": found.subject.nunique(), **cells})
    by_style = table.pivot_table(index="drawn_in", columns="setting", values=numbers, sort=False).round(3)
    return pd.DataFrame(lines).to_markdown(index=False) + "\n\n" + by_style.to_markdown() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7007)
    parser.add_argument("--styles", type=lambda text: text.split(","), default=list(ALL_STYLES))
    parser.add_argument("--setting", action="append", required=True, help="NAME or NAME:key=value,key=value")
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument("--lpips", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judges = load_encoders(micro_dir() / "encoders")
    lpips = load_lpips(args.lpips) if args.lpips else None
    file, whole = args.out / "rows.jsonl", MagicInsert.from_pretrained("micro")
    rows = read_jsonl(file) if file.is_file() else []
    for number in range(args.subjects):
        case, sheet = case_of(args.seed, number, args.styles, not args.no_text), []
        for setting in args.setting:
            name, _, words = setting.partition(":")
            picture = args.out / f"{name}-{number}.png"
            if any(row["setting"] == name and row["subject"] == number for row in rows):
                sheet.append(load_rgb(picture))
                continue
            magic = MagicInsert.from_pretrained("micro", overrides=words.split(",") if words else ())
            magic = magic.using(subjects=args.out / "subjects")
            magic.models = whole.models
            drawn = draw(magic, name, case, args.seed)
            sheet.append(torch.cat(list(drawn), -1))
            save_png(picture, sheet[-1].clamp(0, 1))
            found = {
                role: (
                    normalize(judges[role].embed_images(drawn), dim=-1)
                    * normalize(judges[role].embed_images(case.truth), dim=-1)
                ).sum(-1)
                for role in ("identity", "style")
            }
            for n, style in enumerate(args.styles):
                row = {"subject": number, "setting": name, "drawn_in": style}
                row |= {role: round(float(values[n]), 4) for role, values in found.items()}
                row["psnr"] = round(decibel(float((drawn[n] - case.truth[n]).square().mean())), 3)
                if lpips is not None:
                    row["lpips"] = round(float(lpips(drawn[n : n + 1], case.truth[n : n + 1])), 4)
                rows.append(row)
                append_jsonl(file, row)
            (args.out / "table.md").write_text(tables(rows))
        save_png(args.out / f"sheet-{number}.png", torch.cat([torch.cat(list(case.truth), -1), *sheet], -2))
    print(tables(rows))


if __name__ == "__main__":
    main()
