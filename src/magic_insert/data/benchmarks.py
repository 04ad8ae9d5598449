"""One protocol for every benchmark: subjects and backgrounds with their words, a place for each pair, maybe a truth.

A `Source` knows where pictures come from; `lay_out` writes them as files, so that everything after it (methods,
encoders, the report, other people's programs) reads the same bytes:
    subjects/<id>.png (RGBA, cut out)    backgrounds/<id>.png    truth/<pair_id>/{styled,composite,mask,effect}.png
Shape letters: h, w of a subject, H, W of a background. Values are float32 in [0, 1].
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.evaluation import BenchmarkConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError, require_known
from magic_insert.core.images import load_rgb, load_rgba, save_png
from magic_insert.core.jsonl import read_object, write_json
from magic_insert.core.masks import bounding_box
from magic_insert.core.placement import default_box, side_box
from magic_insert.core.records import Box, Scene, Subject

INDEX = "benchmark.json"
TRUTH_PICTURES = ("styled", "composite", "mask", "effect")
IN_BOX = 0.1  # coverage from which a pixel belongs to the box of a subject in its picture


@dataclass(frozen=True)
class BenchSubject:
    """`simple` and `detailed` say what it is: "a bunny", "a yellow striped bunny with a red hat", "" if nobody did."""

    id: str
    simple: str
    detailed: str


@dataclass(frozen=True)
class BenchBackground:
    """`style` is the name of how it is drawn, where there is one; `style_text` says it: "a pencil drawing".

    Toyplop says it in the words that the micro models learned: "as a pencil drawing".
    """

    id: str
    style: str | None
    style_text: str


@dataclass(frozen=True)
class BenchPair:
    """One subject for one background. `side` is l or r where a benchmark asks for both, else None."""

    subject: str
    background: str
    side: str | None = None

    @property
    def pair_id(self) -> str:
        """`bunny-01__forest-07`, with `.l` or `.r` where there are two of it."""
        return f"{self.subject}__{self.background}" + (f".{self.side}" if self.side else "")


@dataclass(frozen=True)
class Truth:
    """What should have come out: the subject in the background's style, the picture with it, its mask, its effect."""

    styled: Float[Tensor, "3 h w"]
    composite: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    effect: Float[Tensor, "1 H W"]


class Source(ABC):
    """Where a benchmark's pictures come from.

    `whole`: how many subjects and backgrounds the published benchmark has, whether or not they are all here.
    `deviations`: in what the pictures are not the published ones, for the report.
    """

    name: str
    subjects: Sequence[BenchSubject]
    backgrounds: Sequence[BenchBackground]
    whole: tuple[int, int]
    has_truth = False
    deviations: Sequence[str] = ()

    @property
    @abstractmethod
    def contents(self) -> Any:
        """What the benchmark consists of, as JSON values, whatever part of it is used."""

    @abstractmethod
    def subject(self, name: str) -> Subject:
        """The cut-out subject."""

    @abstractmethod
    def background(self, name: str) -> Float[Tensor, "3 H W"]:
        """The target picture."""

    def truth(self, subject: str, background: str) -> Truth:
        """The answer; only asked for where `has_truth`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A benchmark as it lies in `folder`; `digest` names its contents, whatever selection of pairs is used."""

    name: str
    digest: str
    folder: Path
    subjects: tuple[BenchSubject, ...]
    backgrounds: tuple[BenchBackground, ...]
    pairs: tuple[BenchPair, ...]
    has_truth: bool
    placement: str
    described: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def subject_words(self) -> dict[str, BenchSubject]:
        return {subject.id: subject for subject in self.subjects}

    @cached_property
    def background_words(self) -> dict[str, BenchBackground]:
        return {background.id: background for background in self.backgrounds}

    def subject_file(self, name: str) -> Path:
        """RGBA, cut out."""
        return self.folder / "subjects" / f"{name}.png"

    def background_file(self, name: str) -> Path:
        """RGB."""
        return self.folder / "backgrounds" / f"{name}.png"

    def truth_file(self, pair: BenchPair, picture: str) -> Path:
        """One of TRUTH_PICTURES."""
        return self.folder / "truth" / f"{pair.subject}__{pair.background}" / f"{picture}.png"

    def subject(self, name: str) -> Subject:
        """The subject's picture with its matte."""
        rgb, alpha = load_rgba(self.subject_file(name))
        return Subject(rgb, torch.ones_like(rgb[:1]) if alpha is None else alpha, name)

    def scene(self, name: str) -> Scene:
        """The background's picture."""
        return Scene(load_rgb(self.background_file(name)), name)

    def truth(self, pair: BenchPair) -> Truth:
        """The answer of a pair, from its files."""
        pictures = {name: load_rgb(self.truth_file(pair, name)) for name in TRUTH_PICTURES}
        return Truth(pictures["styled"], pictures["composite"], pictures["mask"][:1], pictures["effect"][:1])

    def box(self, pair: BenchPair, scene: Scene) -> Box:
        """Where the subject stands: the true subject's box, or the placement prior of the official results."""
        if self.has_truth:
            return bounding_box(load_rgb(self.truth_file(pair, "mask"))[:1], IN_BOX)
        side = pair.side or {"left": "l", "right": "r"}.get(self.placement)
        return default_box(scene) if side is None else side_box(*scene.size, left=side == "l")

    def style_of(self, pair: BenchPair) -> str | None:
        """The name of the background's style."""
        return self.background_words[pair.background].style


def claim(bench: Benchmark) -> None:
    """Writes the index of the benchmark into its folder; the same benchmark may claim it again, with more pairs.

    Raises:
        UserError: the folder holds another benchmark.
    """
    index = bench.folder / INDEX
    if index.is_file() and (found := read_object(index).get("digest")) != bench.digest:
        raise UserError(
            f"expected the benchmark {bench.digest} or an empty folder at {bench.folder}, got {found}; set out=FOLDER"
        )
    pairs = [{**asdict(pair), "pair_id": pair.pair_id} for pair in bench.pairs]
    write_json(index, {"digest": bench.digest, **bench.described, "pairs": pairs})


def missing_parts(bench: Benchmark) -> list[tuple[str, ...]]:
    """What is not laid out yet: ("subject", id), ("background", id), ("truth", subject, background)."""
    parts: list[tuple[str, ...]] = [
        ("subject", s.id) for s in bench.subjects if not bench.subject_file(s.id).is_file()
    ]
    parts += [("background", b.id) for b in bench.backgrounds if not bench.background_file(b.id).is_file()]
    if bench.has_truth:
        parts += [
            ("truth", pair.subject, pair.background)
            for pair in bench.pairs
            if not bench.truth_file(pair, TRUTH_PICTURES[-1]).is_file()
        ]
    return parts


def lay_out(source: Source, bench: Benchmark, parts: Sequence[tuple[str, ...]]) -> Iterator[None]:
    """Writes `parts` (see `missing_parts`), yielding after each.

    Raises:
        UserError: a picture is damaged, or nothing can be cut out of a subject's picture; names the file.
    """
    for kind, *names in parts:
        if kind == "subject":
            subject = source.subject(names[0])
            save_png(bench.subject_file(names[0]), torch.cat([subject.rgb, subject.alpha]))
        elif kind == "background":
            save_png(bench.background_file(names[0]), source.background(names[0]))
        else:
            pair = BenchPair(*names)
            truth = source.truth(*names)
            for name in TRUTH_PICTURES:  # the last one written says that all are there
                save_png(bench.truth_file(pair, name), getattr(truth, name))
        yield


def article(noun: str) -> str:
    """`an` before a vowel, `a` otherwise."""
    return "an" if noun[:1].lower() in tuple("aeiou") else "a"


# Which part of a benchmark is used, and what that part is called


def select(
    source: Source, cfg: BenchmarkConfig
) -> tuple[list[BenchSubject], list[BenchBackground], list[BenchPair]]:
    """The part of `source` that `cfg` asks for.

    Raises:
        UserError: a name that the benchmark does not have, or nothing left.
    """
    backgrounds = list(source.backgrounds)
    styles = sorted({b.style for b in backgrounds if b.style is not None})
    require_known("benchmark.styles", cfg.styles, styles)
    if cfg.styles:
        backgrounds = [b for b in backgrounds if b.style in cfg.styles]
    backgrounds = _named("benchmark.backgrounds", backgrounds, cfg.backgrounds)[: cfg.num_scenes]
    subjects = _named("benchmark.subjects", list(source.subjects), cfg.subjects)
    start = cfg.first % max(1, len(subjects))
    subjects = [*subjects[start:], *subjects[:start]][: cfg.num_subjects]
    sides = ("l", "r") if cfg.placement == "both" else (None,)
    pairs = [BenchPair(s.id, b.id, side) for s in subjects for b in backgrounds for side in sides]
    require_known("benchmark.pairs", cfg.pairs, [pair.pair_id for pair in pairs])
    if cfg.pairs:
        pairs = [pair for pair in pairs if pair.pair_id in cfg.pairs]
    if not pairs:
        raise UserError(
            f"expected at least one pair of {source.name}, got {len(subjects)} subjects and "
            f"{len(backgrounds)} backgrounds; loosen benchmark.subjects, backgrounds or styles"
        )
    used_s, used_b = {pair.subject for pair in pairs}, {pair.background for pair in pairs}
    return [s for s in subjects if s.id in used_s], [b for b in backgrounds if b.id in used_b], pairs


def _named(key: str, items: list[Any], wanted: Sequence[str]) -> list[Any]:
    require_known(key, wanted, [item.id for item in items])
    return [item for item in items if not wanted or item.id in wanted]


def describe(source: Source, cfg: BenchmarkConfig, folder: Path) -> Benchmark:
    """The benchmark as it will lie in `folder`, nothing written yet.

    Raises:
        UserError: see `select`; or a placement where the truth decides.
    """
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
