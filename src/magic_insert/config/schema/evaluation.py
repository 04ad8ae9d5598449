"""The groups of evaluation and study: benchmark, methods that redraw and insert, encoders, people who are asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import MISSING

from magic_insert.config.fields import Holds, Input, OneOf, Range
from magic_insert.config.registry import ENCODERS, INSERTERS, STYLIZERS, Registered
from magic_insert.config.schema.shared import (
    Composite,
    Count,
    InserterConfig,
    StylizerConfig,
)

IMAGES = "images"  # the method that is a folder of pictures made elsewhere
Pattern = Annotated[str, Holds("{subject}"), Holds("{background}")]


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which subjects go into which backgrounds."""

    name: Annotated[
        str,
        OneOf(
            toyplop="35 held-out Toybox subjects for 20 held-out scenes with the truth for every pair",
            subjectplop="the paper's evaluation set: benchmark.root=FOLDER of the official repository",
            folder="your own: benchmark.root=FOLDER with subjects/ and backgrounds/, and texts.json if you like",
        ),
    ] = MISSING
    """The benchmark."""
    root: Annotated[str | None, Input("folder")] = None
    """Folder of the pictures (subjectplop, folder)."""
    split: Annotated[str, OneOf("mini", "full")] = "mini"
    """5 x 4 or 35 x 20 pairs (toyplop)."""
    num_subjects: Count | None = None
    """Keep only the first so many subjects."""
    first: int = 0
    """Number of the first subject that is kept; counting goes around, so any number names one."""
    num_scenes: Count | None = None
    """Keep only the first so many backgrounds."""
    subjects: list[str] = field(default_factory=list)
    """Keep only these subjects; empty: all."""
    backgrounds: list[str] = field(default_factory=list)
    """Keep only these backgrounds; empty: all."""
    styles: list[str] = field(default_factory=list)
    """Keep only these styles; empty: all."""
    pairs: list[str] = field(default_factory=list)
    """Keep only these pairs; empty: all."""
    placement: Annotated[str, OneOf("auto", "left", "right", "both")] = "auto"
    """Where a subject stands without a truth: `auto` on the emptier side, `both` makes two pairs of each."""
    size: Annotated[int, Range(16, 2048)] = 128
    """Side of the pictures in pixels (toyplop)."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.name != "toyplop" and not self.root:
            yield f"expected a folder for benchmark={self.name}, got none; set {at}root=FOLDER"


@dataclass(frozen=True)
class EncodersConfig:
    """Where the encoders' weights come from, and which there are beyond those of the tables."""

    root: Annotated[str | None, Input("folder")] = None
    """Folder of weights; null: the shipped micro encoders, or the hub's cache for those of the paper."""
    lpips: str | None = None
    """Folder of LPIPS's AlexNet trunk; null: `root`; without the file the LPIPS columns are left out."""
    dinov2: bool = False
    """Add its columns."""
    image_reward: bool = False
    """Add its columns."""
    extra: list[Annotated[str, Registered(ENCODERS)]] = field(default_factory=list)
    """Further encoders by name, for metrics that ask for them."""
    download: bool = False
    """Fetch from the hub what neither `root` nor the hub's cache has."""
    accept_unknown: bool = False
    """Take files whose digest is not the known one; their cards say so."""


@dataclass(frozen=True)
class MadeElsewhere:
    """Pictures made elsewhere, for a method whose name is `images`."""

    dir: Annotated[str | None, Input("folder")] = None
    """Folder of the pictures (images)."""
    pattern: Pattern = "{subject}__{background}.png"
    """A file's name with {subject}, {background} and, where the benchmark has both sides, {side} (l or r) (images)."""

    def conflicts(self, at: str) -> Iterator[str]:
        if getattr(self, "name", IMAGES) == IMAGES and not self.dir:
            yield f"expected a folder of pictures for {at}name=images, got none; set {at}dir=FOLDER"


@dataclass(frozen=True)
class EvaluatedStylizer(StylizerConfig, MadeElsewhere):
    """A stylizer as the evaluation runs it: its own options, or pictures made elsewhere (`name: images`)."""

    name: Annotated[str, Registered(STYLIZERS, IMAGES)] = "personalized"
    """The method."""
    personalization: dict[str, Any] = field(default_factory=dict)
    """Keys of this group that the method sets for itself, such as {num_tokens: 1}."""
    style: dict[str, Any] = field(default_factory=dict)
    """Keys of this group that the method sets for itself."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Keys of this group that the method sets for itself."""

    def conflicts(self, at: str) -> Iterator[str]:
        yield from StylizerConfig.conflicts(self, at)
        yield from MadeElsewhere.conflicts(self, at)


@dataclass(frozen=True)
class EvaluatedInserter(InserterConfig, MadeElsewhere):
    """An inserter as the evaluation runs it, or finished composites made elsewhere (`name: images`)."""

    name: Annotated[str, Registered(INSERTERS, IMAGES)] = "effect"
    """The method."""
    composite: Composite = "effect_layer"
    """`effect_layer` keeps the background's own pixels outside the effect, `paper` the whole redrawn picture."""
    mask_dir: Annotated[str | None, Input("folder")] = None
    """Coverage of the subject in each composite, files of the same names; null: seen in its difference (images)."""

    def conflicts(self, at: str) -> Iterator[str]:
        yield from InserterConfig.conflicts(self, at)
        yield from MadeElsewhere.conflicts(self, at)


@dataclass(frozen=True)
class ProtocolConfig:
    """How much people are asked."""

    tasks: Annotated[int, Range(1, 1000)] = MISSING
    """Choices per comparison and rater."""
    raters: Annotated[int, Range(1, 10_000)] = MISSING
    """People."""
    checks: Annotated[int, Range(0, 100)] = MISSING
    """Attention checks in each rater's form."""
    max_failed: Annotated[int, Range(0)] = MISSING
    """Whoever fails more of them is left out of the analysis."""
