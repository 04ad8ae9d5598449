"""Training the three metric encoders by contrast, each in minutes on a laptop.

clip: InfoNCE over pictures and captions (Radford et al. 2021), in several details at once. identity, style: supervised
contrastive loss (Khosla et al. 2020, equation 2), as the Toybox knows who is drawn and how. B pictures, T different
texts, D embedding dimensions.

A batch is a pure function of (pool, seed, step): every draw, crops and flips included, comes from
`generator(seed, part, step)` on the CPU, so that step 517 is the same after a resume and on any device. Pictures stay
uint8 until they are on the device. Labels are integers; equal labels are positives of each other.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, log_softmax

from magic_insert.config.schema.training import PartConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in, generator
from magic_insert.data.renders import ToyboxPool
from magic_insert.foundation.parts import Context, Recipe
from magic_insert.models.encoders.base import SavedEncoder, standardise
from magic_insert.models.encoders.micro import TEXT_TEMPLATE, ClipEncoder, new_clip, new_identity, new_style
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.trainer import TrainingModule

Kind = Literal["clip", "identity", "style"]
TEMPERATURE = 0.1
STYLE_TRAIN_SIZE = 80  # pixels; the style network pools over the picture, so it may learn on crops
MAX_LOGIT_SCALE = math.log(100.0)
DETAIL_WEIGHTS = (1.0, 1.0, 1.0, 0.5)  # of DETAILS; style is the easiest to tell


# What is said of a picture at every step, each a question of its own with its own right answers: the whole caption, its
# beginning ("a yellow striped bunny"), the kind ("a bunny") and the drawing style ("as a pencil drawing").
DETAILS = ("full", "short", "template", "style")
STYLED_SHARE = 0.3  # of the short captions of a CLIP batch also name the style, as prompts do
DRAWINGS = 2  # of one subject in a CLIP batch: equal captions need one pass through the text tower
SCENE_SHARE = 0.2  # of a CLIP batch
CLIP_BACKGROUND_SHARE = 0.2  # of its subjects stand on a piece of a scene
STYLE_SCENE_SHARE = 0.5  # of a style batch
BACKGROUND_SHARE = 0.5  # of an identity batch is moved from paper onto a piece of a scene


class ClipBatch(NamedTuple):
    """Pictures and what is said about them.

    `texts` are all different; `told[k, i]` is the row of `texts` said of picture i in DETAILS[k], -1 for nothing.
    """

    images: UInt8[Tensor, "B 3 H W"]
    frames: Float[Tensor, "B 2 3"]
    texts: list[str]
    told: Int[Tensor, "K B"]


class LabelledBatch(NamedTuple):
    """Pictures whose equal labels mean: the same identity, or the same style."""

    images: UInt8[Tensor, "B 3 H W"]
    frames: Float[Tensor, "B 2 3"]
    labels: Int[Tensor, " B"]


def clip_batch(pool: ToyboxPool, seed: int, step: int, batch_size: int) -> ClipBatch:
    """Scenes once, subjects in DRAWINGS drawings each, all told in every detail.

    Of a scene no template is told: its subject may be small or hidden.
    """
    rng = generator(seed, "clip", step)
    num_scenes = int(SCENE_SHARE * batch_size)
    images: list[np.ndarray] = []
    said: list[tuple[str | None, ...]] = []

    def say(image: np.ndarray, caption: str, template: str | None, style: str) -> None:
        images.append(image)
        short = tell(caption, "", style, "short")
        phrase = tell(caption, "", style, "style")
        if _chance(STYLED_SHARE, rng):
            short = f"{short}, {phrase}"
        kind = None if template is None else tell(caption, template, style, "template")
        said.append((caption, short, kind, phrase))

    for row in _distinct(len(pool.scenes_with), num_scenes, rng):
        drawing = _below(pool.scene_styles.shape[1], rng)
        style = pool.style_names[pool.scene_styles[row, drawing]]
        say(pool.scenes_with[row, drawing], pool.scene_captions[row], None, style)
    num_drawings = min(DRAWINGS, pool.subject_styles.shape[1])
    for row in _distinct(len(pool.subjects), -(-(batch_size - num_scenes) // num_drawings), rng):
        for drawing in _distinct(pool.subject_styles.shape[1], num_drawings, rng):
            image = pool.subjects[row, drawing]
            if _chance(CLIP_BACKGROUND_SHARE, rng):
                image = _on_scene(image, pool.subject_alpha[row], pool, rng)
            style = pool.style_names[pool.subject_styles[row, drawing]]
            say(image, pool.captions[row], pool.templates[row], style)
    images, said = images[:batch_size], said[:batch_size]
    rows = {text: i for i, text in enumerate(dict.fromkeys(text for of in said for text in of if text))}
    told = torch.tensor([[rows.get(of[k] or "", -1) for of in said] for k in range(len(DETAILS))])
    return ClipBatch(_stack(images), random_frames(len(images), rng, (0.75, 1.0)), list(rows), told)


def tell(caption: str, template: str, style: str, detail: str) -> str:
    """`a yellow bunny with a red hat, sitting` in one of DETAILS, from the whole of it to the style alone."""
    if detail == "style":
        return style_phrase(style)
    if detail == "full":
        return caption
    if detail == "short":
        return caption.split(",")[0].split(" with ")[0]
    assert detail == "template", detail
    return TEXT_TEMPLATE.format(template.replace("_", " "))


def identity_batch(pool: ToyboxPool, seed: int, step: int, batch_size: int) -> LabelledBatch:
    """Two drawings each of `batch_size / 2` identities, in different poses where the pool has them.

    Half of the pictures get a piece of a scene as background, so that the paper is no clue.
    """
    rng = generator(seed, "identity", step)
    identities = np.unique(pool.identity)
    images, labels = [], []
    for chosen in _distinct(len(identities), batch_size // 2, rng):
        rows = np.flatnonzero(pool.identity == identities[chosen])
        first, second = (_distinct(len(rows), 2, rng)) if len(rows) > 1 else (0, 0)
        drawings = _distinct(pool.subject_styles.shape[1], 2, rng)
        for row, drawing in zip(rows[[first, second]], drawings, strict=True):
            image = pool.subjects[row, drawing]
            if _chance(BACKGROUND_SHARE, rng):
                image = _on_scene(image, pool.subject_alpha[row], pool, rng)
            images.append(image)
            labels.append(chosen)
    return LabelledBatch(_stack(images), random_frames(len(images), rng, (0.75, 1.0)), torch.tensor(labels))


def style_batch(pool: ToyboxPool, seed: int, step: int, batch_size: int) -> LabelledBatch:
    """Crops of subjects and scenes; equal labels are equal styles, whatever the complexity of the drawing."""
    rng = generator(seed, "style", step)
    num_scenes = int(STYLE_SCENE_SHARE * batch_size)
    images, labels = [], []
    for array, styles, count in (
        (pool.scenes_with, pool.scene_styles, num_scenes),
        (pool.subjects, pool.subject_styles, batch_size - num_scenes),
    ):
        for row in _distinct(len(array), count, rng):
            drawing = _even_style(styles[row], rng)
            images.append(array[row, drawing])
            labels.append(int(styles[row, drawing]))
    return LabelledBatch(_stack(images), random_frames(len(images), rng, (0.6, 0.9)), torch.tensor(labels))


Sampler = Callable[[ToyboxPool, int, int, int], ClipBatch | LabelledBatch]
SAMPLERS: dict[str, Sampler] = {
    "clip": clip_batch,
    "identity": identity_batch,
    "style": style_batch,
}


def random_frames(
    count: int, rng: torch.Generator, zoom: tuple[float, float]
) -> Float[Tensor, "{count} 2 3"]:
    """Crops as `affine_grid` matrices: a side of `zoom` of the picture, anywhere inside it, mirrored half the time."""
    low, high = zoom
    side = low + (high - low) * torch.rand(count, generator=rng)
    shift = (1 - side)[:, None] * (2 * torch.rand(count, 2, generator=rng) - 1)
    mirror = 1 - 2 * torch.randint(0, 2, (count,), generator=rng)
    frames = torch.zeros(count, 2, 3)
    frames[:, 0, 0], frames[:, 1, 1], frames[:, :, 2] = side * mirror, side, shift
    return frames


def crop_frames(
    images: UInt8[Tensor, "B 3 H W"], frames: Float[Tensor, "B 2 3"], size: int
) -> Float[Tensor, "B 3 C C"]:
    """The framed part of every picture at `size` pixels, in [0, 1].

    The picture is first reduced with antialiasing to a size at which the crops are neither blurred nor aliased.
    """
    pixels = images.float() / 255
    smallest = float(frames[:, 1, 1].min())
    reduced = min(images.shape[-1], round(size / max(smallest, 0.5)))
    if reduced != images.shape[-1]:
        pixels = interpolate(pixels, (reduced, reduced), mode="bilinear", antialias=True, align_corners=False)
    grid = affine_grid(frames, [len(images), 3, size, size], align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _on_scene(image: np.ndarray, alpha: np.ndarray, pool: ToyboxPool, rng: torch.Generator) -> np.ndarray:
    scene = pool.scenes_without[
        _below(len(pool.scenes_without), rng), _below(pool.scene_styles.shape[1], rng)
    ]
    opacity = alpha.astype(np.float32) / 255
    return (opacity * image + (1 - opacity) * scene + 0.5).astype(np.uint8)


def _even_style(styles: np.ndarray, rng: torch.Generator) -> int:
    """A drawing of one picture. `photo` (style 0) is in every picture of a pool, so it is taken only now and then."""
    others = np.flatnonzero(styles != 0)
    if len(others) == 0 or (len(others) < len(styles) and _chance(0.1, rng)):
        return int(np.flatnonzero(styles == 0)[0])
    return int(others[_below(len(others), rng)])


def _distinct(available: int, count: int, rng: torch.Generator) -> list[int]:
    if count > available:
        raise UserError(
            f"expected at least {count} different pictures in the pool, got {available}; lower batch_size"
        )
    return torch.randperm(available, generator=rng)[:count].tolist()


def _below(limit: int, rng: torch.Generator) -> int:
    return int(torch.randint(0, limit, (), generator=rng))


def _chance(probability: float, rng: torch.Generator) -> bool:
    return bool(torch.rand((), generator=rng) < probability)


def _stack(images: Sequence[np.ndarray]) -> UInt8[Tensor, "B 3 H W"]:
    return torch.from_numpy(np.stack(images))


def caption_contrast(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "T D"],
    scale: Float[Tensor, ""],
    told: Int[Tensor, " B"],
) -> Float[Tensor, ""]:
    """InfoNCE between pictures and the *different* texts told of them, `told[i]` in [0, T).

    `-(1/2B) sum_i log softmax_t(s v_i.t)[told_i] - (1/2T) sum_t mean_(i: told_i = t) log softmax_i(s v_i.t)[i]`: a
    picture chooses among texts and each counts once, a text chooses among pictures and all its own are right.
    """
    logits = scale * image @ text.T
    own = torch.nn.functional.one_hot(told, len(text)).to(logits.dtype)
    forward = -(own * log_softmax(logits, dim=1)).sum(1).mean()
    backward = -(own * log_softmax(logits, dim=0)).sum(0) / own.sum(0).clamp(min=1)
    return (forward + backward.mean()) / 2


def supervised_contrast(
    features: Float[Tensor, "B D"], labels: Int[Tensor, " B"], temperature: float = TEMPERATURE
) -> Float[Tensor, ""]:
    """Mean over anchors that have a positive of `-mean_p log softmax_j(z_i.z_j / temperature)[p]`, self left out."""
    itself = torch.eye(len(labels), dtype=torch.bool, device=features.device)
    logits = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    same = (labels[:, None] == labels[None]) & ~itself
    chosen = log_softmax(logits, dim=1).masked_fill(~same, 0.0).sum(1)
    count = same.sum(1)
    return -(chosen / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


class ContrastiveModule(TrainingModule):
    """What the three share: pictures in. A subclass computes the loss of a batch."""

    def __init__(self, encoder: SavedEncoder, *, lr: float, steps: int) -> None:
        super().__init__(lr=lr, steps=steps, weight_decay=0.05)
        self.encoder = encoder

    @abstractmethod
    def loss_on(self, batch: Any) -> Float[Tensor, ""]:
        """The loss of one batch of this module's sampler."""

    def pixels(self, batch: ClipBatch | LabelledBatch, size: int) -> Float[Tensor, "B 3 C C"]:
        return standardise(crop_frames(batch.images, batch.frames, size), self.encoder.card)

    def training_step(self, batch: Any, batch_idx: int) -> Float[Tensor, ""]:
        loss = self.loss_on(batch)
        self.log("loss", loss, batch_size=len(batch.images))
        return loss


class ClipModule(ContrastiveModule):
    """Pictures and captions into one space, one contrast for every detail in which pictures are told."""

    def __init__(self, encoder: SavedEncoder, *, lr: float, steps: int) -> None:
        super().__init__(encoder, lr=lr, steps=steps)
        # Convolutions with the channels innermost take two thirds of the time on a CPU.
        encoder.network.visual.to(memory_format=torch.channels_last)

    def loss_on(self, batch: ClipBatch) -> Float[Tensor, ""]:
        assert isinstance(self.encoder, ClipEncoder)
        pixels = self.pixels(batch, self.encoder.card.crop).contiguous(memory_format=torch.channels_last)
        image = self.encoder.features(pixels)
        text = self.encoder.text_features(batch.texts)
        scale = self.encoder.network.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        losses = []
        for told, weight in zip(batch.told, DETAIL_WEIGHTS, strict=True):
            pictures = told >= 0
            rows, own = torch.unique(told[pictures], return_inverse=True)
            losses.append(weight * caption_contrast(image[pictures], text[rows], scale, own))
        return torch.stack(losses).sum()


class IdentityModule(ContrastiveModule):
    """Two drawings of one identity, apart in style and pose, close together; other identities away."""

    def __init__(self, encoder: SavedEncoder, *, lr: float, steps: int) -> None:
        super().__init__(encoder, lr=lr, steps=steps)
        encoder.network.to(memory_format=torch.channels_last)

    def loss_on(self, batch: LabelledBatch) -> Float[Tensor, ""]:
        pixels = self.pixels(batch, self.encoder.card.crop).contiguous(memory_format=torch.channels_last)
        return supervised_contrast(self.encoder.features(pixels), batch.labels)


class StyleModule(ContrastiveModule):
    """Pictures drawn alike close together, whatever they show."""

    def loss_on(self, batch: LabelledBatch) -> Float[Tensor, ""]:
        return supervised_contrast(self.encoder.features(self.pixels(batch, STYLE_TRAIN_SIZE)), batch.labels)


MODULES: dict[str, type[ContrastiveModule]] = {
    "clip": ClipModule,
    "identity": IdentityModule,
    "style": StyleModule,
}


def new_encoder(kind: Kind, seed: int, tokenizer_folder: Path | None = None) -> SavedEncoder:
    """An untrained encoder; only `clip` needs the folder of the tokenizer."""
    if kind == "clip":
        assert tokenizer_folder is not None, "the clip encoder needs a tokenizer"
        return new_clip(tokenizer_folder, seed)
    return new_identity(seed) if kind == "identity" else new_style(seed)


def metric_part(kind: Kind) -> Callable[[Context, PartConfig], Recipe]:
    """A metric encoder as a part of the foundation."""

    def make(context: Context, part: PartConfig) -> Recipe:
        seed = fold_in(context.seed, "init", f"metric_{kind}") % 2**32
        encoder = new_encoder(kind, seed, context.out / "tokenizer")
        # Half precision pays on a GPU only: on a CPU it slowed the style network fourfold.
        precision = "bf16-mixed" if context.device == "cuda" else "32-true"
        trained_on = f"Toybox pool {context.pool.plan.key}"
        return replace(encoder_recipe(encoder, context.pool, part, seed, trained_on), precision=precision)

    return make


def encoder_recipe(
    encoder: SavedEncoder, pool: ToyboxPool, part: PartConfig, seed: int, trained_on: str
) -> Recipe:
    """How `encoder` learns from `pool`; `trained_on` goes into its card."""
    kind = encoder.card.role
    module = MODULES[kind](encoder, lr=part.lr, steps=part.steps).train()

    def publish(folder: Path) -> None:
        module.encoder.eval().cpu().save(folder / "encoder", trained_on)

    return Recipe(
        module, lambda step: SAMPLERS[kind](pool, seed, step, part.batch_size), publish, whole_batch=True
    )
