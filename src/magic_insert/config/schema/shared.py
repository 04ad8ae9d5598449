"""The configuration groups that several jobs share: the model, how it draws, cuts out and inserts, where it runs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import II, MISSING

from magic_insert.config.fields import POSITIVE, MultipleOf, OneOf, Output, Range
from magic_insert.config.registry import INSERTERS, SEGMENTERS, STYLES, STYLIZERS, Registered

STYLE_MODES = ("ip_adapter", "prompt", "none")
STYLE_PRESETS = ("instantstyle", "up0", "all")
ADAIN_FILES = ("adain_encoder_vgg19_relu4_1.safetensors", "adain_decoder.safetensors")
# Methods that do without the diffusion model.
FREE_STYLIZERS = ("adain", "tone")
FREE_INSERTERS = ("effect", "contact_shadow", "copy_paste")
EDIT_STEPS: Any = II("model.edit_steps")
LOG_2 = 0.6931471805599453

Count = Annotated[int, Range(1)]
Folder = Annotated[str, Output()]
Steps = Annotated[int, Range(1, 1000)]
Guidance = Annotated[float, Range(0, 50)]
Share = Annotated[float, Range(0, 1)]
Device = Annotated[str, OneOf("auto", "cpu", "cuda")]
Precision = Annotated[str, OneOf("32-true", "bf16-mixed", "16-mixed")]
Composite = Annotated[str, OneOf("effect_layer", "paper")]
Style = Annotated[str, Registered(STYLES)]
OnError = Annotated[str, OneOf("refuse", "skip")]


@dataclass(frozen=True)
class ModelConfig:
    """Which diffusion model runs, and where."""

    name: str = MISSING
    """Its name; with `source=null` it must be `micro`, the model shipped with the package."""
    source: str | None = None
    """Folder or hub id in SDXL's format; null is the micro model shipped with the package."""
    revision: str | None = None
    """Commit of a hub id."""
    variant: str | None = None
    """Variant of the weights' files, such as fp16; null: the plain files, or what a folder has instead."""
    vae: str | None = None
    """Folder or `owner/name@commit` of another autoencoder, such as one that does not overflow in float16; null: that
    of `source`."""
    dtype: Annotated[str, OneOf("float32", "float16", "bfloat16")] = "float32"
    """Precision of its weights."""
    device: Device = "auto"
    """Where it runs."""
    offload: bool = False
    """Text and image encoders wait on the CPU and are on the GPU only while they encode."""
    image_size: Annotated[int, Range(32, 4096), MultipleOf(8)] = MISSING
    """Side of the square that it draws, in pixels."""
    edit_steps: Steps = 20
    """Denoising steps of its remover and inserter where nothing else is asked for."""
    toys: bool = False
    """It is a model of the Toybox: photographs and held-out pairs that a bootstrap is not given are rendered."""
    ip_adapter: str | None = None
    """Folder or `owner/name@commit` of the image-prompt adapter; null: inside `source`."""
    ip_adapter_weight: str | None = None
    """File of the image-prompt adapter."""
    controlnet: str | None = None
    """Folder or `owner/name@commit` of the Canny ControlNet; null: `controlnet` inside `source`."""


@dataclass(frozen=True)
class StyleConfig:
    """How the target's style reaches the subject."""

    mode: Annotated[str, OneOf(*STYLE_MODES)] = "ip_adapter"
    """`ip_adapter` conditions on the target picture, `prompt` on a phrase, `none` on nothing."""
    blocks: Any = "instantstyle"
    """UNet blocks that the adapter acts in: instantstyle, up0, all, or a list of blocks such as up_blocks.0."""
    scale: Annotated[float, Range(0, 2)] = 1.0
    """Strength of the adapter in those blocks; 0 is exactly the model without it."""
    degree: Share = 1.0
    """How far from the subject's own look (0) to the target's (1) the adapter is conditioned."""
    guidance: Annotated[float, Range(0, 20)] = 0.0
    """How far the picture is pushed from the subject's look to the target's by the difference of two predictions of the
    base model (personalized; above 0 a step takes twice the time). Acts with ip_adapter, scale and degree above 0."""
    handover: Any = 1.0
    """The share of the steps, from 0 to 1, after which the personalised model gives way to the base model, which draws
    lines and texture without the look of the subject's own picture (personalized). auto: 1 where the target reads as a
    photograph, as subjects mostly are, and the subject's picture is not all dots, hatching or lines of one ink;
    elsewhere 0.4 where subject_text says what the subject is, which the base model then goes on with, and 0.6 where it
    has the learned tokens alone. 1 is the paper's way."""
    outline: Annotated[float, Range(0, 2)] = 0.0
    """How strongly a picture that is handed over follows the outline of the subject's picture (Canny), while no words
    ask for a pose (personalized); 0 not at all."""
    detail: Share = 0.0
    """How far the fine detail of a redrawn cut-out is that of its own picture in the background's tones, with its
    outline and at its size where that is larger (personalized): what a small model cannot draw. On a photograph all
    that is finer than a seventh of the model's side, in its own tones; not while words ask for a pose, nor of a picture
    that is all dots, hatching or lines of one ink, which would stay in every style. 0 is the paper's way."""
    prompt: str = ""
    """The style in words, for mode=prompt."""

    def conflicts(self, at: str) -> Iterator[str]:
        share = isinstance(self.handover, int | float) and 0 <= self.handover <= 1
        if isinstance(self.handover, bool) or not (share or self.handover == "auto"):
            yield (
                f"expected {at}handover from 0 to 1 or auto, got {self.handover!r}; set {at}handover=1 for none"
            )
        names = isinstance(self.blocks, list) and all(isinstance(block, str) for block in self.blocks)
        if not names and self.blocks not in STYLE_PRESETS:
            yield (
                f"expected {at}blocks to be one of {', '.join(STYLE_PRESETS)} or a list of block names, "
                f"got {self.blocks!r}; set {at}blocks=all"
            )
        elif not self.blocks and self.mode == "ip_adapter":
            yield f"expected {at}blocks to name a block for the adapter, got none; set {at}mode=none"


@dataclass(frozen=True)
class SamplingConfig:
    """How a picture is drawn."""

    steps: Steps = MISSING
    """Denoising steps."""
    guidance: Guidance = MISSING
    """Scale of classifier-free guidance."""
    seed: int = 0
    """Root of every random number of the drawing."""
    prompt_suffix: str = ""
    """Words after the subject's own."""


@dataclass(frozen=True)
class SegmenterConfig:
    """How a subject's matte is found."""

    name: Annotated[
        str,
        Registered(
            SEGMENTERS,
            auto="the alpha of a cut-out picture; otherwise U2-Net, or GrabCut up to 256 pixels a side",
            alpha="only the alpha of the picture; an opaque one is refused",
            u2net="always U2-Net, whose weights ship with the package",
            grabcut="always GrabCut",
            rembg="U2-Net through rembg: pip install 'magic-insert[rembg]', segmenter.model_dir=FOLDER",
        ),
    ] = "auto"
    """The method."""
    model_dir: str | None = None
    """Folder of rembg's ONNX files; needed by rembg only."""


@dataclass(frozen=True)
class InserterConfig:
    """What gives the pasted subject its shadow and reflection."""

    name: Annotated[
        str,
        Registered(
            INSERTERS,
            diffusion="an edit UNet trained on photographs alone, as the first round of the paper",
            bootstrapped="adapted to drawings: inserter.run=FOLDER of a bootstrap or of an insertion job",
            diffusers="an inpainting or editing pipeline of diffusers: inserter.run=FOLDER or owner/name@COMMIT",
            effect="predicts in one pass how the subject changes the scene's light; belongs to no model",
            contact_shadow="computes a contact shadow from the silhouette",
            inpaint="the alternative that the paper rejects: the base model redraws what surrounds the subject",
            copy_paste="no network: the pasted subject stays without a shadow, the floor that every inserter must beat",
        ),
    ] = "effect"
    """The method."""
    run: str | None = None
    """Run folder of a bootstrap or of an insertion job with the weights; null: those beside the model's. A pipeline's
    folder or `owner/name@commit` (diffusers)."""
    prompt: str = ""
    """What the pipeline is asked to draw, or to change (diffusers)."""
    guidance: Annotated[float | None, Range(0, 50)] = None
    """Scale of its guidance; null: its own (diffusers)."""
    steps: Steps = 20
    """Denoising steps."""
    reference: Annotated[str, OneOf("vae", "unmasked", "input")] = "vae"
    """What its picture is compared with to find what it changed: the round trip of its input through the autoencoder,
    its own run on an empty mask, or the input."""
    threshold: Share = 0.03
    """The smallest change that counts."""
    reach: Annotated[float, Range(0, 100)] = 1.2
    """How far from the subject an effect may lie, in units of its longer side."""
    sun: str = "auto"
    """Where the light comes from, in degrees seen from above: 0 behind the camera, 90 from the right, -90 from the
    left, 180 from behind the subject; auto reads it from the picture, which gets a contact shadow where it tells no
    light (effect)."""
    strength: Annotated[float, Range(0, 4)] = 1.0
    """How strong the effect is; 1 is as predicted (effect, contact_shadow)."""
    softness: Share = 0.0
    """How much softer than predicted it is (effect, contact_shadow)."""
    relight: Share = 1.0
    """How far the subject takes the scene's light, as far as that is told; 0 leaves it in its own (effect)."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.sun != "auto" and not _is_angle(self.sun):
            yield f"expected {at}sun to be auto or degrees from -360 to 360, got {self.sun!r}; set {at}sun=auto"
        if self.name == "bootstrapped" and not self.run:
            yield f"expected {at}run to name a run folder for {at}name=bootstrapped, got nothing; set {at}run=FOLDER"
        if self.name == "diffusers" and not self.run:
            yield (
                f"expected {at}run to name a pipeline for {at}name=diffusers, got nothing; "
                f"set {at}run=FOLDER or {at}run=owner/name@COMMIT"
            )


def _is_angle(text: str) -> bool:
    try:
        return abs(float(text)) <= 360
    except ValueError:
        return False


@dataclass(frozen=True)
class StylizerConfig:
    """Which method redraws the subject; what all of them share is in the groups `style` and `sampling`."""

    name: Annotated[
        str,
        Registered(
            STYLIZERS,
            personalized="ours: LoRA and learned tokens of one subject; the style as the group `style` has it",
            instantstyle="InstantStyle: the base model, the subject in words, the style from the picture",
            style_aligned="StyleAligned: the subject in words, drawn beside the inverted background, shared attention",
            adain="AdaIN: the subject's own picture with the background's statistics; stylizer.weights=FOLDER",
            tone="the subject's own pixels in the background's palette, with its lines and grain; no model at all",
        ),
    ] = "personalized"
    """The method."""
    structure: Annotated[str, OneOf("none", "canny")] = "none"
    """`canny`: the picture follows the outline of the subject's picture through the model's ControlNet."""
    structure_scale: Annotated[float, Range(0, 2)] = 0.6
    """How strongly it follows the outline."""
    style_mode: Annotated[str, OneOf(*STYLE_MODES)] | None = None
    """Overrides style.mode for this method; null keeps it."""
    lora_scale: Annotated[float, Range(0, 2)] = 1.0
    """Strength of the personalisation (personalized)."""
    share_norms: bool = True
    """Normalise over the style picture and ours together (style_aligned)."""
    score_shift: Annotated[float, Range(-10, 10)] = LOG_2
    """Added to the attention scores of the style picture; log 2 counts its tokens twice (style_aligned)."""
    weights: str | None = None
    """Folder with the encoder's and the decoder's safetensors (adain)."""
    style_weight: Share = 1.0
    """From the subject's own statistics (0) to the style's (1) (adain)."""
    size: Annotated[int, Range(64, 2048)] = 384
    """Side of its result in pixels (adain)."""
    strength: Share = 0.8
    """From the subject's own colours (0) to the background's (1) (tone); a third of it where those are of many hues."""
    lines: Share = 1.0
    """How strong the lines are where the background is drawn with lines (tone, personalized)."""
    softness: Share = 1.0
    """How far the subject's edges become as soft as the background's, up to 2 pixels of it (tone, personalized)."""
    grain: Share = 1.0
    """How much of the background's grain the subject gets (tone, personalized)."""
    height: Annotated[float, Range(0.05, 1)] = 0.45
    """Marks and softness are made for a subject of this share of the background's height (tone, personalized)."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.structure != "none" and self.name in FREE_STYLIZERS:
            yield (
                f"expected {at}structure=none for {at}name={self.name}, which keeps every outline, "
                f"got {self.structure}; set {at}structure=none"
            )


@dataclass(frozen=True)
class PoseConfig:
    """Words for a pose that fits the place, appended to the prompt."""

    name: Annotated[
        str,
        OneOf(
            none="no words of a pose are added",
            rules="a small table by the words of the background's name and of style.prompt",
            http="a chat server that sees pictures: export OPENAI_BASE_URL and OPENAI_API_KEY, set pose.model=NAME",
        ),
    ] = "none"
    """Who suggests it."""
    model: str | None = None
    """The model's name at that server."""
    timeout: Annotated[float, POSITIVE] = 30.0
    """Seconds to wait for that server."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.name == "http" and not self.model:
            yield f"expected {at}model to name the server's model for pose=http, got nothing; set {at}model=NAME"


@dataclass(frozen=True)
class LoggerConfig:
    """Where measurements go: always to JSONL in the run folder."""

    name: Annotated[
        str, OneOf(jsonl="only there", wandb="also a Weights & Biases run; offline without an account")
    ] = "jsonl"
    """Where else."""
    project: str = "magic-insert"
    """The project in Weights & Biases."""


@dataclass(frozen=True)
class ExecConfig:
    """Which processes do the work of a job or a stage; the results do not depend on it."""

    name: Annotated[
        str,
        OneOf(
            inline="this process, one device",
            torchrun="one process per GPU of this machine; exec.devices=N for another number, or on a CPU",
            slurm="a Slurm job per stage: pip install 'magic-insert[slurm]', exec.nodes=2 exec.devices=8",
        ),
    ] = "inline"
    """How the processes are started."""
    devices: Annotated[int, Range(0)] = 1
    """Processes per machine, one per GPU; 0 means every GPU of this machine."""
    nodes: Count = 1
    """Machines of a Slurm job."""
    timeout_min: Annotated[float, POSITIVE] = 120.0
    """Minutes that one process waits for the others; the time limit of a Slurm job."""
    cluster: Annotated[str, OneOf("slurm", "local")] = "slurm"
    """`local` runs the same job script without Slurm."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Further Slurm options by their own names, such as {partition: gpu, account: lab, mem: 64G}."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.name == "inline" and (self.devices != 1 or self.nodes != 1):
            yield (
                f"expected {at}devices=1 and {at}nodes=1 for exec=inline, got {self.devices} and {self.nodes}; "
                "set exec=torchrun for several devices, exec=slurm for several machines"
            )
        if self.name == "torchrun" and self.nodes != 1:
            yield (
                f"expected {at}nodes=1 for exec=torchrun, got {self.nodes}; set exec=slurm, or start torchrun "
                "on each machine yourself as docs/launch.md shows"
            )
        if self.name == "slurm" and self.devices == 0:
            yield f"expected {at}devices of at least 1 for exec=slurm, got 0; set {at}devices=N"

    def uneven(self, batch_size: int, key: str) -> Iterator[str]:
        """What is wrong with a batch of which every process takes an equal part; nothing where their number is open."""
        if self.name != "inline" and self.devices:
            yield from indivisible(batch_size, key, self.devices * self.nodes, "exec.devices")


def indivisible(batch_size: int, key: str, count: int, counted: str) -> Iterator[str]:
    """What is wrong with a batch that `count` processes cannot share evenly; `counted` is the key of their number."""
    if batch_size % count:
        whole = max(batch_size // count, 1) * count
        yield (
            f"expected {key} to be a multiple of {count}, because so many processes share a batch, got {batch_size}; "
            f"set {key}={whole} or another {counted}"
        )
