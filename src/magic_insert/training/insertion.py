"""ObjectDrop's tasks, removal and insertion, as one fit with a task switch (arXiv 2403.18818, section 4).

The UNet sees [noisy target latent, condition latent with nothing masked out, mask]; the prompt is empty.
remove: condition = picture with the subject, target = without. insert: condition = copy-paste, target = with.
One fit takes weights to start from and cached latents, and publishes a folder with the trained UNet. Killed at any step
and called again, it goes on from its checkpoint; finished, it returns at once.
"""

import copy
import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magic_insert.config.schema.training import EditFit as Recipe
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.jsonl import write_json
from magic_insert.core.rand import generator
from magic_insert.models import edit_unet
from magic_insert.models.folders import PRODUCTS
from magic_insert.models.lora import lora_state, restore_lora
from magic_insert.models.pipeline import HALF, ddim, parts_on, plain_attention, quiet, size_ids
from magic_insert.models.sampling import image_size
from magic_insert.training.checkpoint import is_finished
from magic_insert.training.trainer import (
    TrainerOptions,
    TrainingModule,
    first_rank_only,
    fit,
)

Task = Literal["remove", "insert"]
CARD = edit_unet.FIT_CARD
CLEAR_CHANGE = 0.3  # of a scaled latent, whose values have about unit variance; more is a change for certain


@dataclass(frozen=True)
class EditLatents:
    """Scaled latents [N, K, C, h, w] of N pairs in K variants (mirrored, restyled) and the masks at latent size."""

    condition: np.ndarray
    target: np.ndarray
    mask: np.ndarray  # [N, K, 1, h, w] in [0, 1]


@dataclass(frozen=True)
class EditFit:
    """How one network is fitted.

    `effect_weight`: how much more the changed cells count. `time_shift` above 1: more training on noisy times.
    `condition_noise`: largest spread of the noise on the condition.
    `lora_rank` 0 trains every weight; otherwise a LoRA and the input layer, written `merged` or, with `merged` off, as
    the difference that `models.edit_unet` reads.
    """

    task: Task
    steps: int
    batch_size: int
    lr: float
    seed: int
    precision: str = "32-true"
    dropout: float = 0.0
    ema_decay: float | None = None
    clip_norm: float = 1.0
    effect_weight: float = 0.0
    time_shift: float = 1.0
    condition_noise: float = 0.0
    lora_rank: int = 0
    merged: bool = True
    save_every: int = 100
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    accumulate: int = 1
    strategy: str = "ddp"

    @classmethod
    def of(cls, recipe: Recipe, task: Task, seed: int, **own: Any) -> "EditFit":
        """The fit of `task` that a job's `recipe` asks for, with settings of its `own`."""
        same = {part.name for part in fields(cls)} & {part.name for part in fields(recipe)}
        asked = {name: getattr(recipe, name) for name in same}
        asked |= {"ema_decay": recipe.ema_decay or None, "merged": recipe.save == "merged", **own}
        return cls(task=task, seed=seed, **asked)

    def contents(self, start: str, latents: EditLatents) -> dict[str, Any]:
        """What the product depends on: everything but when checkpoints are written, and what memory is saved how."""
        free = ("save_every", "gradient_checkpointing", "strategy")
        settings = {name: value for name, value in asdict(self).items() if name not in free}
        return {**settings, "start": start, "data": latents_digest(latents)}


class InsertionModule(TrainingModule):
    """Denoising of the edited picture under the empty prompt, in the scheduler's own kind of prediction.

    Args:
        unet: takes 2C + 1 channels; what of it requires a gradient is trained.
        empty: the empty prompt's states (1 T D) and pooled text (1 E) in the pipeline's encoders.
        settings: of it learning rate, steps, optimizer and `effect_weight`: how much more a cell counts that the edit
            changes, see `effect_weights`; 0 is ObjectDrop's loss.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        empty: tuple[Tensor, Tensor],
        settings: EditFit,
        *,
        image_size: int,
    ):
        super().__init__(lr=settings.lr, steps=settings.steps, optimizer=settings.optimizer)
        self.unet, self.scheduler, self.image_size = unet, scheduler, image_size
        self.effect_weight = settings.effect_weight
        self.register_buffer("states", empty[0].detach().clone(), persistent=False)
        self.register_buffer("pooled", empty[1].detach().clone(), persistent=False)

    @classmethod
    def of(cls, unet: nn.Module, pipe: Any, settings: EditFit) -> "InsertionModule":
        """The module of a fit under the empty prompt of `pipe`."""
        prompt = edit_unet.empty_prompt(pipe, 1)
        return cls(
            unet,
            ddim(pipe),
            (prompt["encoder_hidden_states"], prompt["added_cond_kwargs"]["text_embeds"]),
            settings,
            image_size=image_size(pipe),
        )

    def sharded(self) -> list[nn.Module]:
        return [*(module for module in self.unet.modules() if isinstance(module, edit_unet.UNITS)), self.unet]

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.denoising_loss(batch)
        self.log("loss", loss)
        return loss

    def denoising_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of what the UNet predicts about a noisy edited picture (Ho et al. 2020), weighted by cell."""
        latents, noise, times = batch["latents"], batch["noise"], batch["timesteps"]
        count = len(latents)
        noisy = self.scheduler.add_noise(latents, noise, times)
        # The weights see the condition as it is, the network as the batch wants it shown.
        shown = batch["condition"] + batch.get("condition_noise", 0.0)
        predicted = self.unet(
            torch.cat([noisy, shown, batch["mask"]], dim=1),
            times,
            # Repeated once: of an expanded tensor every attention layer would keep a copy of its own.
            encoder_hidden_states=self.states.repeat(count, 1, 1),  # type: ignore[operator]
            added_cond_kwargs={
                "text_embeds": self.pooled.expand(count, -1),  # type: ignore[operator]
                "time_ids": size_ids(count, self.image_size, latents.device),
            },
            return_dict=False,
        )[0]
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, times) if velocity else noise
        error = (predicted.float() - target.float()).square()
        return (effect_weights(batch["condition"], latents, self.effect_weight) * error).mean()


def effect_weights(condition: Tensor, target: Tensor, strength: float) -> Tensor:
    """Loss weights B 1 h w with mean 1 in every picture: cells the edit changes count up to 1 + `strength` times.

    A shadow covers a few cells in a hundred, so an unweighted loss mostly rewards copying what the condition shows.
    """
    changed = ((target - condition).abs().mean(dim=1, keepdim=True) / CLEAR_CHANGE).clamp(max=1.0)
    weights = 1.0 + strength * changed
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def mask_cells(mask: np.ndarray, size: int) -> np.ndarray:
    """uint8 masks [N, 1, H, W] as the covered share of each latent cell, float16 [N, 1, size, size]."""
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32) / 255.0), (size, size))
    return share.numpy().astype(np.float16)


def edit_batches(
    data: EditLatents, settings: EditFit, num_times: int = 1000
) -> Callable[[int], dict[str, Tensor]]:
    """Batch k of a task as a function of k; a share `dropout` of the rows is shown neither condition nor mask.

    `time_shift` above 1 draws noisier times more often, see `shifted_times`. The condition is shown with Gaussian
    noise, of a spread drawn for each row from 0 to `condition_noise`, in units of the scaled latents, so that traces
    fainter than it teach nothing (conditioning augmentation, Ho et al. 2021, arXiv 2106.15282, section 4.2).
    """
    count, variants = data.target.shape[:2]
    batch_size = settings.batch_size

    def batch_at(step: int) -> dict[str, Tensor]:
        draw = generator(settings.seed, settings.task, step)
        picks = torch.randint(0, 2**31, (batch_size, 2), generator=draw).tolist()
        places = [(a % count, b % variants) for a, b in picks]

        def rows(array: np.ndarray) -> Tensor:
            return torch.stack([torch.from_numpy(array[i, k].astype(np.float32)) for i, k in places])

        latents = rows(data.target)
        noise = torch.randn(latents.shape, generator=draw)
        times = shifted_times(torch.rand(batch_size, generator=draw), settings.time_shift, num_times)
        shown = (torch.rand(batch_size, 1, 1, 1, generator=draw) >= settings.dropout).float()
        batch = {
            "latents": latents,
            "condition": shown * rows(data.condition),
            "mask": shown * rows(data.mask),
            "noise": noise,
            "timesteps": times,
        }
        if settings.condition_noise > 0:
            spread = settings.condition_noise * torch.rand(batch_size, 1, 1, 1, generator=draw)
            batch["condition_noise"] = shown * spread * torch.randn(latents.shape, generator=draw)
        return batch

    return batch_at


def shifted_times(uniform: Tensor, shift: float, num_times: int) -> Tensor:
    """Training times from numbers u in [0, 1): u -> s u / (1 + (s - 1) u) (Esser et al. 2024, eq. 23), as indices.

    What an edit changes is decided while the picture is mostly noise; shift 3 puts half of the times above 0.75.
    """
    return (shift * uniform / (1.0 + (shift - 1.0) * uniform) * num_times).long().clamp(max=num_times - 1)


def fit_edit(
    start: Path | Any,
    pipe: Any,
    latents: EditLatents,
    settings: EditFit,
    folder: Path,
    *,
    on_step: OnStep = no_step,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
) -> None:
    """Trains a remover or an inserter and writes it to `folder`/remover or `folder`/inserter, whole or not at all.

    Args:
        start: a folder with an edit UNet, an edit UNet (2C + 1 channels), or a text-to-image UNet (C channels), which
            is given the further channels with zero weights. It is copied, never changed.
        pipe: lends its text encoders for the empty prompt, its schedule, its picture size and its device.
        latents: what to train on, in the units of the pipe's autoencoder.
        log: takes a step and its loss now and then.

    Raises:
        UserError: the folder holds a fit of other data or settings, `start` is no such network, or the LoRA that is to
            be kept would stand beside another network than the pipeline's.
    """
    if isinstance(start, Path):
        unet = edit_unet.load_edit_unet(start, base=pipe.unet, merged=settings.merged)
    else:
        unet = edit_unet.edit_start(start)
    if not settings.merged:
        _check_kept(unet, pipe.unet, settings)
    unet.register_to_config(sample_size=image_size(pipe) // pipe.vae_scale_factor)
    contents = settings.contents(edit_unet.weights_digest(unet), latents)
    product, work = folder / PRODUCTS[settings.task], folder / f"{PRODUCTS[settings.task]}.fit"
    key = digest(contents)
    if is_finished(product / CARD, key, work / CARD):
        return
    write_json(work / CARD, {"key": key, **contents})
    trained = _opened(unet, settings)
    if pipe.device.type == "cpu":
        plain_attention(trained)
    module = InsertionModule.of(trained, pipe, settings)
    options = TrainerOptions.of(settings, device=pipe.device.type, key=key)
    batches = edit_batches(latents, settings, module.scheduler.config.num_train_timesteps)
    # Pictures are latents and the prompt is encoded: while it trains, the edit UNet has the device for itself.
    with parts_on(pipe, "cpu"):
        fit(module, batches, options, work, log=log, on_step=on_step)
        trained.cpu()
    first_rank_only(lambda: _publish(_finished(unet, trained, settings), settings, contents, work, product))


def _check_kept(unet: Any, base: Any, settings: EditFit) -> None:
    """That the LoRA to be trained can be kept as one beside `base`, the pipeline's UNet."""
    begun = (getattr(unet, "peft_config", None) or {}).get(edit_unet.LORA)
    if begun is not None and begun.r != settings.lora_rank:
        raise UserError(
            f"expected lora_rank={begun.r}, the rank of the LoRA that training starts from, got {settings.lora_rank}; "
            f"set lora_rank={begun.r} or save=merged"
        )
    if edit_unet.start_digest(unet) != edit_unet.start_digest(base):
        raise UserError(
            "expected a LoRA that is kept as one (save=lora) to start from the model itself or from a LoRA of it, got "
            "another network; set save=merged"
        )


def _opened(unet: Any, settings: EditFit) -> Any:
    """The network to train: `unet` with all its weights or with a LoRA; its frozen weights, where the arithmetic is in
    half precision, in a copy of that precision."""
    unet.train().requires_grad_(True)
    if settings.lora_rank:
        if (half := HALF.get(settings.precision)) is not None:
            with quiet():
                unet = copy.deepcopy(unet).to(half)
        edit_unet.open_for_lora(unet, rank=settings.lora_rank, seed=settings.seed)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def _finished(unet: Any, trained: Any, settings: EditFit) -> Any:
    """The trained network; what was learned beside a copy in half precision stands beside the weights themselves."""
    if trained is unet:
        return unet
    edit_unet.open_for_lora(unet, rank=settings.lora_rank, seed=settings.seed)
    restore_lora(unet, lora_state(trained, edit_unet.LORA), edit_unet.LORA)
    unet.conv_in.load_state_dict(trained.conv_in.state_dict())
    return unet


def _publish(unet: Any, settings: EditFit, contents: dict[str, Any], work: Path, product: Path) -> None:
    """Moves the finished network to its place in one step."""
    staged = work / "product"
    shutil.rmtree(staged, ignore_errors=True)
    if settings.lora_rank and settings.merged:
        edit_unet.merge_lora(unet)
    if settings.merged:
        edit_unet.save_unet(staged, unet)
    else:
        edit_unet.save_edit_lora(staged, unet, rank=settings.lora_rank)
    sums = {path.name: sha256_file(path) for path in sorted(staged.glob("*.safetensors"))}
    write_json(staged / CARD, {"key": digest(contents), **contents, "weights_sha256": sums})
    staged.rename(product)
    shutil.rmtree(work)


def latents_digest(latents: EditLatents) -> str:
    """16 hex digits of all values."""
    sha = hashlib.sha256()
    for array in (latents.condition, latents.target, latents.mask):
        sha.update(f"{array.dtype}{array.shape}".encode())
        for row in array:
            sha.update(np.ascontiguousarray(row).tobytes())
    return sha.hexdigest()[:16]
