"""Redrawn subjects against the truth: fresh subjects x styles, one table row per setting.

    python experiments/007-handover/measure.py --out runs/007 --subjects 8 --setting ours \
        --setting instantstyle_canny:stylizer=instantstyle_canny [--lpips FOLDER] [--styles cartoon,ink]

The truth is the Toybox drawing of the same view in the style, framed as the subject is framed for the model. What is
judged is what is pasted: the redrawn picture within the subject's own outline, on the truth's ground. Identity and
style are cosines of the micro judges to the truth, dB are within the outline; LPIPS needs the folder with the trunk of
AlexNet. Settings draw without the subject's own detail unless they say `style.detail=1`, as the product has it; the
setting `truth` is the truth through the autoencoder. Subjects and scenes come from `--seed`; recipes were chosen with
another. Subjects know their caption as `subject_text`, unless `--no-text`. What rows.jsonl holds is not drawn again;
table.md is written after each setting, sheet-N.png (one column per style, the truth above the settings) after each
subject.
"""

import sys
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import (
    AS_DRAWN,
    GROUPS,
    SIZE,
    Case,
    Judges,
    Row,
    Rows,
    arguments,
    by_subject,
    case_of,
    mean_with_interval,
    models_of,
)

from magic_insert import MagicInsert
from magic_insert.core.compositing import area_resize
from magic_insert.core.fidelity import decibel
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.records import Box, Subject
from magic_insert.data.subject_images import own_part, spot
from magic_insert.drops import Redrawn
from magic_insert.models.encoders.paper import load_lpips
from magic_insert.models.pipeline import decode, encode
from magic_insert.toybox.styles import ALL_STYLES, style_phrase


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
    drawn = magic.redraw(subject, case.scenes, seed=seed, style_texts=words)
    return torch.stack([pasted(r, case.subject, truth) for r, truth in zip(drawn, case.truth, strict=True)])


def outline(subject: Subject) -> tuple[Box, Tensor]:
    """Where the subject stands in the model's square, and how much of it is covered."""
    at = spot(subject, (SIZE, SIZE))
    return at, area_resize(own_part(subject)[1], at.h, at.w)


def pasted(redrawn: Redrawn, subject: Subject, truth: Tensor) -> Tensor:
    """The redrawn subject in its own outline on the ground of `truth`."""
    at, cover = outline(subject)
    there = (slice(None), slice(at.y, at.bottom), slice(at.x, at.right))
    rgb = redrawn.rgb.float().cpu()
    rgb = rgb[there] if redrawn.alpha is None else area_resize(rgb, at.h, at.w)
    made = truth.clone()
    made[there] = torch.lerp(truth[there], rgb, cover.expand_as(rgb))
    return made


def tables(table: pd.DataFrame) -> str:
    """By group of styles with intervals, and by style."""
    numbers = [c for c in ("lpips", "identity", "style", "psnr") if c in table]
    lines = []
    for name, styles in GROUPS.items():
        for setting, found in table[table.drawn_in.isin(styles)].groupby("setting", sort=False):
            cells = {c: mean_with_interval(by_subject(found, c)) for c in numbers}
            lines.append({"styles": name, "setting": setting, "subjects": found.subject.nunique(), **cells})
    by_style = table.pivot_table(index="drawn_in", columns="setting", values=numbers, sort=False).round(3)
    return pd.DataFrame(lines).to_markdown(index=False) + "\n\n" + by_style.to_markdown() + "\n"


def main() -> None:
    parser = arguments(__doc__, subjects=8, seed=7007)
    parser.add_argument("--styles", type=lambda text: text.split(","), default=list(ALL_STYLES))
    parser.add_argument("--setting", action="append", required=True, help="NAME or NAME:key=value,key=value")
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument("--lpips", type=Path)
    args = parser.parse_args()
    rows, judges = Rows(args.out), Judges()
    lpips = load_lpips(args.lpips) if args.lpips else None
    models = models_of(
        MagicInsert.from_pretrained("micro", overrides=AS_DRAWN), args.setting, args.out / "subjects"
    )
    for number in range(args.subjects):
        case, sheet = case_of(args.seed, number, args.styles, text=not args.no_text), []
        for name, magic in models.items():
            picture = args.out / f"{name}-{number}.png"
            if {"setting": name, "subject": number} in rows:
                sheet.append(load_rgb(picture))
                continue
            drawn = draw(magic, name, case, args.seed)
            sheet.append(torch.cat(list(drawn), -1))
            save_png(picture, sheet[-1].clamp(0, 1))
            found = judges.likeness(drawn, case.truth)
            inside = float(outline(case.subject)[1].sum()) / SIZE**2
            measured: list[Row] = []
            for n, style in enumerate(args.styles):
                row = {"subject": number, "setting": name, "drawn_in": style}
                row |= {role: values[n] for role, values in found.items()}
                row["psnr"] = round(decibel(float((drawn[n] - case.truth[n]).square().mean()) / inside), 3)
                if lpips is not None:
                    row["lpips"] = float(lpips(drawn[n : n + 1], case.truth[n : n + 1]))
                measured.append(row)
            rows.add(measured)
            (args.out / "table.md").write_text(tables(rows.frame))
        save_png(args.out / f"sheet-{number}.png", torch.cat([torch.cat(list(case.truth), -1), *sheet], -2))
    print(tables(rows.frame))


if __name__ == "__main__":
    main()
