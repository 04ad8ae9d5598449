"""Training by step number: batch k is a function of k, so a resumed run sees exactly what an unbroken one sees.

Lightning's own mid-epoch resume repeats or skips samples; here the data source is told the step it starts from. With
several ranks (RANK and WORLD_SIZE set, see launch/) every rank computes the global batch and trains on its slice.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from torch.utils.data import DataLoader, IterableDataset

from magic_insert.core.ranks import rank
from magic_insert.training.ranks import Batch, my_slice, trainer_options


class StepBatches(IterableDataset):
    """Yields `batch_at(step)` for start <= step < stop: the rank's slice, or with `whole` all of it on every rank."""

    def __init__(self, batch_at: Callable[[int], Batch], start: int, stop: int, whole: bool):
        self.batch_at, self.start, self.stop, self.whole = batch_at, start, stop, whole

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start, self.stop):
            batch = self.batch_at(step)
            yield batch if self.whole else my_slice(batch)


class StopOnNonFinite(Callback):
    """Ends the run before the optimizer moves on a loss that is not a number, and names the step."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any
    ) -> None:
        loss = trainer.callback_metrics.get("loss")
        if loss is not None and not torch.isfinite(loss):
            raise RuntimeError(
                f"loss is {float(loss)} at step {trainer.global_step} of {type(module).__name__}; "
                "weights are untouched, lower the learning rate or look at that batch"
            )


def _saved_step(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def fit_steps(
    module: pl.LightningModule,
    batch_at: Callable[[int], Batch],
    *,
    steps: int,
    folder: Path,
    device: str,
    precision: str = "32-true",
    save_every: int = 200,
    ema_decay: float | None = None,
    clip_norm: float = 1.0,
    progress: bool = True,
    log: Callable[[dict[str, float]], None] | None = None,
    whole_batch: bool = False,
) -> None:
    """Train `module` for `steps` optimizer steps, going on from `folder/last.ckpt` when it is there.

    With `ema_decay` the module holds the averaged weights when this returns. Rank 0 alone writes the checkpoint and
    calls `log`, with means over the ranks. `whole_batch` is for losses that compare the rows of a batch with each
    other: they train on all rows on every rank, which gains no time and loses no exactness.

    Raises:
        UserError: the ranks cannot share a batch evenly.
    """
    checkpoint = folder / "last.ckpt"
    start = _saved_step(checkpoint) if checkpoint.is_file() else 0
    if start >= steps:
        # Killed after the last step and before the result was published: the averaged weights are in the checkpoint.
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        return
    saver = ModelCheckpoint(
        dirpath=folder,
        filename="last",
        every_n_train_steps=save_every,
        save_top_k=1,
        monitor=None,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [StopOnNonFinite(), saver]
    if ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=ema_decay))
    if progress:
        callbacks.append(RichProgressBar(refresh_rate=10))
    if log is not None:
        callbacks.append(_LogEvery(log, 20))
    trainer = pl.Trainer(
        max_steps=steps,
        **trainer_options(device),
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=clip_norm,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        enable_checkpointing=True,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    loader = DataLoader(StepBatches(batch_at, start, steps, whole_batch), batch_size=None)
    trainer.fit(module, loader, ckpt_path=str(checkpoint) if start else None, weights_only=True)


class _LogEvery(Callback):
    """Hands the module's logged numbers to `write` every `period` steps and after the last."""

    def __init__(self, write: Callable[[dict[str, float]], None], period: int):
        # Not named `log`: Lightning puts its own function under that name on every callback.
        self.write, self.period = write, period

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.period == 0 or trainer.global_step == trainer.max_steps:
            means = {
                name: float(trainer.strategy.reduce(value, reduce_op="mean"))
                for name, value in trainer.callback_metrics.items()
            }
            if rank() == 0:
                self.write({"step": trainer.global_step, **means})
