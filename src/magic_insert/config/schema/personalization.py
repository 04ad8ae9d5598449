"""How a model learns one subject: every value of the training, of its memory savers and of the look at it meanwhile."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from magic_insert.config.checks import at_least, not_empty, one_of, positive, within
from magic_insert.config.schema.parts import STYLE_PRESETS
from magic_insert.core.errors import UserError

LR_SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")
LATENT_CACHES = ("memory", "disk")
COMPILERS = ("none", "inductor", "aot_eager")
SCORERS = ("none", "model", "micro")
PICKS = ("last", "best")
OWN_STYLES = ("none", *STYLE_PRESETS)
GROUNDS = ("white", "colors")
MAX_TOKENS = 8


def check_precision(precision: str, dtype: str) -> None:
    """That a model with frozen weights of `dtype` can be trained through in `precision`.

    Raises:
        UserError: gradients would be computed in float16 with nothing that keeps small ones from vanishing.
    """
    if dtype == "float16" and precision == "32-true":
        raise UserError(
            "expected mixed precision for a model in float16, got personalization.precision=32-true; set "
            "personalization.precision=bf16-mixed personalization.gradient_checkpointing=true, or model.dtype=bfloat16"
        )


@dataclass(frozen=True)
class ValidationConfig:
    """A look at the subject while it is learned: a sheet of samples, scores, and the product of that step.

    `every`: steps between two looks (0: never); the last step is always looked at. `seeds`: pictures per prompt, drawn
    from the same noise in every look. `edits`: texts appended to the training prompt; the sheet's columns after the
    plain one. `style`: picture whose style the last column hears through the adapter in `style_blocks` (null: a
    Toybox drawing). `steps`, `guidance`: of the sampler, also of the class pictures. `scorer`: who says how alike and
    how obedient the samples are: `model` (the CLIP inside the pipeline), `micro` (the shipped metric encoders, for
    Toybox subjects) or `none`. `pick`: which step's weights become the product: the `last`, or the `best`: the highest
    identity among the steps whose prompt score is at least (1 - `tolerance`) of the best prompt score.
    """

    every: int = 0
    seeds: int = 2
    edits: list[str] = field(default_factory=lambda: ["sitting", "with a red hat"])
    style: str | None = None
    style_blocks: str = "instantstyle"
    steps: int = 20
    guidance: float = 3.0
    scorer: str = "none"
    pick: str = "last"
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        key = "personalization.validation"
        at_least(f"{key}.every", self.every, 0)
        within(f"{key}.seeds", self.seeds, 1, 16)
        one_of(f"{key}.style_blocks", self.style_blocks, STYLE_PRESETS)
        within(f"{key}.steps", self.steps, 1, 1000)
        within(f"{key}.guidance", self.guidance, 0, 50)
        one_of(f"{key}.scorer", self.scorer, SCORERS)
        one_of(f"{key}.pick", self.pick, PICKS)
        within(f"{key}.tolerance", self.tolerance, 0, 1)
        if self.pick == "best" and (self.scorer == "none" or not self.every or not self.edits):
            raise UserError(
                f"expected scores to pick the best step by, got {key}.every={self.every}, scorer={self.scorer} and "
                f"{len(self.edits)} edits; set {key}.every, {key}.scorer and {key}.edits, or {key}.pick=last"
            )


@dataclass(frozen=True)
class PersonalizationConfig:
    """How a model learns one subject: LoRA on the UNet and `num_tokens` new rows in each text encoder's table.

    Defaults of the training recipe are in conf/personalization; `paper` holds those of Magic Insert, section 3.2.

    What is trained. `targets`: names of the UNet's layers that get a LoRA of `rank` and `alpha`; `dora`:
    weight-decomposed. `text_rank`: rank of a LoRA on the attention of the text encoders, 0 for none. `token_pattern`:
    the words of the learned tokens, `{n}` is their number. `initial_word`: what they start from (empty: the mean of
    the table). `prompt_template` holds `{tokens}` once; `class_noun` is put after them.

    What it sees. `views`: how many training pictures are made of the subject and cached as latents, in `memory` or on
    `disk` (`latent_cache`); each is at most `augment_scale` smaller and moved by at most `augment_shift` of the free
    room; `augment_ground`: a `white` ground, or plain `colors`. `mask_loss`: count only the subject's own pixels.
    `prior_images`: pictures of the class noun drawn by the base model, whose loss counts `prior_weight` (0 images: no
    prior preservation; Ruiz et al. 2023). `own_style`: blocks in which the image adapter hears the training picture
    itself while it is learned (instantstyle, up0, all; `none`: it is silent): what the adapter says of the picture's
    look, the LoRA need not learn, and can be told otherwise later.

    How it is trained. `batch_size` pictures, `accumulate` times a step. `lr_*` and `wd_*`: learning rate and weight
    decay of LoRA, tokens and text LoRA; `token_fraction`: share of the steps in which the tokens learn.
    `min_snr_gamma`: cap of the loss weight by signal-to-noise ratio, null for the plain loss. `noise_offset`: strength
    of a noise that is constant over each channel. `clip_norm`: largest gradient norm. `ema_decay`: the product is the
    running mean of the weights (null: the last weights). `checkpoint_every` in steps.
    """

    steps: int = MISSING
    batch_size: int = MISSING
    rank: int = MISSING
    alpha: float = MISSING
    targets: list[str] = MISSING
    dora: bool = False
    text_rank: int = 0
    text_alpha: float = 8.0
    num_tokens: int = 2
    token_pattern: str = "<v{n}>"
    initial_word: str = ""
    prompt_template: str = "A {tokens}."
    class_noun: str = ""
    lr_unet: float = MISSING
    wd_unet: float = MISSING
    lr_tokens: float = MISSING
    wd_tokens: float = MISSING
    token_fraction: float = 1.0
    lr_text: float = 1.0e-4
    wd_text: float = 0.01
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    optimizer: str = "adamw"
    accumulate: int = 1
    clip_norm: float = 1.0
    ema_decay: float | None = None
    min_snr_gamma: float | None = None
    noise_offset: float = 0.0
    mask_loss: bool = False
    prior_images: int = 0
    prior_weight: float = 1.0
    own_style: str = "none"
    views: int = 16
    augment_scale: float = 0.2
    augment_shift: float = 0.5
    augment_flip: bool = False
    augment_ground: str = "white"
    latent_cache: str = "memory"
    precision: str = "32-true"
    gradient_checkpointing: bool = False
    compile: str = "none"
    checkpoint_every: int = 100
    seed: int = 0
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        self._check_trained()
        self._check_seen()
        at_least("personalization.steps", self.steps, 0)
        at_least("personalization.batch_size", self.batch_size, 1)
        within("personalization.accumulate", self.accumulate, 1, 1024)
        at_least("personalization.warmup_steps", self.warmup_steps, 0)
        if self.min_snr_gamma is not None:
            positive("personalization.min_snr_gamma", self.min_snr_gamma)
        if self.ema_decay is not None:
            within("personalization.ema_decay", self.ema_decay, 0, 0.99999)
        within("personalization.noise_offset", self.noise_offset, 0, 1)
        positive("personalization.clip_norm", self.clip_norm)
        one_of("personalization.precision", self.precision, PRECISIONS)
        one_of("personalization.compile", self.compile, COMPILERS)
        at_least("personalization.checkpoint_every", self.checkpoint_every, 1)
        for name in ("lr_unet", "wd_unet", "lr_tokens", "wd_tokens", "lr_text", "wd_text"):
            at_least(f"personalization.{name}", getattr(self, name), 0)
        within("personalization.token_fraction", self.token_fraction, 0, 1)
        one_of("personalization.lr_schedule", self.lr_schedule, LR_SCHEDULES)
        one_of("personalization.optimizer", self.optimizer, OPTIMIZERS)
        rates = {self.lr_unet, self.lr_tokens} | ({self.lr_text} if self.text_rank else set())
        if self.optimizer == "prodigy" and len(rates) > 1:
            raise UserError(
                "expected one learning rate for all parts with personalization.optimizer=prodigy, "
                f"got {sorted(rates)}; set personalization.lr_unet=1, .lr_tokens=1 and .lr_text=1"
            )

    def _check_trained(self) -> None:
        within("personalization.rank", self.rank, 1, 1024)
        positive("personalization.alpha", self.alpha)
        not_empty("personalization.targets", self.targets)
        within("personalization.text_rank", self.text_rank, 0, 1024)
        positive("personalization.text_alpha", self.text_alpha)
        within("personalization.num_tokens", self.num_tokens, 1, MAX_TOKENS)
        pattern = self.token_pattern
        if pattern.count("{n}") != 1 or not pattern.replace("{n}", "").strip() or len(pattern.split()) > 1:
            raise UserError(
                "expected personalization.token_pattern to be one word that holds {n} once, "
                f"got {pattern!r}; set it to '<v{{n}}>'"
            )
        if self.prompt_template.count("{tokens}") != 1:
            raise UserError(
                "expected personalization.prompt_template to hold {tokens} once, "
                f"got {self.prompt_template!r}; set it to 'A {{tokens}}.'"
            )

    def _check_seen(self) -> None:
        within("personalization.views", self.views, 1, 1024)
        within("personalization.augment_scale", self.augment_scale, 0, 0.9)
        within("personalization.augment_shift", self.augment_shift, 0, 1)
        one_of("personalization.augment_ground", self.augment_ground, GROUNDS)
        one_of("personalization.latent_cache", self.latent_cache, LATENT_CACHES)
        one_of("personalization.own_style", self.own_style, OWN_STYLES)
        within("personalization.prior_images", self.prior_images, 0, 10_000)
        at_least("personalization.prior_weight", self.prior_weight, 0)
        if self.prior_images and not self.class_noun.strip():
            raise UserError(
                f"expected a class noun for personalization.prior_images={self.prior_images}, got none; "
                "set personalization.class_noun=dog"
            )

    @property
    def prompt(self) -> str:
        """The training prompt with `{tokens}` in it and the class noun behind them."""
        return self.prompt_template.replace("{tokens}", f"{{tokens}} {self.class_noun.strip()}".strip())

    @property
    def class_prompt(self) -> str:
        """What the base model is asked for to draw the class: the training prompt without the tokens."""
        return self.prompt_template.replace("{tokens}", self.class_noun.strip())
