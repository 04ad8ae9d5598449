"""The stages that draw with the edit networks and measure what came out: harvest, measure, evaluate.

`run_harvest`: the remover takes the subject out of every picture of the pool (paper, section 3).
`run_measure`: everything a filter may want to know of each removal, kept apart from the decision, so that a sweep over
thresholds measures once: `values/ID.json` = {"measures": {...}, "facts": {...}, "truth": {...} or null}.
`run_evaluate`: one network on held-out scenes, as photographs, in seen and in unseen styles, against the truth. Kept
are sums per picture, so that any set of pictures can be summed up, and resampled, later. An insertion is measured
twice: as the network redrew it, and as the effect layer over the scene that users get.

The measurements need no truth: small numbers, each a suspicion. `picture` is what the remover was given, `still` the
autoencoder's round trip of it (the no-op reconstruction: what the machinery makes of a picture it does not change),
`removed` the remover's picture. Shape letters: H, W rows and columns. Pictures and masks are float32 in [0, 1].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.filters import MEASURES
from magic_insert.bootstrap.pictures import load, load_masks, paste, save
from magic_insert.bootstrap.stages import (
    WITH,
    WITHOUT,
    EditSettings,
    EvaluateSettings,
    MeasureSettings,
    chunks,
    has_truth,
    ids_of,
    my_share,
    picture_file,
    read_index,
    read_payload,
    tracked,
    values_file,
)
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.effect_layer import transfer_effect
from magic_insert.core.fidelity import CAP_DB, EFFECT_STEP, effect_of, iou, psnr_pooled, region_sums
from magic_insert.core.jsonl import write_json
from magic_insert.core.masks import INSIDE, area, blur, bounding_box, dilate, erode, touching
from magic_insert.core.ranks import local_rank
from magic_insert.models.edit_unet import edit, load_edit_unet, noop
from magic_insert.models.encoders import load_lpips
from magic_insert.models.pipeline import decode, encode, load_pipeline, resolve_device

PICTURES = "pictures"
DIGITS = 6  # of a stored value: far below anything a filter can tell apart
SMOOTH = 1.0  # pixels at 128 over which a change must hold: the noise of a redrawing does not
LOUDER = 3.0  # times the median change of the picture: what a generative model redraws anyway is no effect
FINE = 3.0  # pixels at 128: what is smoother than this is shading, what is finer is the subject's drawing
GAP = 0.12  # of the subject's longer side: an effect begins no farther from the subject than this
RING = 0.25  # of the longer side: how wide the surroundings are that a filled hole is compared with
LOUDEST = 0.1  # share of the hole whose colours are most unlike anything around it


def open_model(model: ModelConfig) -> Any:
    """The pipeline that lends autoencoder, text encoders and schedule, on this rank's device."""
    device = resolve_device(model.device)
    return load_pipeline(model, f"cuda:{local_rank()}" if device.type == "cuda" else device)


def run_harvest(path: Path) -> None:
    """Stage: remove every subject."""
    payload = read_payload(path, EditSettings)
    settings, pool = payload.settings, payload.inputs["pool"]
    groups = my_share(
        chunks(read_index(pool), settings.batch_size),
        lambda group: all(picture_file(payload.out, WITHOUT, item.id).is_file() for item in group),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    remover = load_edit_unet(payload.inputs["remover"], device=pipe.device)
    for group in tracked(payload, groups, "removing subjects"):
        ids = ids_of(group)
        on = load(pool, WITH, ids).to(pipe.device), load_masks(pool, ids).to(pipe.device)
        removed = edit(pipe, remover, *on, seed=settings.seed, ids=ids, steps=settings.steps)
        for name, picture in zip(ids, removed, strict=True):
            save(payload.out, WITHOUT, name, picture)


def run_measure(path: Path) -> None:
    """Stage: measure every removal."""
    payload = read_payload(path, MeasureSettings)
    how, pool, harvest = payload.settings.edit, payload.inputs["pool"], payload.inputs["harvest"]
    known = has_truth(pool)
    groups = my_share(
        chunks(read_index(pool), how.batch_size),
        lambda group: all(values_file(payload.out, name).is_file() for name in ids_of(group)),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    cycle = payload.settings.cycle
    inserter = load_edit_unet(payload.inputs["inserter"], device=pipe.device) if cycle else None
    for group in tracked(payload, groups, "measuring removals"):
        ids = ids_of(group)
        picture, removed, mask = load(pool, WITH, ids), load(harvest, WITHOUT, ids), load_masks(pool, ids)
        still = decode(pipe.vae, encode(pipe.vae, picture.to(pipe.device))).cpu()
        inserted: Sequence[Tensor | None] = [None] * len(ids)
        if inserter is not None:
            on = paste(picture, removed, mask).to(pipe.device), mask.to(pipe.device)
            inserted = list(edit(pipe, inserter, *on, seed=how.seed, ids=ids, steps=how.steps).cpu())
        truth = load(pool, WITHOUT, ids) if known else None
        for i, name in enumerate(ids):
            row = {
                "measures": measures_of(still[i], removed[i], inserted[i], mask[i]),
                "facts": {
                    "size": rounded(float(mask[i].mean())),
                    "contrast": rounded(contrast(picture[i], mask[i])),
                },
                "truth": None
                if truth is None
                else truth_of(picture[i], still[i], removed[i], truth[i], mask[i]),
            }
            write_json(values_file(payload.out, name), row)


def run_evaluate(path: Path) -> None:
    """Stage: redraw every held-out pair and compare it with the truth; also keeps the pictures."""
    payload = read_payload(path, EvaluateSettings)
    how, heldout = payload.settings.edit, payload.inputs["heldout"]
    groups = my_share(
        chunks(read_index(heldout), how.batch_size),
        lambda group: all(values_file(payload.out, name).is_file() for name in ids_of(group)),
    )
    if not groups:
        return
    pipe = open_model(payload.model)
    network = load_edit_unet(payload.inputs["network"], device=pipe.device)
    lpips = load_lpips(payload.inputs["lpips"], device=pipe.device) if "lpips" in payload.inputs else None
    insert = payload.settings.task == "insert"
    for group in tracked(payload, groups, f"measuring {payload.settings.task} on held-out scenes"):
        ids = ids_of(group)
        full, empty, mask = load(heldout, WITH, ids), load(heldout, WITHOUT, ids), load_masks(heldout, ids)
        given, target = (paste(full, empty, mask), full) if insert else (full, empty)
        run: dict[str, Any] = {"seed": how.seed, "ids": ids, "steps": how.steps}
        on = given.to(pipe.device), mask.to(pipe.device)
        drawn = edit(pipe, network, *on, **run).cpu()
        still = noop(pipe, network, *on, reference="vae", **run).cpu()
        effect = effect_of(full, empty, mask)
        found = torch.stack([changed_region(*one) for one in zip(still, drawn, mask, strict=True)])
        pictures = {"": drawn}
        if insert:
            layers = zip(empty, given, mask, drawn, still, strict=True)
            pictures["layered_"] = torch.stack([transfer_effect(*one)[0] for one in layers])
        distances = (
            {} if lpips is None else {kind: lpips(made, target).tolist() for kind, made in pictures.items()}
        )
        for i, name in enumerate(ids):
            save(payload.out, PICTURES, name, drawn[i])
            row = sums_of(given[i], drawn[i], target[i], mask[i], effect[i], found[i])
            row |= {f"{kind}lpips": rounded(values[i]) for kind, values in distances.items()}
            if insert:
                row["layered_error"] = error_in(pictures["layered_"][i], target[i], effect[i])
            write_json(values_file(payload.out, name), row)


def measures_of(still: Tensor, removed: Tensor, inserted: Tensor | None, mask: Tensor) -> dict[str, float]:
    """Every measurement by name; pictures 3 H W, mask 1 H W. The cycle only where the subject was put back."""
    names = MEASURES if inserted is not None else MEASURES[:-1]
    if float(mask.max()) < INSIDE:
        # Nothing can be asked about a subject that is nowhere; every filter of size refuses it.
        return dict.fromkeys(names, 1.0) | {"effect_area": 0.0, "mask_area": 0.0, "border": 0.0}
    values = {
        "residue": residue(still, removed, mask),
        "drift": drift(still, removed, mask),
        "seam": seam(removed, mask),
        "hallucination": hallucination(removed, mask),
        "effect_area": effect_area(still, removed, mask),
        "mask_area": area(subject_of(mask)),
        "border": border(mask),
    }
    if inserted is not None:
        values["cycle"] = cycle(still, inserted, removed, mask)
    assert tuple(values) == names
    return {name: rounded(value) for name, value in values.items()}


def truth_of(
    picture: Tensor, still: Tensor, removed: Tensor, truth: Tensor, mask: Tensor
) -> dict[str, float]:
    """What the Toybox knows: `psnr` of the removal inside mask and effect, `shadow_iou` of the effect it took away."""
    effect = effect_of(picture[None], truth[None], mask[None])[0]
    region = torch.maximum(effect, (mask > 0).to(mask.dtype))
    psnr = psnr_pooled(region_sums(removed[None], truth[None], region[None]))
    found = changed_region(still, removed, mask)
    return {
        "psnr": rounded(CAP_DB if psnr is None else psnr),
        "shadow_iou": rounded(iou(found > 0, effect > 0)),
    }


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


def rounded(value: float) -> float:
    """`value` as it is stored."""
    return round(value, DIGITS)


def subject_of(mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "1 H W"]:
    """The mask as 0 or 1."""
    return (mask >= INSIDE).to(mask.dtype)


def longer_side(mask: Float[Tensor, "1 H W"]) -> int:
    """Of the subject's box, in pixels."""
    box = bounding_box(mask)
    return max(box.w, box.h)


def changed_region(
    before: Float[Tensor, "3 H W"], after: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]
) -> Float[Tensor, "1 H W"]:
    """Where the effect is: smoothed change outside the mask, louder than the redrawing is everywhere, beginning at the
    subject."""
    free = (mask <= 0).to(mask.dtype)
    if float(free.sum()) == 0:
        return torch.zeros_like(mask)
    sigma = SMOOTH * mask.shape[-1] / 128
    change = blur((after - before) * free, sigma) / blur(free, sigma).clamp_min(1e-3)
    loud = change.abs().amax(dim=0, keepdim=True) * free
    usual = float(loud[free > 0].median())
    found = (loud > max(EFFECT_STEP, LOUDER * usual)).to(mask.dtype)
    return touching(found, dilate(subject_of(mask), max(1, round(GAP * longer_side(mask)))))


def residue(
    still: Float[Tensor, "3 H W"], removed: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]
) -> float:
    """How much of the subject's drawing is left: correlation of fine detail inside the mask, in [0, 1]."""
    inside = subject_of(mask)
    sigma = FINE * mask.shape[-1] / 128

    def detail(image: Tensor) -> Tensor:
        grey = image.mean(dim=0, keepdim=True)
        fine = (grey - blur(grey, sigma)) * inside
        return fine - inside * fine.sum() / inside.sum().clamp_min(1)

    first, second = detail(still), detail(removed)
    scale = first.norm() * second.norm()
    return float(((first * second).sum() / scale).clamp(0, 1)) if float(scale) > 1e-8 else 0.0


def drift(
    still: Float[Tensor, "3 H W"], removed: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]
) -> float:
    """Root mean square change where nothing should have changed: outside the subject and its effect."""
    busy = torch.maximum((mask > 0).to(mask.dtype), changed_region(still, removed, mask))
    outside = 1 - dilate(busy, 2)
    weight = outside.sum()
    if float(weight) == 0:
        return 1.0
    return float(((removed - still).square().mean(dim=0, keepdim=True) * outside).sum() / weight) ** 0.5


def seam(removed: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> float:
    """How much steeper the filled picture is along the old outline than beside it; 0 where it is not."""
    body = subject_of(mask)
    outline = dilate(body, 1) - erode(body, 1)
    beside = dilate(body, 5) - erode(body, 5) - dilate(body, 2) + erode(body, 2)
    right = torch.nn.functional.pad(removed.diff(dim=2), (0, 1))
    down = torch.nn.functional.pad(removed.diff(dim=1), (0, 0, 0, 1))
    steep = (right.square() + down.square()).sum(dim=0, keepdim=True).sqrt()

    def mean(region: Tensor) -> Tensor:
        return (steep * region).sum() / region.sum().clamp_min(1)

    return max(0.0, float(mean(outline) - mean(beside)))


def hallucination(removed: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> float:
    """How far the strangest part of the filled hole is, in colour, from anything around it: a new object, or a rest.

    Mean over the LOUDEST share of the hole's smoothed pixels of the distance (largest channel) to the nearest colour of
    the ring.
    """
    body = subject_of(mask)
    smooth = blur(removed, FINE * mask.shape[-1] / 128 / 2)
    width = max(2, round(RING * longer_side(mask)))
    ring = dilate(body, width) - dilate(body, 2)
    inside, around = smooth[:, body[0] > 0].T, smooth[:, ring[0] > 0].T
    if len(inside) == 0 or len(around) == 0:
        return 1.0
    inside, around = inside[:: max(1, len(inside) // 600)], around[:: max(1, len(around) // 600)]
    distance = (inside[:, None] - around[None]).abs().amax(dim=2).amin(dim=1)
    worst = distance.sort(descending=True).values[: max(1, round(LOUDEST * len(distance)))]
    return float(worst.mean())


def effect_area(
    still: Float[Tensor, "3 H W"], removed: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]
) -> float:
    """Share of the picture outside the subject that the removal changed near it: its shadow and reflection.

    ObjectDrop drops pictures where this is too small (arXiv 2403.18818, section 4.2).
    """
    return area(changed_region(still, removed, mask))


def border(mask: Float[Tensor, "1 H W"]) -> float:
    """Share of the picture's lower edge that the subject touches (ObjectDrop allows 0.2)."""
    return float(subject_of(mask)[0, -1].mean())


def cycle(
    still: Float[Tensor, "3 H W"],
    inserted: Float[Tensor, "3 H W"],
    removed: Float[Tensor, "3 H W"],
    mask: Float[Tensor, "1 H W"],
) -> float:
    """Root mean square difference between the original and the subject put back into the removed picture, in the
    region the removal changed, the subject itself left out: does re-insertion give the original back?"""
    region = changed_region(still, removed, mask)
    if float(region.sum()) == 0:
        return 0.0
    wrong = (inserted - still).square().mean(dim=0, keepdim=True)
    return float((wrong * region).sum() / region.sum()) ** 0.5


def contrast(picture: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> float:
    """Distance (root mean square over channels) between the subject's mean colour and that around it."""
    body = subject_of(mask)
    ring = dilate(body, max(2, round(RING * longer_side(mask)))) - dilate(body, 1)

    def colour(region: Tensor) -> Tensor:
        return (picture * region).sum(dim=(1, 2)) / region.sum().clamp_min(1)

    return float((colour(body) - colour(ring)).square().mean().sqrt())
