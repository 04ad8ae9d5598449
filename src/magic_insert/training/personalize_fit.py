"""Lightning's trainer set up for one personalisation, and the memory saver that belongs to the network."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, RichProgressBar
from torch.utils.data import DataLoader

from magic_insert.models.style import silence
from magic_insert.training.fit import StopOnNonFinite
from magic_insert.training.personalize_callbacks import Watch
from magic_insert.training.personalize_module import PersonalizeModule


class StepBar(RichProgressBar):
    """Lightning's bar, without its epochs: a personalisation has none."""

    def _get_train_description(self, current_epoch: int) -> str:
        return "personalise"


@contextmanager
def checkpointed(pipe: Any, wanted: bool) -> Iterator[None]:
    """Inside this block the UNet's activations are computed again in the backward pass instead of kept, if `wanted`."""
    if not wanted:
        yield
        return
    pipe.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        pipe.unet.disable_gradient_checkpointing()


def fit(module: PersonalizeModule, out: Path, *, progress: bool, callbacks: Sequence[Callback]) -> None:
    """Runs the steps that are left; numbers of micro-batches are the data."""
    cfg, device = module.cfg, module.unet_device
    start = module.start.step if module.start else 0
    if start >= cfg.steps:
        return
    watchers: list[Callback] = [Watch(device), StopOnNonFinite(), *callbacks]
    if progress:
        watchers.append(StepBar(leave=False))
    micros: Any = range(start * cfg.accumulate, cfg.steps * cfg.accumulate)
    gpu = device.type == "cuda"
    # Lightning announces the devices it does not use; a bar and a log are enough.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    trainer = pl.Trainer(
        max_steps=cfg.steps - start,
        accelerator="gpu" if gpu else "cpu",
        devices=[device.index or 0] if gpu else 1,
        precision=cfg.precision,  # type: ignore[arg-type]
        gradient_clip_val=cfg.clip_norm,
        accumulate_grad_batches=cfg.accumulate,
        callbacks=watchers,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        log_every_n_steps=1,
        default_root_dir=out,
    )
    with warnings.catch_warnings():
        # The loader hands out step numbers; workers would cost more than they carry.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            trainer.fit(module, DataLoader(micros, batch_size=None))
        finally:
            silence(module.pipe.unet)  # a run that ended within a step leaves the adapter as it found it
