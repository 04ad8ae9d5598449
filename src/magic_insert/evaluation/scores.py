"""One pair's numbers, from embeddings and pixels: the columns of a row, whatever encoder or method made them.

Shapes: D embedding dimensions, H W pixels. Pictures and masks are float32 in [0, 1]. A column that cannot be had
(no encoder, no truth, no pixel to judge) is left out, never filled with a number. Protocol: paper, section 5.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import decibel, effect_of, iou, ssim
from magic_insert.core.masks import bounding_box, dilate

MARGIN = 0.5  # without a truth: how far an effect may reach from the subject, in its longer sides
TRUTH_MARGIN_PX = 2  # with a truth: a shadow's soft edge below the threshold of its mask
FAINT = 0.1  # coverage from which a pixel belongs to the subject's box

SUBJECT_COLUMNS = ("subject_dino", "subject_clip_i", "subject_clip_t_simple", "subject_clip_t_detailed")
STYLE_COLUMNS = ("style_clip_i", "style_csd", "style_clip_t")


# A perceptual distance: two batches B3HW in [0, 1] to B numbers, such as `models.encoders.lpips.Lpips`.
Distance = Callable[[Tensor, Tensor], Tensor]


def cosine(first: Tensor, second: Tensor, column: str) -> float:
    """`<a, b> / (|a| |b|)` in [-1, 1], neither scaled by 100 nor clipped at 0.

    Raises:
        UserError: the embeddings have different lengths, are not finite, or one is zero; `column` is named.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise UserError(
            f"expected two embeddings of one length for {column}, got {tuple(first.shape)} and {tuple(second.shape)}; "
            "they are of different encoders: delete the cached features"
        )
    first, second = first.double(), second.double()
    norms = first.norm() * second.norm()
    if not (torch.isfinite(norms) and norms > 0):
        raise UserError(
            f"expected finite embeddings for {column}, got NaN, infinity or zeros; check the encoder's weights"
        )
    return float((first @ second / norms).clamp(-1, 1))


def stylize_values(
    *,
    stylised: Mapping[str, Tensor],
    subject: Mapping[str, Tensor],
    background: Mapping[str, Tensor],
    texts: Mapping[str, Tensor],
    image_reward: float | None = None,
) -> dict[str, float]:
    """Subject and style fidelity of a stylised subject, before insertion (paper, Tables 1 to 3).

    Args:
        stylised, subject, background: embeddings of the three pictures by encoder: "dino", "dinov2", "clip_i",
            "clip_t" (the image side of the text encoder), "csd". A missing encoder leaves its columns out.
        texts: embeddings by "clip_t" of "simple" and "detailed" (what the subject is) and "style" (how the
            background is drawn); a missing text leaves its column out.
        image_reward: the reward of the stylised picture for the simple text.
    Returns:
        Columns `subject_*` and `style_*`; `subject_mean` and `style_mean` are plain means of the paper's columns and
        only there when all of them are. `subject_dinov2` is no part of the mean.
    """
    values: dict[str, float] = {}

    def compare(column: str, one: Tensor | None, other: Tensor | None) -> None:
        if one is not None and other is not None:
            values[column] = cosine(one, other, column)

    for name in ("dino", "clip_i"):
        compare(f"subject_{name}", stylised.get(name), subject.get(name))
    for name in ("simple", "detailed"):
        compare(f"subject_clip_t_{name}", stylised.get("clip_t"), texts.get(name))
    _add_mean(values, "subject_mean", SUBJECT_COLUMNS)
    compare("subject_dinov2", stylised.get("dinov2"), subject.get("dinov2"))
    for name in ("clip_i", "csd"):
        compare(f"style_{name}", stylised.get(name), background.get(name))
    compare("style_clip_t", stylised.get("clip_t"), texts.get("style"))
    _add_mean(values, "style_mean", STYLE_COLUMNS)
    if image_reward is not None:
        values["image_reward"] = _finite(image_reward, "image_reward")
    return values


def effect_region(
    mask: Float[Tensor, "1 H W"], effect: Float[Tensor, "1 H W"] | None = None
) -> Bool[Tensor, "1 H W"]:
    """Where an insertion may change the background: the same for every method, whatever the method did.

    With the true `effect` it is subject and effect, grown by TRUTH_MARGIN_PX; without, the subject grown by MARGIN of
    the longer side of its box. Everything else is the outside, which should be the background's own.

    Raises:
        UserError: the mask is empty.
    """
    box = bounding_box(mask, FAINT)
    if effect is not None:
        return dilate(torch.maximum((mask > 0).float(), (effect > 0).float()), TRUTH_MARGIN_PX) > 0
    return dilate((mask > 0).float(), round(MARGIN * max(box.w, box.h))) > 0


def subject_crop(image: Float[Tensor, "3 H W"], mask: Float[Tensor, "1 H W"]) -> Float[Tensor, "3 s s"]:
    """The subject's box cut out of the picture, on a white square so that a centre crop loses nothing.

    Raises:
        UserError: the mask is empty.
    """
    box = bounding_box(mask, FAINT)
    crop = image[:, box.y : box.bottom, box.x : box.right]
    side = max(box.w, box.h)
    canvas = image.new_ones(3, side, side)
    top, left = (side - box.h) // 2, (side - box.w) // 2
    canvas[:, top : top + box.h, left : left + box.w] = crop
    return canvas


def insert_values(
    *,
    composite: Float[Tensor, "3 H W"],
    background: Float[Tensor, "3 _ _"],
    mask: Float[Tensor, "1 _ _"],
    region: Bool[Tensor, "1 _ _"],
    inside: Mapping[str, Tensor],
    subject: Mapping[str, Tensor],
    scene: Mapping[str, Tensor],
    lpips: Distance | None = None,
) -> dict[str, float]:
    """What an insertion kept of the background and what it put into it.

    Args:
        mask: coverage of the pasted subject in the composite.
        region: `effect_region(...)`; the outside is judged beyond it.
        inside, subject, scene: embeddings of `subject_crop(composite, mask)`, of the reference subject and of the
            background, by encoder; "dino" gives `inside_identity`, "csd" gives `inside_style`.
        lpips: when given, LPIPS of composite and background after the region is painted over with the background.
    Returns:
        `outside_psnr` (dB, at most 60), `outside_lpips`, `outside_equal` (share of pixels equal in all three 8-bit
        channels), `outside_shift` (root mean square over channels of the mean colour difference), `inside_identity`,
        `inside_style`, `effect_area` (share of the picture that changed visibly beyond the subject).
    Raises:
        UserError: pictures of different sizes, or embeddings that cannot be compared.
    """
    _same_size(composite=composite, background=background, mask=mask, region=region)
    values: dict[str, float] = {}
    outside = ~region
    if bool(outside.any()):
        difference = (composite - background)[:, outside[0]].double()
        values["outside_psnr"] = decibel(float(difference.square().mean()))
        if lpips is not None:
            kept = torch.where(outside, composite, background)
            values["outside_lpips"] = _finite(float(lpips(kept[None], background[None])), "outside_lpips")
        levels = (_levels(composite) == _levels(background)).all(dim=0)
        values["outside_equal"] = float(levels[outside[0]].double().mean())
        values["outside_shift"] = float(difference.mean(dim=1).square().mean().sqrt())
    for column, name, reference in (("inside_identity", "dino", subject), ("inside_style", "csd", scene)):
        if name in inside and name in reference:
            values[column] = cosine(inside[name], reference[name], column)
    values["effect_area"] = float(effect_of(composite[None], background[None], mask[None]).double().mean())
    return values


def truth_values(
    *, image: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 _ _"], lpips: Distance | None = None
) -> dict[str, float]:
    """How close a picture is to the one that should have come out: `truth_psnr` (dB), `truth_ssim`, `truth_lpips`.

    Raises:
        UserError: pictures of different sizes, or smaller than SSIM's window.
    """
    _same_size(image=image, truth=truth)
    values = {
        "truth_psnr": decibel(float((image.double() - truth.double()).square().mean())),
        "truth_ssim": _finite(ssim(image, truth), "truth_ssim"),
    }
    if lpips is not None:
        values["truth_lpips"] = _finite(float(lpips(image[None], truth[None])), "truth_lpips")
    return values


def effect_truth_values(
    *,
    composite: Float[Tensor, "3 H W"],
    background: Float[Tensor, "3 _ _"],
    mask: Float[Tensor, "1 _ _"],
    truth: Float[Tensor, "3 _ _"],
    truth_mask: Float[Tensor, "1 _ _"],
    truth_effect: Float[Tensor, "1 _ _"],
) -> dict[str, float]:
    """Shadow, reflection and place against the truth, for the insertion track.

    Returns:
        `truth_effect_psnr` inside the true effect (left out without one), `truth_shadow_iou` of the visible change
        beyond both subjects against the true effect there (1 when both are empty), `truth_mask_iou` of the masks.
    """
    _same_size(
        composite=composite,
        background=background,
        mask=mask,
        truth=truth,
        truth_mask=truth_mask,
        truth_effect=truth_effect,
    )
    values: dict[str, float] = {}
    where = (truth_effect > 0)[0]
    if bool(where.any()):
        error = (composite - truth)[:, where].double().square().mean()
        values["truth_effect_psnr"] = decibel(float(error))
    covered = torch.maximum(mask, truth_mask)
    ours = effect_of(composite[None], background[None], covered[None])[0] > 0
    theirs = (truth_effect > 0) & (covered <= 0)
    values["truth_shadow_iou"] = iou(ours, theirs)
    values["truth_mask_iou"] = iou(mask > 0.5, truth_mask > 0.5)
    return values


def _add_mean(values: dict[str, float], column: str, parts: tuple[str, ...]) -> None:
    if all(part in values for part in parts):
        values[column] = sum(values[part] for part in parts) / len(parts)


def _levels(image: Float[Tensor, "3 H W"]) -> Tensor:
    return (image.clamp(0, 1) * 255).round()


def _finite(value: float, column: str) -> float:
    if not math.isfinite(value):
        raise UserError(
            f"expected a finite {column}, got {value}; check the picture and the encoder's weights"
        )
    return value


def _same_size(**pictures: Tensor) -> None:
    sizes = {name: tuple(picture.shape[-2:]) for name, picture in pictures.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {h} x {w}" for name, (h, w) in sizes.items())
        raise UserError(f"expected pictures of one size, got {told}; make them the background's size")
