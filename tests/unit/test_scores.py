"""The columns of a row: known answers, laws, and agreement with formulas written out again in numpy."""

import math

import numpy as np
import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import CAP_DB
from magic_insert.evaluation.scores import (
    MARGIN,
    effect_region,
    effect_truth_values,
    insert_values,
    stylize_values,
    subject_crop,
    truth_values,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def vectors(seed: int) -> dict[str, torch.Tensor]:
    return {
        name: noise(8, seed=seed * 10 + i) - 0.3
        for i, name in enumerate(("dino", "dinov2", "clip_i", "clip_t", "csd"))
    }


TEXTS = {name: noise(8, seed=90 + i) - 0.3 for i, name in enumerate(("simple", "detailed", "style"))}


def square(top: int, left: int, side: int, size: int = 40) -> torch.Tensor:
    mask = torch.zeros(1, size, size)
    mask[:, top : top + side, left : left + side] = 1.0
    return mask


def paste(background: torch.Tensor, mask: torch.Tensor, value: float = 0.9) -> torch.Tensor:
    return torch.where(mask > 0, torch.full_like(background, value), background)


def grey(size: int = 40) -> torch.Tensor:
    return (noise(3, size, size, seed=7) * 255).round() / 255


def scored(composite: torch.Tensor, background: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    region = effect_region(mask)
    return insert_values(
        composite=composite, background=background, mask=mask, region=region, inside={}, subject={}, scene={}
    )


# Stylised subjects ----------------------------------------------------------------------------------------------------


def test_every_column_is_the_cosine_its_name_says_and_the_means_are_plain() -> None:
    s, r, b = vectors(1), vectors(2), vectors(3)
    values = stylize_values(stylised=s, subject=r, background=b, texts=TEXTS, image_reward=-0.2)

    def cos(x: torch.Tensor, y: torch.Tensor) -> float:
        u, v = x.double().numpy(), y.double().numpy()
        return float(np.dot(u, v) / np.sqrt(np.dot(u, u) * np.dot(v, v)))

    subject = [
        cos(s["dino"], r["dino"]),
        cos(s["clip_i"], r["clip_i"]),
        cos(s["clip_t"], TEXTS["simple"]),
        cos(s["clip_t"], TEXTS["detailed"]),
    ]
    style = [cos(s["clip_i"], b["clip_i"]), cos(s["csd"], b["csd"]), cos(s["clip_t"], TEXTS["style"])]
    expected = {
        "subject_dino": subject[0],
        "subject_clip_i": subject[1],
        "subject_clip_t_simple": subject[2],
        "subject_clip_t_detailed": subject[3],
        "subject_mean": np.mean(subject),
        "subject_dinov2": cos(s["dinov2"], r["dinov2"]),
        "style_clip_i": style[0],
        "style_csd": style[1],
        "style_clip_t": style[2],
        "style_mean": np.mean(style),
        "image_reward": -0.2,
    }
    assert values == pytest.approx(expected, abs=1e-9)


def test_the_papers_own_mean_column_follows_from_its_other_columns() -> None:
    printed = {"dino": 0.514, "clip_i": 0.869, "clip_t": 1.0}
    axis, other = torch.eye(2, dtype=torch.float64)

    def at(value: float) -> torch.Tensor:
        return value * axis + math.sqrt(1 - value**2) * other

    values = stylize_values(
        stylised=dict.fromkeys(printed, axis),
        subject={name: at(value) for name, value in printed.items()},
        background={},
        texts={"simple": at(0.289), "detailed": at(0.308)},
    )
    assert round(values["subject_mean"], 3) == 0.495


def test_without_an_encoder_its_columns_and_the_mean_are_left_out() -> None:
    s, r, b = vectors(1), vectors(2), vectors(3)
    del s["csd"]
    values = stylize_values(stylised=s, subject=r, background=b, texts={"simple": TEXTS["simple"]})
    assert set(values) == {
        "subject_dino",
        "subject_clip_i",
        "subject_clip_t_simple",
        "subject_dinov2",
        "style_clip_i",
    }


@pytest.mark.parametrize("broken", [torch.full((8,), torch.nan), torch.zeros(8), torch.ones(7)])
def test_an_embedding_that_cannot_be_compared_names_its_column(broken: torch.Tensor) -> None:
    with pytest.raises(UserError, match="subject_dino"):
        stylize_values(stylised={"dino": broken}, subject=vectors(1), background={}, texts={})


# Insertion ------------------------------------------------------------------------------------------------------------


def test_a_pasted_subject_leaves_the_outside_perfect_and_has_no_effect() -> None:
    background, mask = grey(), square(15, 15, 6)
    values = scored(paste(background, mask), background, mask)
    assert values["outside_psnr"] == CAP_DB
    assert values["outside_equal"] == 1.0
    assert values["outside_shift"] == 0.0
    assert values["effect_area"] == 0.0


def test_a_colour_cast_is_the_shift_and_its_square_the_psnr() -> None:
    background, mask = grey() * 0.5, square(15, 15, 6)
    cast = torch.tensor([0.03, -0.01, 0.02]).view(3, 1, 1)
    values = scored(paste(background + cast + 0.02, mask), background, mask)
    expected = float(np.mean(np.array([0.05, 0.01, 0.04]) ** 2))
    assert values["outside_shift"] == pytest.approx(math.sqrt(expected), abs=1e-6)
    assert values["outside_psnr"] == pytest.approx(-10 * math.log10(expected), abs=1e-3)
    assert values["outside_equal"] == 0.0


def test_one_changed_level_in_one_channel_makes_a_pixel_unequal() -> None:
    background, mask = grey() * 0.9, square(20, 20, 4)
    composite = background.clone()
    composite[1, 0, 0] += 1 / 255
    outside = int((~effect_region(mask)).sum())
    values = scored(composite, background, mask)
    assert values["outside_equal"] == pytest.approx(1 - 1 / outside)


def test_a_shadow_inside_the_region_costs_nothing_outside_and_is_the_effect() -> None:
    background, mask = torch.full((3, 40, 40), 0.5), square(15, 15, 6)
    composite = paste(background, mask)
    composite[:, 21:23, 15:21] = 0.3
    values = scored(composite, background, mask)
    assert values["outside_equal"] == 1.0
    assert values["effect_area"] == pytest.approx(12 / 1600)


def test_the_region_is_the_same_for_every_method_and_reaches_half_the_subject() -> None:
    mask = square(15, 15, 8)
    region = effect_region(mask)
    grown = square(15 - 4, 15 - 4, 16) > 0
    assert MARGIN == 0.5
    assert torch.equal(region, grown)


def test_with_a_truth_the_region_is_subject_and_true_effect() -> None:
    mask, effect = square(15, 15, 6), square(30, 5, 4)
    region = effect_region(mask, effect)
    expected = (square(13, 13, 10) + square(28, 3, 8)) > 0
    assert torch.equal(region, expected)


def test_a_subject_that_fills_the_picture_has_no_outside_columns() -> None:
    background, mask = grey(), torch.ones(1, 40, 40)
    values = scored(background, background, mask)
    assert set(values) == {"effect_area"}


def test_outside_lpips_never_sees_the_inside() -> None:
    background, mask = grey(), square(15, 15, 6)
    seen = []

    def distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        seen.append((first - second).abs().sum())
        return (first - second).abs().mean(dim=(1, 2, 3))

    values = insert_values(
        composite=paste(background, mask),
        background=background,
        mask=mask,
        region=effect_region(mask),
        inside={},
        subject={},
        scene={},
        lpips=distance,
    )
    assert values["outside_lpips"] == 0.0
    assert seen == [0.0]


def test_identity_is_judged_against_the_subject_and_style_against_the_scene() -> None:
    background, mask = grey(), square(15, 15, 6)
    one, two = torch.eye(2)
    values = insert_values(
        composite=background,
        background=background,
        mask=mask,
        region=effect_region(mask),
        inside={"dino": one, "csd": one},
        subject={"dino": one, "csd": two},
        scene={"dino": two, "csd": one},
    )
    assert (values["inside_identity"], values["inside_style"]) == (1.0, 1.0)


def test_the_crop_holds_the_whole_subject_centred_on_white() -> None:
    image = torch.zeros(3, 40, 40)
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:30, 5:15] = 1.0
    image[:, 10:30, 5:15] = 0.25
    crop = subject_crop(image, mask)
    assert crop.shape == (3, 20, 20)
    assert torch.equal(crop[:, :, 5:15], torch.full((3, 20, 10), 0.25))
    assert torch.equal(crop[:, :, :5], torch.ones(3, 20, 5))


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        effect_region(torch.zeros(1, 8, 8))


# Truth ----------------------------------------------------------------------------------------------------------------


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window, the border where the window does not fit left out."""
    steps = np.arange(11) - 5
    window = np.exp(-(steps**2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    total = []
    for channel in range(3):
        for i in range(x.shape[1] - 10):
            for j in range(x.shape[2] - 10):
                a, b = x[channel, i : i + 11, j : j + 11], y[channel, i : i + 11, j : j + 11]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                cov = (window * (a - ma) * (b - mb)).sum()
                total.append(
                    (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
                )
    return float(np.mean(total))


def test_ssim_and_psnr_agree_with_their_definitions() -> None:
    truth = noise(3, 26, 24, seed=3)
    image = (truth + 0.1 * (noise(3, 26, 24, seed=4) - 0.5)).clamp(0, 1)
    values = truth_values(image=image, truth=truth)
    x, y = image.double().numpy(), truth.double().numpy()
    assert values["truth_ssim"] == pytest.approx(reference_ssim(x, y), abs=2e-4)
    assert values["truth_psnr"] == pytest.approx(-10 * np.log10(np.mean((x - y) ** 2)), abs=1e-6)


def test_the_truth_itself_scores_the_ceiling() -> None:
    truth = noise(3, 16, 16)
    values = truth_values(image=truth, truth=truth)
    assert values == {"truth_psnr": CAP_DB, "truth_ssim": pytest.approx(1.0)}


def test_the_true_insertion_is_perfect_and_a_bare_paste_has_no_shadow() -> None:
    background = torch.full((3, 40, 40), 0.6)
    mask, effect = square(10, 10, 10), square(20, 12, 6)
    truth = paste(background, mask)
    truth[:, effect[0] > 0] = 0.3

    def judge(composite: torch.Tensor) -> dict[str, float]:
        return effect_truth_values(
            composite=composite,
            background=background,
            mask=mask,
            truth=truth,
            truth_mask=mask,
            truth_effect=effect,
        )

    perfect, bare = judge(truth), judge(paste(background, mask))
    assert perfect == {"truth_effect_psnr": CAP_DB, "truth_shadow_iou": 1.0, "truth_mask_iou": 1.0}
    assert bare["truth_shadow_iou"] == 0.0
    assert bare["truth_effect_psnr"] == pytest.approx(-20 * math.log10(0.3), abs=1e-4)


def test_a_subject_in_the_wrong_place_is_no_shadow_but_a_smaller_overlap() -> None:
    background = torch.full((3, 40, 40), 0.6)
    mask, moved = square(10, 10, 10), square(10, 15, 10)
    values = effect_truth_values(
        composite=paste(background, moved),
        background=background,
        mask=moved,
        truth=paste(background, mask),
        truth_mask=mask,
        truth_effect=torch.zeros_like(mask),
    )
    assert values == {"truth_shadow_iou": 1.0, "truth_mask_iou": pytest.approx(50 / 150)}


def test_pictures_of_two_sizes_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="truth 16 x 20"):
        truth_values(image=noise(3, 16, 16), truth=noise(3, 16, 20))


def test_a_broken_picture_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        truth_values(image=torch.full((3, 16, 16), torch.nan), truth=noise(3, 16, 16))
