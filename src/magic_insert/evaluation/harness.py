"""`magic-insert evaluate`: lay the benchmark out, make the pictures, embed them, judge them, report.

Every step leaves files and does only what is missing, so the same command goes on where an earlier one stopped. Every
process of a job takes its share of each step and waits for the others before the next; rank 0 alone writes what there
is one of. The rows do not depend on the number of processes.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from magic_insert.config.schema import EvaluateConfig
from magic_insert.core.images import save_png
from magic_insert.core.ranks import rank, shard, world_size
from magic_insert.data import benchmarks
from magic_insert.data.benchmark_selection import describe
from magic_insert.data.benchmarks import Benchmark, Source
from magic_insert.data.picture_folders import folder
from magic_insert.data.subjectplop_folder import subjectplop
from magic_insert.data.toyplop import ToyPlop
from magic_insert.evaluation.entries import INPUTS, Entry, by_unit, list_entries
from magic_insert.evaluation.features import FeatureStore, Picture, embed_groups, embeddings, keys_of
from magic_insert.evaluation.generate import Workshop
from magic_insert.evaluation.given_pictures import adopt, floor_pictures
from magic_insert.evaluation.judge import Judges, embed_texts, pictures_of, reference_pictures
from magic_insert.evaluation.publish import facts_of, log_tables, sheet
from magic_insert.evaluation.report import write_report
from magic_insert.evaluation.rows import ROWS_FILE, Row, merge, read_rows, rows_digest, write_rows
from magic_insert.evaluation.units import collect, judge_all

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
    if rank() == 0:
        check_judges(cfg)  # hours of drawing should not end at a missing file
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
    facts = facts_of(cfg, bench, encoders, lpips)
    page = write_report(out, rows, facts)
    log_tables(cfg, out, rows, facts)
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
    bench = describe(source, cfg.benchmark, out / INPUTS)
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
        adopt(bench, out, workshop.made_elsewhere, workshop.masks_elsewhere, cfg.seed)
    wait_for_all()  # nobody draws into a folder that was refused, or inserts what was not copied yet
    with bar(console, "pictures", workshop.count(subjects)) as tick:
        ticks.append(tick)
        for subject in subjects:
            floor_pictures(cfg, bench, out, subject)
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


def check_judges(cfg: EvaluateConfig) -> None:
    """That every judge's weights are where `load_judges` will look for them, with the known digests.

    Raises:
        UserError: as `load_judges`.
    """
    from magic_insert.models.encoders import check_lpips, check_metric_encoders

    check_metric_encoders(cfg.metrics, **_encoder_words(cfg))
    if (place := _lpips_place(cfg)) is not None:
        check_lpips(place, accept_unknown=cfg.encoders.accept_unknown)


def load_judges(cfg: EvaluateConfig) -> tuple[Mapping[str, Any], Any]:
    """The encoders by role, and LPIPS where its trunk is.

    Raises:
        UserError: weights are missing, or not the known ones.
    """
    from magic_insert.models.encoders import load_lpips, load_metric_encoders
    from magic_insert.models.zoo import resolve_device

    device = resolve_device(cfg.model.device)
    encoders = load_metric_encoders(cfg.metrics, device=device, **_encoder_words(cfg))
    if (place := _lpips_place(cfg)) is None:
        return encoders, None
    return encoders, load_lpips(place, accept_unknown=cfg.encoders.accept_unknown, device=device)


def _encoder_words(cfg: EvaluateConfig) -> dict[str, Any]:
    wanted = cfg.encoders
    return {
        "root": Path(wanted.root) if wanted.root else None,
        "extras": [name for name in ("dinov2", "image_reward") if getattr(wanted, name)],
        "download": wanted.download,
        "accept_unknown": wanted.accept_unknown,
    }


def _lpips_place(cfg: EvaluateConfig) -> Path | None:
    """The folder of LPIPS's trunk: the one that was named, or that of the encoders if the file is there."""
    from magic_insert.models.encoders.lpips_distance import ALEXNET

    if cfg.encoders.lpips:
        return Path(cfg.encoders.lpips)
    root = Path(cfg.encoders.root) if cfg.encoders.root else None
    return root if root is not None and (root / ALEXNET.file).is_file() else None


def picture_groups(bench: Benchmark, units: Sequence[tuple[Any, Sequence[Entry]]]) -> list[list[Picture]]:
    """Pictures that are embedded together: the references, then the pictures of each unit; each picture once."""
    groups = reference_pictures(bench)
    known = {picture for group in groups for picture in group}
    for _, entries in units:
        group = [picture for entry in entries for picture in pictures_of(entry) if picture not in known]
        known.update(group)
        groups += [group] if group else []
    return groups


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
