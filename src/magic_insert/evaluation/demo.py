"""The demo: a preset of `evaluate` (conf/demo.yaml) with a page of its own.

One held-out Toybox subject in held-out scenes of several styles; every result stands beside the truth and the floor,
the subject's own picture pasted. Pictures and numbers are those of the evaluation in the same folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from magic_insert.config.schema.jobs import EvaluateConfig
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import read_json, write_json, write_text
from magic_insert.evaluation.evaluate import evaluate
from magic_insert.evaluation.pictures import COPY_PASTE
from magic_insert.evaluation.report import FACTS_FILE
from magic_insert.evaluation.rows import MADE, Column, Row, columns_of
from magic_insert.evaluation.statistics import kind_of
from magic_insert.pages import render

FLOOR = "floor: pasted as it is"
COLUMNS = (
    "truth_effect_psnr", "truth_psnr", "truth_identity", "truth_style", "truth_side", "outside_equal",
)  # fmt: skip
REDRAWN = "redrawn by"
CELL = 256


@dataclass(frozen=True)
class Question:
    """What a person would ask of a finished picture; yes where the column `key` reaches `least`."""

    asks: str
    key: str
    least: float

    def answer(self, values: Mapping[str, float]) -> bool | None:
        """None where the number is not defined: a shadow right under the feet has no side."""
        return values[self.key] >= self.least if self.key in values else None


QUESTIONS = (
    Question("style followed", "truth_style", 0.9),
    Question("identity kept", "truth_identity", 0.75),
    Question("shadow on the right side", "truth_side", 0.5),
)


@dataclass(frozen=True)
class PairView:
    """One pair: files of its pictures by caption in reading order, and the numbers of the methods and of the floor."""

    title: str
    style: str
    pictures: dict[str, Path]
    scores: dict[str, dict[str, float]]

    def verdict(self, method: str) -> list[str]:
        """The answers about one method in words: "style followed", "NOT: identity kept"."""
        answers = {question.asks: question.answer(self.scores[method]) for question in QUESTIONS}
        return [asks if yes else f"NOT: {asks}" for asks, yes in answers.items() if yes is not None]


def counted(views: Sequence[PairView], method: str) -> str:
    """How many of the pictures of one method pass each question: "style followed in 4 of 4, ..."."""
    parts = []
    for question in QUESTIONS:
        answers = [question.answer(view.scores[method]) for view in views]
        known = [answer for answer in answers if answer is not None]
        if known:
            parts.append(f"{question.asks} in {sum(known)} of {len(known)}")
    return ", ".join(parts)


def run_demo(cfg: EvaluateConfig) -> Path | None:
    """Evaluates, then writes `demo.png`, `demo.html` and `demo.json`; the page's path on rank 0, None on the others.

    Raises:
        UserError: as `evaluate`.
    """
    if (rows := evaluate(cfg)) is None:
        return None
    out = Path(cfg.out)
    pairs = dict.fromkeys(row["pair_id"] for row in rows)
    views = [view_of([row for row in rows if row["pair_id"] == pair], out) for pair in pairs]
    columns = [c.judged_with(cfg.metrics) for c in columns_of("insert") if c.key in COLUMNS]
    seconds = read_json(out / FACTS_FILE)["seconds"]
    headings = {column.key: column.heading for column in columns}
    counts = {method: counted(views, method) for method in views[0].scores}
    names = [name for name in views[0].pictures if not name.startswith(REDRAWN)]
    cells = [[load_rgb(view.pictures[name]) for name in names] for view in views]
    save_png(out / "demo.png", contact_sheet(cells, [view.style for view in views], names, cell=CELL))
    page = render(
        "demo",
        title="Magic Insert: demo",
        pairs=views,
        columns=columns,
        counts=counts,
        questions=[(question.asks, headings[question.key], question.least) for question in QUESTIONS],
        seconds=", ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
    )
    write_text(out / "demo.html", page)
    numbers = {f"{view.title} ({view.style})": view.scores for view in views}
    write_json(out / "demo.json", {"counts": counts, "pairs": numbers})
    Console(stderr=True).print(score_table(views, columns))
    for method, found in counts.items():
        print(f"{method}: {found}")
    print(f"sheet  {(out / 'demo.png').resolve()}\npage   {(out / 'demo.html').resolve()}")
    print("next   magic-insert insert subject=PICTURE background=PICTURE out=PICTURE.png")
    return out / "demo.html"


def view_of(rows: Sequence[Row], out: Path) -> PairView:
    """What is shown of the rows of one pair; the only method is called "ours"."""
    methods = {
        row["method"] for row in rows if row["track"] == "insert" and kind_of(row["method"]) == "method"
    }
    names = {method: "ours" if len(methods) == 1 else method for method in methods} | {COPY_PASTE: FLOOR}
    first = rows[0]
    pictures = {name: first["images"][name] for name in ("subject", "background")}
    scores = {}
    for row in rows:
        made = MADE[row["track"]]
        if row["track"] == "stylize" and kind_of(row["method"]) == "method":
            pictures[f"{REDRAWN} {row['method']}"] = row["images"][made]
        elif row["track"] == "insert" and row["method"] in names:
            pictures[names[row["method"]]] = row["images"][made]
            scores[names[row["method"]]] = row["values"]
            pictures["truth"] = row["images"]["truth"]
    order = sorted(pictures, key=lambda name: (name == "truth", name == FLOOR, name in names.values()))
    return PairView(
        f"{first['subject']} in {first['background']}", str(first["style"]),
        {name: out / pictures[name] for name in order}, scores,
    )  # fmt: skip


def score_table(views: Sequence[PairView], columns: Sequence[Column]) -> Table:
    """The numbers for the terminal."""
    table = Table("style", "method", *(column.heading for column in columns))
    for view in views:
        for name, values in view.scores.items():
            cells = [column.text(values[column.key]) if column.key in values else "" for column in columns]
            table.add_row(view.style, name, *cells)
    return table
