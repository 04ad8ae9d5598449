"""The pictures of a report: small, embedded once each, found by the paths in the rows.

Shape letters: H, W pixels of the file; thumbnails have a longer side of at most SIDE. A picture that is no longer there
leaves an empty frame, so that a report can be made from rows alone.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.images import load_rgb, png_bytes
from magic_insert.evaluation.columns import Column
from magic_insert.evaluation.compare import Row, grouped, kind_of, methods_of

SIDE = 144
SHEET_PAIRS = 6
# What a method made, by track; everything else a row names is context and the same for all methods of a pair.
MADE = {"stylize": "stylised", "insert": "composite"}
CONTEXT = ("subject", "background", "truth")  # in the order of the sheets


def thumbnail(image: Float[Tensor, "3 H W"], side: int = SIDE) -> Float[Tensor, "3 h w"]:
    """`image` with its longer side brought down to `side`; a smaller picture stays as it is."""
    scale = side / max(image.shape[-2:])
    if scale >= 1:
        return image
    size = [max(1, round(length * scale)) for length in image.shape[-2:]]
    return torch.nn.functional.interpolate(image[None], size=size, mode="area")[0]


@dataclass
class Album:
    """Thumbnails as data addresses, each file read once. `root` is the folder that the rows' paths start from."""

    root: Path
    read: dict[str, str | None]

    def address(self, path: str) -> str | None:
        """The thumbnail of the picture at `path` below `root`; None if there is no file, or it lies elsewhere.

        Raises:
            UserError: there is a file, and it is no sound picture.
        """
        if path not in self.read:
            file = (self.root / path).resolve()
            here = file.is_relative_to(self.root.resolve()) and file.is_file()
            data = base64.b64encode(png_bytes(thumbnail(load_rgb(file)))).decode() if here else None
            self.read[path] = None if data is None else f"data:image/png;base64,{data}"
        return self.read[path]

    def figure(self, path: str | None, caption: str, note: str = "") -> str:
        """An HTML figure; `note` is a second, quieter line."""
        address = None if path is None else self.address(path)
        image = (
            f'<img alt="{escape(caption)}" loading="lazy" src="{address}">'
            if address
            else '<span class="gone">no picture</span>'
        )
        quiet = f"<small>{escape(note)}</small>" if note else ""
        return f"<figure>{image}<figcaption>{escape(caption)}{quiet}</figcaption></figure>"


def made_picture(row: Row) -> str | None:
    """The path of what the method made for this row."""
    path: str | None = row["images"].get(MADE[row["track"]])
    return path


def varied(rows: Sequence[Row], count: int) -> list[str]:
    """At most `count` pair ids, so chosen that subjects and backgrounds recur as late as can be."""
    left = {
        row["pair_id"]: (row["subject"], row["background"])
        for row in sorted(rows, key=lambda r: r["pair_id"])
    }
    seen: Counter[str] = Counter()
    chosen: list[str] = []
    while left and len(chosen) < count:
        pair = min(left, key=lambda name: sum(seen[part] for part in left[name]))
        seen.update(left.pop(pair))
        chosen.append(pair)
    return chosen


def sheet_html(rows: Sequence[Row], track: str, album: Album) -> str:
    """Pairs down, methods across: what everybody made of the same pairs, beside context and truth."""
    chosen = [row for row in rows if row["track"] == track and row["images"]]
    by_pair = grouped(chosen, "pair_id")
    methods = methods_of(chosen)
    body = []
    for pair in varied(chosen, SHEET_PAIRS):
        first = {row["method"]: row for row in sorted(by_pair[pair], key=lambda row: -int(row["seed"]))}
        context = {
            name: path
            for row in first.values()
            for name, path in row["images"].items()
            if name != MADE[track]
        }
        order = sorted(
            context, key=lambda name: (CONTEXT.index(name) if name in CONTEXT else len(CONTEXT), name)
        )
        figures = [album.figure(context[name], name) for name in order]
        figures += [
            album.figure(made_picture(first[m]) if m in first else None, m)
            for m in methods
            if kind_of(m) == "method" or (m in first and made_picture(first[m]))
        ]
        style = next(iter(first.values()))["style"]
        title = escape(pair) + (f" <span>· {escape(style)}</span>" if style else "")
        body.append(f'<div class="pair"><h4>{title}</h4><div class="strip">{"".join(figures)}</div></div>')
    return "".join(body)


def extremes_html(rows: Sequence[Row], column: Column, album: Album, count: int = 3) -> str:
    """The worst and the best `count` rows in one column."""
    have = sorted(
        (row for row in rows if column.key in row["values"]),
        key=lambda row: (column.gain(row["values"][column.key]), row["pair_id"], row["seed"]),
    )
    count = min(count, len(have) // 2)
    if not count:
        return ""
    parts = []
    for title, part in (("worst", have[:count]), ("best", have[: -count - 1 : -1])):
        figures = "".join(
            album.figure(made_picture(row), row["pair_id"], column.text(row["values"][column.key]))
            for row in part
        )
        parts.append(f"<div><h4>{title} by {escape(column.label)}</h4><div class=strip>{figures}</div></div>")
    return f'<div class="two">{"".join(parts)}</div>'
