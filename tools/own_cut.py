"""The cut of opaque pictures against known mattes: cut-outs laid onto photographs, with the shadow of a made-up sun.

Run as `python tools/own_cut.py --subjects FOLDER --backgrounds FOLDER --count 60 --out FOLDER`. Subjects are pictures
with alpha; opaque ones are passed over. The composites are those of `data=composites` (subjects .25 to .55 of the
picture tall); the truth is the matte that was laid, at a half. Prints the mean IoU of each segmenter with its 95 %
interval over subjects x backgrounds, and the worst pictures; `--out` gets each of these beside its truth and its cut.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import iou
from magic_insert.core.images import load_rgba, save_png
from magic_insert.core.picture_files import pictures_in
from magic_insert.core.tables import markdown_table
from magic_insert.data.pairs import CompositePairs
from magic_insert.evaluation.statistics import mean_interval
from magic_insert.models.segment import has_cutout, segment

HALF = 0.5
SEED = 20_261_128
WORST = 5


def cut_mask(rgb: Float[Tensor, "3 H W"], segmenter: str) -> Float[Tensor, "1 H W"]:
    """The matte of an opaque picture, empty where the segmenter finds nothing."""
    try:
        return segment(rgb, segmenter=segmenter).alpha
    except UserError:
        return torch.zeros_like(rgb[:1])


def measure(pairs: CompositePairs, segmenters: Sequence[str]) -> pd.DataFrame:
    """One row a picture and segmenter: IoU with the matte that was laid, CPU seconds of the cut."""
    rows = []
    for index in range(pairs.count):
        pair = pairs.load(index)
        _, subject, background = pair.id.split("-", 2)
        for name in segmenters:
            began = time.process_time()
            found = cut_mask(pair.with_subject, name)
            rows.append(
                {
                    "picture": index, "subject": subject, "background": background, "segmenter": name,
                    "iou": iou(found > HALF, pair.mask > HALF), "seconds": time.process_time() - began,
                    "share": float(pair.mask.mean()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """Markdown: one row a segmenter."""
    lines = []
    for name, part in frame.groupby("segmenter", sort=False):
        estimate = mean_interval(part["iou"], part["subject"], part["background"])
        known = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
        lines.append(
            {
                "segmenter": name,
                "pictures": len(part),
                "mean IoU": f"{estimate.mean:.3f}{known}",
                "median": f"{part['iou'].median():.3f}",
                "at least .9": f"{(part['iou'] >= 0.9).mean():.2f}",
                "CPU s": f"{part['seconds'].median():.2f}",
            }
        )
    return markdown_table(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the cut against known mattes.")
    parser.add_argument("--subjects", type=Path, nargs="+", required=True)
    parser.add_argument("--backgrounds", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--segmenters", default="auto,grabcut")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    subjects, backgrounds = (
        [path for folder in folders for path in pictures_in(folder)]
        for folders in (options.subjects, options.backgrounds)
    )
    cut_outs = [path for path in subjects if has_cutout(load_rgba(path)[1])]
    if not cut_outs:
        raise SystemExit(f"expected pictures with transparency in {options.subjects}, got none")
    pairs = CompositePairs(cut_outs, backgrounds, options.count, options.seed)
    frame = measure(pairs, options.segmenters.split(","))
    print(table(frame))
    first = frame[frame["segmenter"] == frame["segmenter"].iloc[0]].sort_values("iou").head(WORST)
    print(first.round(3).to_string(index=False))
    for row in first.itertuples() if options.out else ():
        pair = pairs.load(int(row.picture))
        found = cut_mask(pair.with_subject, str(row.segmenter))
        masks = [mask.expand(3, -1, -1) for mask in (pair.mask, found)]
        save_png(options.out / f"{row.iou:.3f}-{pair.id}.png", torch.cat([pair.with_subject, *masks], -1))


if __name__ == "__main__":
    main()
