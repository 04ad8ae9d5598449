"""One dataclass per job: its own keys and its table of contents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from omegaconf import MISSING

from magic_insert.config.fields import POSITIVE, Input, NotEmpty, OneOf, Output, Range
from magic_insert.config.freeze import overridden, settings_class, typed
from magic_insert.config.registry import METRICS, Registered
from magic_insert.config.schema import shared, training
from magic_insert.config.schema.bootstrap import (
    AdaptConfig,
    Decibel,
    FaultConfig,
    FilterConfig,
    HarvestConfig,
    HeldOutConfig,
    LoopConfig,
    StyledPoolConfig,
)
from magic_insert.config.schema.evaluation import (
    IMAGES,
    BenchmarkConfig,
    EncodersConfig,
    EvaluatedInserter,
    EvaluatedStylizer,
    ProtocolConfig,
)

MAX_PICTURES = 5
Options = TypeVar("Options", EvaluatedStylizer, EvaluatedInserter)


@dataclass(frozen=True)
class InsertConfig:
    """Subject picture + background picture -> composite."""

    subject: str = MISSING
    """The subject's picture."""
    background: Any = MISSING  # a path or a list of paths: the schema language has no such union
    """A picture; or a list of them or a folder, each inserted into under its own name in the folder `out`."""
    out: str = MISSING
    """The picture to write, with its JSON beside it; a folder for several backgrounds."""
    run: str | None = None
    """Run folder, or saved step, of a personalisation of this subject; null: see `subjects`."""
    subjects: str = "runs/subjects"
    """Where personalisations are kept: one of the same pictures, recipe and model is made once and used again."""
    box: list[int] | None = None
    """[x, y, w, h] in pixels of the background; null: a default place."""
    occluders: str | None = None
    """A mask of the one background: what is white there stands before the subject and stays as it is."""
    subject_text: str = ""
    """What the subject is ("a red bunny"), for stylizers that are conditioned on words instead of trained."""
    seed: int = 0
    """Root of every random number."""
    keep_intermediate: bool = False
    """Write every step between into the folder `<out>_parts`."""
    composite: shared.Composite = "effect_layer"
    """`effect_layer` keeps the background's pixels outside subject and effect, `paper` the whole redrawn picture."""
    mode: Annotated[
        str,
        OneOf(
            auto="preview on a CPU for pictures other than the Toybox's, while no method is chosen; full elsewhere",
            full="the diffusion model redraws the subject",
            preview="no diffusion model: stylizer=tone, in about two seconds",
        ),
    ] = "auto"
    """How much is done."""
    model: shared.ModelConfig = MISSING
    personalization: training.PersonalizationConfig = MISSING
    stylizer: shared.StylizerConfig = MISSING
    style: shared.StyleConfig = MISSING
    sampling: shared.SamplingConfig = MISSING
    pose: shared.PoseConfig = MISSING
    segmenter: shared.SegmenterConfig = MISSING
    inserter: shared.InserterConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        paths = self.background if isinstance(self.background, list) else [self.background]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            yield f"expected background=PATH or background=[PATH,PATH], got {self.background!r}; quote odd names"
        if self.run is None and self.stylizer.name == "personalized":
            training.check_precision(self.personalization.precision, self.model.dtype, self.model.device)
        if self.run is not None and self.stylizer.name != "personalized":
            yield f"expected stylizer=personalized for run={self.run}, got {self.stylizer.name}; set run=null"
        if self.mode == "preview":
            yield from self._preview_conflicts()
        box = self.box or [0, 0, 1, 1]
        if len(box) != 4 or min(box) < 0 or min(box[2:]) < 1:
            yield f"expected box=[x,y,w,h] with x, y >= 0 and w, h >= 1, got {box}; set box=[x,y,w,h] or box=null"

    def _preview_conflicts(self) -> Iterator[str]:
        """What only a diffusion model could do."""
        chosen = {
            "run": (self.run, (None,)),
            "stylizer": (self.stylizer.name, ("personalized", *shared.FREE_STYLIZERS)),
            "stylizer.structure": (self.stylizer.structure, ("none",)),
            "inserter": (self.inserter.name, shared.FREE_INSERTERS),
            "pose": (self.pose.name, ("none",)),
        }
        for key, (value, free) in chosen.items():
            if value not in free:
                yield f"expected mode=full for {key}={value}, which needs the model, got preview; set mode=full"


@dataclass(frozen=True)
class PageConfig:
    """Drag and drop in a browser, on this machine alone."""

    port: Annotated[int, Range(0, 65535)] = 0
    """Of the page; 0: any free one."""
    browser: bool = False
    """Open the page in this machine's browser."""
    subjects: shared.Folder = "runs/subjects"
    """Where personalisations are kept, those of `magic-insert insert` among them."""
    seed: int = 0
    """Root of every random number."""
    model: shared.ModelConfig = MISSING
    personalization: training.PersonalizationConfig = MISSING
    stylizer: shared.StylizerConfig = MISSING
    style: shared.StyleConfig = MISSING
    sampling: shared.SamplingConfig = MISSING
    segmenter: shared.SegmenterConfig = MISSING
    inserter: shared.InserterConfig = MISSING


@dataclass(frozen=True)
class PersonalizeConfig:
    """Pictures of one subject -> LoRA and tokens in `out`, as safetensors in diffusers' format."""

    subject: Any = MISSING
    """A picture, a list of up to 5 as in subject=[a.png,b.png], or a folder of subjects, each with a run folder."""
    out: shared.Folder = MISSING
    """The run folder."""
    seed: int = 0
    """Root of every random number."""
    model: shared.ModelConfig = MISSING
    personalization: training.PersonalizationConfig = MISSING
    logger: shared.LoggerConfig = MISSING
    exec: shared.ExecConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        if not all(isinstance(path, str) and path for path in self.pictures):
            yield f"expected subject=PATH or subject=[PATH,PATH], got {self.subject!r}; quote odd names"
        if not 1 <= len(self.pictures) <= MAX_PICTURES:
            yield (
                f"expected 1 to {MAX_PICTURES} pictures of one subject, got {len(self.pictures)}; "
                "set subject=[PATH,...]"
            )
        training.check_precision(self.personalization.precision, self.model.dtype, self.model.device)

    @property
    def pictures(self) -> list[str]:
        """The paths of `subject`, one or several."""
        return self.subject if isinstance(self.subject, list) else [self.subject]


@dataclass(frozen=True)
class ExportConfig:
    """A finished personalisation for other programs: a LoRA file and an embedding file in the folder `out`."""

    run: str = MISSING
    """Folder of the personalisation."""
    out: shared.Folder = MISSING
    """The folder to write."""
    format: Annotated[str, OneOf("kohya", "diffusers")] = "kohya"
    """`kohya` for ComfyUI and A1111, or diffusers' own."""
    name: str = ""
    """Of kohya's files and in the headers; empty: the name of the run folder."""

    def conflicts(self, at: str) -> Iterator[str]:
        if "/" in self.name or self.name.startswith("."):
            yield f"expected name to be a file name without suffix, got {self.name!r}; set name=cat"


@dataclass(frozen=True)
class InsertionConfig:
    """Pairs -> `out`/remover and `out`/inserter, as safetensors in diffusers' format."""

    out: shared.Folder = MISSING
    """The run folder."""
    task: Annotated[str, OneOf("remove", "insert", "both")] = "both"
    """Which of the two is trained; the networks of inserter=effect only insert."""
    seed: int = 0
    """Root of every random number."""
    validation_steps: shared.Steps = shared.EDIT_STEPS
    """Denoising steps when the held-out pairs are drawn at the end."""
    model: shared.ModelConfig = MISSING
    data: training.DataConfig = MISSING
    train: training.FitConfig = MISSING
    logger: shared.LoggerConfig = MISSING
    exec: shared.ExecConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        yield from self.exec.uneven(self.train.batch_size, "train.batch_size")
        if self.data.name == "desoba" and self.task != "insert":
            yield (
                f"expected task=insert for data=desoba, whose pairs keep the object, got task={self.task}; "
                "set task=insert"
            )
        if self.train.architecture == "edit_unet":
            return
        trained = f"train.architecture={self.train.architecture}"
        if self.data.name == "toybox" and self.data.styles != ["photo"]:
            yield (
                f"expected the Toybox in all its styles for {trained}, got "
                f"data.styles={self.data.styles}; leave it as it is"
            )
        if self.task == "remove":
            yield f"expected task=insert for {trained}, got task=remove; set task=insert"


@dataclass(frozen=True)
class RemoveConfig:
    """A picture and a mask -> the picture without what the mask marks, and without its shadow."""

    image: str = MISSING
    """The picture."""
    mask: str = MISSING
    """White where something is to go."""
    out: str = MISSING
    """The .png to write, with its JSON beside it."""
    remover: Annotated[
        str,
        OneOf(
            edit="our network, trained by an insertion job or a bootstrap",
            diffusers="an inpainting or editing pipeline of diffusers: run=FOLDER or owner/name@COMMIT",
        ),
    ] = "edit"
    """The method."""
    run: str | None = None
    """Folder that holds remover/; null: the one beside the model's weights. A pipeline's folder or
    `owner/name@commit` (diffusers)."""
    prompt: str = ""
    """What the pipeline is asked to draw, or to change (diffusers)."""
    guidance: Annotated[float | None, Range(0, 50)] = None
    """Scale of its guidance; null: its own (diffusers)."""
    seed: int = 0
    """Root of every random number."""
    steps: shared.Steps = shared.EDIT_STEPS
    """Denoising steps."""
    grow: Annotated[float, Range(0, 0.5)] = 0.02
    """How far around the mask the picture is redrawn, as a share of the window's side."""
    threshold: shared.Share = 0.03
    """The smallest change that counts."""
    reach: Annotated[float, Range(0, 100)] = 1.2
    """How far from the mask an effect may lie, in units of its longer side."""
    model: shared.ModelConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        if self.remover == "diffusers" and not self.run:
            yield (
                "expected run to name a pipeline for remover=diffusers, got nothing; "
                "set run=FOLDER or run=owner/name@COMMIT"
            )


@dataclass(frozen=True)
class EvaluateConfig:
    """Methods on a benchmark: pictures, rows and a report in `out`; the same command resumes where it stopped."""

    out: shared.Folder = "runs/evaluate"
    """The run folder."""
    seed: int = 0
    """Root of every random number."""
    track: Annotated[str, OneOf("stylize", "insert", "both")] = "both"
    """Judge the redrawn subject, the composite, or both."""
    metrics: Annotated[str, OneOf("micro", "paper", "paper_large")] = "micro"
    """The shipped micro encoders, or the paper's with weights from encoders.root (paper_large: CLIP ViT-L/14)."""
    extra_metrics: list[Annotated[str, Registered(METRICS)]] = field(default_factory=list)
    """Further metrics by name, from installed packages."""
    floors: bool = True
    """Add rows of trivial methods and of the truth."""
    num_draws: Annotated[int, Range(1, 1000)] = 1
    """Pictures per pair and method, each with a seed of its own."""
    personalized: str | None = None
    """Folder of personalisations to share between runs; null: inside `out`."""
    stylizers: dict[str, Any] = field(default_factory=dict)
    """Method name -> its options; stylizer='[a,b]' fills it from the group's choices."""
    inserters: dict[str, Any] = field(default_factory=dict)
    """Method name -> its options; inserter='[x,y]' fills it from the group's choices."""
    benchmark: BenchmarkConfig = MISSING
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    model: shared.ModelConfig = MISSING
    personalization: training.PersonalizationConfig = MISSING
    style: shared.StyleConfig = MISSING
    sampling: shared.SamplingConfig = MISSING
    segmenter: shared.SegmenterConfig = MISSING
    logger: shared.LoggerConfig = MISSING
    exec: shared.ExecConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        for added in ("dinov2", "image_reward"):
            if self.metrics == "micro" and getattr(self.encoders, added):
                yield f"expected metrics=paper for encoders.{added}, got micro; set metrics=paper"
        for name, stylizer in self.chosen_stylizers.items():
            for group in ("personalization", "style", "sampling"):
                own = overridden(getattr(self, group), getattr(stylizer, group), f"stylizers.{name}.{group}")
                if group == "personalization" and stylizer.name == "personalized":
                    training.check_precision(own.precision, self.model.dtype, self.model.device)
        if "stylize" in self.tracks and not self.chosen_stylizers:
            yield f"expected a method for track={self.track}, got none; set stylizer='[NAME,NAME]'"
        if "insert" in self.tracks and not self.chosen_inserters:
            yield f"expected a method for track={self.track}, got none; set inserter='[NAME,NAME]'"
        drawn = [name for name, inserter in self.chosen_inserters.items() if inserter.name != IMAGES]
        if "insert" in self.tracks and drawn and not self.chosen_stylizers:
            yield f"expected a stylizer to draw what {', '.join(drawn)} inserts, got none; set stylizer=NAME"

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks of `track`, one or both."""
        return ("stylize", "insert") if self.track == "both" else (self.track,)

    @property
    def chosen_stylizers(self) -> dict[str, EvaluatedStylizer]:
        """`stylizers` with types and ranges checked."""
        return {k: _evaluated(EvaluatedStylizer, v, f"stylizers.{k}") for k, v in self.stylizers.items()}

    @property
    def chosen_inserters(self) -> dict[str, EvaluatedInserter]:
        """`inserters` with types and ranges checked."""
        return {k: _evaluated(EvaluatedInserter, v, f"inserters.{k}") for k, v in self.inserters.items()}


def _evaluated(options: type[Options], values: Mapping[str, Any], key: str) -> Options:
    """The options of an evaluated method, with the settings of its own where another package brings it."""
    base = options.__mro__[1]
    if (own := settings_class(base, values)) is not base:
        options = dataclass(frozen=True)(type(own.__name__, (options, own), {}))
    return typed(options, values, key)


@dataclass(frozen=True)
class SubjectPlopConfig:
    """The official pictures of SubjectPlop, which this package never ships."""

    action: Annotated[str, OneOf("fetch", "check")] = "check"
    """`fetch` clones the official repository into `out`; `check` compares the pictures in `root` with the released."""
    root: Annotated[str | None, Input("folder")] = None
    """Folder of the pictures to check."""
    out: str = "runs/SubjectPlop"
    """Folder to clone into."""
    url: str = "https://github.com/magicinsert/magicinsert.github.io"
    """The official repository."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.action == "check" and not self.root:
            yield "expected the folder of SubjectPlop to check, got none; set root=FOLDER"


@dataclass(frozen=True)
class BootstrapConfig:
    """Stylised pictures + a remover and an inserter of photographs -> an inserter of drawings in `out`/inserter."""

    out: shared.Folder = "runs/bootstrap"
    """The run folder."""
    store: shared.Folder = "runs/store"
    """Folder where every finished stage is kept and found again, by this run and any other."""
    seed: int = 0
    """Root of every random number."""
    bootstrap: LoopConfig = MISSING
    pool: StyledPoolConfig = MISSING
    harvest: HarvestConfig = MISSING
    filter: FilterConfig = MISSING
    fit: AdaptConfig = MISSING
    evaluate: HeldOutConfig = MISSING
    data: FaultConfig = MISSING
    segmenter: shared.SegmenterConfig = MISSING
    model: shared.ModelConfig = MISSING
    logger: shared.LoggerConfig = MISSING
    exec: shared.ExecConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        yield from self.exec.uneven(self.fit.batch_size, "fit.batch_size")
        if self.pool.name == "imagine" and not self.pool.prompts and self.model.name != "micro":
            yield (
                f"expected prompts for pool=imagine with model={self.model.name}, got none (the Toybox's captions are "
                "for the micro model); set pool=imagine_prominent, or pool.prompts and pool.styles"
            )


@dataclass(frozen=True)
class ReviewConfig:
    """People judge the removals of a bootstrap."""

    run: str = MISSING
    """Folder of the bootstrap run."""
    out: shared.Folder = "runs/review"
    """The page, the sheet and what was learned."""
    round: shared.Count = 1
    """Whose removals."""
    verdicts: Annotated[str | None, Input("file", ("truth",))] = None
    """A file from the page to read back, or `truth` where the Toybox knows the answer; null writes the page."""
    good_db: Decibel = 14.5
    """With verdicts=truth, the PSNR from which a removal is good."""
    serve: bool = False
    """Serve the page on this machine alone: verdicts go into out/verdicts.json as they are given."""
    port: Annotated[int, Range(0, 65535)] = 0
    """With serve=true; 0: any free one."""


@dataclass(frozen=True)
class ReportConfig:
    """Tables, plots and page of an evaluation, made again from its rows alone."""

    rows: Annotated[str, Input("file")] = MISSING
    """A rows.jsonl; its pictures are looked for beside it."""
    out: shared.Folder = "runs/report"
    """The folder to write."""
    facts: Annotated[str | None, Input("file")] = None
    """The facts.json of the evaluation; null: the one beside the rows, if there is one."""
    seed: int = 0
    """Of the bootstrap draws."""


@dataclass(frozen=True)
class StudyConfig:
    """A two-alternative preference study in the folder `out`."""

    action: Annotated[str, OneOf("build", "serve", "analyse")] = "build"
    """Build the page, serve it and collect answers, or analyse them."""
    out: shared.Folder = "runs/study"
    """Folder of the study."""
    seed: int = 0
    """Of the forms and of the bootstrap draws."""
    rows: Annotated[str | None, Input("file")] = None
    """A rows.jsonl of an evaluation whose pictures are compared."""
    track: Annotated[str, OneOf("insert", "stylize")] = "insert"
    """Which pictures of the rows."""
    ours: str | None = None
    """The method of the rows that is compared with the others."""
    against: list[str] = field(default_factory=list)
    """The others."""
    folders: list[Annotated[str, Input("folder")]] = field(default_factory=list)
    """Folders whose files of equal names are compared, the first being ours; instead of rows."""
    references: Annotated[str | None, Input("folder")] = None
    """Folder with pictures of the same names, shown above each choice."""
    answers: list[Annotated[str, Input("file")]] = field(default_factory=list)
    """Files that raters downloaded from the page, analysed with those in `out`."""
    port: Annotated[int, Range(0, 65535)] = 8765
    """Of the page while it is served; 0: any free one."""
    protocol: ProtocolConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        if self.action != "build":
            return
        if (self.rows is None) == (not self.folders):
            got = "both" if self.folders else "neither"
            yield f"expected rows or folders to compare, got {got}; set rows=PATH or folders=[OURS,OTHER]"
        elif self.rows is not None and (self.ours is None or not self.against):
            yield "expected two methods of the rows to compare, got none; set ours=METHOD against=[METHOD]"
        elif self.folders and len(self.folders) < 2:
            yield "expected two folders or more to compare, got one; set folders=[OURS,OTHER]"


@dataclass(frozen=True)
class ToyboxConfig:
    """Folders of Toybox renders."""

    out: shared.Folder = "runs/toybox"
    """The run folder."""
    what: Annotated[str, OneOf("subjects", "pairs", "benchmark", "sheet")] = "sheet"
    """Subjects on plain ground; scenes with and without subject, mask and effect; ToyPlop; or the contact sheet."""
    num_subjects: Annotated[int, Range(1, 1_000_000)] = 8
    """How many subjects; of the benchmark, the first of 35."""
    num_scenes: Annotated[int, Range(1, 1_000_000)] = 8
    """How many scenes; of the benchmark, the first of 20."""
    split: Annotated[str, OneOf("train", "heldout")] = "train"
    """Which subjects and scenes; not of the benchmark."""
    styles: list[shared.Style] = field(default_factory=list)
    """Picture i is drawn in style i modulo their number; empty: all training styles (the benchmark: all)."""
    size: Annotated[int, Range(16, 2048)] = 128
    """Side of the pictures in pixels."""
    seed: int = 0
    """Root of every random number; not of the benchmark."""
    occlusion: shared.Share = 0.0
    """Chance that a prop stands in front of the subject; not of the benchmark."""


@dataclass(frozen=True)
class FoundationConfig:
    """Every part of the micro model in the order of training; the same command resumes where it stopped."""

    out: shared.Folder = "runs/foundation"
    """The run folder."""
    seed: int = 0
    """Root of every random number."""
    save_every: shared.Count = 200
    """Steps between checkpoints."""
    size: Annotated[str, OneOf("micro", "tiny")] = "micro"
    """Widths of the networks; tiny only for tests."""
    start: str | None = None
    """A model folder, from which parts of 0 steps are taken over."""
    pool: training.PoolConfig = MISSING
    vae: training.PartConfig = MISSING
    clip: training.PartConfig = MISSING
    generator: training.PartConfig = MISSING
    controlnet: training.PartConfig = MISSING
    remover: training.PartConfig = MISSING
    inserter: training.PartConfig = MISSING
    metric_clip: training.PartConfig = MISSING
    metric_identity: training.PartConfig = MISSING
    metric_style: training.PartConfig = MISSING
    trainer: training.TrainerConfig = MISSING
    logger: shared.LoggerConfig = MISSING
    exec: shared.ExecConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        # The other parts compare rows with one another: each process has the whole batch.
        for name in ("vae", "generator", "controlnet", "remover", "inserter"):
            part = getattr(self, name)
            yield from self.exec.uneven(part.batch_size, f"{name}.batch_size") if part.steps else ()


@dataclass(frozen=True)
class CardConfig:
    """Measures a folder of micro weights on held-out Toybox seeds; writes `out`/card.json."""

    source: str | None = None
    """The folder; null: the shipped weights."""
    out: shared.Folder = "runs/card"
    """The run folder."""
    num_samples: shared.Count = 12
    """Pictures per measurement."""
    seed: int = 0
    """Root of every random number."""


@dataclass(frozen=True)
class PlanConfig:
    """What a job holds in a GPU's memory, counted without a GPU and without weights, and what makes it fit."""

    job: Annotated[str, OneOf("personalize", "insertion", "bootstrap", "insert", "remove")] = "personalize"
    """The job; its settings are those of the groups below."""
    gpu: Annotated[float, POSITIVE] = 24.0
    """The card's memory in GB."""
    gpus: shared.Count = 1
    """Cards that train together; they share rows, with train.strategy=fsdp2 everything (insertion)."""
    backgrounds: shared.Count = 1
    """Backgrounds of one command; small pictures are drawn together (insert)."""
    seed: int = 0
    """Changes nothing here; the recipes refer to it."""
    model: shared.ModelConfig = MISSING
    personalization: training.PersonalizationConfig = MISSING
    train: training.FitConfig = MISSING
    fit: AdaptConfig = MISSING
    harvest: HarvestConfig = MISSING
    inserter: shared.InserterConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        if self.job in ("insertion", "bootstrap"):
            part = "train" if self.job == "insertion" else "fit"
            batch = getattr(self, part).batch_size
            yield from shared.indivisible(batch, f"{part}.batch_size", self.gpus, "gpus")
        if self.job == "insert" and self.inserter.name == "diffusers":
            yield "expected an inserter of ours, got diffusers, whose pipeline is not counted; set inserter=diffusion"


@dataclass(frozen=True)
class StatusConfig:
    """Lists run folders."""

    root: str = "runs"
    """The folder that holds them."""
    states: Annotated[list[Annotated[str, OneOf("running", "done", "failed", "stopped")]], NotEmpty()] = (
        field(default_factory=lambda: ["running", "done", "failed", "stopped"])
    )
    """Only runs in one of these states."""


@dataclass(frozen=True)
class DashboardConfig:
    """One page about a run or a sweep: charts, tables and pictures."""

    run: Annotated[str | None, Input("folder")] = None
    """A run folder."""
    sweep_dir: Annotated[str | None, Input("folder")] = None
    """A sweep folder; the command line also takes sweep=FOLDER."""
    out: Annotated[str, Output(file=True)] = "runs/dashboard.html"
    """The page. With logger=wandb and an account, the saved view of the same curves in W&B instead."""
    logger: shared.LoggerConfig = MISSING

    def conflicts(self, at: str) -> Iterator[str]:
        if (self.run is None) == (self.sweep_dir is None):
            got = "none" if self.run is None else "both"
            yield f"expected one of run and sweep, got {got}; set run=FOLDER or sweep=FOLDER"


@dataclass(frozen=True)
class SweepConfig:
    """How the jobs of a sweep are run, each a process of its own."""

    workers: Annotated[int, Range(1)] = 1
    """Jobs at a time."""
    metric: str | None = None
    """The number that ranks the jobs, by its name in the run's results; null: what the job returns."""
    direction: Annotated[str, OneOf("max", "min")] = "max"
    """Whether the largest or the smallest is best."""
    trials: Annotated[int | None, Range(1)] = None
    """So many jobs, chosen by optuna within the swept values and intervals; null: every combination of values."""
    seed: int = 0
    """Of that choice: the same command asks for the same jobs."""
