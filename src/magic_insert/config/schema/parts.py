"""The configuration groups that several jobs share."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from magic_insert.config.checks import at_least, not_empty, one_of, positive, within
from magic_insert.core.errors import UserError

DTYPES = ("float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
STYLE_MODES = ("ip_adapter", "prompt", "none")
STYLE_PRESETS = ("instantstyle", "up0", "all")
SEGMENTERS = ("auto", "alpha", "grabcut", "rembg")
REFERENCES = ("vae", "unmasked", "input")
INSERTERS = ("real_only", "bootstrapped", "copy_paste")
LR_SCHEDULES = ("constant", "cosine")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LOGGERS = ("jsonl", "wandb")


@dataclass(frozen=True)
class ModelConfig:
    """Which diffusion model runs, and where.

    `source`: folder or hub id in SDXL's format; null is the micro model shipped with the package. `revision`: commit of
    a hub id. `ip_adapter`: folder or hub id of the image-prompt adapter (null: inside `source`), `ip_adapter_weight`:
    its file. `image_size`: side of the square the model draws, in pixels, a multiple of 8.
    """

    name: str = MISSING
    source: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    image_size: int = MISSING
    ip_adapter: str | None = None
    ip_adapter_weight: str | None = None

    def __post_init__(self) -> None:
        one_of("model.dtype", self.dtype, DTYPES)
        one_of("model.device", self.device, DEVICES)
        within("model.image_size", self.image_size, 32, 4096)
        if self.image_size % 8:
            raise UserError(
                f"expected model.image_size to be a multiple of 8, got {self.image_size}; "
                f"set model.image_size={self.image_size // 8 * 8}"
            )


@dataclass(frozen=True)
class PersonalizationConfig:
    """How a model learns one subject: LoRA on the UNet and `num_tokens` new rows in each text encoder's table.

    Defaults of the training recipe are in conf/personalization; `paper` holds those of Magic Insert, section 3.2.
    `targets`: names of the UNet's linear layers that get a LoRA. `mask_loss`: count only the subject's own pixels.
    `prompt_template` holds `{tokens}` once. `initial_word`: what the tokens start from (empty: the mean of the table).
    `views`: how many training pictures are made of the subject and cached as latents; each is at most `augment_scale`
    smaller and moved by at most `augment_shift` of the free room. `min_snr_gamma`: cap of the loss weight by
    signal-to-noise ratio, null for the plain loss. `clip_norm`: largest gradient norm. `checkpoint_every` in steps.
    """

    steps: int = MISSING
    batch_size: int = MISSING
    rank: int = MISSING
    alpha: float = MISSING
    targets: list[str] = MISSING
    num_tokens: int = 2
    lr_unet: float = MISSING
    wd_unet: float = MISSING
    lr_tokens: float = MISSING
    wd_tokens: float = MISSING
    prompt_template: str = "A {tokens}."
    mask_loss: bool = False
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    min_snr_gamma: float | None = None
    clip_norm: float = 1.0
    views: int = 16
    augment_scale: float = 0.2
    augment_shift: float = 0.5
    augment_flip: bool = False
    initial_word: str = ""
    precision: str = "32-true"
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("personalization.warmup_steps", self.warmup_steps, 0)
        if self.min_snr_gamma is not None:
            positive("personalization.min_snr_gamma", self.min_snr_gamma)
        positive("personalization.clip_norm", self.clip_norm)
        within("personalization.views", self.views, 1, 1024)
        within("personalization.augment_scale", self.augment_scale, 0, 0.9)
        within("personalization.augment_shift", self.augment_shift, 0, 1)
        one_of("personalization.precision", self.precision, PRECISIONS)
        at_least("personalization.checkpoint_every", self.checkpoint_every, 1)
        at_least("personalization.steps", self.steps, 0)
        at_least("personalization.batch_size", self.batch_size, 1)
        within("personalization.rank", self.rank, 1, 1024)
        positive("personalization.alpha", self.alpha)
        not_empty("personalization.targets", self.targets)
        within("personalization.num_tokens", self.num_tokens, 1, 8)
        for name in ("lr_unet", "wd_unet", "lr_tokens", "wd_tokens"):
            at_least(f"personalization.{name}", getattr(self, name), 0)
        one_of("personalization.lr_schedule", self.lr_schedule, LR_SCHEDULES)
        if self.prompt_template.count("{tokens}") != 1:
            raise UserError(
                "expected personalization.prompt_template to hold {tokens} once, "
                f"got {self.prompt_template!r}; set it to 'A {{tokens}}.'"
            )


@dataclass(frozen=True)
class StyleConfig:
    """How the target's style reaches the subject.

    `mode`: `ip_adapter` feeds the target picture, `prompt` a phrase, `none` nothing. `blocks`: a preset name
    (instantstyle, up0, all) or a list of UNet attention blocks that listen to the adapter, such as `up_blocks.0`.
    `scale` in [0, 2]: strength of the adapter in those blocks; 0 is exactly the model without it.
    """

    mode: str = "ip_adapter"
    blocks: Any = "instantstyle"
    scale: float = 1.0
    prompt: str = ""

    def __post_init__(self) -> None:
        one_of("style.mode", self.mode, STYLE_MODES)
        within("style.scale", self.scale, 0, 2)
        if isinstance(self.blocks, str):
            one_of("style.blocks", self.blocks, STYLE_PRESETS)
        elif not (isinstance(self.blocks, list) and all(isinstance(block, str) for block in self.blocks)):
            raise UserError(
                f"expected style.blocks to be a preset or a list of block names, got {self.blocks!r}"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How a picture is drawn: denoising steps, classifier-free guidance, seed, and words after the subject's own."""

    steps: int = MISSING
    guidance: float = MISSING
    seed: int = 0
    prompt_suffix: str = ""

    def __post_init__(self) -> None:
        within("sampling.steps", self.steps, 1, 1000)
        within("sampling.guidance", self.guidance, 0, 50)


@dataclass(frozen=True)
class SegmenterConfig:
    """How a subject's matte is found. `model_dir`: folder of rembg's ONNX files, needed by `rembg` only."""

    name: str = "auto"
    model_dir: str | None = None

    def __post_init__(self) -> None:
        one_of("segmenter.name", self.name, SEGMENTERS)


@dataclass(frozen=True)
class InserterConfig:
    """What gives the pasted subject its shadow and reflection.

    `real_only`: trained on photographs alone. `bootstrapped`: adapted to drawings by the run folder `run`.
    `copy_paste`: nothing. `steps`: denoising steps. `reference`: what its picture is compared with to find what it
    changed: `vae` (round trip of its input), `unmasked` (its own run on an empty mask) or `input`. `threshold`: the
    smallest change in [0, 1] that counts. `reach`: how far from the subject an effect may lie, in units of its
    longer side.
    """

    name: str = "real_only"
    run: str | None = None
    steps: int = 20
    reference: str = "vae"
    threshold: float = 0.03
    reach: float = 1.2

    def __post_init__(self) -> None:
        one_of("inserter.name", self.name, INSERTERS)
        if self.name == "bootstrapped" and not self.run:
            raise UserError(
                "expected inserter.run to name a run folder for inserter.name=bootstrapped, got nothing"
            )
        within("inserter.steps", self.steps, 1, 1000)
        one_of("inserter.reference", self.reference, REFERENCES)
        within("inserter.threshold", self.threshold, 0, 1)
        within("inserter.reach", self.reach, 0, 100)


@dataclass(frozen=True)
class LoggerConfig:
    """Where measurements go. JSONL in the run folder always; `wandb` adds a Weights & Biases run in `project`."""

    name: str = "jsonl"
    project: str = "magic-insert"

    def __post_init__(self) -> None:
        one_of("logger.name", self.name, LOGGERS)
