"""The grid of an evaluation: which picture of which method for which pair gets a row, and where it lies.

    inputs/                               the benchmark, see data/benchmarks.py
    personalized/subject/<key>/           one training per subject and recipe, whoever uses it
    images/stylize/<method>/<pair_id>.<seed>.png
    images/insert/<stylizer>+<inserter>/<pair_id>.<seed>.png and .mask.png (coverage of the subject in it)
    features/ rows/ rows.jsonl            see features.py and judge.py
Floors and ceilings are methods too; those that are files of the benchmark are not copied. Pictures made elsewhere are a
method too: found by the pattern of their names, all of them and no other, because a missing or surplus file would
compare methods on different pairs without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magic_insert.config.schema import IMAGES, EvaluateConfig, ImagesConfig
from magic_insert.core.errors import UserError
from magic_insert.core.picture_files import SUFFIXES
from magic_insert.core.rand import fold_in
from magic_insert.data.benchmarks import Benchmark, BenchPair

INPUTS = "inputs"
COPY_PASTE, BACKGROUND, RANDOM_SUBJECT = "floor:copy_paste", "floor:background", "floor:random_subject"
SELF, TRUTH = "ceiling:self", "ceiling:truth"
SHOWN = 8  # file names in a message


@dataclass(frozen=True)
class Entry:
    """One row to be. `picture` is what is judged, `mask` the subject's coverage in a composite.

    The ceiling of a reference against itself has no picture of its own.
    """

    track: str
    method: str
    pair: BenchPair
    seed: int
    picture: Path | None
    mask: Path | None = None


def seeds_of(cfg: EvaluateConfig) -> list[int]:
    """The seeds of the draws of each pair."""
    return list(range(cfg.seed, cfg.seed + cfg.num_draws))


def method_folder(out: Path, track: str, method: str) -> Path:
    """Where a method's pictures lie; a colon is no character for a folder everywhere."""
    return out / "images" / track / method.replace(":", "-")


def picture_file(out: Path, track: str, method: str, pair: BenchPair, seed: int) -> Path:
    """The picture of one draw."""
    return method_folder(out, track, method) / f"{pair.pair_id}.{seed}.png"


def mask_file(picture: Path) -> Path:
    """The coverage beside a composite."""
    return picture.with_name(f"{picture.stem}.mask.png")


def needs_stylised(cfg: EvaluateConfig) -> bool:
    """Whether redrawn subjects are wanted, as results or as what is inserted."""
    drawn = any(inserter.name != IMAGES for inserter in cfg.chosen_inserters.values())
    return "stylize" in cfg.tracks or drawn


def insert_methods(cfg: EvaluateConfig) -> list[tuple[str, str | None, str]]:
    """Methods of the track `insert` as (name, stylizer, inserter); composites made elsewhere have no stylizer."""
    methods: list[tuple[str, str | None, str]] = []
    for name, inserter in cfg.chosen_inserters.items():
        if inserter.name == IMAGES:
            methods.append((name, None, name))
        else:
            methods += [(f"{stylizer}+{name}", stylizer, name) for stylizer in cfg.chosen_stylizers]
    return methods


def other_subject(bench: Benchmark, pair: BenchPair, seed: int) -> str | None:
    """A random other subject of the benchmark for this pair; None when it has only one."""
    others = [subject.id for subject in bench.subjects if subject.id != pair.subject]
    return others[fold_in(seed, "random subject", pair.pair_id) % len(others)] if others else None


def list_entries(cfg: EvaluateConfig, bench: Benchmark, out: Path) -> list[Entry]:
    """All rows to be, in a fixed order: track, method, pair, seed."""
    entries: list[Entry] = []
    for track in cfg.tracks:
        for method, seeds in _methods(cfg, track):
            entries += [_drawn(out, track, method, pair, seed, cfg) for pair in bench.pairs for seed in seeds]
        if cfg.floors:
            entries += _floors(cfg, bench, out, track)
    return entries


def _methods(cfg: EvaluateConfig, track: str) -> list[tuple[str, list[int]]]:
    seeds, one = seeds_of(cfg), [cfg.seed]
    if track == "stylize":
        return [(name, one if s.name == IMAGES else seeds) for name, s in cfg.chosen_stylizers.items()]
    stylizers = cfg.chosen_stylizers
    return [
        (method, one if stylizer is None or stylizers[stylizer].name == IMAGES else seeds)
        for method, stylizer, _ in insert_methods(cfg)
    ]


def _drawn(out: Path, track: str, method: str, pair: BenchPair, seed: int, cfg: EvaluateConfig) -> Entry:
    picture = picture_file(out, track, method, pair, seed)
    return Entry(track, method, pair, seed, picture, mask_file(picture) if track == "insert" else None)


def _floors(cfg: EvaluateConfig, bench: Benchmark, out: Path, track: str) -> list[Entry]:
    """Trivial methods and references for every pair."""
    entries: list[Entry] = []
    for pair in bench.pairs:
        other = other_subject(bench, pair, cfg.seed)
        pasted = picture_file(out, "insert", COPY_PASTE, pair, cfg.seed)
        mask: Path | None = None
        if track == "stylize":
            named: list[tuple[str, Path | None]] = [(COPY_PASTE, bench.subject_file(pair.subject))]
            named += [(RANDOM_SUBJECT, bench.subject_file(other))] if other is not None else []
        else:
            mask = mask_file(pasted)
            named = [(COPY_PASTE, pasted)]
        named += [(BACKGROUND, bench.background_file(pair.background)), (SELF, None)]
        entries += [Entry(track, method, pair, cfg.seed, picture, mask) for method, picture in named]
        if track == "insert" and other is not None:
            picture = picture_file(out, "insert", RANDOM_SUBJECT, pair, cfg.seed)
            entries.append(Entry(track, RANDOM_SUBJECT, pair, cfg.seed, picture, mask_file(picture)))
        if bench.has_truth:
            name = "styled" if track == "stylize" else "composite"
            true_mask = bench.truth_file(pair, "mask") if track == "insert" else None
            entries.append(Entry(track, TRUTH, pair, cfg.seed, bench.truth_file(pair, name), true_mask))
    return entries


def by_unit(entries: Sequence[Entry]) -> list[tuple[tuple[str, str, str], list[Entry]]]:
    """Entries of one track, method and subject together, in the order they come: what one process does at a time."""
    units: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        units.setdefault((entry.track, entry.method, entry.pair.subject), []).append(entry)
    return list(units.items())


# Pictures made elsewhere


def match_files(images: ImagesConfig, pairs: Sequence[BenchPair], method: str) -> dict[str, Path]:
    """The file of every pair, by pair_id.

    Raises:
        UserError: two pairs share a name, files are missing, or there are pictures that belong to no pair.
    """
    place = Path(str(images.dir))
    found = {pair.pair_id: place / name_of(images.pattern, pair) for pair in pairs}
    if len(set(found.values())) < len(found):
        raise UserError(
            f"expected a name of its own for every pair of {method}, got pairs that share one; "
            "put {side} into its pattern, as in 'res_{subject}_{background}_{side}.jpg'"
        )
    missing = [path for path in found.values() if not path.is_file()]
    folders = sorted({path.parent for path in found.values()})
    wanted = set(found.values())
    surplus = [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES and path not in wanted
    ]
    if missing or surplus:
        wrong = [
            f"{len(paths)} {word} ({_some(paths)})"
            for word, paths in (("missing", missing), ("surplus", surplus))
            if paths
        ]
        raise UserError(
            f"expected one picture for each of {len(found)} pairs of {method} in {place}, got {' and '.join(wrong)}; "
            "choose the pairs with benchmark.subjects, benchmark.backgrounds, benchmark.pairs, or correct the pattern"
        )
    return found


def name_of(pattern: str, pair: BenchPair) -> str:
    """The file name of a pair; `{side}` is l or r."""
    named = pattern.replace("{subject}", pair.subject).replace("{background}", pair.background)
    return named.replace("{side}", pair.side or "")


def _some(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths[:SHOWN]]
    return ", ".join([*names, "..."] if len(paths) > SHOWN else names)
