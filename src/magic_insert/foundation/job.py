"""The foundation job: render the pool, train every part in order, assemble one SDXL folder in half precision.

A part is finished when its folder's manifest says so, and trains on from its last checkpoint when not, so the same
command finishes a job that was killed anywhere. A part of 0 steps is taken over from the model folder `start`.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import FoundationConfig
from magic_insert.config.schema.training import PartConfig
from magic_insert.core.errors import UserError
from magic_insert.core.events import stage, terminal_bars
from magic_insert.core.jsonl import read_json, whole_folder, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.core.store import MANIFEST, Request, Store, claim, files_of, finish, flaw_of
from magic_insert.data.renders import PoolPlan, ToyboxPool, render
from magic_insert.foundation.generator import controlnet_part, generator_part
from magic_insert.foundation.metric_encoders import metric_part
from magic_insert.foundation.parts import Context, Recipe, clip_part, edit_part, vae_part
from magic_insert.models import micro
from magic_insert.models.pipeline import resolve_device
from magic_insert.models.tensor_file import verify_folder
from magic_insert.toybox.captions import corpus
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints
from magic_insert.training.trainer import (
    TrainerOptions,
    first_rank_first,
    first_rank_only,
    fit,
)

PARTS: dict[str, Callable[[Context, PartConfig], Recipe]] = {
    "vae": vae_part,
    "clip": clip_part,
    "generator": generator_part,
    "controlnet": controlnet_part,
    "remover": edit_part("remove", "remover"),
    "inserter": edit_part("insert", "inserter"),
    "metric_clip": metric_part("clip"),
    "metric_identity": metric_part("identity"),
    "metric_style": metric_part("style"),
}
# Folder in a finished model -> folder that the part writes.
NETWORKS: dict[str, dict[str, str]] = {
    **{name: {name: name} for name in ("vae", "controlnet", "remover", "inserter")},
    "clip": {name: name for name in ("text_encoder", "text_encoder_2", "image_encoder")},
    "generator": {name: name for name in ("unet", "ip_adapter")},
    **{f"metric_{kind}": {f"encoders/{kind}": "encoder"} for kind in ("clip", "identity", "style")},
}
FACTS = "part.json"  # how a part came to be


def request_of(cfg: FoundationConfig) -> Request:
    """All that decides the weights; where and how the work is done is left out."""
    settings = {k: v for k, v in asdict(cfg).items() if k not in ("out", "save_every", "logger", "exec")}
    settings["pool"].pop("workers")
    settings["trainer"].pop("device")
    return Request("foundation", 1, settings)


def run_foundation(cfg: FoundationConfig) -> Path:
    """Train everything `cfg` asks for; returns the folder of the finished model (`out/micro`).

    With several ranks the fits share each batch; what is rendered, published and written is rank 0's.

    Raises:
        UserError: `out` holds another run, or a part of 0 steps is not in `start`, or damaged there.
    """
    sizes = micro.TINY if cfg.size == "tiny" else micro.MICRO
    first_rank_only(lambda: _prepare(cfg, sizes))
    context = first_rank_first(lambda: _open_context(cfg, sizes))
    for name, make in PARTS.items():
        if not _is_finished(context.part(name)):
            _train_part(name, make, getattr(cfg, name), context, cfg)
    first_rank_only(
        lambda: assemble(context, {"config_digest": request_of(cfg).key, "device": context.device})
    )
    return context.out / "micro"


def _is_finished(part: Path) -> bool:
    if not (part / MANIFEST).is_file():
        return False
    if (flaw := flaw_of(part, whole=False)) is not None:
        print(f"{part.name}: {flaw}; it is made again", flush=True)
    return flaw is None


def _prepare(cfg: FoundationConfig, sizes: micro.MicroSizes) -> None:
    """The tokenizer and what is taken over from `start`, on disk."""
    out = Path(cfg.out)
    for name in PARTS:
        if getattr(cfg, name).steps == 0:
            _require_networks(cfg, name)
    claim(out, request_of(cfg))
    for name in PARTS:
        if getattr(cfg, name).steps == 0 and not _is_finished(out / "parts" / name):
            _take_over(cfg, name)
    if (out / "tokenizer").is_dir():
        return
    with whole_folder(out / "tokenizer") as folder:
        if cfg.start is not None and cfg.clip.steps == 0:  # encoders know the words of their own tokenizer
            shutil.copytree(Path(cfg.start) / "tokenizer", folder, dirs_exist_ok=True)
        else:
            micro.build_tokenizer(folder, corpus(), context=sizes.context)


def _open_context(cfg: FoundationConfig, sizes: micro.MicroSizes) -> Context:
    """What the parts share; the pool is rendered as far as it is not there."""
    out, device = Path(cfg.out), str(resolve_device(cfg.trainer.device))
    amounts = {k: v for k, v in asdict(cfg.pool).items() if k != "workers"}
    plan = PoolPlan(seed=cfg.seed, size=sizes.image_size, **amounts)
    # Drawing is many small steps: a dozen processes on a CPU outrun a GPU; 0 workers render on the device.
    draws = "cpu" if cfg.pool.workers else device
    store = Store(out / "store", key="out")
    with terminal_bars() as on_event, stage(on_event, "rendering the Toybox pool") as on_step:
        pool = ToyboxPool(render(store, plan, device=draws, workers=cfg.pool.workers, on_step=on_step), plan)
    tokenizer, tokenizer_2 = micro.load_tokenizers(out / "tokenizer")
    return Context(
        out, store, pool, sizes, cfg.seed, device, cfg.trainer.precision, tokenizer, tokenizer_2
    )  # fmt: skip


def _require_networks(cfg: FoundationConfig, name: str) -> None:
    for source in NETWORKS[name]:
        if cfg.start is None or not (Path(cfg.start) / source).is_dir():
            raise UserError(
                f"expected {source} in start={cfg.start or 'null'} for a part of 0 steps, got none; "
                f"set start=MODEL or {name}.steps"
            )
        verify_folder(Path(cfg.start) / source)


def _take_over(cfg: FoundationConfig, name: str) -> None:
    """The networks of a part of 0 steps, copied from the model folder `start`."""
    start, folder = Path(str(cfg.start)), Path(cfg.out) / "parts" / name
    for source, target in NETWORKS[name].items():
        with whole_folder(folder / target) as copy:
            shutil.copytree(start / source, copy, dirs_exist_ok=True)
    before = start / "training.json"
    known = read_json(before)["parts"] if before.is_file() else []
    facts = next((part for part in known if part["part"] == name), {"part": name})
    _finish(folder, name, {**facts, "taken_over": True})


def _train_part(
    name: str,
    make: Callable[[Context, PartConfig], Recipe],
    part: PartConfig,
    context: Context,
    cfg: FoundationConfig,
) -> None:
    folder = context.part(name)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    # Fresh weights depend on the seed and the part's name, not on which parts came before.
    pl.seed_everything(fold_in(cfg.seed, "init", name) % 2**32, verbose=False)
    if rank() == 0:
        print(f"training {name}: {part.steps} steps of {part.batch_size} on {context.device}", flush=True)
    recipe = first_rank_first(lambda: make(context, part))
    options = TrainerOptions(
        steps=part.steps,
        device=context.device,
        precision=recipe.precision or context.precision,
        save_every=cfg.save_every,
        ema_decay=recipe.ema_decay,
        whole_batch=recipe.whole_batch,
        key=name,
    )
    with (
        open_tracker(context.out, name, cfg.logger, thaw(cfg)) as tracker,
        terminal_bars() as on_event,
        stage(on_event, f"train {name}") as running,
    ):
        fit(recipe.module, recipe.batch_at, options, folder, log=tracker.log, on_step=running)

    def publish() -> None:
        recipe.publish(folder)
        minutes = (time.monotonic() - began) / 60.0
        _finish(folder, name, {"part": name, **asdict(part), "device": context.device, "minutes": minutes})
        print(f"{name} done in {minutes:.1f} min", flush=True)

    first_rank_only(publish)


def _finish(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Marks a published part as finished; its checkpoints are of no use any more."""
    write_json(folder / FACTS, facts)
    networks = [
        f"{network}/{file}" for network in NETWORKS[name].values() for file in files_of(folder / network)
    ]
    finish(folder, Request("part", 1, facts), [FACTS, *networks])
    clear_checkpoints(folder)


def assemble(context: Context, facts: dict[str, Any]) -> None:
    """One folder in half precision with every part and `training.json`, what trained it."""
    with whole_folder(context.out / "micro") as folder:
        micro.assemble_micro(
            folder, context.out / "parts", context.tokenizer, context.tokenizer_2, context.sizes
        )
        for name, networks in NETWORKS.items():
            for target, source in networks.items():
                if target.startswith("encoders/"):
                    shutil.copytree(context.part(name) / source, folder / target)
        parts = [read_json(context.part(name) / FACTS) for name in PARTS]
        write_json(folder / "training.json", {**facts, "pool": context.pool.plan.key, "parts": parts})
