"""Training the three metric encoders by contrast, each in minutes on a laptop.

clip: InfoNCE over pictures and captions (Radford et al. 2021), in several details at once. identity, style: supervised
contrastive loss (Khosla et al. 2020, equation 2), as the Toybox knows who is drawn and how. B pictures, T different
texts, D embedding dimensions.
"""

import math
import shutil
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from magic_insert.models.encoders import (
    ClipEncoder,
    EncoderCard,
    SavedEncoder,
    new_clip,
    new_identity,
    new_style,
)
from magic_insert.models.encoders.base import standardise
from magic_insert.training.foundation.encoder_batches import (
    SAMPLERS,
    ClipBatch,
    EncoderPool,
    LabelledBatch,
    crop_frames,
)
from magic_insert.training.trainer import TrainerOptions, TrainingModule, fit

Kind = Literal["clip", "identity", "style"]
TEMPERATURE = 0.1
STYLE_TRAIN_SIZE = 80  # pixels; the style network pools over the picture, so it may learn on crops
MAX_LOGIT_SCALE = math.log(100.0)
CHECKPOINT_EVERY = 200
DETAIL_WEIGHTS = (1.0, 1.0, 1.0, 0.5)  # of DETAILS; style is the easiest to tell


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


MODULES: dict[Kind, type[ContrastiveModule]] = {
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


def train_encoder(
    kind: Kind,
    pool: EncoderPool,
    out_folder: Path,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: str = "cpu",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    tokenizer_folder: Path | None = None,
    trained_on: str = "Toybox pool",
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> EncoderCard:
    """Train one encoder for `steps` and publish it at `out_folder`, whole or not at all.

    A run that was stopped goes on from its last checkpoint (every 200 steps, beside `out_folder`) with the same batches
    it would have had; the checkpoints are removed at the end.

    Args:
        progress: called after every step with (steps done, loss).
        trained_on: goes into the card.
    Raises:
        UserError: the pool is too small for `batch_size`, or the loss is not finite; see `fit`.
    """
    out_folder = Path(out_folder)
    run = out_folder.with_name(f".{out_folder.name}.training-{steps}x{batch_size}-{lr}-{seed}")
    module = MODULES[kind](new_encoder(kind, seed, tokenizer_folder), lr=lr, steps=steps)
    module.train()
    fit(
        module,
        lambda step: SAMPLERS[kind](pool, seed, step, batch_size),
        TrainerOptions(
            steps=steps, device=device, precision=precision, save_every=CHECKPOINT_EVERY, log_every=1, alone=True,
            progress=False,
        ),
        run,
        log=lambda step, values: progress(step, values["loss"]),
    )  # fmt: skip
    card = module.encoder.eval().cpu().save(out_folder, trained_on)
    shutil.rmtree(run, ignore_errors=True)
    return card
