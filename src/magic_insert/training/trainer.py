"""One trainer for everything that learns: `fit` does the steps that are left; whatever ends it, the next call goes on.

Batch k, its noise and its learning rates are functions of k, so a resumed run computes what an unbroken one computes,
bit for bit. Lightning runs the loop and the precision; where a run stands is in our checkpoints (training/checkpoint),
because Lightning's own mid-epoch resume repeats or skips samples.

With several ranks, started from outside by torchrun or Slurm (RANK and WORLD_SIZE set, see launch/), each holds the
whole model and trains on a contiguous slice of every global batch; gradients are averaged (DDP). Because the slices are
equal, the average over ranks of a mean loss is the mean over the global batch. With `strategy="fsdp2"` each holds a
slice of the model, too (training/shards).
"""

import copy
import logging
import math
import os
import signal
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.ranks import rank, world_size
from magic_insert.core.threads import REMEMBERED, SLOW, ThreadChoice
from magic_insert.training.checkpoint import (
    Stopped,
    StopRequest,
    between_steps,
    read_last_checkpoint,
    save_checkpoint,
)
from magic_insert.training.shards import as_shared, gather, like, local, take_over

Batch = dict[str, Tensor]
Made = TypeVar("Made")
MEAN = "mean."
THREADS = "threads"
GIGABYTE = 1e9
QUIET_STEPS = 100  # between two warnings about slow steps
NEARLY_FULL = 0.92  # share of the device's memory
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainerOptions:
    """How a training runs, whatever it trains.

    `key` says which run this is; a checkpoint of another one is refused. `accumulate`: batches a step. `ema_decay`: the
    result is the exponential mean of the weights; None: the last ones. With `ema_warmup` its early steps forget faster,
    decay (1 + n) / (10 + n) at step n. `save_every`, `log_every`: in steps. `alone`: this process trains by itself,
    whatever the other ranks do. `whole_batch`: every rank trains on all rows, for losses that compare the rows of a
    batch with each other. `strategy`: "ddp", or "fsdp2" for a module whose `sharded` networks hold all it trains.
    """

    steps: int
    key: str = ""
    device: str = "cpu"
    precision: str = "32-true"
    accumulate: int = 1
    clip_norm: float = 1.0
    ema_decay: float | None = None
    ema_warmup: bool = False
    save_every: int = 200
    log_every: int = 20
    alone: bool = False
    whole_batch: bool = False
    strategy: str = "ddp"

    @classmethod
    def of(cls, settings: Any, **own: Any) -> "TrainerOptions":
        """What `settings` names as it is named here, and options of its `own`."""
        same = {
            part.name: getattr(settings, part.name) for part in fields(cls) if hasattr(settings, part.name)
        }
        return cls(**{**same, **own})


class TrainingModule(pl.LightningModule):
    """What `fit` trains: a `training_step` that logs its `loss`, the trained parameters, their optimizer and rates.

    As it stands: AdamW, of 8 bits where asked for, on every parameter that requires a gradient, with a linear warm-up
    and half a cosine.
    """

    def __init__(self, *, lr: float, steps: int, weight_decay: float = 0.01, optimizer: str = "adamw"):
        super().__init__()
        self.lr, self.steps, self.weight_decay, self.optimizer = lr, steps, weight_decay, optimizer

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name, in a fixed order."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def sharded(self) -> list[nn.Module]:
        """The networks that ranks share with "fsdp2", inner ones first; each is called by its `forward`."""
        return []

    def configure_model(self) -> None:
        if self._device_mesh is not None:
            for network in self.sharded():
                fully_shard(network, mesh=self._device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        make: Any = adamw8bit if self.optimizer == "adamw8bit" else torch.optim.AdamW
        trained = list(self.trained().values())
        return make(trained, lr=self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay)

    def rate(self, step: int, group: str) -> float:
        """What the base learning rate of a parameter group is multiplied by at update `step`, from 0."""
        return lr_factor(step, self.steps, "cosine", warmup=max(1, min(200, self.steps // 10)), floor=0.02)


def adamw8bit(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """AdamW whose moments take two bytes a parameter instead of eight (Dettmers et al. 2022, arXiv 2110.02861)."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **options)


def lr_factor(step: int, steps: int, schedule: str, *, warmup: int = 0, floor: float = 0.0) -> float:
    """What a base rate is multiplied by at `step` of `steps`: a linear rise over `warmup` steps, then the schedule.

    `cosine` and `linear` fall to `floor` at the end, `constant` stays at 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    passed = min(1.0, (step - warmup) / max(1, steps - warmup))
    shapes = {"constant": 1.0, "linear": 1 - passed, "cosine": 0.5 * (1 + math.cos(math.pi * passed))}
    return floor + (1 - floor) * shapes[schedule]


class RunningMean:
    """The exponential mean of `parameters`, beside them on their device; it is often a better product than the last.

    Of parameters that ranks share it holds the slices of this rank.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float, *, warmup: bool = False) -> None:
        self.parameters, self.decay, self.warmup = list(parameters), decay, warmup
        self.means = [local(p).detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update number `step` (from 1)."""
        ramp = (1 + step) / (10 + step) if self.warmup else float(step > 1)
        decay = min(self.decay, ramp)
        for i, parameter in enumerate(self.parameters):
            self.means[i] = self.means[i].to(parameter.device).lerp_(local(parameter), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside this block the parameters hold the mean; afterwards their own values, bit for bit."""
        own = [local(p).detach().clone() for p in self.parameters]
        self.adopt()
        try:
            yield
        finally:
            _copy(own, self.parameters)

    def adopt(self) -> None:
        """The parameters become the mean."""
        _copy(self.means, self.parameters)


@torch.no_grad()
def _copy(values: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        local(parameter).copy_(value)


@runtime_checkable
class Validation(Protocol):
    """A look at a module between two steps; what it needs is in the checkpoint of that step already."""

    def due(self, step: int) -> bool:
        """Whether there is something to do after update `step`, and it was not done yet."""

    def run(self, step: int, stop: StopRequest) -> None:
        """Looks at the module, which holds the weights that would be the product; may obey `stop` on the way."""


def fit(
    module: TrainingModule,
    batch_at: Callable[[int], Any],
    options: TrainerOptions,
    folder: Path,
    *,
    log: Callable[[int, Mapping[str, float]], None] | None = None,
    on_step: OnStep = no_step,
    validation: Validation | None = None,
    callbacks: Sequence[Callback] = (),
) -> int:
    """Trains `module` for `options.steps` steps, from the last checkpoint in `folder` where there is one.

    Returns the step it went on from; the module then holds the weights of the product (the mean, with an EMA). The last
    checkpoints stay until `clear_checkpoints`, so a run that is killed before its product is published trains nothing
    again.

    Args:
        module: what to train; on several ranks the same on each.
        batch_at: batch k as a function of k; with accumulation step s trains on batches s * n to s * n + n - 1.
        options: length, device, averaging and periods.
        folder: where checkpoints are kept; rank 0 alone writes them.
        log: takes a step and the means of the logged numbers over the ranks, on rank 0.
        on_step: called after each step; raising in it ends the training between two steps.
        validation: looks at the module between two steps.
        callbacks: further Lightning callbacks.

    Raises:
        UserError: a loss that is not finite (before the weights move), ranks that cannot share a batch evenly, damaged
            checkpoints or those of another run.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; the step that ran is finished and kept.
    """
    shared = options.strategy == "fsdp2" and world_size() > 1 and not options.alone
    # What is shared out cannot be put together again in place; the copy holds slices, so its start is no copy.
    same = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in module.parameters()}
    trained = copy.deepcopy(module, same) if shared else module
    with between_steps() as stop:
        loop = _Loop(trained, options, folder, stop, log=log, on_step=on_step, validation=validation)
        if loop.start >= options.steps:
            loop.hold()
            loop.look(loop.start)
            loop.finish()
        else:
            numbers = range(loop.start * options.accumulate, options.steps * options.accumulate)
            trainer = _lightning(options, loop.start, [loop, *callbacks], folder)
            with warnings.catch_warnings(), same_threads_after():
                # The data are functions of step numbers; workers would cost more than they carry. LeafSpec is
                # Lightning's, of a torch newer than it; frozen networks are in eval mode.
                for said in ("does not have many workers", "LeafSpec", "in eval mode at the start"):
                    warnings.filterwarnings("ignore", message=f".*{said}.*")
                trainer.fit(trained, _Batches(batch_at, numbers, options))
        if shared:
            take_over(module, trained)
    return loop.start


@contextmanager
def same_threads_after() -> Iterator[None]:
    """After this block torch computes with as many threads as before."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _lightning(options: TrainerOptions, start: int, callbacks: list[Callback], folder: Path) -> pl.Trainer:
    # Lightning announces the devices it does not use; a bar and a log are enough.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    return pl.Trainer(
        max_steps=options.steps - start,
        **trainer_options(options.device, alone=options.alone, strategy=options.strategy),
        precision=options.precision,  # type: ignore[arg-type]
        gradient_clip_val=options.clip_norm,
        accumulate_grad_batches=options.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )


class _Batches:
    """The batches of `numbers`: this rank's slice of each, or all of it."""

    def __init__(self, batch_at: Callable[[int], Any], numbers: range, options: TrainerOptions) -> None:
        self.batch_at, self.numbers = batch_at, numbers
        self.whole = options.whole_batch or options.alone

    def __iter__(self) -> Iterator[Any]:
        for number in self.numbers:
            batch = self.batch_at(number)
            yield batch if self.whole else my_slice(batch)


class _Loop(Callback):
    """What happens around a step: rates before it; mean, log, checkpoint, validation and a wish to stop after it."""

    def __init__(
        self,
        module: TrainingModule,
        options: TrainerOptions,
        folder: Path,
        stop: StopRequest,
        *,
        log: Callable[[int, Mapping[str, float]], None] | None,
        on_step: OnStep,
        validation: Validation | None,
    ) -> None:
        self.module, self.options, self.folder = module, options, folder
        # `log` under another name: Lightning puts its own function under that one on every callback.
        self.stop, self.write, self.on_step, self.validation = stop, log, on_step, validation
        self.parameters: dict[str, nn.Parameter] = {}
        self.mean: RunningMean | None = None
        self.buffers = sorted(module.state_dict().keys() - dict(module.named_parameters()).keys())
        self.last = last = read_last_checkpoint(folder, options.key)
        self.start = last.step if last is not None else 0
        self.alone = options.alone or world_size() == 1
        if last is not None:
            own = module.trained()
            _copy([last.values[name] for name in own], list(own.values()))
            module.load_state_dict({name: last.values[name] for name in self.buffers}, strict=False)
        settled = int(last.values[THREADS]) if last is not None else 0
        self.threads = ThreadChoice.of_process(settled or None)
        self.watch = Watch(torch.device(options.device), self.threads)

    def hold(self) -> None:
        """Takes hold of the trained parameters, which sharing out has replaced, and begins or resumes their mean."""
        self.parameters, decay = self.module.trained(), self.options.ema_decay
        if decay is None:
            return
        self.mean = RunningMean(list(self.parameters.values()), decay, warmup=self.options.ema_warmup)
        if self.last is not None:
            kept = self.last.values
            self.mean.means = [
                local(like(kept[MEAN + name], p)).clone() for name, p in self.parameters.items()
            ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.hold()
        # Lightning has just put a handler of its own in front, which ends a run in the middle of an accumulated step.
        self.stop.listen()
        (optimizer,) = trainer.optimizers
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        if self.last is not None:
            self.last.restore_optimizer(optimizer)
            if self.last.scaler:
                trainer.precision_plugin.load_state_dict(dict(self.last.scaler))
        self.look(self.start)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = self.start + batch_idx // self.options.accumulate
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * self.module.rate(step, group.get("name", ""))
        self.watch.begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done, rest = divmod(batch_idx + 1, self.options.accumulate)
        done += self.start
        self.watch.end(done)
        if rest:
            return
        if self.mean is not None:
            self.mean.update(done)
        last = done == self.options.steps
        if self.write is not None and (last or done % self.options.log_every == 0):
            means = {
                name: self.over_ranks(trainer, value) for name, value in trainer.callback_metrics.items()
            }
            if self.options.alone or rank() == 0:
                self.write(done, means)
            self.watch.memory()
        stopping = self.over_ranks(trainer, torch.tensor(float(self.stop.asked))) > 0
        due = self.validation is not None and self.validation.due(done)
        if last or due or stopping or done % self.options.save_every == 0:
            self.save(trainer, done)
        if stopping:
            raise Stopped(self.stop, f"stopped after step {done} of {self.options.steps}")
        try:
            self.on_step(done, self.options.steps)
        except KeyboardInterrupt:  # Lightning would end the process with code 1
            self.stop.asked = signal.SIGINT
            raise Stopped(self.stop, f"stopped after step {done} of {self.options.steps}") from None
        self.look(done)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        # On any rank, and before the optimizer moves.
        loss = trainer.callback_metrics.get("loss")
        if loss is not None and not math.isfinite(self.over_ranks(trainer, loss)):
            raise _diverged(f"loss ({float(loss)})", self.start + trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish()

    def over_ranks(self, trainer: pl.Trainer, value: Tensor) -> float:
        """The mean of `value` over the ranks that train together."""
        if self.alone:
            return float(value)
        return float(
            trainer.strategy.reduce(value.to(trainer.strategy.root_device, copy=True), reduce_op="mean")
        )

    def look(self, done: int) -> None:
        """Runs what is due after update `done`: at a start, what a run owes that ended while it looked."""
        if self.validation is not None and self.validation.due(done):
            with nullcontext() if self.mean is None else self.mean.in_place():
                self.validation.run(done, self.stop)

    def finish(self) -> None:
        """The module becomes the product."""
        if self.mean is not None:
            self.mean.adopt()

    def save(self, trainer: pl.Trainer, done: int) -> None:
        """Writes the checkpoint of `done` updates."""
        first = self.alone or rank() == 0
        if bad := [name for name, p in self.parameters.items() if not local(p).isfinite().all()]:
            raise _diverged(f"weights ({bad[0]})", done)
        values = gather({name: p.detach() for name, p in self.parameters.items()}, keep=first)
        state = self.module.state_dict()
        values |= {name: state[name] for name in self.buffers}
        values[THREADS] = torch.tensor(self.threads.settled or 0)
        if self.mean is not None:
            parts = zip(self.parameters.items(), self.mean.means, strict=True)
            values |= gather({MEAN + name: as_shared(mean, p) for (name, p), mean in parts}, keep=first)
        save_checkpoint(
            self.folder if first else None,
            step=done,
            key=self.options.key,
            values=values,
            optimizer=trainer.optimizers[0],
            scaler=trainer.precision_plugin.state_dict(),
        )
        if not self.alone:
            trainer.strategy.barrier()  # nobody may look for a checkpoint that is being written


def _diverged(what: str, step: int) -> UserError:
    return UserError(
        f"expected finite numbers in training, got a {what} that is not at step {step}; lower the learning rate, or "
        "look at the data of that step"
    )


class Watch:
    """How long steps take, on how many threads, and how much memory is held; a warning when something stands out."""

    def __init__(self, device: torch.device, threads: ThreadChoice) -> None:
        self.device, self.threads, self.warned = device, threads, False
        self.silent_until = 0
        self.spent: deque[float] = deque(maxlen=REMEMBERED)
        self.began, self.number = 0.0, 1

    def begin(self) -> None:
        """A step begins."""
        if self.device.type == "cpu":
            self.number = self.threads.begin()
        self.began = time.perf_counter()

    def end(self, step: int) -> None:
        """A step ends; what is done between steps does not count."""
        seconds = time.perf_counter() - self.began
        if self.device.type == "cpu" and self.threads.end(self.number, seconds):
            log.warning("magic-insert: step %d took %.2f s; from here on with one thread", step, seconds)
        self.judge(step, seconds)

    def judge(self, step: int, seconds: float) -> None:
        """Warns if `step`, which took `seconds`, stands out from the last ones; not again for QUIET_STEPS steps."""
        remembered = len(self.spent) == REMEMBERED and step >= self.silent_until
        if remembered and seconds > SLOW * (usual := statistics.median(self.spent)):
            self.silent_until = step + QUIET_STEPS
            log.warning(
                "magic-insert: step %d took %.2f s, the last %d took %.2f s; something else uses this machine",
                step,
                seconds,
                REMEMBERED,
                usual,
            )
        self.spent.append(seconds)

    def memory(self) -> None:
        """Looks at how much of a GPU's memory was held so far."""
        if self.device.type == "cuda":
            held = torch.cuda.max_memory_reserved(self.device)
            self.judge_memory(held, torch.cuda.get_device_properties(self.device).total_memory)

    def judge_memory(self, held: int, total: int) -> None:
        """Warns once that `held` bytes come near the device's `total`."""
        if self.warned or held <= NEARLY_FULL * total:
            return
        self.warned = True
        log.warning(
            "magic-insert: %.1f of %.1f GB of the device are in use; set gradient_checkpointing=true where the job has "
            "it, a smaller batch_size or a smaller model.image_size",
            held / GIGABYTE,
            total / GIGABYTE,
        )


def ranks_per_node() -> int:
    """How many processes of the job share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def trainer_options(device: str, *, alone: bool = False, strategy: str = "ddp") -> dict[str, Any]:
    """What a Lightning Trainer needs to train on `device` with all ranks of this job, or `alone`."""
    kind, _, index = device.partition(":")
    accelerator = "gpu" if kind == "cuda" else "cpu"
    if alone or world_size() == 1:
        return {"accelerator": accelerator, "devices": [int(index or 0)] if kind == "cuda" else 1}
    chosen: DDPStrategy | ModelParallelStrategy
    if strategy == "fsdp2":
        chosen = ModelParallelStrategy(data_parallel_size=world_size(), tensor_parallel_size=1)
        chosen.cluster_environment = TorchElasticEnvironment()
    else:
        # The text encoders' last layers are not used by the loss, so their parameters get no gradient.
        chosen = DDPStrategy(cluster_environment=TorchElasticEnvironment(), find_unused_parameters=True)
    return {
        "accelerator": accelerator,
        "devices": ranks_per_node(),
        "num_nodes": world_size() // ranks_per_node(),
        "strategy": chosen,
    }


def my_slice(batch: Batch) -> Batch:
    """This rank's rows of a global batch; tensors without rows (a step number) are everybody's.

    Raises:
        UserError: the rows cannot be shared evenly.
    """
    count, mine = world_size(), {}
    for name, value in batch.items():
        if value.ndim == 0 or count == 1:
            mine[name] = value
            continue
        if len(value) % count:
            raise UserError(
                f"expected a batch size that {count} processes can share, got {len(value)} ({name}); "
                "set a multiple as batch_size, or exec.devices to a divisor"
            )
        share = len(value) // count
        mine[name] = value[rank() * share : (rank() + 1) * share]
    return mine


def wait_for_all() -> None:
    """Returns when every rank has come here."""
    if world_size() > 1:
        distributed.barrier()


def first_rank_only(work: Callable[[], Any]) -> None:
    """Rank 0 does `work`, which writes files; the others go on when it is done.

    If `work` raises, rank 0 ends and the launcher ends the others.
    """
    if rank() == 0:
        work()
    wait_for_all()


def first_rank_first(work: Callable[[], Made]) -> Made:
    """`work` on every rank, on rank 0 before the others: what it keeps on disk, they find there."""
    if rank() != 0:
        wait_for_all()
        return work()
    made = work()
    wait_for_all()
    return made
