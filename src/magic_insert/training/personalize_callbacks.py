"""What happens between two steps of a personalisation: the mean, the checkpoint, the look at samples, the warnings."""

import logging
import resource
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from magic_insert.tracking import Tracker
from magic_insert.training.checkpoint import save_checkpoint
from magic_insert.training.personalize_module import PersonalizeModule
from magic_insert.training.stopping import StopRequest
from magic_insert.training.validation import Validation

log = logging.getLogger(__name__)
GIGABYTE = 1e9
SLOW = 3.0  # a step this many times longer than the median of the last ones is worth a word
REMEMBERED = 20
SILENCE = 100  # steps between two words about slow ones
NEARLY_FULL = 0.92  # share of the device's memory


class Keep(Callback):
    """After each update: the running mean, the log, the checkpoint, the look; then a request to stop is obeyed.

    A resumed run repeats the rows between its checkpoint and the kill, number for number.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        tracker: Tracker,
        stop: StopRequest,
        validation: Validation | None,
        log_period: int = 10,
    ) -> None:
        self.folder, self.key, self.tracker, self.stop = folder, key, tracker, stop
        self.validation, self.log_period = validation, log_period

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has just put a handler of its own in front, which ends a run in the middle of an accumulated step.
        self.stop.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: int, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PersonalizeModule)
        done, rest = divmod(batch + 1, pl_module.cfg.accumulate)
        if rest:
            return
        if pl_module.mean is not None:
            pl_module.mean.update(done)
        if done % self.log_period == 0:
            self.tracker.log(done, {"loss": float(trainer.callback_metrics["loss"])})
        due = self.validation is not None and self.validation.due(done)
        last = done == pl_module.cfg.steps and not due  # nothing but the product is left to write
        if not last and (due or self.stop.asked or done % pl_module.cfg.checkpoint_every == 0):
            save_checkpoint(
                self.folder,
                step=done,
                key=self.key,
                values=pl_module.values(),
                optimizer=trainer.optimizers[0],
                scaler=trainer.precision_plugin.state_dict(),
            )
            self.stop.obey()
        if self.validation is not None:
            self.validation.look_if_due(done, pl_module, self.tracker, self.stop)


class Watch(Callback):
    """Memory in the progress bar; one line when a step takes much longer than the last ones or memory runs out."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.warned, self.silent_until = device, False, 0
        self.spent: deque[float] = deque(maxlen=REMEMBERED)
        self.began = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Stands before the callbacks that save and draw: their time is not the step's.
        self.judge(trainer.global_step, time.perf_counter() - self.began)
        pl_module.log("memory_gb", self.memory(), prog_bar=True)

    def judge(self, step: int, seconds: float) -> None:
        """Says so if `step`, which took `seconds`, stands out from the last ones; not again for SILENCE steps."""
        remembered = len(self.spent) == REMEMBERED and step >= self.silent_until
        if remembered and seconds > SLOW * statistics.median(self.spent):
            self.silent_until = step + SILENCE
            usual = statistics.median(self.spent)
            log.warning(
                "magic-insert: step %d took %.2f s, the last %d took %.2f s; something else uses this machine",
                step,
                seconds,
                REMEMBERED,
                usual,
            )
        self.spent.append(seconds)

    def memory(self) -> float:
        """The most memory held so far, in 10^9 bytes: of the GPU, or of this process on a CPU."""
        if self.device.type != "cuda":
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIGABYTE
        held = torch.cuda.max_memory_reserved(self.device)
        self.judge_memory(held, torch.cuda.get_device_properties(self.device).total_memory)
        return held / GIGABYTE

    def judge_memory(self, held: int, total: int) -> None:
        """Says once that `held` bytes come near the device's `total`."""
        if self.warned or held <= NEARLY_FULL * total:
            return
        self.warned = True
        log.warning(
            "magic-insert: %.1f of %.1f GB of the device are in use; set personalization.gradient_checkpointing=true "
            "or a smaller model.image_size",
            held / GIGABYTE,
            total / GIGABYTE,
        )
