"""The remove job: a picture and a mask in, the picture without what was masked and without its shadow out.

ObjectDrop's remover draws a window around the mask at its own size; only the hole and the light around it come home to
the picture (`core.fill`), so every other pixel keeps its value.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert import __version__
from magic_insert.config.schema import RemoveConfig
from magic_insert.core.compositing import area_resize, region_around
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import EffectConfig
from magic_insert.core.errors import UserError
from magic_insert.core.fill import fill_hole
from magic_insert.core.images import load_mask, load_rgba, save_png
from magic_insert.core.jsonl import write_json
from magic_insert.core.masks import bounding_box
from magic_insert.methods import input_checks as checks
from magic_insert.methods.stages import Stages, step_bar

DRAW = "remove"  # names the noise: one picture, one draw


def remove(
    pipe: Any,
    unet: Any,
    image: Float[Tensor, "3 H W"],
    mask: Float[Tensor, "1 H W"],
    *,
    seed: int,
    steps: int,
    grow: float,
    effect: EffectConfig,
    on_step: Any,
) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"], list[int]]:
    """The picture without what `mask` marks; where it was changed, 0 or 1; the window that was shown, [x, y, side].

    Raises:
        UserError: the mask is empty.
    """
    from magic_insert.models.inserter import edit, noop

    height, width = image.shape[-2:]
    region = region_around(bounding_box(mask), height, width)
    window, hole = region.crop(image), region.crop(mask)
    side = unet.config["sample_size"] * pipe.vae_scale_factor
    small, covered = (area_resize(x, side, side)[None].to(unet.device) for x in (window, hole))
    output = edit(pipe, unet, small, covered, seed=seed, ids=[DRAW], steps=steps, on_step=on_step)
    still = noop(pipe, unet, small, covered, reference="vae", seed=seed, ids=[DRAW], steps=steps)
    filled, changed = fill_hole(
        window, hole, output[0].to(image.device), still[0].to(image.device), grow=grow, config=effect
    )
    result = region.put_back(image, filled)
    return result, region.put_back(torch.zeros_like(mask), changed), [region.x, region.y, region.side]


def run_remove(cfg: RemoveConfig) -> Path:
    """Writes the picture without the object to `cfg.out` (PNG) and a JSON beside it; returns the PNG's path.

    Transparency of the picture is kept.

    Raises:
        UserError: pictures that do not fit, or no remover; raised before a model is imported and with nothing written.
    """
    out = checks.check_place(cfg.out, suffix=".png")
    checks.check_apart(out, cfg.image, cfg.mask)
    checks.check_mask(cfg.mask, checks.check_picture(cfg.image))
    folder = checks.check_remover(cfg.run, checks.check_model(cfg.model))
    rgb, alpha = load_rgba(cfg.image)
    mask = load_mask(cfg.mask)

    console = Console(stderr=True)
    stages = Stages(lambda name: console.print(f"[dim]{name}[/dim]"))
    from magic_insert.models.inserter import load_edit_unet
    from magic_insert.models.zoo import fingerprint, load_pipeline

    with stages.stage("load"):
        pipe = load_pipeline(cfg.model)
        unet = load_edit_unet(folder, device=pipe.device, base=pipe.unet)
    with stages.stage("remove"), step_bar(console, "remove", cfg.steps) as on_step:
        result, changed, window = remove(
            pipe,
            unet,
            rgb,
            mask,
            seed=cfg.seed,
            steps=cfg.steps,
            grow=cfg.grow,
            effect=EffectConfig(threshold=cfg.threshold, reach=cfg.reach),
            on_step=on_step,
        )
    sidecar = {
        "magic_insert": __version__,
        "seed": cfg.seed,
        "inputs": {
            name: {"path": path, "sha256": sha256_file(path)}
            for name, path in (("image", cfg.image), ("mask", cfg.mask))
        },
        "weights": {
            "model": fingerprint(pipe),
            "remover_sha256": sha256_file(checks.weights_in(folder)),
        },
        "result": {
            "window": window,
            "masked_share": float((mask > 0).float().mean()),
            "changed_share": float(changed.mean()),
        },
        "seconds": stages.seconds,
        "config": asdict(cfg),
    }
    beside = out.with_suffix(".json")
    write_json(beside, sidecar)
    try:
        save_png(out, result if alpha is None else torch.cat([result, alpha]))
    except UserError:
        beside.unlink(missing_ok=True)
        raise
    console.print(f"wrote {out} and {beside.name}")
    return out
