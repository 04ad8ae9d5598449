"""The main job: a subject's picture and a background's picture in, one composite and its sidecar out.

Inputs are judged before anything heavy is imported; the two results appear at the end, whole, or not at all.
"""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from magic_insert import __version__
from magic_insert.config.schema import InsertConfig
from magic_insert.core.compositing import default_box
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.methods import checks
from magic_insert.methods.inserter_settings import effect_config, redraw_segmenter
from magic_insert.methods.insertion import Inserted, Stages
from magic_insert.methods.pose import build_pose, suggest
from magic_insert.methods.stylizer_checks import check_stylizer, needs_personalization

__all__ = ["effect_config", "redraw_segmenter", "run_insert"]

PERSONALIZED_FILES = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")


def run_insert(cfg: InsertConfig) -> Path:
    """Personalise, stylise, segment, paste, insert and composite; writes `cfg.out` (PNG) and a JSON beside it.

    Returns the PNG's path. With `keep_intermediate`, a folder `<out>_parts` shows every step between.

    Raises:
        UserError: see `methods.checks`; raised before a model is imported and with nothing written.
    """
    out = checks.check_place(cfg.out, suffix=".png")
    picture, scene = checks.check_subject(cfg.subject), checks.check_scene(cfg.background)
    checks.check_apart(out, cfg.subject, cfg.background)
    box = checks.check_box(cfg.box, scene) or default_box(scene.rgb)
    segmenter_folder = checks.check_segmenter(cfg.segmenter)
    model_folder = checks.check_model(cfg.model)
    inserter_folder = checks.check_inserter(cfg.inserter, model_folder)
    check_stylizer(cfg.stylizer, cfg.model, model_folder, subject_text=cfg.subject_text)
    suggester = build_pose(cfg.pose)

    console = Console(stderr=True)
    stages = Stages(lambda name: console.print(f"[dim]{name}[/dim]"))
    from magic_insert.methods.inserters import build_inserter
    from magic_insert.methods.stylizers import build_stylizer
    from magic_insert.methods.workbench import Workbench
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
        run = None
        if needs_personalization(cfg.stylizer):
            with stages.stage("personalise"):
                run = personalize(
                    pipe,
                    subject,
                    cfg.personalization,
                    seed=cfg.seed,
                    out=Path(scratch) / "run",
                    progress=True,
                )
        weights = {} if run is None else {name: sha256_file(run / name) for name in PERSONALIZED_FILES}
        pose = ""
        if cfg.pose.name != "none":
            with stages.stage("suggest a pose"):
                pose = suggest(suggester, scene, box, words=cfg.style.prompt)
        extra = ", ".join(words for words in (cfg.sampling.prompt_suffix, pose) if words)
        stylizer = build_stylizer(
            cfg.stylizer,
            pipe=pipe,
            subject=subject,
            subject_text=cfg.subject_text,
            run_dir=run,
            style=cfg.style,
            sampling=replace(cfg.sampling, prompt_suffix=extra),
            progress=True,
        )
        bench = Workbench(
            subject_id=picture.id,
            stylizer=stylizer,
            inserter=inserter,
            inserter_config=cfg.inserter,
            segmenter=cfg.segmenter,
            segmenter_folder=segmenter_folder,
            composite=cfg.composite,
            seed=cfg.seed,
            stages=stages,
            console=console,
        )
        made = bench.insert(scene, box, pair_id=pair_id)
    inputs = {"subject": cfg.subject, "background": cfg.background}
    sidecar = {
        "magic_insert": __version__,
        "pair_id": pair_id,
        "pose": pose,
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
