"""Removals for people's eyes: contact sheets, a page to judge them on, and what is learned from verdicts.

`run_review` without `verdicts` writes `index.html` (pictures inside, works offline; click or press keys, save),
`sheet.png`, and `verdicts.json`, what the run's own filter decided, to edit by hand; with `serve` the page is served
and its verdicts go into that file as they are given. With `verdicts` it reads the file back, says how far filter and
people agree, and writes `quality.json` for filter=learned.
"""

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

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
from magic_insert.config.schema.jobs import ReviewConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import read_record, read_records, write_json, write_text
from magic_insert.core.store import find_stage
from magic_insert.pages import render
from magic_insert.pages.server import PageServer, json_of

PAGE, VERDICTS, QUALITY = "index.html", "verdicts.json", "quality.json"
TRUTH = "truth"
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


def run_review(cfg: ReviewConfig) -> Path:
    """Writes the page, or reads verdicts back; returns the file to look at next."""
    found = open_round(Path(cfg.run), cfg.round)
    out = Path(cfg.out)
    if cfg.verdicts is None:
        write_json(out / VERDICTS, {"verdicts": {name: WORDS[name in found.accepted] for name in found.ids}})
        write_text(out / PAGE, page(found, f"{Path(cfg.run).name}, round {cfg.round}"))
        write_sheet(out / "sheet.png", found.pool, found.harvest, found.judged)
        if not cfg.serve:
            print(f"open {out / PAGE}, judge, save, then: magic-insert review run={cfg.run} verdicts=FILE")
            return out / PAGE
        with review_server(out, cfg.port) as server:
            print(
                f"{server.address}\nthen: magic-insert review run={cfg.run} verdicts={out / VERDICTS}",
                flush=True,
            )
            server.serve()
        return out / VERDICTS
    verdicts = (
        truth_verdicts(found, cfg.good_db) if cfg.verdicts == TRUTH else filters.read_verdicts(cfg.verdicts)
    )
    unknown = sorted(set(verdicts) - set(found.ids))
    if unknown or not verdicts:
        named = ", ".join(unknown[:5]) or "no verdict at all"
        raise UserError(
            f"expected verdicts about the removals of {cfg.run} round {cfg.round}, got {named}; set run=, round="
        )
    print(agreement(found.accepted, verdicts))
    write_json(out / QUALITY, asdict(filters.learn_quality(found.values, verdicts)))
    order = filters.ranking(filters.left_out(found.values, verdicts), verdicts)
    shown = "unknown" if order is None else f"{order:.2f}"
    print(f"learned judge: ranks {shown} of pairs right that it did not learn from (0.50 is chance)")
    print(f"use it: filter=learned filter.rules.learned.weights={out / QUALITY}")
    if cfg.verdicts != TRUTH:
        print(f"or the people themselves: filter=people filter.rules.people.verdicts={cfg.verdicts}")
    return out / QUALITY


def review_server(out: Path, port: int) -> PageServer:
    """A server for the page in `out`, whose verdicts it writes into `verdicts.json` as they are given.

    Raises:
        UserError: the port is taken.
    """
    verdicts: dict[str, Any] = {**read_record(out / VERDICTS, filters.Verdicts).verdicts}
    lock = threading.Lock()

    def keep(name: str, word: str) -> None:
        with lock:
            verdicts[name] = word
            write_json(out / VERDICTS, {"verdicts": verdicts})

    async def judge(request: Request) -> Response:
        given = await json_of(request)
        name, word = str(given.get("id")), str(given.get("verdict"))
        if name not in verdicts or word not in WORDS.values():
            raise UserError(f"expected a removal of this page and accept or reject, got {name!r}: {word!r}")
        await run_in_threadpool(keep, name, word)
        return JSONResponse({})

    def served(request: Request) -> Response:
        return FileResponse(out / PAGE)

    return PageServer([Route("/", served), Route("/verdicts", judge, methods=["POST"])], port)


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


def truth_verdicts(found: Round, good_db: float) -> dict[str, bool]:
    """What the Toybox would say: good from `good_db` inside mask and effect region on.

    Raises:
        UserError: the truth of this pool is unknown.
    """
    if any(found.values[name]["truth"] is None for name in found.ids):
        raise UserError(
            "expected a pool with truth for verdicts=truth, got pictures of a user; set verdicts=FILE"
        )
    return {name: found.values[name]["truth"]["psnr"] >= good_db for name in found.ids}


def agreement(accepted: set[str], verdicts: dict[str, bool]) -> str:
    """One line: how the filter did against the verdicts."""
    liked = {name for name, verdict in verdicts.items() if verdict}
    kept = accepted & set(verdicts)
    right = len(kept & liked)
    precision = f"{right / len(kept):.2f}" if kept else "none kept"
    recall = f"{right / len(liked):.2f}" if liked else "none liked"
    return (
        f"{len(verdicts)} verdicts, {len(liked)} accepted; the filter kept {len(kept)} of them: "
        f"precision {precision}, recall {recall}"
    )


def page(found: Round, title: str) -> str:
    """The page as one file; the worst scores come first, where a person is needed most."""
    cards = [
        {
            "id": name,
            "verdict": WORDS[name in found.accepted],
            "score": found.scores[name],
            "pictures": {
                layer: picture_file(folder, layer, name).read_bytes()
                for folder, layer in ((found.pool, WITH), (found.harvest, WITHOUT))
            },
        }
        for name in sorted(found.ids, key=lambda one: (found.scores[one], one))
    ]
    return render("review", title=title, cards=cards, file=VERDICTS)


def write_sheets(folder: Path, number: int, pool: Path, harvest: Path, selection: filters.Selection) -> None:
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


def write_sheet(path: Path, pool: Path, harvest: Path, members: Sequence[filters.Judged]) -> None:
    """One sheet of `members`: picture, subject, removal, with score and worst filter."""
    rows, labels = [], []
    for start in range(0, len(members), COLUMNS):
        group = members[start : start + COLUMNS]
        ids = [one.id for one in group]
        places = ((pool, WITH), (harvest, WITHOUT), (pool, MASK))
        given, gone, mask = ([load_rgb(picture_file(*place, name)) for name in ids] for place in places)
        outlined = [picture * (0.35 + 0.65 * m[:1]) for picture, m in zip(given, mask, strict=True)]
        for title, layer in (("given", given), ("subject", outlined), ("removed", gone)):
            rows.append(layer)
            labels.append(title)
        labels[-1] = "  ".join(f"{one.score:.2f} {one.worst}" for one in group)
    save_png(path, contact_sheet(rows, row_labels=labels))


def _spread(members: list[filters.Judged], most: int) -> list[filters.Judged]:
    """At most `most` of them, evenly spaced, first and last among them."""
    if len(members) <= most:
        return members
    return [members[round(i * (len(members) - 1) / (most - 1))] for i in range(most)]
