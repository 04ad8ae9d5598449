"""The main job: a subject's picture and a background's picture in, one composite and its sidecar out.

Many backgrounds are redrawn for by one personalised model, in batches; each then goes the way of a single one. Inputs
are judged before anything heavy is imported; the two results of a picture appear at its end, whole, or not at all.
"""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert import __version__
from magic_insert.config.schema import InsertConfig
from magic_insert.core.compositing import default_box
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.records import Scene
from magic_insert.methods import checks
from magic_insert.methods.insert_checks import (
    PERSONALIZED_FILES,
    check_run,
    check_run_model,
    is_many,
    learned_settings,
    places_of,
)
from magic_insert.methods.inserter_settings import effect_config, redraw_segmenter
from magic_insert.methods.insertion import Inserted, Stages
from magic_insert.methods.pose import build_pose, suggest
from magic_insert.methods.stylizer_checks import check_stylizer, needs_personalization

__all__ = ["effect_config", "redraw_segmenter", "run_insert"]

BATCH = 8  # backgrounds held in memory at a time; the pictures do not depend on it


@dataclass(frozen=True)
class Redrawn:
    """A stylizer that was asked before, in a batch: it hands out what it drew then."""

    picture: Float[Tensor, "3 h w"]

    def __call__(
        self, scene_rgb: Float[Tensor, "3 H W"], *, seed: int, id: str, style_text: str = ""
    ) -> Float[Tensor, "3 h w"]:
        """The picture."""
        return self.picture


def run_insert(cfg: InsertConfig) -> Path:
    """Personalise (or take `cfg.run`), stylise, segment, paste, insert and composite; writes a PNG and a JSON to it.

    Returns the PNG's path, or the folder of all where there are several backgrounds. With `keep_intermediate`, a
    folder `<out>_parts` shows every step between.

    Raises:
        UserError: see `methods.checks` and `methods.insert_checks`; raised before a model is imported (but for a run
            of another model and blocks that it does not have, before anything is learned) and with nothing written.
    """
    places, given = places_of(cfg), check_run(cfg)
    picture = checks.check_subject(cfg.subject)
    for background, _ in places:
        checks.check_box(cfg.box, checks.check_scene(str(background)))
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
    from magic_insert.models.style import check_blocks, has_adapter
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
    model = fingerprint(pipe)
    if given is not None:
        check_run_model(given, model)
    if cfg.style.mode == "ip_adapter" and cfg.style.scale > 0 and has_adapter(pipe):
        check_blocks(pipe.unet, cfg.style.blocks)
    with ExitStack() as scratch:
        run = given
        if run is None and needs_personalization(cfg.stylizer):
            folder = scratch.enter_context(tempfile.TemporaryDirectory(prefix="magic-insert-"))
            with stages.stage("personalise"):
                run = personalize(
                    pipe,
                    subject,
                    cfg.personalization,
                    seed=cfg.seed,
                    out=Path(folder) / "run",
                    progress=True,
                )
        weights = {} if run is None else {name: sha256_file(run / name) for name in PERSONALIZED_FILES}
        learned = {} if given is None else learned_settings(given)
        pose = ""
        if cfg.pose.name != "none":
            (background, _) = places[0]
            scene = checks.check_scene(str(background))
            box = checks.check_box(cfg.box, scene) or default_box(scene.rgb)
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
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            scenes = [checks.check_scene(str(background)) for background, _ in part]
            pairs = [f"{picture.id}__{scene.id}" for scene in scenes]
            benches: Sequence[Workbench] = [bench]
            if is_many(cfg):
                benches = _redraw(bench, scenes, pairs)
            for (background, out), scene, pair_id, own in zip(part, scenes, pairs, benches, strict=True):
                box = checks.check_box(cfg.box, scene) or default_box(scene.rgb)
                made = own.insert(scene, box, pair_id=pair_id)
                inputs = {"subject": cfg.subject, "background": str(background)}
                sidecar = {
                    "magic_insert": __version__,
                    "pair_id": pair_id,
                    "pose": pose,
                    "seeds": _seeds(cfg),
                    "inputs": {n: {"path": path, "sha256": sha256_file(path)} for n, path in inputs.items()},
                    "weights": {"model": model, **weights},
                    "result": {
                        **made.final.provenance,
                        "changed_share": float(
                            torch.maximum(made.effect, (made.final.mask > 0).float()).mean()
                        ),
                    },
                    "seconds": {**stages.seconds, **own.stages.seconds},
                    "config": {**asdict(cfg), **learned},
                }
                _publish(out, made, sidecar, keep=cfg.keep_intermediate)
                console.print(f"wrote {out} and {out.with_suffix('.json').name}")
    return Path(cfg.out)


def _redraw(bench: Any, scenes: Sequence[Scene], pairs: Sequence[str]) -> list[Any]:
    """A bench for each scene, whose subject was redrawn together with the others'; its clock starts with its share."""
    drawing = Stages(bench.stages.announce)
    with drawing.stage("stylise"):
        drawn = bench.stylizer.batch(
            [scene.rgb for scene in scenes], seeds=[bench.seed] * len(scenes), ids=pairs
        )
    share = {name: round(seconds / len(scenes), 3) for name, seconds in drawing.seconds.items()}
    return [
        replace(bench, stylizer=Redrawn(picture), stages=Stages(bench.stages.announce, dict(share)))
        for picture in drawn
    ]


def _seeds(cfg: InsertConfig) -> Mapping[str, Any]:
    return {"seed": cfg.seed, "sampling": cfg.sampling.seed, "draws": "fold_in(seed, stage, pair_id)"}


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
