"""The configuration groups that several jobs share."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from magic_insert.config.checks import one_of, within
from magic_insert.core.errors import UserError

DTYPES = ("float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
STYLE_MODES = ("ip_adapter", "prompt", "none")
STYLE_PRESETS = ("instantstyle", "up0", "all")
SEGMENTERS = ("auto", "alpha", "grabcut", "rembg")
REFERENCES = ("vae", "unmasked", "input")
INSERTERS = ("real_only", "bootstrapped", "inpaint", "copy_paste")
COMPOSITES = ("effect_layer", "paper")
LOGGERS = ("jsonl", "wandb")


@dataclass(frozen=True)
class ModelConfig:
    """Which diffusion model runs, and where.

    `source`: folder or hub id in SDXL's format; null is the micro model shipped with the package. `revision`: commit of
    a hub id. `ip_adapter`: folder or `owner/name@commit` of the image-prompt adapter (null: inside `source`),
    `ip_adapter_weight`: its file. `controlnet`: folder or `owner/name@commit` of the Canny ControlNet (null:
    `controlnet` inside `source`). `image_size`: side of the square the model draws, in pixels, a multiple of 8.
    `edit_steps`: denoising steps that its remover and inserter are drawn with where nothing else is asked for.
    """

    name: str = MISSING
    source: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    image_size: int = MISSING
    edit_steps: int = 20
    ip_adapter: str | None = None
    ip_adapter_weight: str | None = None
    controlnet: str | None = None

    def __post_init__(self) -> None:
        one_of("model.dtype", self.dtype, DTYPES)
        one_of("model.device", self.device, DEVICES)
        within("model.image_size", self.image_size, 32, 4096)
        within("model.edit_steps", self.edit_steps, 1, 1000)
        if self.image_size % 8:
            raise UserError(
                f"expected model.image_size to be a multiple of 8, got {self.image_size}; "
                f"set model.image_size={self.image_size // 8 * 8}"
            )


@dataclass(frozen=True)
class StyleConfig:
    """How the target's style reaches the subject.

    `mode`: `ip_adapter` feeds the target picture, `prompt` a phrase, `none` nothing. `blocks`: a preset name
    (instantstyle, up0, all) or a list of UNet attention blocks that listen to the adapter, such as `up_blocks.0`.
    `scale` in [0, 2]: strength of the adapter in those blocks; 0 is exactly the model without it. `degree` in [0, 1]:
    how far from the subject's own look (0) to the target's (1) the adapter is told to go. `guidance` in [0, 20]: how
    far the picture is pushed from the subject's own look to the target's by what the model without the personalisation
    says of the two (personalized; 0: not at all, above 0 a step takes twice the time). Guidance acts with `ip_adapter`
    at a scale and a degree above 0 only: elsewhere the two looks are one.
    """

    mode: str = "ip_adapter"
    blocks: Any = "instantstyle"
    scale: float = 1.0
    degree: float = 1.0
    guidance: float = 0.0
    prompt: str = ""

    def __post_init__(self) -> None:
        one_of("style.mode", self.mode, STYLE_MODES)
        within("style.scale", self.scale, 0, 2)
        within("style.degree", self.degree, 0, 1)
        within("style.guidance", self.guidance, 0, 20)
        if isinstance(self.blocks, str):
            one_of("style.blocks", self.blocks, STYLE_PRESETS)
        elif not (isinstance(self.blocks, list) and all(isinstance(block, str) for block in self.blocks)):
            raise UserError(
                f"expected style.blocks to be a preset or a list of block names, got {self.blocks!r}"
            )
        elif not self.blocks and self.mode == "ip_adapter":
            raise UserError(
                "expected style.blocks to name a block that listens, got none; set style.mode=none"
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

    `real_only`: trained on photographs alone. `bootstrapped`: adapted to drawings by the run folder `run`. `inpaint`:
    the base model redraws the subject's neighbourhood. `copy_paste`: nothing. `steps`: denoising steps. `reference`:
    what its picture is compared with to find what it changed: `vae` (round trip of its input), `unmasked` (its own run
    on an empty mask) or `input`. `threshold`: the smallest change in [0, 1] that counts. `reach`: how far from the
    subject an effect may lie, in units of its longer side.
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
