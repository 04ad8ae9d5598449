"""How what a model drew comes home: the law of untouched pixels, inpainting, and a hole without a seam."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import rectangle
from torch import Tensor

from magic_insert.config.schema.shared import InserterConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.effect_layer import EffectConfig, fill_hole
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import psnr_pooled, region_sums
from magic_insert.core.rand import generator
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.inserters import build_inserter
from magic_insert.inserters.base import Inserted, insert_cutout, neighbourhood
from magic_insert.inserters.inpaint import inpaint
from magic_insert.models.edit_unet import EditSampling
from magic_insert.models.pipeline import decode, encode


def noisy(*shape: int, name: str = "noise") -> Tensor:
    return torch.rand(shape, generator=generator(0, name))


def placed(
    pipe: Any, folder: Path, composite: str, inserter: str = "diffusion", front: Tensor | None = None
) -> tuple[Scene, Inserted]:
    scene = Scene(noisy(3, 256, 320), "scene")
    alpha = rectangle(60, 40, (5, 55), (5, 35))
    subject = Subject(noisy(3, 60, 40, name="subject"), alpha, "subject")
    made = build_inserter(InserterConfig(inserter, steps=2, reach=0.3), pipe, folder / "inserter")
    box = Box(200, 120, 50, 80)
    drawn = insert_cutout(
        scene, subject, box, inserter=made, composite=composite, draw=(0, "pair"), front=front
    )
    return scene, drawn


@pytest.mark.parametrize("inserter", ["diffusion", "inpaint", "contact_shadow"])
def test_outside_the_effect_an_effect_layer_leaves_every_bit_at_four_times_the_models_size(
    inserter: str, tiny_pipe: Any, tiny_micro: Path
) -> None:
    scene, made = placed(tiny_pipe, tiny_micro, "effect_layer", inserter)
    touched = (made.effect > 0) | (made.final.mask > 0)
    assert 0.01 < float(touched.float().mean()) < 0.6
    same = (made.final.rgb == scene.rgb).all(dim=0, keepdim=True)
    assert same[~touched].all()


@pytest.mark.parametrize(
    ("composite", "inserter"), [("effect_layer", "contact_shadow"), ("paper", "diffusion")]
)
def test_what_stands_before_the_subject_is_the_scene_bit_for_bit_and_the_rest_as_without_it(
    composite: str, inserter: str, tiny_pipe: Any, tiny_micro: Path
) -> None:
    front = rectangle(256, 320, (150, 210), (190, 225))
    scene, made = placed(tiny_pipe, tiny_micro, composite, inserter, front)
    _, over = placed(tiny_pipe, tiny_micro, composite, inserter)
    before = (front > 0)[0]
    assert (over.final.mask[0, before] > 0).any()
    assert torch.equal(made.final.rgb[:, before], scene.rgb[:, before])
    assert torch.equal(made.final.rgb[:, ~before], over.final.rgb[:, ~before])
    assert not made.final.mask[0, before].any()
    assert not made.effect[0, before].any() or composite == "paper"


def test_the_papers_composite_redraws_all_and_an_inserter_draws(tiny_pipe: Any, tiny_micro: Path) -> None:
    scene, made = placed(tiny_pipe, tiny_micro, "paper")
    same = (made.final.rgb == scene.rgb).all(dim=0)
    assert made.final.rgb.shape == scene.rgb.shape
    assert float(same.float().mean()) < 0.01
    assert made.final.provenance["window"] == [0, -32, 320]
    with pytest.raises(UserError, match="composite=effect_layer"):
        placed(tiny_pipe, tiny_micro, "paper", "contact_shadow")


def test_inpainting_nothing_is_the_round_trip_and_a_row_does_not_see_its_neighbours(tiny_pipe: Any) -> None:
    images, region = noisy(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    still = decode(tiny_pipe.vae, encode(tiny_pipe.vae, images))
    assert torch.allclose(
        inpaint(tiny_pipe, images, region, EditSampling(0, ["a", "b"], 2)), still, atol=1e-5
    )
    region[:, :, :, 32:] = 1
    both = inpaint(tiny_pipe, images, region, EditSampling(0, ["a", "b"], 2))
    alone = inpaint(tiny_pipe, images[1:], region[1:], EditSampling(0, ["b"], 2))
    assert torch.allclose(both[1:], alone, atol=1e-4)
    assert (both - still).abs()[..., 40:].max() > 0.01


def test_the_neighbourhood_surrounds_the_subject_and_leaves_it_out() -> None:
    mask = rectangle(32, 32, (10, 20), (12, 18))
    ring = neighbourhood(mask)
    assert not (ring * mask).any()
    assert ring[0, 5:25, 7:23].sum() + mask.sum() == ring.sum() + 60 == 20 * 16
    assert not neighbourhood(torch.zeros(1, 32, 32)).any()


def shadowed() -> tuple[Tensor, Tensor, Tensor]:
    """A smooth floor, the same with a red block and its shadow, and the block's mask; 128 pixels."""
    y, x = torch.meshgrid(torch.linspace(0.4, 0.9, 128), torch.linspace(0.5, 0.8, 128), indexing="ij")
    floor = torch.stack([x, y, 0.5 * (x + y)])
    window = floor.clone()
    window[:, 84:96, 60:100] *= 0.6
    mask = rectangle(128, 128, (44, 90), (48, 72))
    return floor, torch.where(mask > 0, torch.tensor([0.9, 0.1, 0.1])[:, None, None], window), mask


def test_a_remover_gives_the_floor_back_with_its_shadow_gone_and_its_tint_matched() -> None:
    floor, window, mask = shadowed()
    small = [area_resize(image, 32, 32) for image in (floor, window)]
    made, changed = fill_hole(window, mask, *small, grow=0.02, config=EffectConfig())
    everywhere = torch.ones(1, 1, 128, 128)
    before = psnr_pooled(region_sums(window[None], floor[None], everywhere))
    after = psnr_pooled(region_sums(made[None], floor[None], everywhere))
    assert before is not None
    assert after is not None
    assert after > before + 15
    same = (made == window).all(dim=0, keepdim=True)
    assert same[changed == 0].all()
    assert 0.1 < float(changed.mean()) < 0.5
    truth, seen = (area_resize(image, 32, 32) for image in (floor, window))
    tint = torch.tensor([0.02, -0.02, 0.02])[:, None, None]  # too faint to count as light
    made, _ = fill_hole(window, mask, truth + tint, seen + tint, grow=0.02, config=EffectConfig())
    off = (made - floor)[:, 50:86, 54:66].mean(dim=(1, 2)).abs()
    assert float(off.max()) < 0.01
