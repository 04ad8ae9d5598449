"""Measure: everything a filter may want to know of each removal, kept apart from the decision.

So a sweep over thresholds measures once. Settings: steps, batch_size, seed, cycle (whether the subjects are put back,
the only measurement that draws). Inputs: pool, harvest, model, inserter (for the cycle). Output: `values/ID.json` =
{"measures": {...}, "facts": {...}, "truth": {...} or null}.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from magic_insert.bootstrap import measurements as see
from magic_insert.bootstrap.files import WITH, WITHOUT, has_truth, ids_of, read_index, values_file
from magic_insert.bootstrap.filters import MEASURES
from magic_insert.bootstrap.harvest import open_model
from magic_insert.bootstrap.payload import chunks, my_share, read_payload, watched
from magic_insert.bootstrap.pictures import load, load_masks, paste
from magic_insert.core.fidelity import CAP_DB, effect_of, iou, psnr_pooled, region_sums
from magic_insert.core.jsonl import write_json
from magic_insert.models.inserter import edit, load_edit_unet
from magic_insert.models.latents import decode, encode

DIGITS = 6  # of a stored value: far below anything a filter can tell apart


def run_measure(path: Path) -> None:
    """Stage: measure every removal."""
    payload = read_payload(path)
    settings, pool, harvest = payload.settings, payload.inputs["pool"], payload.inputs["harvest"]
    known = has_truth(pool)
    groups = my_share(
        chunks(read_index(pool), settings["batch_size"]),
        lambda group: all(values_file(payload.out, name).is_file() for name in ids_of(group)),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    inserter = load_edit_unet(payload.inputs["inserter"], device=pipe.device) if settings["cycle"] else None
    for group in watched(payload, groups, "measuring removals"):
        ids = ids_of(group)
        picture, removed, mask = load(pool, WITH, ids), load(harvest, WITHOUT, ids), load_masks(pool, ids)
        run = {"seed": settings["seed"], "ids": ids, "steps": settings["steps"]}
        still = decode(pipe.vae, encode(pipe.vae, picture.to(pipe.device))).cpu()
        inserted: Sequence[Tensor | None] = [None] * len(ids)
        if inserter is not None:
            pasted = paste(picture, removed, mask).to(pipe.device)
            inserted = list(edit(pipe, inserter, pasted, mask.to(pipe.device), **run).cpu())
        truth = load(pool, WITHOUT, ids) if known else None
        for i, name in enumerate(ids):
            row = {
                "measures": measures_of(still[i], removed[i], inserted[i], mask[i]),
                "facts": {
                    "size": rounded(float(mask[i].mean())),
                    "contrast": rounded(see.contrast(picture[i], mask[i])),
                },
                "truth": None
                if truth is None
                else truth_of(picture[i], still[i], removed[i], truth[i], mask[i]),
            }
            write_json(values_file(payload.out, name), row)


def measures_of(still: Tensor, removed: Tensor, inserted: Tensor | None, mask: Tensor) -> dict[str, float]:
    """Every measurement by name; pictures 3 H W, mask 1 H W. The cycle only where the subject was put back."""
    names = MEASURES if inserted is not None else MEASURES[:-1]
    if float(mask.max()) < see.INSIDE:
        # Nothing can be asked about a subject that is nowhere; every filter of size refuses it.
        return dict.fromkeys(names, 1.0) | {"effect_area": 0.0, "mask_area": 0.0, "border": 0.0}
    values = {
        "residue": see.residue(still, removed, mask),
        "drift": see.drift(still, removed, mask),
        "seam": see.seam(removed, mask),
        "hallucination": see.hallucination(removed, mask),
        "effect_area": see.effect_area(still, removed, mask),
        "mask_area": see.area(see.subject_of(mask)),
        "border": see.border(mask),
    }
    if inserted is not None:
        values["cycle"] = see.cycle(still, inserted, removed, mask)
    assert tuple(values) == names
    return {name: rounded(value) for name, value in values.items()}


def truth_of(
    picture: Tensor, still: Tensor, removed: Tensor, truth: Tensor, mask: Tensor
) -> dict[str, float]:
    """What the Toybox knows: `psnr` of the removal inside mask and effect, `shadow_iou` of the effect it took away."""
    effect = effect_of(picture[None], truth[None], mask[None])[0]
    region = torch.maximum(effect, (mask > 0).to(mask.dtype))
    psnr = psnr_pooled(region_sums(removed[None], truth[None], region[None]))
    found = see.changed_region(still, removed, mask)
    return {
        "psnr": rounded(CAP_DB if psnr is None else psnr),
        "shadow_iou": rounded(iou(found > 0, effect > 0)),
    }


def rounded(value: float) -> float:
    """`value` as it is stored."""
    return round(value, DIGITS)
