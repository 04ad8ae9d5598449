"""The effect layer against known answers: a painted world whose shadow and reflection are given by formula."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from magic_insert.core.compositing import area_resize, resize
from magic_insert.core.effect_layer import (
    EffectLayer,
    apply_effect,
    measure_effect,
    transfer_effect,
    upsample_effect,
)
from magic_insert.core.rand import generator

FINE, COARSE = 256, 64


@dataclass(frozen=True)
class Painted:
    """A textured ground before a wall, a red post on it, an oval subject; `truth` has shadow and reflection."""

    background: Tensor
    pasted: Tensor
    alpha: Tensor
    truth: Tensor

    @property
    def effect(self) -> Tensor:
        return (self.truth - self.pasted).abs().amax(dim=0, keepdim=True) > 0.04


@pytest.fixture(scope="module")
def painted() -> Painted:
    y, x = torch.meshgrid(torch.linspace(0, 1, FINE), torch.linspace(0, 1, FINE), indexing="ij")
    grain = 0.12 * torch.sin(x * 120 + 3 * torch.sin(y * 40))
    grain = grain + 0.08 * torch.rand(FINE, FINE, generator=generator(0, "grain"))
    post = ((x - 0.75).abs() < 0.04) & (y > 0.45) & (y < 0.75)
    ground = torch.stack([0.6 + grain, 0.5 + grain, 0.35 + grain])
    wall = torch.stack([0.3 + grain / 2, 0.45 + grain / 2, 0.6 + grain / 2])
    background = torch.where(y[None] < 0.5, wall, ground)
    background = torch.where(post[None], torch.tensor([0.8, 0.2, 0.2])[:, None, None], background)
    background = (255 * background.clamp(0, 1)).round() / 255
    radius = torch.sqrt((x - 0.45) ** 2 + ((y - 0.5) * 0.45) ** 2)
    alpha = ((0.12 - radius) * FINE + 0.5).clamp(0, 1)[None]
    subject = torch.tensor([0.9, 0.85, 0.2])[:, None, None].expand_as(background)
    pasted = alpha * subject + (1 - alpha) * background
    oval = torch.sqrt(((x - 0.6) / 0.26) ** 2 + ((y - 0.74) / 0.05) ** 2)
    shadow = 0.55 * torch.sigmoid((1 - oval) * 12) * ~(post | (y < 0.5))
    mirror = 0.25 * torch.sigmoid((1 - torch.sqrt(((x - 0.42) / 0.09) ** 2 + ((y - 0.85) / 0.08) ** 2)) * 15)
    lit = background * (1 - shadow * torch.tensor([1.0, 0.95, 0.8])[:, None, None])
    lit = (lit + mirror * torch.tensor([0.9, 0.8, 0.1])[:, None, None]).clamp(0, 1)
    return Painted(background, pasted, alpha, alpha * subject + (1 - alpha) * lit)


def psnr(image: Tensor, truth: Tensor, where: Tensor) -> float:
    error = (image - truth)[where.expand_as(truth)]
    return float(-10 * torch.log10(error.square().mean()))


def low(image: Tensor) -> Tensor:
    return area_resize(image, COARSE, COARSE)


def test_a_true_small_pair_is_carried_back_better_than_pasting_and_no_further(painted: Painted) -> None:
    output, reference = low(painted.truth), low(painted.pasted)
    ours, layer = transfer_effect(painted.background, painted.pasted, painted.alpha, output, reference)
    enlarged = resize(output, FINE, FINE)
    naive = painted.alpha * painted.pasted + (1 - painted.alpha) * enlarged
    score = psnr(ours, painted.truth, painted.effect)
    assert score > psnr(painted.pasted, painted.truth, painted.effect) + 15
    assert score > psnr(naive, painted.truth, painted.effect) + 3
    outside = (~layer.region & (painted.alpha == 0)).expand_as(ours)
    assert torch.equal(ours[outside], painted.background[outside])
    assert float(outside.float().mean()) > 0.5
    inside = (painted.alpha == 1).expand_as(ours)
    assert torch.equal(ours[inside], painted.pasted[inside])


def test_at_the_models_own_size_the_truth_is_recovered(painted: Painted) -> None:
    truth, pasted, alpha, background = map(
        low, (painted.truth, painted.pasted, painted.alpha, painted.background)
    )
    ours, _ = transfer_effect(background, pasted, alpha, truth, pasted)
    where = ((truth - pasted).abs() > 0.04).any(dim=0, keepdim=True)
    assert psnr(ours, truth, where) > 34
    assert torch.equal(ours[(alpha == 1).expand(3, -1, -1)], pasted[(alpha == 1).expand(3, -1, -1)])


@pytest.mark.parametrize("change", ["none", "noise", "far"])
def test_no_change_faint_noise_and_a_redrawn_corner_are_no_effect(painted: Painted, change: str) -> None:
    reference = low(painted.pasted)
    output = reference.clone()
    if change == "noise":
        output += 0.01 * torch.randn(reference.shape, generator=generator(1, "noise"))
    elif change == "far":
        output[:, :6, 50:] *= 0.5
    ours, layer = transfer_effect(painted.background, painted.pasted, painted.alpha, output, reference)
    assert float(layer.region.float().mean()) < (0.005 if change == "noise" else 1e-9)
    if change == "none":
        assert torch.equal(ours, painted.pasted)


def test_shade_never_brightens_and_light_never_darkens(painted: Painted) -> None:
    coarse = measure_effect(low(painted.truth), low(painted.pasted), low(painted.alpha))
    fine = upsample_effect(coarse, painted.pasted, painted.alpha)
    for layer in (coarse, fine):
        assert float(layer.shade.min()) >= 0
        assert float(layer.shade.max()) <= 1
        assert float(layer.light.min()) >= 0
    shade_only = EffectLayer(fine.shade, torch.zeros_like(fine.light))
    darker = apply_effect(painted.background, painted.background, torch.zeros_like(painted.alpha), shade_only)
    assert bool((darker <= painted.background).all())


def test_a_half_covered_pixel_gets_half_of_the_light() -> None:
    ground, white = torch.full((3, 4, 4), 0.8), torch.ones(3, 4, 4)
    alpha = torch.full((1, 4, 4), 0.5)
    halved = EffectLayer(torch.full((3, 4, 4), 0.5), torch.zeros(3, 4, 4))
    made = apply_effect(ground, alpha * white + (1 - alpha) * ground, alpha, halved)
    assert torch.allclose(made, torch.full((3, 4, 4), 0.5 * 1.0 + 0.5 * 0.4), atol=1e-6)


def test_an_effect_stops_at_the_edge_of_the_thing_it_fell_on() -> None:
    """A shadow on dark ground beside a white wall: the coarse grid's last dark column must not smear on the wall."""
    background = torch.full((3, 64, 64), 0.3)
    background[:, :, 34:] = 0.95
    layer = EffectLayer(torch.ones(3, 16, 16), torch.zeros(3, 16, 16))
    layer.shade[:, :, 4:8] = 0.5
    fine = upsample_effect(layer, background, torch.zeros(1, 64, 64))
    assert float(fine.shade[:, 20:40, 26:32].max()) < 0.6
    assert float(fine.shade[:, 20:40, 36:].min()) > 0.97
