"""The main job: a subject's picture and a background's picture in, one composite and its sidecar out.

Inputs are judged before anything heavy is imported; the two results appear at the end, whole, or not at all.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from magic_insert import __version__
from magic_insert.config.schema import InsertConfig, InserterConfig
from magic_insert.core.compositing import default_box
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.methods import checks
from magic_insert.methods.insertion import Inserted, Stages, insert_subject

PERSONALIZED_FILES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


def effect_config(cfg: InserterConfig) -> EffectConfig:
    """What the user calls an effect, as compositing calls it."""
    return EffectConfig(threshold=cfg.threshold, reach=cfg.reach)


def inserter_steps(cfg: InserterConfig) -> int:
    """How often an inserter reports: its own steps, and those of a sampled reference."""
    return {"copy_paste": 0}.get(cfg.name, cfg.steps * (2 if cfg.reference == "unmasked" else 1))


@contextmanager
def step_bar(console: Console, name: str, total: int) -> Iterator[Any]:
    """A progress bar that appears with the first step; yields the function that advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(name, total=total)

    def on_step(step: int) -> None:
        # Other stages draw bars of their own, and a terminal has room for one at a time.
        if not progress.live.is_started:
            progress.start()
        progress.advance(task)

    try:
        yield on_step
    finally:
        progress.stop()


def run_insert(cfg: InsertConfig) -> Path:
    """Personalise, stylise, segment, paste, insert and composite; writes `cfg.out` (PNG) and a JSON beside it.

    Returns the PNG's path. With `keep_intermediate`, a folder `<out>_parts` shows every step between.

    Raises:
        UserError: see `methods.checks`; raised before a model is imported and with nothing written.
    """
    out = checks.check_place(cfg.out, suffix=".png")
    picture, scene = checks.check_subject(cfg.subject), checks.check_scene(cfg.background)
    if out.resolve() in (Path(cfg.subject).resolve(), Path(cfg.background).resolve()):
        raise UserError(f"expected an output that is not one of the inputs, got {out}; set out=PATH")
    box = checks.check_box(cfg.box, scene) or default_box(scene.rgb)
    segmenter_folder = checks.check_segmenter(cfg.segmenter)
    inserter_folder = checks.check_inserter(cfg.inserter, checks.check_model(cfg.model))

    console = Console(stderr=True)
    stages = Stages(lambda name: console.print(f"[dim]{name}[/dim]"))
    from magic_insert.methods.inserters import build_inserter
    from magic_insert.methods.personalized import PersonalizedStylizer
    from magic_insert.models.segment import cut_subject
    from magic_insert.models.zoo import fingerprint, load_pipeline
    from magic_insert.training.personalize import personalize

    with stages.stage("cut"):
        subject = cut_subject(
            picture.rgb,
            picture.alpha,
            picture.id,
            segmenter=cfg.segmenter.name,
            model_folder=segmenter_folder,
        )
    with stages.stage("load"):
        pipe = load_pipeline(cfg.model)
        inserter = build_inserter(
            cfg.inserter.name,
            pipe,
            inserter_folder,
            steps=cfg.inserter.steps,
            reference=cfg.inserter.reference,
        )
    pair_id = f"{picture.id}__{scene.id}"
    with tempfile.TemporaryDirectory(prefix="magic-insert-") as scratch:
        with stages.stage("personalise"):
            run = personalize(
                pipe, subject, cfg.personalization, seed=cfg.seed, out=Path(scratch) / "run", progress=True
            )
        weights = {name: sha256_file(run / name) for name in PERSONALIZED_FILES}
        stylizer = PersonalizedStylizer(pipe, run, cfg.style, cfg.sampling, progress=True)
        with step_bar(console, "insert", inserter_steps(cfg.inserter)) as on_step:
            made = insert_subject(
                scene,
                box,
                stylizer=stylizer,
                cut=lambda drawn: cut_subject(
                    drawn,
                    None,
                    picture.id,
                    segmenter=redraw_segmenter(cfg.segmenter.name),
                    model_folder=segmenter_folder,
                ),
                inserter=inserter,
                effect=effect_config(cfg.inserter),
                seed=cfg.seed,
                pair_id=pair_id,
                stages=stages,
                on_step=on_step,
            )
    inputs = {"subject": cfg.subject, "background": cfg.background}
    sidecar = {
        "magic_insert": __version__,
        "pair_id": pair_id,
        "seeds": {"seed": cfg.seed, "sampling": cfg.sampling.seed, "draws": "fold_in(seed, stage, pair_id)"},
        "inputs": {name: {"path": path, "sha256": sha256_file(path)} for name, path in inputs.items()},
        "weights": {"model": fingerprint(pipe), **weights},
        "result": {
            **made.final.provenance,
            "changed_share": float(torch.maximum(made.effect, (made.final.mask > 0).float()).mean()),
        },
        "seconds": stages.seconds,
        "config": asdict(cfg),
    }
    _publish(out, made, sidecar, keep=cfg.keep_intermediate)
    console.print(f"wrote {out} and {out.with_suffix('.json').name}")
    return out


def redraw_segmenter(name: str) -> str:
    """How a model's own picture is cut: it is opaque, so where the file's alpha was wanted, GrabCut decides."""
    return "auto" if name == "alpha" else name


def _publish(out: Path, made: Inserted, sidecar: dict[str, Any], *, keep: bool) -> None:
    """Both files or neither; the parts, when asked for, come first because they are the lesser product."""
    if keep:
        parts = out.with_name(f"{out.stem}_parts")
        save_png(parts / "stylised.png", made.stylised)
        save_png(parts / "cut.png", torch.cat([made.cut.rgb, made.cut.alpha]))
        save_png(parts / "pasted.png", made.pasted.rgb)
        save_png(parts / "inserter_output.png", made.drawn.output)
        save_png(parts / "inserter_reference.png", made.drawn.reference)
        save_png(parts / "effect_region.png", made.effect)
    beside = out.with_suffix(".json")
    write_json(beside, sidecar)
    try:
        save_png(out, made.final.rgb)
    except UserError:
        beside.unlink(missing_ok=True)
        raise
