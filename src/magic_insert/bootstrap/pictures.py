"""The pictures of a stage, to tensors and back, and contact sheets of them.

Shape letters: B pictures, H, W rows and columns. Pictures and masks are float32 in [0, 1], rounded to 8 bit on disk;
everything downstream works from the rounded values, so a run that was resumed sees what an unbroken one sees.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.filters import Judged, Selection
from magic_insert.bootstrap.stages import MASK, WITH, WITHOUT, picture_file
from magic_insert.core.images import contact_sheet, load_rgb, save_png

MOST = 24  # removals on one sheet, spread evenly over the order of scores
COLUMNS = 4  # removals side by side


def save(folder: Path, layer: str, name: str, picture: Float[Tensor, "C H W"]) -> None:
    """Writes one picture (3HW) or mask (1HW), atomically."""
    save_png(picture_file(folder, layer, name), picture)


def load(folder: Path, layer: str, ids: Sequence[str]) -> Float[Tensor, "B 3 H W"]:
    """The pictures of one layer; all of one size."""
    return torch.stack([load_rgb(picture_file(folder, layer, name)) for name in ids])


def load_masks(folder: Path, ids: Sequence[str]) -> Float[Tensor, "B 1 H W"]:
    """The subjects' masks."""
    return load(folder, MASK, ids)[:, :1]


def paste(
    subject: Float[Tensor, "B 3 H W"], background: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 3 H W"]:
    """ObjectDrop's input of insertion, y = M x + (1 - M) z (arXiv 2403.18818, section 4.2)."""
    return mask * subject + (1 - mask) * background


def write_sheets(folder: Path, number: int, pool: Path, harvest: Path, selection: Selection) -> None:
    """`round-N-accepted.png` and `round-N-rejected.png`, best score first; a sheet without pictures is not written."""
    kept = set(selection.accepted)
    for name, members in (
        ("accepted", [one for one in selection.judged if one.id in kept]),
        ("rejected", [one for one in selection.judged if one.id not in kept]),
    ):
        path = folder / f"round-{number}-{name}.png"
        path.unlink(missing_ok=True)
        if members:
            write_sheet(path, pool, harvest, _spread(sorted(members, key=lambda one: -one.score), MOST))


def write_sheet(path: Path, pool: Path, harvest: Path, members: Sequence[Judged]) -> None:
    """One sheet of `members`: picture, subject, removal, with score and worst filter."""
    rows, labels = [], []
    for start in range(0, len(members), COLUMNS):
        group = members[start : start + COLUMNS]
        ids = [one.id for one in group]
        given, gone, mask = load(pool, WITH, ids), load(harvest, WITHOUT, ids), load_masks(pool, ids)
        outlined = given * (0.35 + 0.65 * mask)
        for title, layer in (("given", given), ("subject", outlined), ("removed", gone)):
            rows.append(list(layer))
            labels.append(title)
        labels[-1] = "  ".join(f"{one.score:.2f} {one.worst}" for one in group)
    save_png(path, contact_sheet(rows, row_labels=labels))


def _spread(members: list[Judged], most: int) -> list[Judged]:
    """At most `most` of them, evenly spaced, first and last among them."""
    if len(members) <= most:
        return members
    return [members[round(i * (len(members) - 1) / (most - 1))] for i in range(most)]
