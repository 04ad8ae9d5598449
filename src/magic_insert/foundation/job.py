"""The foundation job: render the pool, train every part in order, assemble one SDXL folder in half precision.

A part is finished when its `done.json` stands, and trains on from its last checkpoint when it does not, so the same
command finishes a job that was killed anywhere. A part of 0 steps is taken over from the model folder `start`.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from magic_insert.config.freeze import thaw
from magic_insert.config.schema.jobs import FoundationConfig
from magic_insert.config.schema.training import PartConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.ranks import rank
from magic_insert.data.toybox_pool import PoolPlan, ToyboxPool, write_pool
from magic_insert.foundation.autoencoder import PatchCode, VaeModule, vae_batches
from magic_insert.foundation.clip import PipelineClipModule, clip_batches
from magic_insert.foundation.context import Context, Recipe, vae_encoder
from magic_insert.foundation.edits import edit_part
from magic_insert.foundation.generator import controlnet_part, generator_part
from magic_insert.foundation.metric_encoders import Kind, train_encoder
from magic_insert.models.micro import (
    MICRO,
    TINY,
    MicroSizes,
    assemble_micro,
    build_image_encoder,
    build_text_encoder,
    build_tokenizer,
    build_vae,
    load_tokenizers,
)
from magic_insert.models.pipeline import resolve_device
from magic_insert.toybox.captions import corpus
from magic_insert.tracking import open_tracker
from magic_insert.training.checkpoint import clear_checkpoints
from magic_insert.training.ranks import first_rank_first, first_rank_only
from magic_insert.training.trainer import TrainerOptions, fit

# What a part writes into its folder, and where a finished model has it.
NETWORKS: dict[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "clip": ("text_encoder", "text_encoder_2", "image_encoder"),
    "generator": ("unet", "ip_adapter"),
    "controlnet": ("controlnet",),
    "remover": ("remover",),
    "inserter": ("inserter",),
}
METRIC_PARTS: dict[str, Kind] = {
    "metric_clip": "clip",
    "metric_identity": "identity",
    "metric_style": "style",
}


def _vae(context: Context, part: PartConfig) -> Recipe:
    pool, channels = context.pool, context.sizes.latent_channels
    crop = min(64, context.sizes.image_size)
    batches = vae_batches(pool, seed=context.seed, batch_size=part.batch_size, crop=crop, channels=channels)
    # Patches for the linear code come from batches that training never reaches.
    seen = torch.cat([batches(part.steps + number)["image"] for number in range(32)])
    module = VaeModule(build_vae(context.sizes), PatchCode(seen, channels), lr=part.lr, steps=part.steps)

    def publish(folder: Path) -> None:
        vae = module.vae.to(context.device).eval()
        vae.register_to_config(scaling_factor=1.0)
        encode = vae_encoder(vae, context.device, autocast=False)
        sample = [encode(torch.from_numpy(pictures.copy())) for pictures in pool.subjects[:64]]
        # Unit variance is what the noise schedule expects of clean latents (Rombach et al. 2022, section D.1).
        vae.register_to_config(scaling_factor=1.0 / float(torch.cat(sample).std()))
        vae.save_pretrained(folder / "vae")

    return Recipe(module, batches, publish, 0.995)


def _clip(context: Context, part: PartConfig) -> Recipe:
    sizes, tokenizers = context.sizes, (context.tokenizer, context.tokenizer_2)
    towers = {
        "text_encoder": build_text_encoder(sizes, context.tokenizer, second=False),
        "text_encoder_2": build_text_encoder(sizes, context.tokenizer, second=True),
        "image_encoder": build_image_encoder(sizes),
    }
    module = PipelineClipModule(
        **towers,
        embed_dim=sizes.embed_dim,
        num_styles=len(context.pool.style_names),
        lr=part.lr,
        steps=part.steps,
    )

    def publish(folder: Path) -> None:
        for name, tower in towers.items():
            tower.save_pretrained(folder / name)

    batches = clip_batches(context.pool, tokenizers, seed=context.seed, batch_size=part.batch_size)
    return Recipe(module, batches, publish)


PARTS_IN_ORDER: dict[str, Callable[[Context, PartConfig], Recipe]] = {
    "vae": _vae,
    "clip": _clip,
    "generator": generator_part,
    "controlnet": controlnet_part,
    "remover": edit_part("remove", "remover"),
    "inserter": edit_part("insert", "inserter"),
}


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

    Raises:
        UserError: `out` holds another run, or a part of 0 steps is not in `start`.
    """
    out, device = Path(cfg.out), str(resolve_device(cfg.trainer.device))
    sizes = TINY if cfg.size == "tiny" else MICRO
    plan, key = pool_plan(cfg, sizes), settings_key(cfg)
    first_rank_only(lambda: _prepare(cfg, sizes, plan, key, device))
    context = _open_context(cfg, ToyboxPool(write_pool(out, plan)))  # rendered by now
    for name, make in PARTS_IN_ORDER.items():
        if not (context.part(name) / "done.json").is_file():
            _train_part(name, make, getattr(cfg, name), context, cfg)
    for name, kind in METRIC_PARTS.items():
        if not (context.part(name) / "done.json").is_file():
            part = getattr(cfg, name)
            first_rank_only(partial(_train_metric_encoder, name, kind, part, context, cfg))
    first_rank_only(lambda: assemble(context, {"config_digest": key, "device": device}))
    return out / "micro"


def _open_context(cfg: FoundationConfig, pool: ToyboxPool) -> Context:
    tokenizer, tokenizer_2 = load_tokenizers(Path(cfg.out) / "tokenizer")
    return Context(
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
    """The pool of renders, the tokenizer and what is taken over from `start`, on disk."""
    out = Path(cfg.out)
    _refuse_other_run(out, key)
    for name in (*PARTS_IN_ORDER, *METRIC_PARTS):
        if getattr(cfg, name).steps == 0:
            _take_over(cfg, name)
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
    if (out / "tokenizer" / "tokenizer.json").is_file():
        return
    if cfg.start is not None and cfg.clip.steps == 0:  # text encoders know the words of their own tokenizer
        shutil.copytree(Path(cfg.start) / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    else:
        build_tokenizer(out / "tokenizer", corpus(), context=sizes.context)


def _take_over(cfg: FoundationConfig, name: str) -> None:
    """The networks of a part of 0 steps, copied from the model folder `start`."""
    folder = Path(cfg.out) / "parts" / name
    if (folder / "done.json").is_file():
        return
    pairs = (
        [(f"encoders/{METRIC_PARTS[name]}", "encoder")]
        if name in METRIC_PARTS
        else [(network, network) for network in NETWORKS[name]]
    )
    for source, target in pairs:
        found = Path(cfg.start or ".") / source
        if cfg.start is None or not found.is_dir():
            raise UserError(
                f"expected {source} in start={cfg.start or 'null'} for a part of 0 steps, got none; "
                f"set start=MODEL or {name}.steps"
            )
        shutil.copytree(found, folder / target, dirs_exist_ok=True)
    before = Path(str(cfg.start)) / "training.json"
    told = read_json(before)["parts"] if before.is_file() else []
    facts = next((part for part in told if part["part"] == name), {"part": name})
    write_json(folder / "done.json", {**facts, "taken_over": True})


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
    with open_tracker(context.out, name, cfg.logger, thaw(cfg)) as tracker:
        fit(
            recipe.module,
            recipe.batch_at,
            TrainerOptions(
                steps=part.steps,
                device=context.device,
                precision=context.precision,
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
            {"part": name, **asdict(part), "device": context.device, "minutes": minutes},
        )
        clear_checkpoints(folder)
        print(f"{name} done in {minutes:.1f} min", flush=True)

    first_rank_only(publish)


def _train_metric_encoder(
    name: str, kind: Kind, part: PartConfig, context: Context, cfg: FoundationConfig
) -> None:
    folder = context.part(name)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"training {name}: {part.steps} steps of {part.batch_size} on {context.device}", flush=True)
    with _bar() as progress:
        task = progress.add_task(name, total=part.steps)
        train_encoder(
            kind,
            context.pool,
            folder / "encoder",
            steps=part.steps,
            batch_size=part.batch_size,
            lr=part.lr,
            seed=fold_in(cfg.seed, "init", name) % 2**32,
            device=context.device,
            # Half precision pays on a GPU only: on a CPU it slowed the style network fourfold.
            precision="bf16-mixed" if context.device == "cuda" else "32-true",
            tokenizer_folder=context.out / "tokenizer",
            trained_on=f"Toybox pool {context.pool.plan.key}",
            progress=lambda step, loss: progress.update(
                task, completed=step, description=f"{name} loss {loss:.3f}"
            ),
        )
    minutes = (time.monotonic() - began) / 60.0
    write_json(
        folder / "done.json", {"part": name, **asdict(part), "device": context.device, "minutes": minutes}
    )
    print(f"{name} done in {minutes:.1f} min", flush=True)


def assemble(context: Context, facts: dict[str, Any]) -> Path:
    """One folder in half precision with every part and `training.json`, what trained it."""
    target, staged = context.out / "micro", context.out / "micro.new"
    shutil.rmtree(staged, ignore_errors=True)
    assemble_micro(staged, context.out / "parts", context.tokenizer, context.tokenizer_2, context.sizes)
    for name, kind in METRIC_PARTS.items():
        shutil.copytree(context.part(name) / "encoder", staged / "encoders" / kind)
    done = [read_json(context.part(name) / "done.json") for name in (*PARTS_IN_ORDER, *METRIC_PARTS)]
    write_json(staged / "training.json", {**facts, "pool": context.pool.plan.key, "parts": done})
    shutil.rmtree(target, ignore_errors=True)
    staged.rename(target)
    return target
