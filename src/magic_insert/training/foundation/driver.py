"""The foundation job: render the pool, train every part in order, assemble one SDXL folder in half precision.

Each part is published by a rename when it is done and trains on from its last checkpoint when it is not, so the same
command finishes a job that was killed anywhere.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from magic_insert.config.freeze import thaw
from magic_insert.config.schema import FoundationConfig, PartConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.data.toybox_pool import PoolPlan, ToyboxPool, write_pool
from magic_insert.models.micro import MICRO, TINY, MicroSizes, build_tokenizer, load_tokenizers
from magic_insert.models.zoo import resolve_device
from magic_insert.toybox.captions import corpus
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints
from magic_insert.training.foundation.encoders import Kind, train_encoder
from magic_insert.training.foundation.parts import METRIC_PARTS, PARTS_IN_ORDER, assemble
from magic_insert.training.foundation.workshop import Workshop
from magic_insert.training.ranks import first_rank_first, first_rank_only
from magic_insert.training.trainer import TrainerOptions, fit


def pool_plan(cfg: FoundationConfig, sizes: MicroSizes) -> PoolPlan:
    amounts = {k: v for k, v in asdict(cfg.pool).items() if k != "workers"}
    return PoolPlan(seed=cfg.seed, size=sizes.image_size, **amounts)


def settings_key(cfg: FoundationConfig) -> str:
    """Digest of all that decides the weights; where and how the work is done is left out."""
    settings = {k: v for k, v in asdict(cfg).items() if k not in ("out", "save_every", "logger", "exec")}
    settings["pool"].pop("workers")
    settings["trainer"].pop("device")
    return digest(settings)


def run_foundation(cfg: FoundationConfig) -> Path:
    """Train everything `cfg` asks for; returns the folder of the finished model (`out/micro`).

    With several ranks the fits share each batch; what is rendered, published and written is rank 0's.
    """
    out, device = Path(cfg.out), str(resolve_device(cfg.trainer.device))
    sizes = TINY if cfg.size == "tiny" else MICRO
    plan, key = pool_plan(cfg, sizes), settings_key(cfg)
    first_rank_only(lambda: _prepare(cfg, sizes, plan, key, device))
    pool = ToyboxPool(write_pool(out, plan))  # rendered by now
    workshop = _open_workshop(cfg, pool)
    for name, make in PARTS_IN_ORDER.items():
        _train_part(name, make, getattr(cfg, name), workshop, cfg)
    for name, kind in METRIC_PARTS.items():
        first_rank_only(partial(_train_metric_encoder, name, kind, getattr(cfg, name), workshop, cfg))
    first_rank_only(lambda: assemble(workshop, {"config_digest": key, "device": device}))
    return out / "micro"


def train_part(cfg: FoundationConfig, name: str, pool: Path) -> Path:
    """Train the part `name` alone, on the pool in the folder `pool`, beside finished parts in `cfg.out`.

    For a part that an older run did not have; the settings of the others are not compared. Returns the part's folder.
    """
    _train_part(name, PARTS_IN_ORDER[name], getattr(cfg, name), _open_workshop(cfg, ToyboxPool(pool)), cfg)
    return Path(cfg.out) / "parts" / name


def _open_workshop(cfg: FoundationConfig, pool: ToyboxPool) -> Workshop:
    tokenizer, tokenizer_2 = load_tokenizers(Path(cfg.out) / "tokenizer")
    return Workshop(
        out=Path(cfg.out),
        pool=pool,
        sizes=TINY if cfg.size == "tiny" else MICRO,
        seed=cfg.seed,
        device=str(resolve_device(cfg.trainer.device)),
        precision=cfg.trainer.precision,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
    )


def _prepare(cfg: FoundationConfig, sizes: MicroSizes, plan: PoolPlan, key: str, device: str) -> None:
    """The pool of renders and the tokenizer, on disk."""
    out = Path(cfg.out)
    _refuse_other_run(out, key)
    with _bar() as progress:
        task = progress.add_task("rendering the Toybox pool", total=None)
        write_pool(
            out,
            plan,
            # Drawing is many small steps: a dozen processes on a CPU outrun a GPU; 0 workers render on the device.
            device="cpu" if cfg.pool.workers else device,
            workers=cfg.pool.workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not (out / "tokenizer" / "tokenizer.json").is_file():
        build_tokenizer(out / "tokenizer", corpus(), context=sizes.context)


def _refuse_other_run(out: Path, key: str) -> None:
    marker = out / "foundation.json"
    if marker.is_file():
        found = read_json(marker)["key"]
        if found != key:
            raise UserError(
                f"expected the settings that {out} was begun with ({found}), got others ({key}); choose another out="
            )
        return
    write_json(marker, {"key": key})


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )


def _train_part(
    name: str, make: Callable[..., Any], part: PartConfig, workshop: Workshop, cfg: FoundationConfig
) -> None:
    folder = workshop.part(name)
    if (folder / "done.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # Fresh weights depend on the seed and the part's name, not on which parts came before.
    pl.seed_everything(fold_in(cfg.seed, "init", name) % 2**32, verbose=False)
    if rank() == 0:
        print(f"training {name}: {part.steps} steps of {part.batch_size} on {workshop.device}", flush=True)
    recipe = first_rank_first(lambda: make(workshop, part))
    with open_tracker(workshop.out, name, cfg.logger, thaw(cfg)) as tracker:
        fit(
            recipe.module,
            recipe.batch_at,
            TrainerOptions(
                steps=part.steps,
                device=workshop.device,
                precision=workshop.precision,
                save_every=cfg.save_every,
                ema_decay=recipe.ema_decay,
                # InfoNCE compares every picture of a batch with every caption.
                whole_batch=name == "clip",
                progress=rank() == 0,
                title=f"training {name}",
            ),
            folder,
            key=name,
            log=tracker.log,
        )

    def publish() -> None:
        recipe.publish(folder)
        minutes = (time.monotonic() - began) / 60.0
        write_json(
            folder / "done.json",
            {"part": name, **asdict(part), "device": workshop.device, "minutes": minutes},
        )
        clear_checkpoints(folder)
        print(f"{name} done in {minutes:.1f} min", flush=True)

    first_rank_only(publish)


def _train_metric_encoder(
    name: str, kind: Kind, part: PartConfig, workshop: Workshop, cfg: FoundationConfig
) -> None:
    folder = workshop.part(name)
    if (folder / "done.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"training {name}: {part.steps} steps of {part.batch_size} on {workshop.device}", flush=True)
    with _bar() as progress:
        task = progress.add_task(name, total=part.steps)
        train_encoder(
            kind,
            workshop.pool,
            folder / "encoder",
            steps=part.steps,
            batch_size=part.batch_size,
            lr=part.lr,
            seed=fold_in(cfg.seed, "init", name) % 2**32,
            device=workshop.device,
            # Half precision pays on a GPU only: on a CPU it slowed the style network fourfold.
            precision="bf16-mixed" if workshop.device == "cuda" else "32-true",
            tokenizer_folder=workshop.out / "tokenizer",
            trained_on=f"Toybox pool {workshop.pool.plan.key}",
            progress=lambda step, loss: progress.update(
                task, completed=step, description=f"{name} loss {loss:.3f}"
            ),
        )
    minutes = (time.monotonic() - began) / 60.0
    write_json(
        folder / "done.json", {"part": name, **asdict(part), "device": workshop.device, "minutes": minutes}
    )
    print(f"{name} done in {minutes:.1f} min", flush=True)
