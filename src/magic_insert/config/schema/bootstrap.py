"""The bootstrap: from a model of photographs to one of drawings. One dataclass per group of conf/bootstrap.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import II, MISSING

from magic_insert.config.checks import at_least, not_empty, one_of, positive, within
from magic_insert.config.schema.foundation import PRECISIONS
from magic_insert.config.schema.launch import ExecConfig
from magic_insert.config.schema.parts import LoggerConfig, ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError

POOLS = ("toybox", "folder", "imagine")
RETRAIN = ("insertion", "both")
INIT_FROM = ("base", "previous")
BACKGROUNDS = ("paper", "composited")
ON_ERROR = ("refuse", "skip")
MOST = 1_000_000  # pictures
LEAST_SHARE = (
    0.01  # of photographs: the set is filled up with drawings to match, a hundred times over at most
)


@dataclass(frozen=True)
class LoopConfig:
    """How often, from how many pictures, and what is trained.

    `retrain`: `insertion` freezes the remover as in the paper's figure, `both` trains it too. `init_from`: where the
    training of a round starts, the base model or the last round's. `early_stop`: end when a round does not raise the
    inserter's effect-region PSNR on seen styles by more than `min_gain` decibel over the best before it.
    `max_photo_loss`: decibel that the same number may fall on photographs below the base; a round that costs more is
    never kept and counts as none that improves. `remover` and `inserter`: folders of the networks to start from; null
    is the folder of that name beside the model's.
    """

    rounds: int = 1
    num_samples: int = 50
    retrain: str = "insertion"
    init_from: str = "base"
    early_stop: bool = True
    min_gain: float = 0.0
    max_photo_loss: float = 0.3
    remover: str | None = None
    inserter: str | None = None

    def __post_init__(self) -> None:
        within("bootstrap.rounds", self.rounds, 1, 100)
        within("bootstrap.num_samples", self.num_samples, 1, MOST)
        one_of("bootstrap.retrain", self.retrain, RETRAIN)
        one_of("bootstrap.init_from", self.init_from, INIT_FROM)
        at_least("bootstrap.min_gain", self.min_gain, 0)
        at_least("bootstrap.max_photo_loss", self.max_photo_loss, 0)
        if self.rounds > 1 and self.retrain == "insertion" and self.init_from == "base":
            raise UserError(
                f"expected rounds that can differ, got bootstrap.rounds={self.rounds} with a frozen remover and "
                "training restarted from the base, where every round repeats the first; set bootstrap.retrain=both or "
                "bootstrap.init_from=previous, or bootstrap.rounds=1"
            )


@dataclass(frozen=True)
class StyledPoolConfig:
    """Where the stylised pictures come from.

    `toybox`: scenes with a subject drawn in `styles` (empty: every training style but photo), with truth. `folder`: the
    pictures in `dir` (`dir`/STYLE/NAME.png or `dir`/NAME.png) with masks in `masks` (null: `dir`/masks); where
    `segment` is true a missing mask is found by the segmenter. `imagine`: drawn by the model itself from `prompts`
    (each with `{style}`; empty: the Toybox's captions, which the micro model alone knows) and segmented; `steps` and
    `guidance` say how. `occlusion`: chance in [0, 1] that a prop stands before the subject.
    """

    name: str = MISSING
    styles: list[str] = field(default_factory=list)
    occlusion: float = 0.0
    dir: str | None = None
    masks: str | None = None
    segment: bool = False
    prompts: list[str] = field(default_factory=list)
    steps: int = 20
    guidance: float = 5.0

    def __post_init__(self) -> None:
        one_of("pool.name", self.name, POOLS)
        within("pool.occlusion", self.occlusion, 0, 1)
        within("pool.steps", self.steps, 1, 1000)
        within("pool.guidance", self.guidance, 0, 50)
        if self.name == "folder" and not self.dir:
            raise UserError(
                "expected a folder of stylised pictures for pool=folder, got none; set pool.dir=DIR"
            )
        if self.name == "imagine" and self.prompts:
            not_empty("pool.styles", self.styles)
            for prompt in self.prompts:
                if prompt.count("{style}") != 1:
                    raise UserError(
                        f"expected every entry of pool.prompts to hold {{style}} once, got {prompt!r}"
                    )


@dataclass(frozen=True)
class HarvestConfig:
    """`steps`: denoising steps of every removal and re-insertion. `batch_size`: pictures edited together."""

    steps: int = II("model.edit_steps")
    batch_size: int = 10

    def __post_init__(self) -> None:
        within("harvest.steps", self.steps, 1, 1000)
        at_least("harvest.batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class FilterConfig:
    """Which removals are kept: those whose worst score over `rules` reaches `threshold`.

    `rules`: name -> a filter of magic_insert.bootstrap.filters with its bounds. `keep_at_most_per_style`: the best of
    each style, null for all. `good_db`: where the truth is known, a removal counts as truly good from this PSNR inside
    mask and effect region on.
    """

    threshold: float = 0.5
    keep_at_most_per_style: int | None = None
    good_db: float = 14.5
    rules: dict[str, Any] = MISSING

    def __post_init__(self) -> None:
        within("filter.threshold", self.threshold, 0, 1)
        if self.keep_at_most_per_style is not None:
            at_least("filter.keep_at_most_per_style", self.keep_at_most_per_style, 1)
        within("filter.good_db", self.good_db, 0, 100)
        not_empty("filter.rules", self.rules)


@dataclass(frozen=True)
class AdaptConfig:
    """One round's training.

    `photo_share`: share of each batch that is counterfactual photographs, of which there are `num_photos` (Toybox
    renders, or the folder `photos` with with/, without/ and mask/). `background`: `paper` trains on the removed
    picture as it is, `composited` on the original with only hole and effect taken from it. `condition_noise`: the
    inserter is trained on conditions with noise of a spread up to this, in scaled latents, which hides what a removal
    leaves of a shadow; 0 is the paper's. `ema_decay`: of the averaged weights that are kept. `effect_weight`: how much
    more a part of the picture counts in the loss where the edit changes it; 0 is the paper's plain loss. `time_shift`
    above 1 trains more on noisy pictures, where an edit is decided; 1 is the paper's. `precision` of the arithmetic.
    `lora_rank` 0 trains all weights, otherwise a LoRA and the input layer, merged into the result. `blend`: what is
    kept lies this far between the network that a round started from and the one it trained; 1 is the trained one, as
    in the paper.
    """

    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    photo_share: float = 0.5
    num_photos: int = 64
    photos: str | None = None
    background: str = "paper"
    condition_noise: float = 0.0
    ema_decay: float = 0.98
    effect_weight: float = 0.0
    time_shift: float = 1.0
    precision: str = "32-true"
    lora_rank: int = 0
    save_every: int = 50
    blend: float = 1.0

    def __post_init__(self) -> None:
        at_least("fit.steps", self.steps, 1)
        at_least("fit.batch_size", self.batch_size, 1)
        positive("fit.lr", self.lr)
        within("fit.num_photos", self.num_photos, 1, MOST)
        one_of("fit.background", self.background, BACKGROUNDS)
        within("fit.condition_noise", self.condition_noise, 0, 10)
        at_least("fit.save_every", self.save_every, 1)
        within("fit.effect_weight", self.effect_weight, 0, 1000)
        within("fit.time_shift", self.time_shift, 0.1, 100)
        one_of("fit.precision", self.precision, PRECISIONS)
        at_least("fit.lora_rank", self.lora_rank, 0)
        within("fit.blend", self.blend, 0.01, 1)
        if not 0 <= self.ema_decay < 1:
            raise UserError(
                f"expected fit.ema_decay from 0 to below 1, got {self.ema_decay:g}; set fit.ema_decay=..."
            )
        if not (self.photo_share == 0 or LEAST_SHARE <= self.photo_share < 1):
            raise UserError(
                f"expected fit.photo_share to be 0, or from {LEAST_SHARE:g} to below 1, got {self.photo_share:g}; "
                "a round that sees photographs alone cannot learn a style: set fit.photo_share=0.5"
            )


@dataclass(frozen=True)
class HeldOutConfig:
    """What every round is measured on: `num_scenes` held-out scenes, each as photo, in a seen and in an unseen style.

    `seed`: which scenes; the shipped recipe was chosen on those of seed 0, so what is reported comes from others.
    `steps`: denoising steps. `resamples`: of the bootstrap intervals, which cover `coverage` of them. `lpips`: folder
    of LPIPS's AlexNet trunk; null leaves LPIPS out.
    """

    num_scenes: int = 72
    seed: int = 1
    steps: int = II("model.edit_steps")
    resamples: int = 1000
    coverage: float = 0.95
    lpips: str | None = None

    def __post_init__(self) -> None:
        within("evaluate.num_scenes", self.num_scenes, 1, MOST)
        within("evaluate.steps", self.steps, 1, 1000)
        within("evaluate.resamples", self.resamples, 10, 1_000_000)
        within("evaluate.coverage", self.coverage, 0.5, 0.999)


@dataclass(frozen=True)
class FaultConfig:
    """`on_error`: `refuse` unusable pictures, all of them by name, or `skip` them."""

    on_error: str = "refuse"

    def __post_init__(self) -> None:
        one_of("data.on_error", self.on_error, ON_ERROR)


@dataclass(frozen=True)
class BootstrapConfig:
    """Stylised pictures + a remover and an inserter of photographs -> an inserter of drawings in `out`/inserter.

    `store`: the folder where every finished stage is kept and found again, by this run and any other.
    """

    out: str = "runs/bootstrap"
    store: str = "runs/store"
    seed: int = 0
    bootstrap: LoopConfig = MISSING
    pool: StyledPoolConfig = MISSING
    harvest: HarvestConfig = MISSING
    filter: FilterConfig = MISSING
    fit: AdaptConfig = MISSING
    evaluate: HeldOutConfig = MISSING
    data: FaultConfig = MISSING
    segmenter: SegmenterConfig = MISSING
    model: ModelConfig = MISSING
    logger: LoggerConfig = MISSING
    exec: ExecConfig = MISSING

    def __post_init__(self) -> None:
        if self.pool.name == "imagine" and not self.pool.prompts and self.model.name != "micro":
            raise UserError(
                f"expected prompts for pool=imagine with model={self.model.name}, got none (the Toybox's captions are "
                "for the micro model); set pool=imagine_prominent, or pool.prompts and pool.styles"
            )


@dataclass(frozen=True)
class ReviewConfig:
    """People judge removals: `run` is a bootstrap run folder, `out` gets the page, the sheet and what was learned.

    `verdicts`: a file from the page to read back, or `truth` where the Toybox knows the answer; null writes the page.
    `round`: whose removals. `good_db`: with `truth`, the PSNR from which a removal is good.
    """

    run: str = MISSING
    out: str = "runs/review"
    round: int = 1
    verdicts: str | None = None
    good_db: float = 14.5

    def __post_init__(self) -> None:
        at_least("round", self.round, 1)
        within("good_db", self.good_db, 0, 100)
