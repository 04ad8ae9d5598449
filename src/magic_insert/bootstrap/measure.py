"""What is measured: each removal without the truth, each drawing against it, and a round over all scenes.

The measurements of a removal need no truth: small numbers, each a suspicion. `picture` is what the remover was given,
`still` the autoencoder's round trip of it (the no-op reconstruction: what the machinery makes of a picture it does not
change), `removed` the remover's picture. Pictures and masks are float32 in [0, 1].

A round's numbers come from sums per picture, with intervals. A resample draws scenes with replacement, the same ones
for every group and model, so that differences between rounds are paired. A row is a line of rounds.jsonl; rows[0] is
the base. Kept is the round that gains most effect-region PSNR of the inserter on seen styles among those that do not
lose too much on photographs; unseen styles decide nothing.
Shape letters: H, W rows and columns; N scenes, R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.bootstrap.filters import MEASURES
from magic_insert.core.fidelity import CAP_DB, EFFECT_STEP, effect_of, iou, psnr_pooled, region_sums
from magic_insert.core.masks import INSIDE, area, blur, blur_inside, bounding_box, dilate, erode, touching

Row = dict[str, Any]
Sums = Mapping[str, float]
Rows = Sequence[Sums]
Picture = Float[Tensor, "3 H W"]
Mask = Float[Tensor, "1 H W"]
GROUPS = ("photo", "seen", "unseen")
DIGITS = 6  # of a stored value: far below anything a filter can tell apart
SMOOTH = 1.0  # pixels at 128 over which a change must hold: the noise of a redrawing does not
LOUDER = 3.0  # times the median change of the picture: what a generative model redraws anyway is no effect
FINE = 3.0  # pixels at 128: what is smoother than this is shading, what is finer is the subject's drawing
GAP = 0.12  # of the subject's longer side: an effect begins no farther from the subject than this
RING = 0.25  # of the longer side: how wide the surroundings are that a filled hole is compared with
LOUDEST = 0.1  # share of the hole whose colours are most unlike anything around it


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


def subject_of(mask: Mask) -> Mask:
    """The mask as 0 or 1."""
    return (mask >= INSIDE).to(mask.dtype)


def longer_side(mask: Mask) -> int:
    """Of the subject's box, in pixels."""
    box = bounding_box(mask)
    return max(box.w, box.h)


def changed_region(before: Picture, after: Picture, mask: Mask) -> Mask:
    """Where the effect is: smoothed change outside the mask, louder than the redrawing is everywhere, beginning at the
    subject."""
    free = (mask <= 0).to(mask.dtype)
    if float(free.sum()) == 0:
        return torch.zeros_like(mask)
    sigma = SMOOTH * mask.shape[-1] / 128
    change = blur_inside(after - before, free, sigma)
    loud = change.abs().amax(dim=0, keepdim=True) * free
    usual = float(loud[free > 0].median())
    found = (loud > max(EFFECT_STEP, LOUDER * usual)).to(mask.dtype)
    return touching(found, dilate(subject_of(mask), max(1, round(GAP * longer_side(mask)))))


def residue(still: Picture, removed: Picture, mask: Mask) -> float:
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


def drift(still: Picture, removed: Picture, mask: Mask) -> float:
    """Root mean square change where nothing should have changed: outside the subject and its effect."""
    busy = torch.maximum((mask > 0).to(mask.dtype), changed_region(still, removed, mask))
    outside = 1 - dilate(busy, 2)
    weight = outside.sum()
    if float(weight) == 0:
        return 1.0
    return float(((removed - still).square().mean(dim=0, keepdim=True) * outside).sum() / weight) ** 0.5


def seam(removed: Picture, mask: Mask) -> float:
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


def hallucination(removed: Picture, mask: Mask) -> float:
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


def effect_area(still: Picture, removed: Picture, mask: Mask) -> float:
    """Share of the picture outside the subject that the removal changed near it: its shadow and reflection.

    ObjectDrop drops pictures where this is too small (arXiv 2403.18818, section 4.2).
    """
    return area(changed_region(still, removed, mask))


def border(mask: Mask) -> float:
    """Share of the picture's lower edge that the subject touches (ObjectDrop allows 0.2)."""
    return float(subject_of(mask)[0, -1].mean())


def cycle(still: Picture, inserted: Picture, removed: Picture, mask: Mask) -> float:
    """Root mean square difference between the original and the subject put back into the removed picture, in the
    region the removal changed, the subject itself left out: does re-insertion give the original back?"""
    region = changed_region(still, removed, mask)
    if float(region.sum()) == 0:
        return 0.0
    wrong = (inserted - still).square().mean(dim=0, keepdim=True)
    return float((wrong * region).sum() / region.sum()) ** 0.5


def contrast(picture: Picture, mask: Mask) -> float:
    """Distance (root mean square over channels) between the subject's mean colour and that around it."""
    body = subject_of(mask)
    ring = dilate(body, max(2, round(RING * longer_side(mask)))) - dilate(body, 1)

    def colour(region: Tensor) -> Tensor:
        return (picture * region).sum(dim=(1, 2)) / region.sum().clamp_min(1)

    return float((colour(body) - colour(ring)).square().mean().sqrt())


def pooled(rows: Rows, error: str, pixels: str) -> float | None:
    """PSNR of the pooled squared error; None where there is no such region, or not every picture has such an error."""
    if any(error not in row for row in rows):
        return None
    return psnr_pooled((row[error], row[pixels]) for row in rows)


def mean_of(rows: Rows, name: str) -> float | None:
    """Plain mean over the pictures that have the value."""
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None


STATISTICS: dict[str, Callable[[Rows], float | None]] = {
    "effect_psnr": lambda rows: pooled(rows, "effect_error", "effect_pixels"),
    "effect_psnr_nothing": lambda rows: pooled(rows, "nothing_error", "effect_pixels"),
    "hole_psnr": lambda rows: pooled(rows, "hole_error", "hole_pixels"),
    "outside_psnr": lambda rows: pooled(rows, "outside_error", "outside_pixels"),
    "shadow_iou": lambda rows: mean_of(rows, "shadow_iou"),
    "lpips": lambda rows: mean_of(rows, "lpips"),
    # The same of the effect layer over the scene, which is what a user gets; only an insertion has it.
    "layered_psnr": lambda rows: pooled(rows, "layered_error", "effect_pixels"),
    "layered_lpips": lambda rows: mean_of(rows, "layered_lpips"),
}


def group_of(name: str) -> str:
    """photo, seen or unseen, from the id of a held-out picture ("0007-seen")."""
    return name.rpartition("-")[2]


def metrics(values: Mapping[str, Sums]) -> dict[str, dict[str, float]]:
    """group -> metric -> value, for the pictures `values` (id -> sums)."""
    return {
        group: {name: round(value, 4) for name, (value, _) in found.items()}
        for group, found in _statistics(values).items()
    }


def intervals(
    values: Mapping[str, Sums], *, seed: int, resamples: int, coverage: float
) -> dict[str, dict[str, list[float]]]:
    """group -> metric -> [low, high], percentiles over resampled scenes."""
    return {
        group: {name: _percentiles(drawn, coverage) for name, (_, drawn) in found.items()}
        for group, found in _statistics(values, seed, resamples).items()
    }


def changes(
    before: Mapping[str, Sums],
    after: Mapping[str, Sums],
    *,
    seed: int,
    resamples: int,
    coverage: float,
) -> dict[str, dict[str, list[float]]]:
    """group -> metric -> [difference, low, high] of two models on the same pictures, paired by scene."""
    first, second = (_statistics(values, seed, resamples) for values in (before, after))
    return {
        group: {
            name: [round(now - was, 4), *_percentiles(then - drawn, coverage)]
            for name, (was, drawn) in first[group].items()
            if name in found
            for now, then in (found[name],)
        }
        for group, found in second.items()
    }


def _statistics(
    values: Mapping[str, Sums], seed: int = 0, resamples: int = 0
) -> dict[str, dict[str, tuple[float, np.ndarray]]]:
    """group -> metric -> its value and that of every resample (NaN where a resample has none)."""
    result: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    for group in GROUPS:
        rows = [values[name] for name in sorted(values) if group_of(name) == group]
        if not rows:
            continue
        picks = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
        samples = [[rows[i] for i in pick] for pick in picks]
        result[group] = {
            name: (value, np.array([statistic(sample) for sample in samples], dtype=float))
            for name, statistic in STATISTICS.items()
            if (value := statistic(rows)) is not None
        }
    return result


def _percentiles(values: np.ndarray, coverage: float) -> list[float]:
    tail = 50 * (1 - coverage)
    return [round(float(q), 4) for q in np.nanpercentile(values, (tail, 100 - tail))]


def seen(row: Row) -> float:
    """What rounds are chosen by: the inserter's effect-region PSNR on seen styles."""
    return _psnr(row, "seen") or 0.0


def photo_loss(base: Row, row: Row) -> float:
    """How much worse than `base` photographs have become; 0 where no held-out photograph has an effect."""
    before, after = _psnr(base, "photo"), _psnr(row, "photo")
    return 0.0 if before is None or after is None else before - after


def best_round(rows: Sequence[Row], max_photo_loss: float) -> int:
    """The position of the best row with a photo loss of at most `max_photo_loss`; 0, the base, where none is better.

    The last one where nothing is held out to tell them apart.
    """
    if not rows[0]["metrics"]:
        return len(rows) - 1
    return max(_eligible(rows, max_photo_loss), key=lambda i: seen(rows[i]))


def improves(rows: Sequence[Row], *, min_gain: float, max_photo_loss: float) -> bool:
    """Whether the last row gains more than `min_gain` over the best eligible one before it, and is eligible itself."""
    if not rows[0]["metrics"]:
        return True
    gain = seen(rows[-1]) - seen(rows[best_round(rows[:-1], max_photo_loss)])
    return gain > min_gain and len(rows) - 1 in _eligible(rows, max_photo_loss)


def conclusion(rows: Sequence[Row], max_photo_loss: float) -> str:
    """The last line of a run: what changed against the truth, whether beyond chance, and at what price."""
    best = best_round(rows, max_photo_loss)
    base, row = rows[0], rows[best]
    if not base["metrics"]:
        return (
            f"the networks of round {row['round']}, the last one, were kept without a verdict, because nothing is held "
            "out to measure them on; set evaluate.pairs=FOLDER"
        )
    if best == 0:
        tried = max(rows, key=seen)
        if tried is base:
            return f"no round improved drawn styles ({seen(base):.1f} dB); the base networks were kept"
        return (
            f"the base networks were kept: drawn styles {_pair(base, tried, 'seen')} dB in round {tried['round']}, but "
            f"photo lost {photo_loss(base, tried):.2f} dB, more than bootstrap.max_photo_loss={max_photo_loss:g}"
        )
    # As it is told: what rounds to zero is no gain.
    low, high = (round(end, 2) for end in row["changes"]["inserter"]["seen"]["effect_psnr"][1:])
    where, zero = ("beyond", "outside") if low > 0 else ("within", "inside")
    loss = photo_loss(base, row)
    photo = f"lost {loss:.2f} dB" if loss > 0 else f"gained {abs(loss):.2f} dB"
    return (
        f"effect-region PSNR on drawn styles {_pair(base, row, 'seen')} dB, a gain {where} its paired interval "
        f"(zero lies {zero} [{low:+.2f}, {high:+.2f}]), unseen styles {_pair(base, row, 'unseen')}; "
        f"photo {photo} ({_pair(base, row, 'photo')})"
    )


def _eligible(rows: Sequence[Row], max_photo_loss: float) -> list[int]:
    return [i for i, row in enumerate(rows) if photo_loss(rows[0], row) <= max_photo_loss]


def _psnr(row: Row, group: str) -> float | None:
    found = row["metrics"]["inserter"].get(group, {}).get("effect_psnr")
    return None if found is None else float(found)


def _pair(base: Row, row: Row, group: str) -> str:
    return " -> ".join("unknown" if (n := _psnr(r, group)) is None else f"{n:.1f}" for r in (base, row))
