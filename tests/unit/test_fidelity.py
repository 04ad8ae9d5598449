"""PSNR, overlap and effect against plain numpy and known answers; SSIM is checked in test_scores."""

import numpy as np
import pytest
import torch

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import CAP_DB, EFFECT_STEP, decibel, effect_of, iou, psnr_pooled, region_sums


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images, truth = torch.rand(2, 7, 3, 8, 6, generator=draw)
    return images, truth, (torch.rand(7, 1, 8, 6, generator=draw) > 0.6).float()


def test_psnr_is_numpys_inside_the_region_in_parts_of_any_order() -> None:
    images, truth, region = pictures()
    inside = np.broadcast_to(region.numpy() > 0, images.shape)
    expected = -10 * np.log10(np.mean((images - truth).double().numpy()[inside] ** 2))
    elsewhere = torch.where(region > 0, images, torch.rand(images.shape))
    assert psnr_pooled(region_sums(elsewhere, truth, region)) == pytest.approx(expected, abs=1e-6)
    whole = region_sums(*pictures())
    parts = [
        pair
        for part in (slice(1, 7, 2), slice(0, 7, 2))
        for pair in region_sums(*(x[part] for x in pictures()))
    ]
    assert psnr_pooled(parts) == pytest.approx(psnr_pooled(whole), abs=1e-9)


def test_ten_times_the_error_costs_twenty_decibel_and_the_ends_are_known() -> None:
    image, everywhere = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    near, far = (psnr_pooled(region_sums(image + error, image, everywhere)) for error in (0.05, 0.5))
    assert near is not None
    assert far is not None
    assert near - far == pytest.approx(20, abs=1e-4)
    assert psnr_pooled(region_sums(image, image, everywhere)) == CAP_DB == decibel(1e-9)
    image = torch.rand(1, 3, 4, 4)
    assert psnr_pooled(region_sums(image, image, torch.zeros(1, 1, 4, 4))) is None
    assert psnr_pooled([]) is None
    with pytest.raises(UserError, match="NaN"):
        decibel(float("nan"))


def test_overlap_agrees_with_sets_of_pixels() -> None:
    one, other = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(1)) > 0.5
    first, second = set(np.flatnonzero(one)), set(np.flatnonzero(other))
    assert iou(one, other) == len(first & second) / len(first | second)


def test_the_effect_is_what_a_channel_changes_by_more_than_the_step_outside_the_mask() -> None:
    before, mask = torch.zeros(1, 3, 1, 4), torch.zeros(1, 1, 1, 4)
    mask[..., 3] = 1
    after = before.clone()
    after[0, 1] = torch.tensor([0.0, EFFECT_STEP / 2, 2 * EFFECT_STEP, 1.0])
    assert effect_of(after, before, mask).flatten().tolist() == [0.0, 0.0, 1.0, 0.0]
