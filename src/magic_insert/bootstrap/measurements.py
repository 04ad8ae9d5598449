"""What can be seen of a removal without knowing the truth: small numbers, each a suspicion.

`picture` is what the remover was given, `still` the autoencoder's round trip of it (the no-op reconstruction: what the
machinery makes of a picture it does not change), `removed` its answer. Shape letters: H, W rows and columns. Pictures
and masks are float32 in [0, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.fidelity import EFFECT_STEP
from magic_insert.core.masks import INSIDE, area, blur, bounding_box, dilate, erode, touching

SMOOTH = 1.0  # pixels at 128 over which a change must hold: the noise of a redrawing does not
LOUDER = 3.0  # times the median change of the picture: what a generative model redraws anyway is no effect
FINE = 3.0  # pixels at 128: what is smoother than this is shading, what is finer is the subject's drawing
GAP = 0.12  # of the subject's longer side: an effect begins no farther from the subject than this
RING = 0.25  # of the longer side: how wide the surroundings are that a filled hole is compared with
LOUDEST = 0.1  # share of the hole whose colours are most unlike anything around it


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
