"""A finished round of a bootstrap: where its stages lie, what they decided, and its contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.bootstrap import filters
from magic_insert.bootstrap.stages import (
    MASK,
    SELECTION,
    WITH,
    WITHOUT,
    Selected,
    ids_of,
    picture_file,
    read_index,
    read_values,
)
from magic_insert.core.errors import UserError
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import read_record, read_records
from magic_insert.core.store import find_stage
from magic_insert.pages import spread

STAGES = ("pool", "harvest", "measure", "select")
WORDS = {True: "accept", False: "reject"}
MOST = 24  # removals on one sheet, spread evenly over the order of scores
COLUMNS = 4  # removals side by side


@dataclass(frozen=True)
class StoredRound:
    """What a row of rounds.jsonl says of where its stages lie: their keys by name, in the store."""

    round: int
    store: str
    stages: dict[str, str]


@dataclass(frozen=True)
class Round:
    """The stages of one finished round: folders of pool and harvest, what was measured and decided of each id."""

    pool: Path
    harvest: Path
    ids: list[str]
    values: dict[str, Any]
    accepted: set[str]
    scores: dict[str, float]

    @property
    def judged(self) -> list[filters.Judged]:
        """All removals, best score first, for a contact sheet."""
        order = sorted(self.ids, key=lambda name: (-self.scores[name], name))
        return [filters.Judged(name, "", self.scores[name], WORDS[name in self.accepted]) for name in order]


def open_round(run: Path, number: int) -> Round:
    """What round `number` of the run folder `run` harvested, measured and decided.

    Raises:
        UserError: no such run or round, or its stages are not in the store any more.
    """
    rows = {row.round: row for row in read_records(run / "rounds.jsonl", StoredRound)}
    if number not in rows or number == 0:
        raise UserError(
            f"expected a round of {run} among {sorted(set(rows) - {0})}, got {number}; set round=N"
        )
    row = rows[number]
    folders = {name: find_stage(Path(row.store), row.stages.get(name, "?")) for name in STAGES}
    ids = ids_of(read_index(folders["pool"]))
    decided = read_record(folders["select"] / SELECTION, Selected)
    return Round(
        pool=folders["pool"],
        harvest=folders["harvest"],
        ids=ids,
        values=read_values(folders["measure"], ids),
        accepted=set(decided.accepted),
        scores=decided.scores,
    )


def write_sheets(folder: Path, number: int, pool: Path, harvest: Path, selection: filters.Selection) -> None:
    """`round-N-accepted.png` and `round-N-rejected.png`, best score first; a sheet without pictures is not written."""
    for name, ids in (("accepted", {*selection.accepted}), ("rejected", {*selection.rejected})):
        members = [one for one in selection.judged if one.id in ids]
        path = folder / f"round-{number}-{name}.png"
        path.unlink(missing_ok=True)
        if members:
            write_sheet(path, pool, harvest, spread(sorted(members, key=lambda one: -one.score), MOST))


def write_sheet(path: Path, pool: Path, harvest: Path, members: Sequence[filters.Judged]) -> None:
    """One sheet of `members`: picture, subject, removal, with score and worst filter."""
    rows, labels = list[Any](), list[str]()
    for start in range(0, len(members), COLUMNS):
        group = members[start : start + COLUMNS]
        ids = [one.id for one in group]
        places = ((pool, WITH), (harvest, WITHOUT), (pool, MASK))
        given, gone, mask = ([load_rgb(picture_file(*place, name)) for name in ids] for place in places)
        outlined = [picture * (0.35 + 0.65 * m[:1]) for picture, m in zip(given, mask, strict=True)]
        rows += [given, outlined, gone]
        labels += ["given", "subject", "  ".join(f"{one.score:.2f} {one.worst}" for one in group)]
    save_png(path, contact_sheet(rows, row_labels=labels))
