"""Evaluate: one edit network on held-out scenes, as photographs, in seen and in unseen styles, against the truth.

Kept are sums per picture, so that any set of pictures can be summed up, and resampled, later. An insertion is measured
twice: as the network redrew it, and as the effect layer over the scene that users get. Settings: task, steps,
seed, batch_size. Inputs: heldout, model, network, lpips (optional). Output: `values/ID.json` and `pictures/ID.png`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from magic_insert.bootstrap.files import WITH, WITHOUT, ids_of, read_index, values_file
from magic_insert.bootstrap.harvest import open_model
from magic_insert.bootstrap.measure import rounded
from magic_insert.bootstrap.measurements import changed_region
from magic_insert.bootstrap.payload import chunks, my_share, read_payload, watched
from magic_insert.bootstrap.pictures import load, load_masks, paste, save
from magic_insert.core.effect_layer import transfer_effect
from magic_insert.core.fidelity import effect_of, iou, region_sums
from magic_insert.core.jsonl import write_json
from magic_insert.models.encoders.lpips_distance import load_lpips
from magic_insert.models.inserter import edit, load_edit_unet, noop

PICTURES = "pictures"


def run_evaluate(path: Path) -> None:
    """Stage: redraw every held-out pair and compare it with the truth."""
    payload = read_payload(path)
    settings, heldout = payload.settings, payload.inputs["heldout"]
    groups = my_share(
        chunks(read_index(heldout), settings["batch_size"]),
        lambda group: all(values_file(payload.out, name).is_file() for name in ids_of(group)),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    network = load_edit_unet(payload.inputs["network"], device=pipe.device)
    lpips = load_lpips(payload.inputs["lpips"], device=pipe.device) if "lpips" in payload.inputs else None
    for group in watched(payload, groups, f"measuring {settings['task']} on held-out scenes"):
        ids = ids_of(group)
        full, empty, mask = load(heldout, WITH, ids), load(heldout, WITHOUT, ids), load_masks(heldout, ids)
        insert = settings["task"] == "insert"
        given, target = (paste(full, empty, mask), full) if insert else (full, empty)
        run: dict[str, Any] = {"seed": settings["seed"], "ids": ids, "steps": settings["steps"]}
        on = given.to(pipe.device), mask.to(pipe.device)
        drawn = edit(pipe, network, *on, **run).cpu()
        still = noop(pipe, network, *on, reference="vae", **run).cpu()
        effect = effect_of(full, empty, mask)
        found = torch.stack([changed_region(*one) for one in zip(still, drawn, mask, strict=True)])
        pictures = {"": drawn}
        if insert:
            layers = zip(empty, given, mask, drawn, still, strict=True)
            pictures["layered_"] = torch.stack([transfer_effect(*one)[0] for one in layers])
        looks = (
            {} if lpips is None else {kind: lpips(made, target).tolist() for kind, made in pictures.items()}
        )
        for i, name in enumerate(ids):
            save(payload.out, PICTURES, name, drawn[i])
            row = sums_of(given[i], drawn[i], target[i], mask[i], effect[i], found[i])
            row |= {f"{kind}lpips": rounded(values[i]) for kind, values in looks.items()}
            if insert:
                row["layered_error"] = error_in(pictures["layered_"][i], target[i], effect[i])
            write_json(values_file(payload.out, name), row)


def error_in(image: Tensor, target: Tensor, region: Tensor) -> float:
    """Squared error, mean over channels, summed over `region` 1 H W; pictures 3 H W."""
    [(error, _)] = region_sums(image[None], target[None], region[None])
    return rounded(error)


def sums_of(
    given: Tensor, drawn: Tensor, target: Tensor, mask: Tensor, effect: Tensor, found: Tensor
) -> dict[str, float]:
    """Squared errors and their weights (pixels) by region, and the overlap of the effect's masks; pictures 3 H W."""
    hole = torch.maximum(effect, (mask > 0).to(mask.dtype))
    return {
        "effect_error": error_in(drawn, target, effect),
        "nothing_error": error_in(given, target, effect),
        "effect_pixels": float(effect.sum()),
        "hole_error": error_in(drawn, target, hole),
        "hole_pixels": float(hole.sum()),
        "outside_error": error_in(drawn, target, 1 - hole),
        "outside_pixels": float((1 - hole).sum()),
        "shadow_iou": rounded(iou(effect > 0, found > 0)),
    }
