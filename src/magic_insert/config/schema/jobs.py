"""One dataclass per job: its table of contents. The foundation job has a file of its own."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from magic_insert.config.checks import at_least, not_empty, one_of, within
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
from magic_insert.config.schema.personalization import PersonalizationConfig, check_precision
from magic_insert.config.schema.stylizers import PoseConfig, StylizerConfig
from magic_insert.core.errors import UserError

TOYBOX_PRODUCTS = ("subjects", "pairs", "benchmark", "sheet")
SPLITS = ("train", "heldout")
MAX_PICTURES = 5


@dataclass(frozen=True)
class InsertConfig:
    """Subject picture + background picture -> composite. `box` is [x, y, w, h] in pixels of the background, or null.

    `background`: a picture; or a list of them or a folder, each inserted into under its own name in the folder `out`.
    `run`: run folder, or saved step, of a personalisation of this subject; null personalises now.

    `composite`: `effect_layer` keeps the background's own pixels outside the subject and its effect, `paper` keeps the
    whole picture as the inserter drew it.

    `subject_text`: what the subject is ("a red bunny"), for stylizers that are told instead of taught.
    """

    subject: str = MISSING
    background: Any = MISSING  # a path or a list of paths
    out: str = MISSING
    run: str | None = None
    box: list[int] | None = None
    subject_text: str = ""
    seed: int = 0
    keep_intermediate: bool = False
    composite: str = "effect_layer"
    model: ModelConfig = MISSING
    personalization: PersonalizationConfig = MISSING
    stylizer: StylizerConfig = MISSING
    style: StyleConfig = MISSING
    sampling: SamplingConfig = MISSING
    pose: PoseConfig = MISSING
    segmenter: SegmenterConfig = MISSING
    inserter: InserterConfig = MISSING

    def __post_init__(self) -> None:
        one_of("composite", self.composite, COMPOSITES)
        paths = self.background if isinstance(self.background, list) else [self.background]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise UserError(
                f"expected background=PATH or background=[PATH,PATH], got {self.background!r}; quote odd names"
            )
        if self.run is None and self.stylizer.name == "personalized":
            check_precision(self.personalization.precision, self.model.dtype)
        if self.run is not None and self.stylizer.name != "personalized":
            raise UserError(
                f"expected stylizer=personalized for run={self.run}, got {self.stylizer.name}; set run=null"
            )
        if self.box is None:
            return
        if len(self.box) != 4:
            raise UserError(
                f"expected box=[x,y,w,h], got {len(self.box)} numbers; set box=[x,y,w,h] or box=null"
            )
        if min(self.box) < 0 or min(self.box[2:]) < 1:
            raise UserError(f"expected box=[x,y,w,h] with x, y >= 0 and w, h >= 1, got {self.box}")


@dataclass(frozen=True)
class PersonalizeConfig:
    """Pictures of one subject -> LoRA and tokens in `out`, as safetensors in diffusers' format.

    `subject`: a path, or a list of up to MAX_PICTURES as in subject=[a.png,b.png]; or a folder of subjects (pictures,
    or folders of them), each with a run folder of its own in `out`. `exec=torchrun` shares the subjects out.
    """

    subject: Any = MISSING  # a path or a list of paths: the schema language has no such union
    out: str = MISSING
    seed: int = 0
    model: ModelConfig = MISSING
    personalization: PersonalizationConfig = MISSING
    logger: LoggerConfig = MISSING
    exec: ExecConfig = MISSING

    def __post_init__(self) -> None:
        if not all(isinstance(path, str) and path for path in self.pictures):
            raise UserError(
                f"expected subject=PATH or subject=[PATH,PATH], got {self.subject!r}; quote odd names"
            )
        if not 1 <= len(self.pictures) <= MAX_PICTURES:
            raise UserError(
                f"expected 1 to {MAX_PICTURES} pictures of one subject, got {len(self.pictures)}; "
                "set subject=[PATH,...]"
            )
        check_precision(self.personalization.precision, self.model.dtype)

    @property
    def pictures(self) -> list[str]:
        """The paths of `subject`, one or several."""
        return self.subject if isinstance(self.subject, list) else [self.subject]


@dataclass(frozen=True)
class DemoConfig:
    """One held-out Toybox subject in `num_scenes` held-out scenes, beside the truth: a sheet and a page in `out`."""

    out: str = "runs/demo"
    seed: int = 0
    num_scenes: int = 4
    composite: str = "effect_layer"
    model: ModelConfig = MISSING
    personalization: PersonalizationConfig = MISSING
    stylizer: StylizerConfig = MISSING
    style: StyleConfig = MISSING
    sampling: SamplingConfig = MISSING
    segmenter: SegmenterConfig = MISSING
    inserter: InserterConfig = MISSING

    def __post_init__(self) -> None:
        within("num_scenes", self.num_scenes, 1, 20)
        check_precision(self.personalization.precision, self.model.dtype)
        one_of("composite", self.composite, COMPOSITES)


@dataclass(frozen=True)
class ToyboxConfig:
    """Folders of Toybox renders.

    `what`: `subjects` (alone on plain ground), `pairs` (scene with and without, mask, effect), `benchmark` (the first
    `num_subjects` of 35 subjects and `num_scenes` of 20 scenes of ToyPlop; `split`, `seed` and `occlusion` do not touch
    it) or `sheet` (only the contact sheet, every subject in every style). Picture i is drawn in style i modulo the
    number of `styles`; an empty list means all training styles (the benchmark: all). `size` in pixels.
    `occlusion` in [0, 1]: chance that a prop stands in front of the drop place.
    """

    out: str = "runs/toybox"
    what: str = "sheet"
    num_subjects: int = 8
    num_scenes: int = 8
    split: str = "train"
    styles: list[str] = field(default_factory=list)
    size: int = 128
    seed: int = 0
    occlusion: float = 0.0

    def __post_init__(self) -> None:
        one_of("what", self.what, TOYBOX_PRODUCTS)
        one_of("split", self.split, SPLITS)
        within("num_subjects", self.num_subjects, 1, 1_000_000)
        within("num_scenes", self.num_scenes, 1, 1_000_000)
        within("size", self.size, 16, 2048)
        within("occlusion", self.occlusion, 0, 1)


@dataclass(frozen=True)
class CardConfig:
    """Measures a folder of micro weights (null: the shipped ones) on held-out Toybox seeds; writes `out`/card.json."""

    source: str | None = None
    out: str = "runs/card"
    num_samples: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("num_samples", self.num_samples, 1)


@dataclass(frozen=True)
class StatusConfig:
    """Lists the run folders under `root`, keeping those in one of `states`."""

    root: str = "runs"
    states: list[str] = field(default_factory=lambda: ["running", "done", "failed", "stopped"])

    def __post_init__(self) -> None:
        not_empty("states", self.states)
        for state in self.states:
            one_of("states", state, ("running", "done", "failed", "stopped"))
