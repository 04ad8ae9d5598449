"""The cut of opaque pictures against known mattes: cut-outs laid onto photographs, with the shadow of a made-up sun.

Run as `python tools/own_cut.py --subjects FOLDER --backgrounds FOLDER --count 60 --out FOLDER`. Subjects are pictures
with alpha; opaque ones are passed over. The composites are those of `data=composites` (subjects .25 to .55 of the
picture tall), once whole and once framed around the subject as in a picture of it, with a margin of .05 to .4 of its
longer side; the truth is the matte that was laid, at a half. Prints the mean IoU of each segmenter with its 95 %
interval over subjects x backgrounds, and the worst pictures; `--out` gets each of these beside its truth and its cut.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import iou
from magic_insert.core.images import load_rgba, save_png
from magic_insert.core.masks import bounding_box
from magic_insert.core.picture_files import pictures_in
from magic_insert.core.rand import generator
from magic_insert.core.tables import markdown_table
from magic_insert.data.pairs import CompositePairs
from magic_insert.evaluation.statistics import mean_interval
from magic_insert.models.segment import around, has_cutout, segment

HALF = 0.5
SEED = 20_261_128
WORST, POOR = 5, 0.9


def cut_mask(rgb: Float[Tensor, "3 H W"], segmenter: str) -> Float[Tensor, "1 H W"]:
    """The matte of an opaque picture, empty where the segmenter finds nothing."""
    try:
        return segment(rgb, segmenter=segmenter).alpha
    except UserError:
        return torch.zeros_like(rgb[:1])


def framings(pairs: CompositePairs, index: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Composite number `index` with its matte, framed around the subject and whole."""
    pair = pairs.load(index)
    margin = 0.05 + 0.35 * float(torch.rand(1, generator=generator(pairs.seed, "framing", index)))
    near = around(bounding_box(pair.mask), margin, pair.with_subject)
    part = (slice(None), slice(near.y, near.bottom), slice(near.x, near.right))
    yield "framed", pair.with_subject[part], pair.mask[part]
    yield "whole", pair.with_subject, pair.mask


def measure(pairs: CompositePairs, segmenters: Sequence[str], out: Path | None) -> pd.DataFrame:
    """One row a picture and segmenter: IoU with the matte that was laid, CPU seconds of the cut.

    Pictures below POOR of the first segmenter go to `out`, beside their truth and their cut.
    """
    rows = []
    for index in range(pairs.count):
        subject, background = (path.stem for path in pairs.chosen(index))
        for (framing, rgb, truth), name in product(framings(pairs, index), segmenters):
            began = time.process_time()
            found = cut_mask(rgb, name)
            row = {
                "picture": index, "framing": framing, "segmenter": name, "subject": subject,
                "background": background, "iou": iou(found > HALF, truth > HALF),
                "seconds": time.process_time() - began, "share": float(truth.mean()),
            }  # fmt: skip
            rows.append(row)
            if out is not None and name == segmenters[0] and row["iou"] < POOR:
                masks = [mask.expand(3, -1, -1) for mask in (truth, found)]
                file = out / f"{framing}-{row['iou']:.3f}-{index}-{subject}-{background}.png"
                save_png(file, torch.cat([rgb, *masks], -1))
    return pd.DataFrame(rows)


def table(frame: pd.DataFrame) -> str:
    """Markdown: one row a framing and segmenter."""
    lines = []
    for (framing, name), part in frame.groupby(["framing", "segmenter"], sort=False):
        estimate = mean_interval(part["iou"], part["subject"], part["background"])
        low, high = (estimate.low, estimate.high) if estimate.low is not None else (None, None)
        known = "" if low is None or high is None else f" [{max(0, low):.3f}, {min(1, high):.3f}]"
        lines.append(
            {
                "framing": framing,
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
    frame = measure(pairs, options.segmenters.split(","), options.out)
    print(table(frame))
    for _, part in frame[frame["segmenter"] == frame["segmenter"].iloc[0]].groupby("framing", sort=False):
        print(part.sort_values("iou").head(WORST).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
