"""Which part of a benchmark is used, and what that part is called."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from magic_insert.config.schema import BenchmarkConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.data.benchmarks import BenchBackground, Benchmark, BenchPair, BenchSubject, Source


def select(
    source: Source, cfg: BenchmarkConfig
) -> tuple[list[BenchSubject], list[BenchBackground], list[BenchPair]]:
    """The part of `source` that `cfg` asks for.

    Raises:
        UserError: a name that the benchmark does not have, or nothing left.
    """
    backgrounds = list(source.backgrounds)
    styles = sorted({b.style for b in backgrounds if b.style is not None})
    _known("benchmark.styles", cfg.styles, styles)
    if cfg.styles:
        backgrounds = [b for b in backgrounds if b.style in cfg.styles]
    backgrounds = _named("benchmark.backgrounds", backgrounds, cfg.backgrounds)[: cfg.num_scenes]
    subjects = _named("benchmark.subjects", list(source.subjects), cfg.subjects)[: cfg.num_subjects]
    sides = ("l", "r") if cfg.placement == "both" else (None,)
    pairs = [BenchPair(s.id, b.id, side) for s in subjects for b in backgrounds for side in sides]
    _known("benchmark.pairs", cfg.pairs, [pair.pair_id for pair in pairs])
    if cfg.pairs:
        pairs = [pair for pair in pairs if pair.pair_id in cfg.pairs]
    if not pairs:
        raise UserError(
            f"expected at least one pair of {source.name}, got {len(subjects)} subjects and "
            f"{len(backgrounds)} backgrounds; loosen benchmark.subjects, backgrounds or styles"
        )
    used_s, used_b = {pair.subject for pair in pairs}, {pair.background for pair in pairs}
    return [s for s in subjects if s.id in used_s], [b for b in backgrounds if b.id in used_b], pairs


def _known(key: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in known]
    if missing:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        raise UserError(f"expected {key} out of {shown or 'no names'}, got {', '.join(missing)}")


def _named(key: str, items: list[Any], wanted: Sequence[str]) -> list[Any]:
    _known(key, wanted, [item.id for item in items])
    return [item for item in items if not wanted or item.id in wanted]


def describe(source: Source, cfg: BenchmarkConfig, folder: Path) -> Benchmark:
    """The benchmark as it will lie in `folder`, nothing written yet.

    Raises:
        UserError: see `select`; or two pictures of one name.
    """
    for kind, items in (("subjects", source.subjects), ("backgrounds", source.backgrounds)):
        names = [item.id for item in items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"expected {kind} of different names, got {', '.join(twice)} twice; rename one")
    subjects, backgrounds, pairs = select(source, cfg)
    if source.has_truth and cfg.placement != "auto":
        raise UserError(
            f"expected benchmark.placement=auto, because {source.name} knows where subjects stand, got {cfg.placement}"
        )
    contents = [source.name, source.contents, cfg.placement]
    part, whole = (len(subjects), len(backgrounds)), source.whole
    all_pairs = len(subjects) * len(backgrounds) * (2 if cfg.placement == "both" else 1)
    complete = part == whole and len(pairs) == all_pairs
    described = {
        # A part is never taken for the whole: its name says what it is.
        "name": source.name if complete else f"{source.name}, {len(pairs)} pairs of {whole[0]} x {whole[1]}",
        "num_subjects": len(subjects),
        "num_backgrounds": len(backgrounds),
        "num_pairs": len(pairs),
        "of": {"subjects": whole[0], "backgrounds": whole[1]},
        "deviations": list(source.deviations),
        "placement": "truth" if source.has_truth else cfg.placement,
        "subjects": [asdict(s) for s in subjects],
        "backgrounds": [asdict(b) for b in backgrounds],
    }
    return Benchmark(
        source.name, digest(contents), folder, tuple(subjects), tuple(backgrounds), tuple(pairs),
        source.has_truth, cfg.placement, described,
    )  # fmt: skip
