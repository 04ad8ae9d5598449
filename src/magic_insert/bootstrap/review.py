"""Removals for people's eyes: a contact sheet, a page to judge them on, and what is learned from verdicts.

`run_review` without `verdicts` writes `index.html` (pictures inside, works offline; click or press keys, save),
`sheet.png`, and `verdicts.json`, what the run's own filter decided, to edit by hand; with `serve` the page is served
and its verdicts go into that file as they are given. With `verdicts` it reads the file back, says how far filter and
people agree, and writes `quality.json` for filter=learned.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from magic_insert.bootstrap import filters
from magic_insert.bootstrap.rounds import WORDS, Round, open_round, write_sheet
from magic_insert.bootstrap.stages import WITH, WITHOUT, picture_file
from magic_insert.config.schema.jobs import ReviewConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_record, write_json, write_text
from magic_insert.core.regression import ridge_logistic
from magic_insert.pages import render
from magic_insert.pages.server import PageServer, json_of

PAGE, VERDICTS, QUALITY = "index.html", "verdicts.json", "quality.json"
TRUTH = "truth"
RIDGE = 1.0  # keeps the weights finite when the verdicts can be told apart perfectly
FEWEST = 4  # verdicts of each kind that a judge is learned from


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
    if cfg.verdicts != TRUTH:
        verdicts = filters.read_verdicts(cfg.verdicts)
    elif any(row["truth"] is None for row in found.values.values()):
        raise UserError(
            "expected a pool with truth for verdicts=truth, got pictures of a user; set verdicts=FILE"
        )
    else:  # what the Toybox would say: good from `good_db` inside mask and effect region on
        verdicts = {name: row["truth"]["psnr"] >= cfg.good_db for name, row in found.values.items()}
    unknown = sorted(set(verdicts) - set(found.ids))
    if unknown or not verdicts:
        named = ", ".join(unknown[:5]) or "no verdict at all"
        raise UserError(
            f"expected verdicts about the removals of {cfg.run} round {cfg.round}, got {named}; set run=, round="
        )
    print(agreement(found.accepted, verdicts))
    write_json(out / QUALITY, asdict(learn_quality(found.values, verdicts)))
    order = ranking(left_out(found.values, verdicts), verdicts)
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

    async def judge(request: Request) -> Response:
        given = await json_of(request)
        name, word = str(given.get("id")), str(given.get("verdict"))
        if name not in verdicts or word not in WORDS.values():
            raise UserError(f"expected a removal of this page and accept or reject, got {name!r}: {word!r}")
        verdicts[name] = word
        write_json(out / VERDICTS, {"verdicts": verdicts})
        return JSONResponse({})

    def served(request: Request) -> Response:
        return FileResponse(out / PAGE)

    return PageServer([Route("/", served), Route("/verdicts", judge, methods=["POST"])], port)


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


def learn_quality(values: filters.Values, verdicts: Mapping[str, bool]) -> filters.Quality:
    """Fits a judge to `verdicts` (id -> accepted) of the removals `values` (id -> stored row): a ridge logistic
    regression.

    Raises:
        UserError: too few verdicts of a kind to learn from.
    """
    ids = sorted(set(values) & set(verdicts))
    yes = sum(verdicts[name] for name in ids)
    if min(yes, len(ids) - yes) < FEWEST:
        raise UserError(
            f"expected at least {FEWEST} accepted and {FEWEST} rejected removals to learn from, got {yes} and "
            f"{len(ids) - yes}; judge more of them"
        )
    table = {m: np.array([values[name]["measures"][m] for name in ids]) for m in values[ids[0]]["measures"]}
    table = {m: column for m, column in sorted(table.items()) if column.std() > 1e-6}
    mean, spread = (np.array([f(column) for column in table.values()]) for f in (np.mean, np.std))
    standard = ((np.stack(list(table.values()), axis=1) - mean) / spread).clip(-filters.REACH, filters.REACH)
    features = np.concatenate([standard, standard**2], axis=1)
    target = np.array([float(verdicts[name]) for name in ids])
    bias, *weights = ridge_logistic(features, target, RIDGE, bias_penalty=1e-6)
    rows = zip(weights[: len(mean)], weights[len(mean) :], mean, spread, strict=True)
    terms = (filters.Term(*(round(float(value), 8) for value in row)) for row in rows)
    return filters.Quality(round(float(bias), 8), dict(zip(table, terms, strict=True)))


def left_out(values: filters.Values, verdicts: Mapping[str, bool]) -> dict[str, float]:
    """Each removal's probability from a judge of all the others.

    Verdicts whose removal leaves too few of a kind to learn from are not judged.
    """
    found = {}
    for name in sorted(set(values) & set(verdicts)):
        others = {other: verdict for other, verdict in verdicts.items() if other != name}
        try:
            found[name] = learn_quality(values, others).probability(values[name]["measures"])
        except UserError:
            continue
    return found


def ranking(probability: Mapping[str, float], verdicts: Mapping[str, bool]) -> float | None:
    """Area under the ROC curve: the share of (accepted, rejected) pairs in the right order, ties counting half."""
    good = [p for name, p in probability.items() if verdicts[name]]
    bad = [p for name, p in probability.items() if not verdicts[name]]
    return float(mannwhitneyu(good, bad).statistic) / (len(good) * len(bad)) if good and bad else None
