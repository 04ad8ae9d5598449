"""What is evaluated: a benchmark, methods that redraw, methods that insert, and the encoders that judge."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from magic_insert.config.checks import at_least, one_of, within
from magic_insert.config.schema.launch import ExecConfig
from magic_insert.config.schema.parts import (
    COMPOSITES,
    InserterConfig,
    LoggerConfig,
    ModelConfig,
    SamplingConfig,
    SegmenterConfig,
    StyleConfig,
)
from magic_insert.config.schema.personalization import PersonalizationConfig
from magic_insert.config.schema.stylizers import StylizerConfig
from magic_insert.config.typed import overridden, typed
from magic_insert.core.errors import UserError

BENCHMARKS = ("toyplop", "subjectplop", "folder")
BENCHMARK_SPLITS = ("mini", "full")
PLACEMENTS = ("auto", "left", "right", "both")
EVALUATION_TRACKS = ("stylize", "insert", "both")
METRIC_SETS = ("micro", "paper", "paper_large")
IMAGES = "images"  # the method that is a folder of pictures made elsewhere
PATTERN_FIELDS = ("{subject}", "{background}")


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which subjects go into which backgrounds.

    `root`: the folder of `subjectplop` and `folder`. `split`: of toyplop, `mini` 5 x 4 or `full` 35 x 20. `subjects`,
    `backgrounds`, `styles`, `pairs`: keep only these, by name (empty: all); `num_subjects` and `num_scenes`: keep only
    the first so many of what is left. `placement`: where a subject stands when the benchmark has no truth, `auto` on
    the emptier side, `both` makes two pairs of each (`alien__winter.l`, `alien__winter.r`). `size`: side of toyplop's
    pictures in pixels.
    """

    name: str = MISSING
    root: str | None = None
    split: str = "mini"
    num_subjects: int | None = None
    num_scenes: int | None = None
    subjects: list[str] = field(default_factory=list)
    backgrounds: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    placement: str = "auto"
    size: int = 128

    def __post_init__(self) -> None:
        one_of("benchmark.name", self.name, BENCHMARKS)
        one_of("benchmark.split", self.split, BENCHMARK_SPLITS)
        one_of("benchmark.placement", self.placement, PLACEMENTS)
        within("benchmark.size", self.size, 16, 2048)
        for name in ("num_subjects", "num_scenes"):
            if (value := getattr(self, name)) is not None:
                at_least(f"benchmark.{name}", value, 1)
        if self.name != "toyplop" and not self.root:
            raise UserError(
                f"expected a folder for benchmark={self.name}, got none; set benchmark.root=FOLDER"
            )


@dataclass(frozen=True)
class EncodersConfig:
    """Where the judges' weights come from, and which there are beyond those of the tables.

    `root`: folder of weights; null is the shipped micro encoders, or the hub's cache for those of the paper. `lpips`:
    folder of LPIPS's AlexNet trunk (null: `root`; without the file the LPIPS columns are left out). `dinov2`,
    `image_reward`: add these columns. `download`: fetch what the hub's cache lacks. `accept_unknown`: take files whose
    digest is not the known one; their cards say so.
    """

    root: str | None = None
    lpips: str | None = None
    dinov2: bool = False
    image_reward: bool = False
    download: bool = False
    accept_unknown: bool = False


@dataclass(frozen=True)
class ImagesConfig:
    """Pictures made elsewhere: `dir`, and the `pattern` of a file's name with {subject}, {background} and, where the
    benchmark has both sides, {side}, which stands for l or r.
    """

    dir: str | None = None
    pattern: str = "{subject}__{background}.png"

    def check(self, key: str) -> None:
        """Raises `UserError` when the pattern could not tell two pairs apart or no folder is named."""
        if not self.dir:
            raise UserError(f"expected a folder of pictures for {key}, got none; set {key}.dir=FOLDER")
        for name in PATTERN_FIELDS:
            if name not in self.pattern:
                raise UserError(
                    f"expected {key}.pattern to hold {name}, got {self.pattern!r}; "
                    f"set {key}.pattern='res_{{subject}}_{{background}}.png'"
                )


@dataclass(frozen=True)
class EvaluatedStylizer(StylizerConfig):
    """A stylizer as the harness runs it: its own options, pictures made elsewhere (`name: images`), and overrides.

    `personalization`, `style`, `sampling`: keys of these groups that this method sets for itself, such as
    {num_tokens: 1}. Their values go before the job's.
    """

    dir: str | None = None
    pattern: str = "{subject}__{background}.png"
    personalization: dict[str, Any] = field(default_factory=dict)
    style: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == IMAGES:
            self.images.check("stylizer")
        else:
            super().__post_init__()

    @property
    def images(self) -> ImagesConfig:
        """Where its pictures lie, for `name: images`."""
        return ImagesConfig(self.dir, self.pattern)


@dataclass(frozen=True)
class EvaluatedInserter(InserterConfig):
    """An inserter as the harness runs it, or finished composites made elsewhere (`name: images`).

    `composite`: `effect_layer` carries the new light to the background's own pixels, `paper` keeps the whole redrawn
    picture. `mask_dir`: coverage of the subject in each composite made elsewhere, in files of the same names (null:
    seen in its difference from the background).
    """

    composite: str = "effect_layer"
    dir: str | None = None
    pattern: str = "{subject}__{background}.png"
    mask_dir: str | None = None

    def __post_init__(self) -> None:
        one_of("inserter.composite", self.composite, COMPOSITES)
        if self.name == IMAGES:
            self.images.check("inserter")
        else:
            super().__post_init__()

    @property
    def images(self) -> ImagesConfig:
        """Where its pictures lie, for `name: images`."""
        return ImagesConfig(self.dir, self.pattern)


@dataclass(frozen=True)
class EvaluateConfig:
    """Methods on a benchmark: pictures, rows and a report in `out`; the same command goes on where it stopped.

    `stylizers`, `inserters`: method name -> its options; the command line's stylizer=a,b and inserter=x,y fill them
    from conf/stylizer and conf/inserter. `track`: judge the redrawn subject (`stylize`), the composite (`insert`) or
    both. `metrics`: the shipped `micro` encoders, or those of the `paper` with weights from `encoders.root`
    (`paper_large`: with CLIP ViT-L/14). `floors`: add rows of trivial methods and of the truth. `num_draws`: pictures
    per pair and method, each with a seed of its own. `personalized`: folder of personalisations to share between runs
    (null: inside `out`).
    """

    out: str = "runs/evaluate"
    seed: int = 0
    track: str = "both"
    metrics: str = "micro"
    floors: bool = True
    num_draws: int = 1
    personalized: str | None = None
    stylizers: dict[str, Any] = field(default_factory=dict)
    inserters: dict[str, Any] = field(default_factory=dict)
    benchmark: BenchmarkConfig = MISSING
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    model: ModelConfig = MISSING
    personalization: PersonalizationConfig = MISSING
    style: StyleConfig = MISSING
    sampling: SamplingConfig = MISSING
    segmenter: SegmenterConfig = MISSING
    logger: LoggerConfig = MISSING
    exec: ExecConfig = MISSING

    def __post_init__(self) -> None:
        one_of("track", self.track, EVALUATION_TRACKS)
        one_of("metrics", self.metrics, METRIC_SETS)
        within("num_draws", self.num_draws, 1, 1000)
        for name, stylizer in self.chosen_stylizers.items():
            for key, part in (("personalization", self.personalization), ("style", self.style)):
                overridden(part, getattr(stylizer, key), f"stylizers.{name}.{key}")
            overridden(self.sampling, stylizer.sampling, f"stylizers.{name}.sampling")
        if "stylize" in self.tracks and not self.chosen_stylizers:
            raise UserError(f"expected a method for track={self.track}, got none; set stylizer=NAME,NAME")
        if "insert" in self.tracks and not self.chosen_inserters:
            raise UserError(f"expected a method for track={self.track}, got none; set inserter=NAME,NAME")
        drawn = [name for name, inserter in self.chosen_inserters.items() if inserter.name != IMAGES]
        if "insert" in self.tracks and drawn and not self.chosen_stylizers:
            raise UserError(
                f"expected a stylizer to draw what {', '.join(drawn)} inserts, got none; set stylizer=NAME"
            )

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks of `track`, one or both."""
        return ("stylize", "insert") if self.track == "both" else (self.track,)

    @property
    def chosen_stylizers(self) -> dict[str, EvaluatedStylizer]:
        """`stylizers` with types and ranges checked."""
        return {k: typed(EvaluatedStylizer, v, f"stylizers.{k}") for k, v in self.stylizers.items()}

    @property
    def chosen_inserters(self) -> dict[str, EvaluatedInserter]:
        """`inserters` with types and ranges checked."""
        return {k: typed(EvaluatedInserter, v, f"inserters.{k}") for k, v in self.inserters.items()}


@dataclass(frozen=True)
class SubjectPlopConfig:
    """`fetch` clones the official repository at `url` into `out`; `check` compares the pictures in `root` with what was
    released.
    """

    action: str = "check"
    root: str | None = None
    out: str = "runs/SubjectPlop"
    url: str = "https://github.com/magicinsert/magicinsert.github.io"

    def __post_init__(self) -> None:
        one_of("action", self.action, ("fetch", "check"))
        if self.action == "check" and not self.root:
            raise UserError("expected the folder of SubjectPlop to check, got none; set root=FOLDER")
