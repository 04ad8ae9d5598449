"""How close a picture is to the truth: PSNR on sums, SSIM, overlap of masks, shadows. Every such number is from here.

Squared errors are kept as sums per picture and region, so any set of pictures can be added up later, on any rank, and
resampled. A region without pixels has no PSNR (None). Shapes: B pictures, H W pixels; pictures are RGB in [0, 1].
"""

import math
from collections.abc import Iterable

from jaxtyping import Bool, Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.silhouettes import foot_frame, frame_coordinates

CAP_DB = 60.0  # rounding to eight bits alone costs 59 dB, so anything above is equal in a file; no table shows infinity
EFFECT_STEP = 0.04  # a channel must change by more than this to count as the subject's effect on the scene
SSIM_WINDOW_PX = 11
DECIDED = 0.08  # a true effect this far (in longer sides) to one side of the foot has a side
UNDER = 0.12  # how far from the foot, in longer sides, contact is measured
DARK = 0.02  # mean darkening under the feet from which there is contact to compare with

# Squared error (mean over channels) summed over a region, and the region's weight in pixels.
Sums = tuple[float, float]


def region_sums(
    images: Float[Tensor, "B 3 H W"], truth: Float[Tensor, "B 3 H W"], region: Float[Tensor, "B 1 H W"]
) -> list[Sums]:
    """The sums of every picture; `region` weights the pixels, 0 outside and 1 inside."""
    squared = (images.double() - truth.double()).square().mean(dim=1, keepdim=True)
    errors, weights = (squared * region).sum(dim=(1, 2, 3)), region.double().sum(dim=(1, 2, 3))
    return list(zip(errors.tolist(), weights.tolist(), strict=True))


def decibel(squared_error: float) -> float:
    """`-10 log10(squared_error)`, the PSNR of a mean squared error at peak 1, at most CAP_DB.

    Raises:
        UserError: the error is NaN.
    """
    if math.isnan(squared_error):
        raise UserError("expected finite pixels, got NaN; the picture is broken: make it again")
    return min(CAP_DB, -10 * math.log10(max(squared_error, 1e-12)))


def psnr_pooled(sums: Iterable[Sums]) -> float | None:
    """One PSNR of all pictures: errors are added before the logarithm, so large regions and bad pictures count most."""
    rows = list(sums)
    weight = sum(pixels for _, pixels in rows)
    return decibel(sum(error for error, _ in rows) / weight) if weight > 0 else None


def ssim(image: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"]) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels and sigma 1.5, channels averaged.

    Raises:
        UserError: the pictures are smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(image.shape[-2:]) < SSIM_WINDOW_PX:
        raise UserError(f"expected pictures of at least 11 x 11 pixels, got {tuple(image.shape[-2:])}")
    pair = image[None].double(), truth[None].double()
    return float(structural_similarity_index_measure(*pair, data_range=1.0))


def iou(one: Bool[Tensor, "*S"], other: Bool[Tensor, "*S"]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def effect_of(
    with_subject: Float[Tensor, "B 3 H W"], without: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, "B 1 H W"]:
    """Pixels outside the mask that the subject changed by more than EFFECT_STEP in a channel, 0 or 1."""
    change = (with_subject - without).abs().amax(1, keepdim=True)
    return ((change > EFFECT_STEP) & (mask <= 0)).to(with_subject.dtype)


def effect_scores(
    finished: Float[Tensor, "3 H W"],
    truth: Float[Tensor, "3 H W"],
    scene: Float[Tensor, "3 H W"],
    *,
    effect: Float[Tensor, "1 H W"],
    mask: Float[Tensor, "1 H W"],
    covered: Float[Tensor, "1 H W"],
) -> dict[str, float]:
    """Shadow and reflection of a finished insertion against the true one; what is not defined is left out.

    `effect_psnr` inside the true effect, `rest_psnr` beyond it, in dB; `shadow_iou` of the visible change against the
    true effect. `side`: 1 where the change lies on the same side of the subject's foot as the true one, 0 where not;
    only where that has a side. `contact`: darkening right under the feet as a share of the true one, 1 is right.

    Args:
        effect: the true one, 0 or 1.
        mask: of the true subject, whose foot counts.
        covered: what is not judged, the subject, 0 where it is not.
    """
    free = (covered <= 0)[0]
    wanted = (effect > 0)[0]
    found = effect_of(finished[None], scene[None], covered[None])[0, 0] > 0
    error = (finished.double() - truth.double()).square().mean(0)
    regions = {"effect_psnr": wanted, "rest_psnr": free & ~wanted}
    scores = {name: decibel(float(error[r].mean())) for name, r in regions.items() if bool(r.any())}
    scores["shadow_iou"] = iou(found, wanted & free)
    across, down = frame_coordinates(foot_frame(mask[None]), *mask.shape[-2:])[0]

    def side_of(picture: Float[Tensor, "3 H W"]) -> float | None:
        """How far right of the foot the change lies, in longer sides; None where nothing changed."""
        change = (picture - scene).abs().amax(0) * free
        change = change * (change > EFFECT_STEP)
        return float((change * across).sum() / change.sum()) if bool(change.any()) else None

    side, true_side = side_of(finished), side_of(truth)
    if true_side is not None and abs(true_side) > DECIDED:
        scores["side"] = float(side is not None and side * true_side > 0)
    under = free & (down > -UNDER) & (down < 0.5 * UNDER) & (across.abs() < 0.4)
    dark, true_dark = (float((scene - p).mean(0).clamp_min(0.0)[under].sum()) for p in (finished, truth))
    if true_dark > DARK * int(under.sum()):
        scores["contact"] = dark / true_dark
    return scores
