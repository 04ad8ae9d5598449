"""Training removers and inserters on counterfactual pairs, and removing with one."""

from dataclasses import dataclass, field

from omegaconf import II, MISSING

from magic_insert.config.checks import at_least, not_empty, one_of, positive, within
from magic_insert.config.schema.foundation import PRECISIONS
from magic_insert.config.schema.launch import ExecConfig
from magic_insert.config.schema.parts import LoggerConfig, ModelConfig
from magic_insert.core.errors import UserError

TASKS = ("remove", "insert", "both")
SOURCES = ("toybox", "pairs", "ober", "desoba", "rord", "shards")
ON_ERROR = ("refuse", "skip")
SUBJECT_IN_MASK = ("white", "black")
SAVED = ("merged", "lora")


@dataclass(frozen=True)
class DataConfig:
    """Where counterfactual pairs come from; docs/insertion.md describes the layouts.

    `path`: folder or file, for all but `toybox`. `on_error`: bad pairs are refused by name, or skipped. `limit`: at
    most so many pairs. `held_out`: how many pairs are kept for validation (toybox: as many are rendered of held-out
    subjects). `context`: side of the training window around the subject, in units of its longer side; a large number
    is the largest square. `subject_in_mask`: which of black and white the subject is.
    Toybox: `num_pairs` in `styles` by turns, `occlusion` the chance of a prop in front, rendered by `workers`
    processes into `cache` (null: the run folder).
    """

    name: str = MISSING
    path: str | None = None
    on_error: str = "refuse"
    limit: int | None = None
    held_out: int = 8
    context: float = 2.2
    subject_in_mask: str = "white"
    num_pairs: int = 400
    styles: list[str] = field(default_factory=lambda: ["photo"])
    occlusion: float = 0.1
    workers: int = 2
    cache: str | None = None

    def __post_init__(self) -> None:
        one_of("data.name", self.name, SOURCES)
        if self.name != "toybox" and not self.path:
            raise UserError(f"expected data.path for data={self.name}, got nothing; set data.path=FOLDER")
        one_of("data.on_error", self.on_error, ON_ERROR)
        if self.limit is not None:
            at_least("data.limit", self.limit, 1)
        at_least("data.held_out", self.held_out, 0)
        within("data.context", self.context, 1, 1000)
        one_of("data.subject_in_mask", self.subject_in_mask, SUBJECT_IN_MASK)
        at_least("data.num_pairs", self.num_pairs, 1)
        not_empty("data.styles", self.styles)
        within("data.occlusion", self.occlusion, 0, 1)
        within("data.workers", self.workers, 0, 256)


@dataclass(frozen=True)
class FitConfig:
    """How an edit model is trained.

    `init`: `base` (the model's own UNet, new input channels zero; an inpainting UNet's nine channels are mapped),
    `shipped` (the remover or inserter beside the model's weights) or the folder of a run. `views`: training views of a
    pair: as it is, mirrored, then in windows of random width. `effect_weight`: how much more a part of the picture
    counts in the loss where the edit changes it; 0 is ObjectDrop's plain loss. `time_shift` above 1 trains more on
    noisy pictures, 1 on all alike as the papers do. `condition_noise`: conditions are shown with noise of a spread up
    to this, in scaled latents. `dilate`: largest random growth of the
    mask for removal, as a share of the window's side. `dropout`: share of rows that see neither condition nor mask.
    `lora_rank` 0 trains all weights; otherwise a LoRA and the input layer, kept `merged` into the UNet or as a small
    `lora` file.
    `ema_decay` 0 keeps no average. `save_every` in steps.
    """

    init: str = "base"
    steps: int = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    views: int = 4
    dilate: float = 0.02
    dropout: float = 0.0
    effect_weight: float = 0.0
    time_shift: float = 1.0
    condition_noise: float = 0.0
    lora_rank: int = 0
    save: str = "merged"
    precision: str = "32-true"
    ema_decay: float = 0.0
    clip_norm: float = 1.0
    save_every: int = 100

    def __post_init__(self) -> None:
        at_least("train.steps", self.steps, 1)
        at_least("train.batch_size", self.batch_size, 1)
        positive("train.lr", self.lr)
        within("train.views", self.views, 1, 64)
        within("train.dilate", self.dilate, 0, 0.5)
        within("train.dropout", self.dropout, 0, 1)
        within("train.effect_weight", self.effect_weight, 0, 1000)
        within("train.time_shift", self.time_shift, 0.1, 100)
        within("train.condition_noise", self.condition_noise, 0, 10)
        within("train.lora_rank", self.lora_rank, 0, 1024)
        one_of("train.save", self.save, SAVED)
        if self.save == "lora" and self.lora_rank == 0:
            raise UserError(
                "expected train.lora_rank above 0 for train.save=lora, got 0; set train.lora_rank=16"
            )
        one_of("train.precision", self.precision, PRECISIONS)
        within("train.ema_decay", self.ema_decay, 0, 0.99999)
        positive("train.clip_norm", self.clip_norm)
        at_least("train.save_every", self.save_every, 1)


@dataclass(frozen=True)
class InsertionConfig:
    """Pairs -> `out`/remover and `out`/inserter, as safetensors in diffusers' format.

    `validation_steps`: denoising steps when the held-out pairs are drawn at the end.
    """

    out: str = MISSING
    task: str = "both"
    seed: int = 0
    validation_steps: int = II("model.edit_steps")
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    train: FitConfig = MISSING
    logger: LoggerConfig = MISSING
    exec: ExecConfig = MISSING

    def __post_init__(self) -> None:
        one_of("task", self.task, TASKS)
        within("validation_steps", self.validation_steps, 1, 1000)
        if self.data.name == "desoba" and self.task != "insert":
            raise UserError(
                f"expected task=insert for data=desoba, whose pairs keep the object, got task={self.task}"
            )


@dataclass(frozen=True)
class RemoveConfig:
    """A picture and a mask (white: what is to go) -> the picture without it, at `out` (.png) with its sidecar .json.

    `run`: folder that holds `remover/`; null is the one beside the model's weights. `steps`: denoising steps.
    `grow`: how far around the mask the picture is redrawn, as a share of the window's side. `threshold` and `reach`
    are the inserter's: the smallest change that counts, and how far from the mask, in units of its longer side.
    """

    image: str = MISSING
    mask: str = MISSING
    out: str = MISSING
    run: str | None = None
    seed: int = 0
    steps: int = II("model.edit_steps")
    grow: float = 0.02
    threshold: float = 0.03
    reach: float = 1.2
    model: ModelConfig = MISSING

    def __post_init__(self) -> None:
        within("steps", self.steps, 1, 1000)
        within("grow", self.grow, 0, 0.5)
        within("threshold", self.threshold, 0, 1)
        within("reach", self.reach, 0, 100)
