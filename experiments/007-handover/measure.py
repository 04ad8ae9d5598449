"""Redrawn subjects against the truth: fresh subjects x styles, one table row per setting.

    python experiments/007-handover/measure.py --out runs/007 --subjects 8 --setting ours \
        --setting instantstyle_canny:stylizer=instantstyle_canny [--lpips FOLDER] [--styles cartoon,ink] [--finished]

The truth is the Toybox drawing of the same view in the style, framed as the subject is framed for the model. What is
judged is what is pasted: the redrawn picture within the subject's own outline, on the truth's ground. There the subject
fills its picture: settings with marks say `stylizer.height=0.75`. With `--finished` it is the subject in its scene, a
square around it of the picture of 256 pixels: shaded as the inserter has it (`inserter.relight`), at the true box on
the true ground with the true shadow, against the scene that was rendered with it; its light and its view differ from
those of its photograph.

Identity and style are cosines of the micro judges to the truth, dB are within the outline; LPIPS needs the folder with
the trunk of AlexNet. Settings draw without the subject's own detail unless they say `style.detail=1`, as the product
has it; the setting `truth` is the truth through the autoencoder, `photograph` the subject as it is. Subjects and scenes
come from `--seed`; recipes were chosen with another. Subjects know their caption as `subject_text`, unless `--no-text`.
What rows.jsonl holds is not drawn again; table.md is written after each setting, sheet-N.png (one column per style, the
truth above the settings) after each subject.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))
from common import (
    AS_DRAWN,
    COMPLEXITY,
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
    pasted,
)

from magic_insert import MagicInsert
from magic_insert.core.compositing import area_resize, resize
from magic_insert.core.fidelity import decibel
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Box, Scene
from magic_insert.data.subject_images import own_part, spot
from magic_insert.drops import Redrawn
from magic_insert.models.encoders.paper import load_lpips
from magic_insert.models.pipeline import decode, encode
from magic_insert.toybox.styles import ALL_STYLES, style_phrase
from magic_insert.toybox.world import render_pairs

FINISHED = 256  # side of finished pictures
AROUND = 1.3  # side of what is judged of them, by the subject's longer one


class View:
    """What is judged of one case: `truth`, V 3 S S, and how a redrawn subject looks in its place."""

    def __init__(self, case: Case) -> None:
        self.truth, self.scenes, self.subject = case.truth, case.scenes, case.subject
        self.at = spot(case.subject, (SIZE, SIZE))
        self.cover = area_resize(own_part(case.subject)[1], self.at.h, self.at.w)
        self.inside = float(self.cover.sum()) / SIZE**2

    def pasted(self, rgb: Tensor, alpha: Tensor | None, number: int) -> Tensor:
        """The redrawn subject in its own outline on the ground of the truth."""
        return pasted(self.truth[number], rgb, alpha, self.subject)


class Finished(View):
    """The subject in its scenes."""

    def __init__(self, case: Case, seed: int, number: int, styles: Sequence[str]) -> None:
        super().__init__(case)
        self.inside, self.grounds, self.boxes, self.crops = 0.0, [], [], []
        self.scenes, truth = [], []
        for style, place in zip(styles, case.places, strict=True):
            drawn = fold_in(seed, style, number)
            pair = render_pairs([place], [case.spec], [style], [COMPLEXITY], [drawn], FINISHED)
            full, mask = pair.with_subject[0], pair.mask[0]
            box = bounding_box(mask, 0.5)
            side = min(round(AROUND * max(box.h, box.w)), FINISHED)
            corner = [
                min(max(at + length // 2 - side // 2, 0), FINISHED - side)
                for at, length in ((box.y, box.h), (box.x, box.w))
            ]
            wide = functional.max_pool2d(mask[None], 5, stride=1, padding=2)[0]
            self.grounds.append(torch.lerp(full, pair.without[0], wide))
            self.boxes.append(box)
            self.crops.append(Box(corner[1], corner[0], side, side))
            self.scenes.append(Scene(pair.without[0], f"{style}-{number}"))
            truth.append(self.seen(full, -1))
        self.truth = torch.stack(truth)

    def seen(self, picture: Tensor, number: int) -> Tensor:
        """What is judged of a picture."""
        crop = self.crops[number]
        there = picture[:, crop.y : crop.bottom, crop.x : crop.right]
        return resize(there, SIZE, SIZE)

    def pasted(self, rgb: Tensor, alpha: Tensor | None, number: int) -> Tensor:
        if alpha is None:
            rgb, alpha = rgb[:, self.at.y : self.at.bottom, self.at.x : self.at.right], self.cover
        box = self.boxes[number]
        return self.on_ground(resize(torch.cat([rgb * alpha, alpha]), box.h, box.w), number)

    def placed(self, magic: MagicInsert, redrawn: Redrawn, number: int) -> Tensor:
        """The redrawn subject as the product places it, in the scene's light."""
        box = self.boxes[number]
        drop = magic.place(redrawn, self.scenes[number], box=(box.x, box.y, box.w, box.h))
        rgb, alpha = drop.layers["subject"].pixels.split([3, 1])
        return self.on_ground(torch.cat([rgb * alpha, alpha]), number)

    def on_ground(self, subject: Tensor, number: int) -> Tensor:
        """A premultiplied subject of its box's size on the true ground, as it is judged."""
        made, there = self.grounds[number].clone(), self.boxes[number].pixels
        made[there] = (made[there] * (1 - subject[3:]) + subject[:3]).clamp(0, 1)
        return self.seen(made, number)


@torch.no_grad()
def draw(magic: MagicInsert, setting: str, view: View, seed: int) -> Tensor:
    """What `setting` makes of the case, V 3 S S."""
    count = len(view.scenes)
    if setting == "truth":
        vae = magic.models.pipe.vae
        return decode(vae, encode(vae, view.truth)).float().cpu()
    subject = view.subject
    if setting == "photograph":
        return torch.stack([view.pasted(*own_part(subject), number) for number in range(count)])
    if magic.settings.stylizer.name == "personalized":
        subject = magic.personalize(subject)
    words = [style_phrase(scene.id.rsplit("-", 1)[0]) for scene in view.scenes]
    drawn = magic.redraw(subject, view.scenes, seed=seed, style_texts=words)
    if isinstance(view, Finished):
        return torch.stack([view.placed(magic, r, number) for number, r in enumerate(drawn)])
    return torch.stack([view.pasted(r.rgb.float().cpu(), r.alpha, number) for number, r in enumerate(drawn)])


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
    parser.add_argument("--finished", action="store_true")
    args = parser.parse_args()
    rows, judges = Rows(args.out), Judges()
    lpips = load_lpips(args.lpips) if args.lpips else None
    models = models_of(
        MagicInsert.from_pretrained("micro", overrides=AS_DRAWN), args.setting, args.out / "subjects"
    )
    for number in range(args.subjects):
        case, sheet = case_of(args.seed, number, args.styles, text=not args.no_text), []
        view = Finished(case, args.seed, number, args.styles) if args.finished else View(case)
        for name, magic in models.items():
            picture = args.out / f"{name}-{number}.png"
            if {"setting": name, "subject": number} in rows:
                sheet.append(load_rgb(picture))
                continue
            drawn = draw(magic, name, view, args.seed)
            sheet.append(torch.cat(list(drawn), -1))
            save_png(picture, sheet[-1].clamp(0, 1))
            found = judges.likeness(drawn, view.truth)
            measured: list[Row] = []
            for n, style in enumerate(args.styles):
                row = {"subject": number, "setting": name, "drawn_in": style}
                row |= {role: values[n] for role, values in found.items()}
                if view.inside:
                    error = float((drawn[n] - view.truth[n]).square().mean()) / view.inside
                    row["psnr"] = round(decibel(error), 3)
                if lpips is not None:
                    row["lpips"] = float(lpips(drawn[n : n + 1], view.truth[n : n + 1]))
                measured.append(row)
            rows.add(measured)
            (args.out / "table.md").write_text(tables(rows.frame))
        save_png(args.out / f"sheet-{number}.png", torch.cat([torch.cat(list(view.truth), -1), *sheet], -2))
    print(tables(rows.frame))


if __name__ == "__main__":
    main()
