"""What the ranks of tests do: functions of a payload file, named as `rank_targets:<function>`."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl, read_json, write_json
from magic_insert.core.rand import generator
from magic_insert.core.ranks import rank, shard, world_size
from magic_insert.training.trainer import TrainerOptions, TrainingModule, fit

ROWS, STEPS, HALF = 8, 20, 10
CLIP = 0.5  # below the norm of most gradients here


class Regression(TrainingModule):
    """A small network that learns a known function; one layer gets no gradient, as in the text encoders."""

    def __init__(self) -> None:
        super().__init__(lr=1e-2, steps=STEPS)
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.idle = nn.Linear(2, 2)

    def sharded(self) -> list[nn.Module]:
        return [self.net[0], self.net]

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        self.log("loss", loss)
        return loss


def batch_at(step: int) -> dict[str, Tensor]:
    x = torch.randn(ROWS, 4, generator=generator(0, "regression", step))
    return {"x": x, "y": x.prod(dim=1, keepdim=True), "step": torch.tensor(step)}


def note(path: Path, step: int, values: Mapping[str, float]) -> None:
    append_jsonl(path, {"step": step, **values})


def fit_in_all_ways(payload: Path) -> None:
    """Fits below the payload's folder: unbroken, interrupted half-way, on whole batches, and with shared weights, also
    in mixed precision; the norm of the gradients is clipped in all of them."""
    plans = (
        ("unbroken", [STEPS], {}),
        ("resumed", [HALF, STEPS], {}),
        ("whole", [STEPS], {"whole_batch": True}),
        ("shards", [STEPS], {"strategy": "fsdp2"}),
        ("shards resumed", [HALF, STEPS], {"strategy": "fsdp2"}),
        ("shards mixed", [HALF, STEPS], {"strategy": "fsdp2", "precision": "bf16-mixed"}),
    )
    for name, pieces, changes in plans:
        folder = payload.parent / name
        for steps in pieces:
            module = Regression()
            options = TrainerOptions(steps=steps, save_every=HALF, ema_decay=0.9, clip_norm=CLIP, **changes)
            fit(module, batch_at, options, folder, log=partial(note, folder / "log.jsonl"))
        save_file(module.state_dict(), folder / f"rank-{rank()}.safetensors")


def fit_an_edit_unet(payload: Path) -> None:
    """A short fit of the model in the payload; where `kill_after` is there, every rank dies after that step, once."""
    import numpy as np
    from helpers import tiny_config

    from magic_insert.models.pipeline import load_pipeline
    from magic_insert.training.insertion import EditFit, EditLatents, fit_edit

    told, folder = read_json(payload), payload.parent
    mark = folder / f"killed-{rank()}"

    def on_step(done: int, total: int) -> None:
        if done == told.get("kill_after") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    draw = np.random.default_rng(0)
    condition, target = (draw.standard_normal((4, 1, 4, 8, 8)).astype(np.float16) for _ in range(2))
    latents = EditLatents(condition, target, (condition[:, :, :1] > 0).astype(np.float16))
    how = {"ema_decay": 0.9, "save_every": 2, "strategy": told["strategy"], "gradient_checkpointing": True}
    settings = EditFit("insert", 4, 4, 1e-4, 0, **how)
    pipe = load_pipeline(tiny_config(told["model"]))
    fit_edit(pipe.unet, pipe, latents, settings, folder, on_step=on_step)


def share(payload: Path) -> None:
    """Every rank writes its shard of the payload's items, and what all ranks together hold."""
    total = torch.tensor([float(rank() + 1)])
    if world_size() > 1:
        distributed.all_reduce(total)
    mine = {
        "items": shard(read_json(payload)["items"]),
        "total": total.item(),
        "threads": os.environ["OMP_NUM_THREADS"],
    }
    write_json(payload.parent / f"share-{rank()}.json", mine)


def refuse(payload: Path) -> None:
    """Rank 1 finds the input wanting while the others are busy."""
    if rank() == 1:
        (payload.parent / "refusing").touch()
        raise UserError("expected a toy,\n  got none")
    time.sleep(300)


def wait(payload: Path) -> None:
    """Every rank says its process number and waits; tidies up when it is stopped."""
    write_json(payload.parent / f"pid-{rank()}.json", os.getpid())
    try:
        time.sleep(300)
    finally:
        (payload.parent / f"tidied-{rank()}").touch()


def lose_a_rank_in_harvest(payload: Path) -> None:
    """Harvest in which rank 1 is killed as soon as any picture is done."""
    from magic_insert.bootstrap.networks import run_harvest
    from magic_insert.bootstrap.stages import EditSettings, read_payload

    told = read_payload(payload, EditSettings)

    def kill() -> None:
        while not list((told.out / "without").glob("*.png")):
            time.sleep(0.001)
        (told.work / "dying").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if rank() == 1:
        threading.Thread(target=kill, daemon=True).start()
    run_harvest(payload)
    if rank() == 1:
        time.sleep(300)  # a last picture and its killer may meet at the door
