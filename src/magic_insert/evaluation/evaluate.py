"""`magic-insert evaluate`: lay the benchmark out, make the pictures, embed them, judge them, report.

Every step leaves files and does only what is missing, so the same command goes on where an earlier one stopped. Every
process of a job takes its share of each step and waits for the others before the next; rank 0 alone writes what there
is one of. The rows do not depend on the number of processes.

The demo is a preset of it (conf/demo.yaml) with a page of its own: one held-out Toybox subject in held-out scenes of
several styles; every result stands beside the truth and the floor, the subject's own picture pasted.
"""

import gc
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table as TerminalTable
from torch import Tensor

from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import EvaluateConfig
from magic_insert.core.digest import digest
from magic_insert.core.events import Clock, OnEvent, tallied, terminal_bars
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.jsonl import read_json, read_record, write_json, write_text
from magic_insert.core.ranks import rank, shard, world_size
from magic_insert.data import benchmarks
from magic_insert.data.benchmark_sources import ToyPlop, folder, subjectplop
from magic_insert.data.benchmarks import Benchmark, Source, describe
from magic_insert.evaluation.metrics import columns_of
from magic_insert.evaluation.pictures import (
    COPY_PASTE,
    INPUTS,
    Workshop,
    adopt,
    by_unit,
    floor_pictures,
    list_entries,
)
from magic_insert.evaluation.report import FACTS_FILE, REPORT_FILE, write_report
from magic_insert.evaluation.rows import MADE, ROWS_FILE, Row, merge, read_rows, rows_digest, write_rows
from magic_insert.evaluation.scores import (
    FeatureStore,
    Judges,
    embed_groups,
    embed_texts,
    embeddings,
    keys_of,
    picture_groups,
)
from magic_insert.evaluation.statistics import kind_of
from magic_insert.evaluation.tables import Table, paired_values, value_rows
from magic_insert.launch.run import RECORD, RunRecord
from magic_insert.pages import render
from magic_insert.tracking import open_tracker

PATIENCE = timedelta(days=7)
SHEET_PAIRS = 12
STEPS = ("benchmark", "pictures", "features", "rows")
RESULT_FILE = "result.json"  # where a sweep looks for numbers


def run_evaluate(cfg: EvaluateConfig) -> Path | None:
    """The job; the report's path on rank 0, None on the others. Raises as `evaluate`."""
    if (rows := evaluate(cfg)) is None:
        return None
    out = Path(cfg.out)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(
        f"report {(out / REPORT_FILE).resolve()}\nrows   {(out / ROWS_FILE).resolve()}, digest {rows_digest(rows)}"
    )
    print(
        f"next   magic-insert study action=build rows={out / ROWS_FILE} ours=METHOD 'against=[METHOD]' out=FOLDER"
    )
    return out / REPORT_FILE


def evaluate(cfg: EvaluateConfig) -> list[Row] | None:
    """Pictures, rows, sheets, tables and report in `cfg.out`; the rows on rank 0, None on the others.

    Raises:
        UserError: see the steps; what was finished before stays.
    """
    from magic_insert.models.encoders import EncoderSet

    out, known = Path(cfg.out), EncoderSet(cfg.metrics, cfg.encoders)
    if rank() == 0:
        known.check()  # hours of drawing should not end at a missing file
    with terminal_bars(STEPS) as on_event:
        bench = prepare(cfg, out, on_event)
        if (out / ROWS_FILE).is_file():
            read_rows(out / ROWS_FILE, bench.digest)  # those of an earlier run must be of this benchmark
        seconds = generate(cfg, bench, out, on_event)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows, judges = score(cfg, bench, known, out, on_event)
    if rank() != 0:
        return None
    write_rows(out / ROWS_FILE, rows)
    for track in cfg.tracks:
        save_png(out / f"sheet_{track}.png", sheet([row for row in rows if row["track"] == track], out))
    # What the report says beside the numbers; `command` holds every word that the run was started with.
    used = [judge for judge in (*judges.encoders.values(), judges.lpips) if judge is not None]
    cards = {judge.card.digest: judge.card for judge in used}
    command = read_record(out / RECORD, RunRecord).command if (out / RECORD).is_file() else None
    facts = {
        "benchmark": {"digest": bench.digest, **bench.described},
        "cards": [
            {**card.to_dict(), "digest": key, "verified": card.verified} for key, card in cards.items()
        ],
        "metrics": cfg.metrics,
        "command": shlex.join(command or ()),
        "config_digest": digest(thaw(cfg)),
        "has_truth": bench.has_truth,
        "seconds": seconds,
    }
    log_tables(cfg, out, write_report(out, rows, facts), facts)
    return rows


# Steps


def prepare(cfg: EvaluateConfig, out: Path, on_event: OnEvent) -> Benchmark:
    """The benchmark, laid out as files in `out`/inputs.

    Raises:
        UserError: its pictures are not there, a picture is damaged, or `out` holds another benchmark.
    """
    source: Source
    if cfg.benchmark.name == "toyplop":
        source = ToyPlop(cfg.benchmark)
    else:
        make = subjectplop if cfg.benchmark.name == "subjectplop" else folder
        source = make(cfg.benchmark, cfg.segmenter)
    bench = describe(source, cfg.benchmark, out / INPUTS)
    if rank() == 0:
        benchmarks.claim(bench)
    parts = benchmarks.missing_parts(bench)
    # Everybody looks before anybody writes: shares of different lists would not cover the whole.
    wait_for_all()
    with tallied(on_event, "benchmark", len(shard(parts))) as tick:
        for _ in benchmarks.lay_out(source, bench, shard(parts)):
            tick(1)
    wait_for_all()
    return bench


def generate(cfg: EvaluateConfig, bench: Benchmark, out: Path, on_event: OnEvent) -> dict[str, float]:
    """Every picture that is not there yet; the seconds that each stage of drawing took.

    Raises:
        UserError: a method cannot run, or its pictures made elsewhere do not fit.
    """
    subjects = shard([subject.id for subject in bench.subjects])
    clock = Clock(on_event)
    workshop = Workshop(cfg, bench, out, clock)
    if rank() == 0:
        workshop.claim_methods()
        adopt(bench, out, workshop.made_elsewhere, workshop.masks_elsewhere, cfg.seed)
    wait_for_all()  # nobody draws into a folder that was refused, or inserts what was not copied yet
    with tallied(on_event, "pictures", workshop.count(subjects)) as tick:
        for subject in subjects:
            floor_pictures(cfg, bench, out, subject)
            workshop.make(subject, tick)
    wait_for_all()
    return clock.seconds


def score(
    cfg: EvaluateConfig, bench: Benchmark, known: Any, out: Path, on_event: OnEvent
) -> tuple[list[Row], Judges]:
    """The rows of every entry, and what judged them; `known` is the `models.encoders.EncoderSet`.

    Raises:
        UserError: an encoder is missing or damaged, a picture is damaged, an embedding is not finite.
    """
    from magic_insert.models.pipeline import resolve_device

    encoders, lpips = known.load(resolve_device(cfg.model.device))
    units = by_unit(list_entries(cfg, bench, out))
    groups = picture_groups(bench, units)
    keys = keys_of([picture for group in groups for picture in group])
    store = FeatureStore(out / "features")
    mine = shard(groups)
    with tallied(on_event, "features", sum(map(len, mine))) as tick:
        embed_groups(mine, keys, embeddings(encoders), store, tick)
    wait_for_all()
    store.forget()
    judges = Judges(out, bench, keys, encoders, store, embed_texts(bench, encoders), lpips, cfg.extra_metrics)
    shares = shard(units)
    with tallied(on_event, "rows", sum(len(part) for _, part in shares)) as tick:
        judges.judge_all(shares, tick)
    wait_for_all()
    return (merge(judges.collect(units)) if rank() == 0 else []), judges


def wait_for_all() -> None:
    """Returns when every process of the job is here, however long the slowest one draws."""
    if world_size() > 1:
        from torch import distributed

        distributed.barrier(group=_waiting_room())


@cache
def _waiting_room() -> Any:
    """A process group with patience; that of the job gives up after `exec.timeout_min`."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)


# What a finished evaluation shows beside the report


def sheet(rows: Sequence[Row], out: Path) -> Float[Tensor, "3 h w"]:
    """Some pairs down, methods across, beside subject, background and truth; the first draw of each."""
    pairs = sorted({row["pair_id"] for row in rows})
    step = max(1, len(pairs) / SHEET_PAIRS)
    chosen = [pairs[int(i * step)] for i in range(min(len(pairs), SHEET_PAIRS))]
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if kind_of(m) == "method"]
    first = {(row["pair_id"], row["method"]): row for row in sorted(rows, key=lambda row: -row["seed"])}
    context = [name for name in ("subject", "background", "truth") if name in rows[0]["images"]]
    lines = []
    for pair in chosen:
        any_row = next(row for (name, _), row in first.items() if name == pair)
        paths = [any_row["images"][name] for name in context]
        drawn = [first[pair, method] for method in methods if (pair, method) in first]
        paths += [row["images"][MADE[row["track"]]] for row in drawn]
        lines.append([load_rgb(out / path) for path in paths])
    names = ["\n".join(wrap(method.replace("+", " + ").replace("_", " "), 16)) for method in methods]
    return contact_sheet(lines, chosen, [*context, *names])


def log_tables(cfg: EvaluateConfig, out: Path, tables: Sequence[Table], facts: Mapping[str, Any]) -> None:
    """The tables of `table.md` through the tracker, main and paired of each track; their means in `result.json`.

    A mean is called `track.method.column` there, such as `insert.personalized+diffusion.truth_effect_psnr`.
    """
    means: dict[str, float] = {}
    with open_tracker(out, "evaluate", cfg.logger, thaw(cfg)) as tracker:
        for step, table in enumerate(tables):
            tracker.table(step, table.track, value_rows([table], facts))
            tracker.table(step, f"{table.track}_paired", paired_values(table))
            found = {
                (table.track, line.method, column.key): estimate.mean
                for line, column, estimate in table.measured()
                if line.kind != "printed"
            }
            tracker.log(step, {"/".join(name): mean for name, mean in found.items()})
            means |= {".".join(name): mean for name, mean in found.items()}
    write_json(out / RESULT_FILE, means)


FLOOR = "floor: pasted as it is"
SHOWN = (
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

    def cell(self, values: Mapping[str, float]) -> str:
        """The number and the answer, "0.93 yes"; empty where the number is not defined."""
        answer = self.answer(values)
        return "" if answer is None else f"{values[self.key]:.2f} {'yes' if answer else 'no'}"


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
    found = {q.asks: [q.answer(view.scores[method]) for view in views] for q in QUESTIONS}
    known = {asks: [yes for yes in answers if yes is not None] for asks, answers in found.items()}
    return ", ".join(f"{asks} in {sum(yes)} of {len(yes)}" for asks, yes in known.items() if yes)


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
    columns = [c.judged_with(cfg.metrics) for c in columns_of("insert") if c.key in SHOWN]
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
    # What the questions read off each picture; the page has every number.
    table = TerminalTable("style", "method", *(question.asks for question in QUESTIONS))
    for view in views:
        for name, values in view.scores.items():
            table.add_row(view.style, name.split(":")[0], *(question.cell(values) for question in QUESTIONS))
    Console(stderr=True).print(table)
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
