"""A two-alternative preference study: who is asked what, its folder and page, the server, and what the answers say.

The folder holds `index.html` with all forms and `pictures/` under names that say nothing, `study.json` (what the page
may know) and `key.json` (which picture was whose; never served). Pictures are decoded and written anew, so no note
inside a file tells its maker. Opened as a file the page works alone and offers the answers for download; served, each
answer is sent as it is given.

Shares come with exact (Clopper-Pearson) intervals, which treat all choices as independent, as the paper does. They are
not: a rater gives many, and a pair is shown to many; so beside them stand intervals clustered by rater and pair, and
Bradley-Terry strengths. Whoever fails more attention checks than the protocol allows is left out of everything.
Shape letters: H, W pixels.
"""

import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import binomtest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from magic_insert.config.schema.evaluation import ProtocolConfig
from magic_insert.config.schema.jobs import StudyConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import append_jsonl, as_record, read_jsonl, read_record, write_json, write_text
from magic_insert.core.picture_files import named_pictures
from magic_insert.core.rand import fold_in, generator
from magic_insert.core.tables import markdown_table
from magic_insert.evaluation.rows import MADE, read_rows
from magic_insert.evaluation.statistics import bradley_terry, cluster_draws, exact_interval, mean_interval
from magic_insert.evaluation.tables import printed_results
from magic_insert.pages import render
from magic_insert.pages.server import PageServer, json_of

CONTEXT = ("subject", "background")
SCRAMBLED = "scrambled"
TILES = 8
DAY_MS = 86_400_000
BT_DRAWS = 300
ENOUGH_DRAWS = 0.95
QUESTIONS = {
    "insert": (
        "Which picture is the better insertion of the subject into the background?",
        (
            "It is the same subject.",
            "It is drawn in the style of the background.",
            "It belongs there: place, shadow.",
        ),
    ),
    "stylize": (
        "Which picture is the better drawing of the subject in the style of the background?",
        ("It is the same subject.", "It is drawn in the style of the background."),
    ),
}


@dataclass(frozen=True)
class Task:
    """One choice: `left` and `right` are method names, of which one is `SCRAMBLED` in an attention check."""

    pair_id: str
    left: str
    right: str

    @property
    def is_check(self) -> bool:
        """Whether there is a right answer."""
        return SCRAMBLED in (self.left, self.right)


@dataclass(frozen=True)
class Choice:
    """One rater's answer to one task, as it is stored; any further field is left out."""

    study: str
    rater: int
    task: int
    choice: Literal["left", "right"]
    milliseconds: int


@dataclass(frozen=True)
class Key:
    """`key.json`: which picture was whose, a form per rater."""

    study: str
    ours: str
    protocol: ProtocolConfig
    seed: int
    track: str
    forms: list[list[Task]]


@dataclass(frozen=True)
class Served:
    """`study.json`: what the page may know, the lengths of the forms and the names of the pictures."""

    study: str
    forms: list[int]
    pictures: list[str]


@dataclass(frozen=True)
class Material:
    """What can be compared: `made`[method][pair_id], and `context`[pair_id] as (name, picture) to show above."""

    ours: str
    made: Mapping[str, Mapping[str, Path]]
    context: Mapping[str, Sequence[tuple[str, Path]]]


def run_build(cfg: StudyConfig) -> Path:
    """Builds the study of `cfg` in `cfg.out` and returns the page's path.

    Raises:
        UserError: nothing to compare, too few shared pairs, a missing or damaged picture, or answers are there already.
    """
    out = Path(cfg.out)
    if (out / "answers.jsonl").is_file():
        raise UserError(f"expected a folder without answers, got {out / 'answers.jsonl'}; set out=FOLDER")
    material = from_rows(cfg) if cfg.rows is not None else from_folders(cfg)
    pools = {
        method: sorted(set(pictures) & set(material.made[material.ours]))
        for method, pictures in material.made.items()
        if method != material.ours
    }
    forms = draw_forms(material.ours, pools, cfg.protocol, seed=cfg.seed)
    page = write_study(out, cfg, material, forms)
    print(f"{len(forms)} forms of {len(forms[0])} choices; open {page.resolve()}")
    print(f"or collect answers: magic-insert study action=serve out={out}")
    return page


def draw_forms(
    ours: str, pools: Mapping[str, Sequence[str]], protocol: ProtocolConfig, *, seed: int
) -> list[list[Task]]:
    """One form a rater. `pools` holds, for each baseline, the pairs that it shares with `ours`.

    Within a form no pair occurs twice in one comparison, ours stands left in half of the tasks of each comparison (give
    or take one), and over all forms every pair is asked equally often (give or take one). Attention checks, in which
    one side is a scrambled picture, are mixed in, never as the first task.

    Raises:
        UserError: a pool has fewer pairs than a rater is asked about.
    """
    for baseline, pool in pools.items():
        if len(pool) < protocol.tasks:
            raise UserError(
                f"expected at least {protocol.tasks} pairs shared by {ours} and {baseline}, got {len(pool)}; "
                "set protocol.tasks=..."
            )
    everything = sorted({pair for pool in pools.values() for pair in pool})
    asked = {baseline: Counter[str]() for baseline in pools}
    forms = []
    for rater in range(protocol.raters):
        stream, tasks = random.Random(fold_in(seed, "study form", rater)), list[Task]()
        for baseline, pool in pools.items():
            # A stable sort of a shuffled pool: the least asked first, chance among equals.
            order = sorted(stream.sample(list(pool), len(pool)), key=asked[baseline].__getitem__)
            odd = stream.random() < 0.5
            sides = [(number + odd) % 2 == 0 for number in range(protocol.tasks)]
            stream.shuffle(sides)
            asked[baseline].update(order[: protocol.tasks])
            pairs = zip(order, sides, strict=False)
            tasks += [Task(pair, *((ours, baseline) if left else (baseline, ours))) for pair, left in pairs]
        stream.shuffle(tasks)
        for _ in range(protocol.checks):
            sides_of_check = [ours, SCRAMBLED] if stream.random() < 0.5 else [SCRAMBLED, ours]
            tasks.insert(stream.randint(1, len(tasks)), Task(stream.choice(everything), *sides_of_check))
        forms.append(tasks)
    return forms


def from_rows(cfg: StudyConfig) -> Material:
    """The pictures of the methods named in `cfg`, at the lowest seed that a pair has.

    Raises:
        UserError: the rows are damaged, a method is not among them, or a picture is gone.
    """
    assert cfg.rows is not None
    assert cfg.ours is not None
    rows = [row for row in read_rows(cfg.rows) if row["track"] == cfg.track]
    root, wanted = Path(cfg.rows).resolve().parent, [cfg.ours, *cfg.against]
    names = sorted({row["method"] for row in rows})
    if len(set(wanted)) < len(wanted):
        raise UserError(f"expected different methods, got {', '.join(wanted)}; correct ours and against")
    require_known(f"a method of the track {cfg.track}", wanted, names, do="set ours and against")
    made: dict[str, dict[str, Path]] = {method: {} for method in wanted}
    context: dict[str, list[tuple[str, Path]]] = {}
    for row in sorted(rows, key=lambda row: -row["seed"]):
        if row["method"] not in made or MADE[cfg.track] not in row["images"]:
            continue
        made[row["method"]][row["pair_id"]] = _inside(root, row["images"][MADE[cfg.track]])
        context[row["pair_id"]] = [
            (name, _inside(root, row["images"][name])) for name in CONTEXT if name in row["images"]
        ]
    return Material(cfg.ours, made, context)


def _inside(root: Path, path: str) -> Path:
    file = (root / path).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        raise UserError(
            f"expected a picture below {root}, got {path}; build the study where the pictures are"
        )
    return file


def from_folders(cfg: StudyConfig) -> Material:
    """Folders of pictures with equal names; a folder's own name is the method's.

    Raises:
        UserError: two folders have one name, or a folder has two pictures of one name.
    """
    made: dict[str, dict[str, Path]] = {}
    for folder in map(Path, cfg.folders):
        if folder.resolve().name in made:
            raise UserError(f"expected folders of different names, got {folder} twice; rename one")
        made[folder.resolve().name] = named_pictures(folder, "folders")
    above = {} if cfg.references is None else named_pictures(Path(cfg.references), "references")
    return Material(next(iter(made)), made, {name: [("reference", path)] for name, path in above.items()})


def scrambled(image: Float[Tensor, "3 H W"], seed: int, name: str) -> Float[Tensor, "3 H W"]:
    """The picture with its TILES x TILES tiles shuffled: nobody who looks can prefer it."""
    height, width = (length // TILES * TILES for length in image.shape[-2:])
    tiles = image[:, :height, :width].unfold(1, height // TILES, height // TILES)
    tiles = tiles.unfold(2, width // TILES, width // TILES).flatten(1, 2)
    order = torch.randperm(TILES * TILES, generator=generator(seed, SCRAMBLED, name))
    rows = tiles[:, order].unflatten(1, (TILES, TILES))
    shuffled = image.clone()
    shuffled[:, :height, :width] = rows.permute(0, 1, 3, 2, 4).reshape(3, height, width)
    return shuffled


def write_study(out: Path, cfg: StudyConfig, material: Material, forms: Sequence[Sequence[Task]]) -> Path:
    """Pictures, page, what the page knows and the key to it; returns the page's path."""
    known: dict[str, str] = {}  # what a picture shows -> its name

    def put(meaning: str, path: Path, *, scramble: bool = False) -> str:
        if meaning not in known:
            known[meaning] = digest([cfg.seed, meaning, sha256_file(path)])
            image = load_rgb(path)
            image = scrambled(image, cfg.seed, meaning) if scramble else image
            save_png(out / "pictures" / f"{known[meaning]}.png", image)
        return known[meaning]

    def side(task: Task, method: str) -> str:
        source = material.made[material.ours if method == SCRAMBLED else method][task.pair_id]
        return put(f"{method}|{task.pair_id}", source, scramble=method == SCRAMBLED)

    def show(task: Task) -> dict[str, Any]:
        above = [[name, put(f"{name}:{path}", path)] for name, path in material.context.get(task.pair_id, ())]
        return {"left": side(task, task.left), "right": side(task, task.right), "above": above}

    shutil.rmtree(out / "pictures", ignore_errors=True)
    shown = [[show(task) for task in form] for form in forms]
    parts = (material.ours, cfg.protocol, cfg.seed, cfg.track, [list(form) for form in forms])
    study = digest([asdict(Key("", *parts)), shown])
    question, criteria = QUESTIONS[cfg.track]
    page = render(
        "study",
        title="Which picture is better?",
        study={"study": study, "forms": shown},
        question=question,
        criteria=criteria,
        most=max(map(len, forms)),
    )
    write_json(out / "key.json", asdict(Key(study, *parts)))
    write_text(out / "index.html", page)
    # Last: a folder with study.json is a whole study.
    names = sorted(path.name for path in (out / "pictures").iterdir())
    write_json(out / "study.json", asdict(Served(study, [len(form) for form in forms], names)))
    return out / "index.html"


def check_answer(found: Any, study: str, lengths: Sequence[int], where: str) -> Choice:
    """The answer that the JSON values `found` are, if it answers a task of `study`; `lengths` are those of the forms.

    Raises:
        UserError: it does not; `where` says which answer is meant.
    """
    answer = as_record(found, Choice, where)
    if answer.study != study:
        raise UserError(f"expected an answer to the study {study} in {where}, got one to {answer.study!r}")
    for name, limit in (("rater", lambda: len(lengths)), ("task", lambda: lengths[answer.rater]),
                        ("milliseconds", lambda: DAY_MS)):  # fmt: skip
        if not 0 <= (value := getattr(answer, name)) < limit():
            raise UserError(f"expected {name} from 0 to {limit() - 1} in {where}, got {value}")
    return answer


def study_server(folder: Path, port: int) -> PageServer:
    """A server for the study in `folder`: its page, the pictures that study.json lists, `next` (the lowest number
    without an answer) and `answers`, which are stored as they come, one JSON line each.

    Raises:
        UserError: no study there, or the port is taken.
    """
    study, answers = read_record(folder / "study.json", Served), folder / "answers.jsonl"

    # Both in the server's own thread, so that nobody reads while a line is being written.
    async def store(request: Request) -> Response:
        answer = check_answer(await json_of(request), study.study, study.forms, "this answer")
        append_jsonl(answers, asdict(answer))
        return JSONResponse({})

    async def next_rater(request: Request) -> Response:
        begun = {row.get("rater") for row in read_jsonl(answers, begun=False)}
        free = next((number for number in range(len(study.forms)) if number not in begun), 0)
        return JSONResponse({"rater": free})

    def page(request: Request) -> Response:
        return FileResponse(folder / "index.html")

    def picture(request: Request) -> Response:
        if (name := request.path_params["name"]) not in study.pictures:
            raise HTTPException(404)
        return FileResponse(folder / "pictures" / name)

    routes = [
        Route("/", page),
        Route("/index.html", page),
        Route("/pictures/{name}", picture),
        Route("/next", next_rater),
        Route("/answers", store, methods=["POST"]),
    ]
    return PageServer(routes, port)


def run_serve(cfg: StudyConfig) -> None:
    """Serves the study in `cfg.out` until stopped; prints the address first."""
    with study_server(Path(cfg.out), cfg.port) as server:
        print(f"{server.address}\nthen: magic-insert study action=analyse out={cfg.out}", flush=True)
        server.serve()


# What the raters said


def run_analyse(cfg: StudyConfig) -> Path:
    """Analyses the answers of the study in `cfg.out`; writes analysis.json and analysis.md there, returns the latter.

    Raises:
        UserError: no answers, a damaged file, or answers to another study; names file and line.
    """
    out = Path(cfg.out)
    key = read_record(out / "key.json", Key)
    collected = out / "answers.jsonl"
    paths = [*([collected] if collected.is_file() else []), *map(Path, cfg.answers)]
    if not paths:
        raise UserError(
            f"expected answers in {out}, got none; collect some with action=serve or set answers=[PATH]"
        )
    answers: dict[tuple[int, int], Choice] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), start=1):
            where = f"answer {number} of {path}"
            answer = check_answer(row, key.study, [len(form) for form in key.forms], where)
            answers[answer.rater, answer.task] = answer  # the last one counts: raters may go back
    result = analyse(key, answers, seed=cfg.seed)
    write_json(out / "analysis.json", result)
    write_text(out / "analysis.md", report(result))
    print(report(result), end="")
    return out / "analysis.md"


def analyse(key: Key, answers: Mapping[tuple[int, int], Choice], *, seed: int = 0) -> dict[str, Any]:
    """Everything as one JSON-able record.

    Raises:
        UserError: no choice is left after the attention checks.
    """
    rows = []
    for (rater, number), answer in sorted(answers.items()):
        task, left = key.forms[rater][number], answer.choice == "left"
        winner, loser = (task.left, task.right) if left else (task.right, task.left)
        rows.append([str(rater), task.pair_id, winner, loser, left, task.is_check, answer.milliseconds])
    names = ["rater", "pair_id", "winner", "loser", "left", "check", "milliseconds"]
    given = pd.DataFrame(rows, columns=names)
    failed = (given["check"] & (given["winner"] == SCRAMBLED)).groupby(given["rater"]).sum()
    excluded = failed.index[failed > key.protocol.max_failed]
    votes = given[~given["check"].astype(bool) & ~given["rater"].isin(excluded)]
    if votes.empty:
        raise UserError(
            f"expected a choice by an attentive rater, got none of {len(failed)} raters; collect more answers"
        )
    against = sorted({*votes["winner"], *votes["loser"]} - {key.ours})
    return {
        "study": key.study,
        "ours": key.ours,
        "raters": len(failed),
        "complete": sum(
            len(key.forms[int(rater)]) == n for rater, n in given["rater"].value_counts().items()
        ),
        "excluded": sorted(map(int, excluded)),
        "choices": len(votes),
        "median_milliseconds": int(given["milliseconds"].quantile(0.5, interpolation="higher")),
        "left": _share(int(votes["left"].sum()), len(votes)),
        "comparisons": [comparison(votes, key.ours, baseline, seed=seed) for baseline in against],
        "bradley_terry": strengths(votes, seed=seed),
    }


def _share(wins: int, num: int) -> dict[str, Any]:
    exact, p = list(exact_interval(wins, num)), float(binomtest(wins, num).pvalue)
    return {"wins": wins, "choices": num, "share": wins / num, "exact": exact, "p": p}


def comparison(votes: pd.DataFrame, ours: str, baseline: str, *, seed: int = 0) -> dict[str, Any]:
    """How often `ours` was preferred to `baseline`."""
    mine = votes[votes["winner"].isin([ours, baseline]) & votes["loser"].isin([ours, baseline])]
    won = (mine["winner"] == ours).astype(float)
    clustered = mean_interval(won, mine["rater"], mine["pair_id"], seed=seed).no_narrower_than_exact(len(won))
    return {
        "against": baseline,
        **_share(int(won.sum()), len(won)),
        "clustered": None if clustered.low is None else [clustered.low, clustered.high],
        "raters": mine["rater"].nunique(),
    }


def strengths(votes: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Bradley-Terry log-strengths (mean zero), 95 % intervals from drawing raters; None where nothing is finite."""
    names = sorted({*votes["winner"], *votes["loser"]})
    of_rater = [
        pd.crosstab(part["winner"], part["loser"]).reindex(index=names, columns=names, fill_value=0)
        for _, part in votes.groupby("rater")
    ]
    wins = np.array(of_rater, dtype=float)
    if (fitted := bradley_terry(wins.sum(0))) is None:
        return {"log_strength": None, "reason": "a method, or a group of them, won or lost every choice"}
    draws = cluster_draws("rater", tuple(sorted(votes["rater"].unique())), seed, BT_DRAWS)
    found = [bradley_terry(np.tensordot(weights, wins, 1)) for weights in draws] if len(wins) > 1 else []
    finite = np.array([log_strength for log_strength in found if log_strength is not None])
    enough = len(finite) >= ENOUGH_DRAWS * BT_DRAWS
    limits = np.quantile(finite, [0.025, 0.975], axis=0).T.tolist() if enough else None
    return {
        "log_strength": dict(zip(names, fitted.tolist(), strict=True)),
        "interval": limits and dict(zip(names, limits, strict=True)),
    }


def report(result: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    left, fitted = result["left"], result["bradley_terry"]
    comparisons = [
        {
            f"{result['ours']} against": c["against"], "preferred": f"{c['share']:.1%}", "choices": c["choices"],
            "exact 95 %": _percent(c["exact"]), "clustered 95 %": _percent(c["clustered"]),
            "p (one half)": f"{c['p']:.2g}",
        }
        for c in result["comparisons"]
    ]  # fmt: skip
    strength = f"Bradley-Terry: no finite strengths, {fitted.get('reason')}."
    if fitted["log_strength"] is not None:
        ranked = sorted(fitted["log_strength"].items(), key=lambda item: -item[1])
        limits = {
            name: "[{:+.3f}, {:+.3f}]".format(*ends) for name, ends in (fitted["interval"] or {}).items()
        }
        strength = markdown_table(
            [
                {
                    "method": name,
                    "log-strength (Bradley-Terry)": f"{value:+.3f}",
                    "95 % over raters": limits.get(name),
                }
                for name, value in ranked
            ]
        )
    preference = printed_results()["preference"]
    printed = "; ".join(f"{row['share']:.0%} over {row['against']}" for row in preference)
    parts = [
        f"# Preference study {result['study']}",
        f"Raters: {result['raters']}, {result['complete']} complete, {len(result['excluded'])} left out for failed "
        f"attention checks. Choices: {result['choices']}, median {result['median_milliseconds'] / 1000:.1f} s. "
        f"The left picture was chosen in {left['share']:.1%} (exact 95 % interval {_percent(left['exact'])}).",
        markdown_table(comparisons),
        "Exact: Clopper-Pearson, all choices independent. Clustered: raters and pairs drawn with replacement.",
        strength,
        f"Printed by the paper (60 raters, 1200 choices each), other pictures and raters, not comparable: {printed}.",
    ]
    return "\n\n".join(parts) + "\n"


def _percent(limits: Sequence[float] | None) -> str | None:
    return None if limits is None else f"[{limits[0]:.1%}, {limits[1]:.1%}]"
