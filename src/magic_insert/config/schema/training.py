"""How models are trained: on one subject (personalization), on pairs (data, train), from nothing (the foundation)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from magic_insert.config.fields import POSITIVE, Holds, Input, NotEmpty, OneOf, Range
from magic_insert.config.schema import shared
from magic_insert.core.errors import UserError, require_package

MAX_TOKENS = 8
Rate = Annotated[float, Range(0)]
Rank = Annotated[int, Range(0, 1024)]
Decay = Annotated[float, Range(0, 0.99999)]


# Value of personalization.optimizer -> package and the extra of ours that installs it.
OPTIMIZER_PACKAGES = {"adamw8bit": ("bitsandbytes", "bnb"), "prodigy": ("prodigyopt", "prodigy")}


def require_optimizer(name: str, group: str = "personalization") -> None:
    """That the package behind the `optimizer` of a group is installed.

    Raises:
        UserError: it is not; the message says what to install.
    """
    if name in OPTIMIZER_PACKAGES:
        package, extra = OPTIMIZER_PACKAGES[name]
        do = f"run pip install 'magic-insert[{extra}]' or set {group}.optimizer=adamw"
        require_package(package, f"{group}.optimizer={name}", do)


def check_precision(precision: str, dtype: str, device: str = "auto") -> None:
    """That a model with frozen weights of `dtype` can be trained through in `precision` on `device`.

    Raises:
        UserError: gradients would be computed in float16, on a CPU or with nothing to keep small ones from vanishing.
    """
    if dtype == "float16" and device not in ("auto", "cuda"):
        raise UserError(
            f"expected a GPU to learn a subject with model.dtype=float16, got {device}; set model.dtype=float32"
        )
    if dtype == "float16" and precision == "32-true":
        raise UserError(
            "expected mixed precision for a model in float16, got personalization.precision=32-true; set "
            "personalization.precision=bf16-mixed personalization.gradient_checkpointing=true, or model.dtype=bfloat16"
        )


@dataclass(frozen=True)
class ValidationConfig:
    """A look at the subject while it is learned: a sheet of samples, scores, and the product of that step."""

    every: Annotated[int, Range(0)] = 0
    """Steps between two validations, of which one is after the last step (0: none at all)."""
    seeds: Annotated[int, Range(1, 16)] = 2
    """Pictures per prompt, drawn from the same noise each time."""
    edits: list[str] = field(default_factory=lambda: ["sitting", "with a red hat"])
    """Texts appended to the training prompt; the sheet's columns after the plain one."""
    style: Annotated[str | None, Input("file")] = None
    """Picture whose style the last column takes through the adapter; null: a Toybox drawing."""
    style_blocks: Annotated[str, OneOf(*shared.STYLE_PRESETS)] = "instantstyle"
    """Blocks in which the adapter acts for that column."""
    steps: shared.Steps = 20
    """Denoising steps, also of the class pictures."""
    guidance: shared.Guidance = 3.0
    """Classifier-free guidance, also of the class pictures."""
    scorer: Annotated[str, OneOf("none", "model", "micro")] = "none"
    """Who scores identity and prompt: the CLIP inside the pipeline, the shipped micro encoders (Toybox), or nobody."""
    keep: Annotated[int, Range(0)] = 0
    """How many of the saved steps are kept, the last ones and with pick=best the best one; 0: all."""
    pick: Annotated[str, OneOf("last", "best")] = "last"
    """Which step is the product: `best` has the highest identity among steps whose prompt score is good enough."""
    tolerance: shared.Share = 0.05
    """Good enough: at least (1 - tolerance) of the best prompt score."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.pick == "best" and (self.scorer == "none" or not self.every or not self.edits):
            yield (
                f"expected scores to pick the best step by, got {at}every={self.every}, scorer={self.scorer} and "
                f"{len(self.edits)} edits; set {at}every, {at}scorer and {at}edits, or {at}pick=last"
            )


@dataclass(frozen=True)
class PersonalizationConfig:
    """How a model learns one subject: a LoRA on the UNet, and new tokens in each text encoder's table.

    The recipes are in conf/personalization; `paper` holds Magic Insert's own (section 3.2).
    """

    steps: Annotated[int, Range(0)] = MISSING
    """Optimizer steps."""
    batch_size: shared.Count = MISSING
    """Pictures per step."""
    rank: Annotated[int, Range(1, 1024)] = MISSING
    """Rank of the UNet's LoRA."""
    alpha: Annotated[float, POSITIVE] = MISSING
    """Its alpha: the LoRA is scaled by alpha / rank."""
    targets: Annotated[list[str], NotEmpty()] = MISSING
    """Names of the UNet's layers that get a LoRA."""
    dora: bool = False
    """Weight-decomposed LoRA."""
    text_rank: Rank = 0
    """Rank of a LoRA on the attention of the text encoders; 0 for none."""
    text_alpha: Annotated[float, POSITIVE] = 8.0
    """Its alpha."""
    num_tokens: Annotated[int, Range(1, MAX_TOKENS)] = 2
    """Learned tokens per text encoder."""
    token_pattern: Annotated[str, Holds("{n}")] = "<v{n}>"
    """The words of the learned tokens; {n} is their number."""
    initial_word: str = ""
    """The word that the tokens start from; empty: the mean of the table."""
    prompt_template: Annotated[str, Holds("{tokens}")] = "A {tokens}."
    """The training prompt."""
    class_noun: str = ""
    """What the subject is, put after the tokens."""
    lr_unet: Rate = MISSING
    """Learning rate of the UNet's LoRA."""
    wd_unet: Rate = MISSING
    """Its weight decay."""
    lr_tokens: Rate = MISSING
    """Learning rate of the tokens."""
    wd_tokens: Rate = MISSING
    """Their weight decay."""
    token_fraction: shared.Share = 1.0
    """Share of the steps in which the tokens learn."""
    lr_text: Rate = 1.0e-4
    """Learning rate of the text encoders' LoRA."""
    wd_text: Rate = 0.01
    """Its weight decay."""
    lr_schedule: Annotated[str, OneOf("constant", "linear", "cosine")] = "constant"
    """How the learning rates fall."""
    warmup_steps: Annotated[int, Range(0)] = 0
    """Steps in which they rise first."""
    optimizer: Annotated[str, OneOf("adamw", "adamw8bit", "prodigy")] = "adamw"
    """adamw8bit needs magic-insert[bnb], prodigy magic-insert[prodigy]."""
    accumulate: Annotated[int, Range(1, 1024)] = 1
    """Batches per step."""
    clip_norm: Annotated[float, POSITIVE] = 1.0
    """Largest gradient norm."""
    ema_decay: Decay | None = None
    """The product is the running mean of the weights; null: the last weights."""
    min_snr_gamma: Annotated[float, POSITIVE] | None = None
    """Cap of the loss weight by signal-to-noise ratio; null: the plain loss."""
    noise_offset: shared.Share = 0.0
    """Strength of a noise that is constant over each channel."""
    mask_loss: bool = False
    """Count only the subject's own pixels."""
    prior_images: Annotated[int, Range(0, 10_000)] = 0
    """Pictures of the class noun drawn by the base model (prior preservation, Ruiz et al. 2023); 0: none."""
    prior_weight: Rate = 1.0
    """Weight of their loss."""
    own_style: Annotated[str, OneOf("none", *shared.STYLE_PRESETS)] = "none"
    """Blocks in which the image adapter is conditioned on the training picture while it is learned, so that the LoRA
    need not learn the picture's look; none: the adapter is off."""
    views: Annotated[int, Range(1, 1024)] = 16
    """Training pictures made of the subject and cached as latents."""
    augment_scale: Annotated[float, Range(0, 0.9)] = 0.2
    """Each is at most this much smaller."""
    augment_shift: shared.Share = 0.5
    """And moved by at most this share of the free room."""
    augment_flip: bool = False
    """And mirrored at random."""
    augment_ground: Annotated[str, OneOf("white", "colors")] = "white"
    """The ground: white, or plain colours."""
    buckets: bool = False
    """Views in frames of about the subject's aspect ratio and of as many pixels as the square, a batch of one frame;
    false: squares."""
    latent_cache: Annotated[str, OneOf("memory", "disk")] = "memory"
    """Where the latents of the views are kept."""
    precision: shared.Precision = "32-true"
    """Precision of the arithmetic."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    save_precision: Annotated[str, OneOf("float32", "float16")] = "float32"
    """Of the LoRA's files; float16 halves them."""
    compile: Annotated[str, OneOf("none", "inductor", "aot_eager")] = "none"
    """Backend of torch.compile."""
    checkpoint_every: shared.Count = 100
    """Steps between checkpoints."""
    seed: int = 0
    """Root of every random number of the training."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def conflicts(self, at: str) -> Iterator[str]:
        word = self.token_pattern.replace("{n}", "")
        if not word.strip() or len(self.token_pattern.split()) > 1:
            yield (
                f"expected {at}token_pattern to be one word around {{n}}, got {self.token_pattern!r}; "
                f"set {at}token_pattern='<v{{n}}>'"
            )
        if self.prior_images and not self.class_noun.strip():
            yield (
                f"expected a class noun for {at}prior_images={self.prior_images}, got none; set {at}class_noun=dog"
            )
        if self.prior_images and self.buckets:
            yield (
                f"expected {at}buckets=false beside {at}prior_images, whose pictures are squares, got true; "
                f"set {at}buckets=false or {at}prior_images=0"
            )
        rates = {self.lr_unet, self.lr_tokens} | ({self.lr_text} if self.text_rank else set())
        if self.optimizer == "prodigy" and len(rates) > 1:
            yield (
                f"expected one learning rate for all parts with {at}optimizer=prodigy, "
                f"got {sorted(rates)}; set {at}lr_unet=1, .lr_tokens=1 and .lr_text=1"
            )

    @property
    def prompt(self) -> str:
        """The training prompt with `{tokens}` in it and the class noun behind them."""
        return self.prompt_template.replace("{tokens}", f"{{tokens}} {self.class_noun.strip()}".strip())

    @property
    def class_prompt(self) -> str:
        """What the base model is asked for to draw the class: the training prompt without the tokens."""
        return self.prompt_template.replace("{tokens}", self.class_noun.strip())


@dataclass(frozen=True)
class DataConfig:
    """Where counterfactual pairs come from; docs/insertion.md describes the layouts."""

    name: Annotated[
        str,
        OneOf(
            toybox="rendered pairs, photographs unless data.styles names others; their effects are known exactly",
            pairs="your own: a folder with with/, without/ and mask/, or a JSONL manifest",
            ober="OBER of ObjectClear: parquet shards as released, or folders of input_*, gt_* and mask_*",
            desoba="DESOBAv2: shadow_imgs, shadowfree_imgs, object_masks; the object stays, so task=insert only",
            rord="RORD: img, gt and mask as its authors' preprocessing writes them",
            shards="WebDataset tar shards with KEY.with.png, KEY.without.png and KEY.mask.png",
            composites="your cut-outs (data.path) on your photographs (data.backgrounds), under a made-up sun",
        ),
    ] = MISSING
    """The data set; all but toybox need data.path."""
    path: Annotated[str | None, Input("path")] = None
    """Folder or file of the data set, for all but toybox."""
    backgrounds: Annotated[str | None, Input("path")] = None
    """Folder of photographs: what composites are made on; under the renders of the Toybox in place of their scenes."""
    on_error: shared.OnError = "refuse"
    """Bad pairs are refused by name, or skipped."""
    limit: shared.Count | None = None
    """At most so many pairs."""
    held_out: Annotated[int, Range(0)] = 8
    """Pairs kept for validation; of the Toybox, as many are rendered of held-out subjects."""
    context: Annotated[float, Range(1, 1000)] = 2.2
    """Side of the training window in units of the subject's longer side; a large number is the largest square."""
    subject_in_mask: Annotated[str, OneOf("white", "black")] = "white"
    """Which of the two the subject is in the masks."""
    num_pairs: shared.Count = 400
    """Pairs to render (toybox) or to compose (composites)."""
    styles: Annotated[list[shared.Style], NotEmpty()] = field(default_factory=lambda: ["photo"])
    """Styles that the pairs take by turns (toybox)."""
    occlusion: shared.Share = 0.1
    """Chance that a prop stands in front of the subject (toybox)."""
    workers: Annotated[int, Range(0, 256)] = 2
    """Processes that render (toybox)."""
    cache: str | None = None
    """Folder of the rendered pairs; null: the run folder (toybox)."""

    @property
    def made(self) -> int:
        """Pairs to render or to compose: `num_pairs`, at most `limit`."""
        return self.num_pairs if self.limit is None else min(self.limit, self.num_pairs)

    def conflicts(self, at: str) -> Iterator[str]:
        if self.name != "toybox" and not self.path:
            yield f"expected {at}path for data={self.name}, got nothing; set {at}path=FOLDER"
        if self.name == "composites" and not self.backgrounds:
            yield f"expected {at}backgrounds for data=composites, got nothing; set {at}backgrounds=FOLDER"


@dataclass(frozen=True)
class EditFit:
    """What every training of an edit model has."""

    steps: shared.Count = MISSING
    """Optimizer steps."""
    batch_size: shared.Count = MISSING
    """Pairs per step."""
    lr: Annotated[float, POSITIVE] = MISSING
    """Learning rate."""
    effect_weight: Annotated[float, Range(0, 1000)] = 0.0
    """How much more a part of the picture counts where the edit changes it; 0 is the papers' plain loss."""
    time_shift: Annotated[float, Range(0.1, 100)] = 1.0
    """Above 1 trains more on noisy pictures, where an edit is decided; 1 on all alike as the papers do."""
    condition_noise: Annotated[float, Range(0, 10)] = 0.0
    """Conditions get noise of a spread up to this, in scaled latents, which hides what a removal leaves of a shadow;
    0 is the papers'."""
    lora_rank: Rank = 0
    """0 trains all weights; otherwise a LoRA and the input layer."""
    save: Annotated[str, OneOf("merged", "lora")] = "merged"
    """The LoRA is merged into the UNet, or kept as a small file beside the model that it was trained on."""
    precision: shared.Precision = "32-true"
    """Precision of the arithmetic."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    optimizer: Annotated[str, OneOf("adamw", "adamw8bit")] = "adamw"
    """adamw8bit needs magic-insert[bnb]."""
    accumulate: Annotated[int, Range(1, 1024)] = 1
    """Batches per step."""
    ema_decay: Decay = 0.0
    """Of the averaged weights that are kept; 0: no average."""
    save_every: shared.Count = 100
    """Steps between checkpoints."""

    def conflicts(self, at: str) -> Iterator[str]:
        if self.save == "lora" and self.lora_rank == 0:
            yield f"expected {at}lora_rank above 0 for {at}save=lora, got 0; set {at}lora_rank=16"


@dataclass(frozen=True)
class FitConfig(EditFit):
    """How an edit model, or a network of inserter=effect, is trained on pairs."""

    architecture: Annotated[
        str,
        OneOf(
            edit_unet="ObjectDrop's UNets, which draw the window again",
            effect="the effect network, on data.num_pairs scenes in three styles each, lit as in use",
            relight="the relighting network, on the same scenes, beside the effect network of train.init",
        ),
    ] = "edit_unet"
    """What is trained; `train=effect` and `train=relight` are the recipes of the networks of inserter=effect."""
    init: Annotated[str, Input("folder", ("base", "shipped"))] = "base"
    """`base` (the model's own UNet, new input channels zero; an effect network that draws a contact shadow), `shipped`
    (the network beside the model's weights) or the folder of a run. For `relight`: whose effect network reads the
    light."""
    views: Annotated[int, Range(1, 64)] = 4
    """Training views of a pair: as it is, mirrored, then in windows of random width."""
    dilate: Annotated[float, Range(0, 0.5)] = 0.02
    """Largest random growth of the mask for removal, as a share of the window's side."""
    dropout: shared.Share = 0.0
    """Share of rows without condition and mask."""
    clip_norm: Annotated[float, POSITIVE] = 1.0
    """Largest gradient norm."""
    strategy: Annotated[
        str,
        OneOf(
            ddp="every process holds the whole network",
            fsdp2="every process holds a share of weights, gradients, moments and mean",
        ),
    ] = "ddp"
    """How several processes (exec=torchrun) train one edit UNet; the result is the same to rounding."""

    def conflicts(self, at: str) -> Iterator[str]:
        whole = {"architecture": "edit_unet", "lora_rank": 0, "optimizer": "adamw"}
        odd = [name for name, value in whole.items() if getattr(self, name) != value]
        if self.strategy == "fsdp2" and (odd or self.precision == "16-mixed"):
            key, value = (odd[0], whole[odd[0]]) if odd else ("precision", "bf16-mixed")
            yield (
                f"expected {at}{key}={value} for {at}strategy=fsdp2, got {getattr(self, key)}; "
                f"set {at}strategy=ddp or {at}{key}={value}"
            )
        yield from super().conflicts(at)
        if self.architecture != "edit_unet" and self.lora_rank:
            yield (
                f"expected {at}lora_rank=0 for {at}architecture={self.architecture}, got {self.lora_rank}; "
                f"set {at}lora_rank=0"
            )
        if self.architecture == "relight" and self.init == "base":
            yield (
                f"expected {at}init to name an effect network for {at}architecture=relight, got base; "
                f"set {at}init=shipped or {at}init=FOLDER"
            )


@dataclass(frozen=True)
class PoolConfig:
    """How many Toybox pictures are rendered to train from; drawing 0 of each is a photograph."""

    num_identities: shared.Count = MISSING
    """Subjects."""
    poses_per_identity: shared.Count = MISSING
    """Poses of each subject."""
    drawings_per_subject: shared.Count = MISSING
    """Styles of each picture of a subject."""
    num_scenes: shared.Count = MISSING
    """Scenes."""
    drawings_per_scene: shared.Count = MISSING
    """Styles of each scene."""
    num_photo_scenes: shared.Count = MISSING
    """Further scenes as photographs alone, for remover and inserter."""
    occlusion: shared.Share = MISSING
    """Chance that a prop stands in front of the subject."""
    workers: Annotated[int, Range(0, 256)] = MISSING
    """Processes that render."""


@dataclass(frozen=True)
class PartConfig:
    """One fit of the foundation."""

    steps: Annotated[int, Range(0)] = MISSING
    """Optimizer steps; 0: taken over from `start`."""
    batch_size: Annotated[int, Range(2)] = MISSING
    """Pictures per step."""
    lr: Annotated[float, POSITIVE] = MISSING
    """Peak learning rate."""


@dataclass(frozen=True)
class TrainerConfig:
    """Where and how precisely the fits of the foundation run."""

    device: shared.Device = "auto"
    """Where they run."""
    precision: shared.Precision = "32-true"
    """Precision of the arithmetic."""
