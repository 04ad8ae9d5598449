"""`magic-insert evaluate`: lay the benchmark out, make the pictures, embed them, judge them, report.

Every step leaves files and does only what is missing, so the same command goes on where an earlier one stopped. Every
process of a job takes its share of each step and waits for the others before the next; rank 0 alone writes what there
is one of. The rows do not depend on the number of processes.
"""

import gc
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from magic_insert.config.freeze import thaw
from magic_insert.config.schema import EvaluateConfig
from magic_insert.core.digest import digest
from magic_insert.core.images import contact_sheet, load_rgb, save_png
from magic_insert.core.ranks import rank, shard, world_size
from magic_insert.data import benchmarks
from magic_insert.data.benchmarks import Benchmark, Source
from magic_insert.data.picture_folders import folder, subjectplop
from magic_insert.data.toyplop import ToyPlop
from magic_insert.evaluation.entries import INPUTS, Entry, by_unit, list_entries
from magic_insert.evaluation.features import FeatureStore, Picture, embed_groups, embeddings, keys_of
from magic_insert.evaluation.generate import Workshop
from magic_insert.evaluation.judge import (
    Judges,
    collect,
    embed_texts,
    judge_all,
    pictures_of,
    reference_pictures,
)
from magic_insert.evaluation.report import write_report
from magic_insert.evaluation.rows import ROWS_FILE, Row, merge, read_rows, rows_digest, write_rows
from magic_insert.tracking import open_tracker

SHEET_PAIRS = 12
PATIENCE = timedelta(days=7)


def open_source(cfg: EvaluateConfig) -> Source:
    """The benchmark that the configuration names.

    Raises:
        UserError: its pictures are not there.
    """
    if cfg.benchmark.name == "toyplop":
        return ToyPlop(cfg.benchmark)
    make = subjectplop if cfg.benchmark.name == "subjectplop" else folder
    return make(cfg.benchmark, cfg.segmenter)


def run_evaluate(cfg: EvaluateConfig) -> Path | None:
    """The job; the report's path on rank 0, None on the others.

    Raises:
        UserError: see the steps; what was finished before stays.
    """
    out = Path(cfg.out)
    console = Console(stderr=True, quiet=rank() != 0)
    bench = prepare(cfg, out, console)
    check_rows_file(out, bench)
    generate(cfg, bench, out, console)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows, encoders, lpips = score(cfg, bench, out, console)
    if rank() != 0:
        return None
    write_rows(out / ROWS_FILE, rows)
    for track in cfg.tracks:
        save_png(out / f"sheet_{track}.png", sheet([row for row in rows if row["track"] == track], out))
    page = write_report(out, rows, facts_of(cfg, bench, encoders, lpips))
    log_means(cfg, out, rows)
    console.print(f"{len(rows)} rows, digest {rows_digest(rows)}")
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"report {page.resolve()}\nrows   {(out / ROWS_FILE).resolve()}")
    return page


def prepare(cfg: EvaluateConfig, out: Path, console: Console) -> Benchmark:
    """The benchmark, laid out as files in `out`/inputs.

    Raises:
        UserError: a picture is damaged, or `out` holds another benchmark.
    """
    source = open_source(cfg)
    bench = benchmarks.describe(source, cfg.benchmark, out / INPUTS)
    if rank() == 0:
        benchmarks.claim(bench)
    parts = benchmarks.missing_parts(bench)
    # Everybody looks before anybody writes: shares of different lists would not cover the whole.
    wait_for_all()
    with bar(console, "benchmark", len(shard(parts))) as tick:
        for _ in benchmarks.lay_out(source, bench, shard(parts)):
            tick(1)
    wait_for_all()
    return bench


def check_rows_file(out: Path, bench: Benchmark) -> None:
    """That an earlier rows file in `out` speaks of this benchmark.

    Raises:
        UserError: it speaks of another, or is damaged.
    """
    if (out / ROWS_FILE).is_file():
        read_rows(out / ROWS_FILE, bench.digest)


def generate(cfg: EvaluateConfig, bench: Benchmark, out: Path, console: Console) -> None:
    """Every picture that is not there yet.

    Raises:
        UserError: a method cannot run, or its pictures made elsewhere do not fit.
    """
    subjects = shard([subject.id for subject in bench.subjects])
    ticks: list[Callable[[int], None]] = []
    workshop = Workshop(cfg, bench, out, lambda done: ticks[0](done))
    if rank() == 0:
        workshop.claim_methods()
        workshop.adopt()
    wait_for_all()  # nobody draws into a folder that was refused, or inserts what was not copied yet
    with bar(console, "pictures", workshop.count(subjects)) as tick:
        ticks.append(tick)
        for subject in subjects:
            workshop.floor_pictures(subject)
            workshop.make(subject)
    wait_for_all()


def score(
    cfg: EvaluateConfig, bench: Benchmark, out: Path, console: Console
) -> tuple[list[Row], Mapping[str, Any], Any]:
    """The rows of every entry, the encoders and the distance that judged them.

    Raises:
        UserError: an encoder is missing or damaged, a picture is damaged, an embedding is not finite.
    """
    encoders, lpips = load_judges(cfg)
    entries = list_entries(cfg, bench, out)
    units = by_unit(entries)
    groups = picture_groups(bench, units)
    keys = keys_of([picture for group in groups for picture in group])
    store = FeatureStore(out / "features")
    mine = shard(groups)
    with bar(console, "features", sum(map(len, mine))) as tick:
        embed_groups(mine, keys, embeddings(encoders), store, tick)
    wait_for_all()
    store.forget()
    cards = {role: encoder.card.digest for role, encoder in encoders.items()}
    if lpips is not None:
        cards["lpips"] = lpips.card.digest
    judges = Judges(encoders, store, embed_texts(bench, encoders), lpips, cards)
    shares = shard(units)
    with bar(console, "rows", sum(len(part) for _, part in shares)) as tick:
        judge_all(out, shares, bench, keys, judges, tick)
    wait_for_all()
    rows = merge(collect(out, units, bench, keys, judges)) if rank() == 0 else []
    return rows, encoders, lpips


def load_judges(cfg: EvaluateConfig) -> tuple[Mapping[str, Any], Any]:
    """The encoders by role, and LPIPS where its trunk is.

    Raises:
        UserError: weights are missing, or not the known ones.
    """
    from magic_insert.models.encoders import load_lpips, load_metric_encoders
    from magic_insert.models.encoders.lpips_distance import ALEXNET
    from magic_insert.models.zoo import resolve_device

    wanted = cfg.encoders
    device = resolve_device(cfg.model.device)
    root = Path(wanted.root) if wanted.root else None
    extras = [name for name in ("dinov2", "image_reward") if getattr(wanted, name)]
    encoders = load_metric_encoders(
        cfg.metrics, root=root, device=device, extras=extras, download=wanted.download,
        accept_unknown=wanted.accept_unknown,
    )  # fmt: skip
    place = Path(wanted.lpips) if wanted.lpips else root
    if place is None or (not wanted.lpips and not (place / ALEXNET.file).is_file()):
        return encoders, None
    return encoders, load_lpips(place, accept_unknown=wanted.accept_unknown, device=device)


def picture_groups(bench: Benchmark, units: Sequence[tuple[Any, Sequence[Entry]]]) -> list[list[Picture]]:
    """Pictures that are embedded together: the references, then the pictures of each unit; each picture once."""
    groups = reference_pictures(bench)
    known = {picture for group in groups for picture in group}
    for _, entries in units:
        group = [picture for entry in entries for picture in pictures_of(entry) if picture not in known]
        known.update(group)
        groups += [group] if group else []
    return groups


def sheet(rows: Sequence[Row], out: Path) -> torch.Tensor:
    """Pairs down, methods across, beside subject, background and truth; the first draw of each."""
    made = {"stylize": "stylised", "insert": "composite"}
    pairs = sorted({row["pair_id"] for row in rows})
    step = max(1, len(pairs) / SHEET_PAIRS)
    chosen = [pairs[int(i * step)] for i in range(min(len(pairs), SHEET_PAIRS))]
    methods = list(dict.fromkeys(row["method"] for row in rows if ":" not in row["method"]))
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        first.setdefault((row["pair_id"], row["method"]), row)
    lines = []
    context = [name for name in ("subject", "background", "truth") if name in rows[0]["images"]]
    for pair in chosen:
        of_pair = {method: first[pair, method] for method in methods if (pair, method) in first}
        any_row = next(row for (name, _), row in first.items() if name == pair)
        paths = [any_row["images"][name] for name in context]
        paths += [row["images"][made[row["track"]]] for row in of_pair.values()]
        lines.append([load_rgb(out / path) for path in paths])
    return contact_sheet(lines, chosen, [*context, *map(_folded, methods)])


def _folded(method: str) -> str:
    """A method's name in lines that fit over a picture."""
    return "\n".join(wrap(method.replace("+", " + ").replace("_", " "), 16))


def facts_of(
    cfg: EvaluateConfig, bench: Benchmark, encoders: Mapping[str, Any], lpips: Any
) -> dict[str, Any]:
    """What the report says beside the numbers."""
    judges = list({e.card.digest: e for e in [*encoders.values(), lpips] if e is not None}.values())
    return {
        "benchmark": {"digest": bench.digest, **bench.described},
        "cards": [{**judge.card.to_dict(), "digest": judge.card.digest} for judge in judges],
        "metrics": cfg.metrics,
        "command": command_of(cfg),
        "config_digest": digest(thaw(cfg)),
        "has_truth": bench.has_truth,
    }


def command_of(cfg: EvaluateConfig) -> str:
    """The command that chooses the same methods and pairs; every value is in the run's config.yaml."""
    words = [f"benchmark={cfg.benchmark.name}"]
    for name, value in thaw(cfg.benchmark).items():
        if name not in ("name", "size") and value not in (None, [], "auto"):
            text = f"[{','.join(value)}]" if isinstance(value, list) else str(value)
            words.append(f"benchmark.{name}={text}")
    words += [f"stylizer={','.join(cfg.stylizers)}"] if cfg.stylizers else []
    words += [f"inserter={','.join(cfg.inserters)}"] if cfg.inserters else []
    words += [f"track={cfg.track}", f"metrics={cfg.metrics}", f"model={cfg.model.name}", f"seed={cfg.seed}"]
    return shlex.join(["magic-insert", "evaluate", *words, f"out={cfg.out}"])


def log_means(cfg: EvaluateConfig, out: Path, rows: Sequence[Row]) -> None:
    """The mean of every column of every method, through the tracker: the numbers of the main tables, as tables."""
    sums: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        columns = sums.setdefault((row["track"], row["method"]), {})
        for column, value in row["values"].items():
            columns.setdefault(column, []).append(value)
    with open_tracker(out, "evaluate", cfg.logger, thaw(cfg)) as tracker:
        for step, track in enumerate(cfg.tracks):
            tables: list[dict[str, Any]] = [
                {"method": method, **{name: sum(v) / len(v) for name, v in columns.items()}}
                for (of_track, method), columns in sums.items()
                if of_track == track
            ]
            tracker.table(step, track, tables)
            named = {f"{track}/{t['method']}/{n}": v for t in tables for n, v in t.items() if n != "method"}
            tracker.log(step, named)


@contextmanager
def bar(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar of `total` things; yields the function that says how many more are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=total)
        yield lambda done: progress.advance(task, done)


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
