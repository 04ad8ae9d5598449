"""Contact sheets of a round: accepted and rejected removals, each a row of picture, mask, removal, score."""

from pathlib import Path

from magic_insert.bootstrap.files import WITH, WITHOUT
from magic_insert.bootstrap.select import Judged, Selection

MOST = 24  # removals on one sheet, spread evenly over the order of scores
COLUMNS = 4  # removals side by side


def write_sheets(folder: Path, number: int, pool: Path, harvest: Path, selection: Selection) -> list[Path]:
    """`round-N-accepted.png` and `round-N-rejected.png`, best score first; a sheet without pictures is not written."""
    kept = set(selection.accepted)
    written = []
    for name, members in (
        ("accepted", [one for one in selection.judged if one.id in kept]),
        ("rejected", [one for one in selection.judged if one.id not in kept]),
    ):
        path = folder / f"round-{number}-{name}.png"
        path.unlink(missing_ok=True)
        if members:
            write_sheet(path, pool, harvest, spread(sorted(members, key=lambda one: -one.score), MOST))
            written.append(path)
    return written


def spread(members: list[Judged], most: int) -> list[Judged]:
    """At most `most` of them, evenly spaced, first and last among them."""
    if len(members) <= most:
        return members
    return [members[round(i * (len(members) - 1) / (most - 1))] for i in range(most)]


def write_sheet(path: Path, pool: Path, harvest: Path, members: list[Judged]) -> None:
    """One sheet of `members`: given, subject, removed, with score and worst filter."""
    # Pictures bring torch, which the parent of a spread-out run otherwise does without.
    from magic_insert.bootstrap.pictures import load, load_masks
    from magic_insert.core.images import contact_sheet, save_png

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
