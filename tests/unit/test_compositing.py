"""Laws of standing a subject in a scene: fit, paste, default place, the window a model is shown."""

import pytest
import torch
from helpers import rectangle
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_insert.core.compositing import Region, area_resize, fit_to_box, paste, region_around
from magic_insert.core.errors import UserError
from magic_insert.core.masks import bounding_box
from magic_insert.core.placement import default_box
from magic_insert.core.rand import generator
from magic_insert.core.records import Box, Scene, Subject


def noise_scene(height: int = 96, width: int = 128, seed: int = 0) -> Scene:
    """8-bit values, as every picture from a file has."""
    levels = torch.randint(0, 256, (3, height, width), generator=generator(seed, "scene"))
    return Scene(levels.float() / 255, "noise")


def slab(height: int, width: int, canvas: int = 200) -> Subject:
    """A red slab of height x width somewhere on a green canvas."""
    alpha = rectangle(canvas, canvas, (17, 17 + height), (23, 23 + width))
    rgb = torch.tensor([0.0, 1.0, 0.0])[:, None, None].repeat(1, canvas, canvas)
    rgb = torch.where(alpha > 0, torch.tensor([1.0, 0.0, 0.0])[:, None, None], rgb)
    return Subject(rgb, alpha, "slab")


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 150), st.integers(20, 150), st.integers(24, 90), st.integers(24, 90))
def test_a_fitted_subject_keeps_its_aspect_and_stands_on_the_floor(h: int, w: int, bh: int, bw: int) -> None:
    fitted = fit_to_box(slab(h, w), Box(0, 0, bw, bh))
    found = bounding_box(fitted.alpha)
    assert fitted.rgb.shape[-2:] == (bh, bw)
    assert found.bottom == bh
    assert found.w == bw or found.h == bh
    scale = min(bw / w, bh / h)
    assert abs(found.w - w * scale) <= 1
    assert abs(found.h - h * scale) <= 1
    assert abs(found.centre_x - bw / 2) <= 1


def test_pixels_the_matte_does_not_reach_are_the_scenes_and_what_lay_behind_it_does_not_bleed() -> None:
    scene = noise_scene()
    made = paste(scene, slab(101, 67), Box(20, 10, 40, 60))
    untouched = (made.mask == 0).expand(3, -1, -1)
    assert torch.equal(made.rgb[untouched], scene.rgb[untouched])
    assert torch.equal(made.mask, made.mask.clamp(0, 1))
    inside = (made.mask == 1).expand(3, -1, -1)
    assert torch.allclose(
        made.rgb[inside], torch.tensor([1.0, 0, 0])[:, None, None].expand_as(made.rgb)[inside]
    )
    fitted = fit_to_box(slab(101, 67), Box(0, 0, 40, 60))
    seen = fitted.alpha > 0.05
    assert float((fitted.rgb[1:2] * seen).max()) < 1e-3


def test_a_clear_subject_leaves_the_scene_and_a_half_clear_one_is_the_mean() -> None:
    scene = noise_scene()
    half = Subject(torch.ones(3, 8, 8), torch.full((1, 8, 8), 0.5), "half")
    made = paste(scene, half, Box(4, 4, 8, 8))
    assert torch.allclose(made.rgb[:, 4:12, 4:12], 0.5 + 0.5 * scene.rgb[:, 4:12, 4:12], atol=1e-5)
    with pytest.raises(UserError, match="empty"):
        paste(scene, Subject(torch.ones(3, 8, 8), torch.zeros(1, 8, 8), "clear"), Box(4, 4, 8, 8))


@pytest.mark.parametrize("box", [Box(-1, 0, 5, 5), Box(0, 90, 5, 7), Box(3, 3, 0, 4)])
def test_a_box_that_leaves_the_scene_is_refused(box: Box) -> None:
    with pytest.raises(UserError, match=r"expected a box"):
        paste(noise_scene(), slab(50, 50), box)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_the_default_box_is_inside_any_picture(height: int, width: int) -> None:
    assert default_box(Scene(torch.zeros(3, height, width), "s")).inside(height, width)


def test_the_default_box_takes_the_emptier_side() -> None:
    busy_left = torch.full((3, 100, 100), 0.5)
    busy_left[:, :, :50] = noise_scene(100, 50).rgb
    left, right = (default_box(Scene(image, "s")) for image in (busy_left.flip(2), busy_left))
    assert left.centre_x == pytest.approx(32, abs=1)
    assert right.centre_x == pytest.approx(73, abs=1)
    assert left.h == 45
    assert left.bottom == 95


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_window_covers_the_box_and_put_back_changes_nothing(w: int, h: int, x: int, y: int) -> None:
    scene = noise_scene(100, 120)
    box = Box(min(x, 120 - w), min(y, 100 - h), w, h)
    region = region_around(box, 100, 120)
    assert region.x <= box.x
    assert region.y <= box.y
    assert region.x + region.side >= box.right
    assert region.y + region.side >= box.bottom
    window = region.crop(scene.rgb)
    assert window.shape == (3, region.side, region.side)
    assert torch.equal(region.put_back(scene.rgb, window), scene.rgb)


def test_a_window_longer_than_the_picture_repeats_its_edge() -> None:
    scene = noise_scene(20, 80)
    region = region_around(Box(5, 0, 70, 20), 20, 80)
    assert region.side == 70
    assert region.y == -25
    window = region.crop(scene.rgb)
    assert torch.equal(window[:, 0], window[:, 25])
    painted = region.put_back(scene.rgb, torch.zeros_like(window))
    assert float(painted[:, :, region.x : region.x + 70].max()) == 0
    assert torch.equal(Region(0, 0, 1).put_back(scene.rgb, scene.rgb[:, :1, :1]), scene.rgb)


def test_an_area_resize_is_the_mean_of_the_footprint() -> None:
    picture = noise_scene(64, 64).rgb
    small = area_resize(picture, 16, 16)
    assert torch.allclose(small[:, 3, 5], picture[:, 12:16, 20:24].mean(dim=(1, 2)), atol=1e-6)
