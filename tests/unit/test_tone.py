"""The tone stylizer: laws of its colours, its borders, its lines."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.masks import blur
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.models.segment import clean_border
from magic_insert.stylizers import tone
from magic_insert.stylizers.draws import Draw
from magic_insert.stylizers.tone import (
    Plane,
    ToneStylizer,
    consists_of_marks,
    edge_softness,
    hue_of,
    in_its_hue,
    read_scene,
    texture,
    to_lab,
)
from magic_insert.toybox.records import GBuffer
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_subjects

PLAIN = StylizerConfig(name="tone", lines=0.0, softness=0.0, grain=0.0)
GREEN, MAGENTA, GREY = (0.2, 0.7, 0.25), (0.8, 0.2, 0.7), (0.45, 0.45, 0.5)


def painted(colour: tuple[float, float, float], seed: int = 0, side: int = 96) -> Tensor:
    """A soft texture of light around one colour."""
    texture = blur(torch.randn(1, side, side, generator=generator(seed, "texture")), 2.0)
    return (torch.tensor(colour)[:, None, None] + 0.4 * texture).clamp(0, 1)


def toned(subject: Subject, scene: Tensor, **settings: float) -> Tensor:
    cfg = replace(PLAIN, **settings)
    stylizer = ToneStylizer(cfg, None, subject, StyleConfig(), SamplingConfig(steps=1, guidance=1.0))
    return stylizer([Draw(scene, 0, "x")])[0]


def disc(rgb: Tensor) -> Subject:
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, rgb.shape[1]), torch.linspace(-1, 1, rgb.shape[2]), indexing="ij"
    )
    return Subject(rgb, ((x * x + y * y) < 0.8).float()[None], "disc")


def drawings(g: GBuffer, styles: Sequence[str], seed: int) -> list[Tensor]:
    """One traced motif in each style."""
    return [shrink(draw(g, [style], [0.5], [seed]))[0] for style in styles]


def mean(rgba: Tensor) -> Tensor:
    return (rgba[:3] * rgba[3:]).sum(dim=(1, 2)) / rgba[3:].sum()


def test_strength_leads_from_the_subjects_own_colours_to_the_scenes_and_the_matte_is_kept() -> None:
    subject, scene = disc(painted(GREEN)), painted(GREY, seed=1)
    drawn = [toned(subject, scene, strength=s) for s in (0.0, 0.5, 1.0)]
    window = subject.alpha.amax(dim=(0, 2)).nonzero()[[0, -1], 0].tolist()
    crop = slice(window[0], window[1] + 1)
    inside = subject.alpha[:, crop, crop]
    assert all(torch.equal(picture[3:], inside) for picture in drawn)
    torch.testing.assert_close(drawn[0][:3] * inside, subject.rgb[:, crop, crop] * inside, atol=5e-3, rtol=0)
    away = [float((mean(picture) - scene.mean(dim=(1, 2))).norm()) for picture in drawn]
    assert away[0] > away[1] > away[2]
    assert away[2] < 0.06


def test_colours_that_the_scene_has_too_stay_nearly_as_they_are() -> None:
    subject = disc(painted(GREEN))
    both = torch.cat([painted(GREEN, seed=2), painted(MAGENTA, seed=3)], dim=2)
    kept = mean(toned(subject, both, strength=1.0))
    lost = mean(toned(subject, painted(MAGENTA, seed=3), strength=1.0))
    green = kept[1] - (kept[0] + kept[2]) / 2
    assert green > 0.1 > lost[1] - (lost[0] + lost[2]) / 2


def test_a_scene_of_many_hues_leaves_a_subject_most_of_its_colours() -> None:
    blue, red = (painted((0.2, 0.3, 0.7), seed=2), painted((0.7, 0.3, 0.2), seed=3))
    subject = disc(painted(GREEN))
    moved = [
        float((mean(toned(subject, scene, strength=1.0)) - mean(toned(subject, scene, strength=0.0))).norm())
        for scene in (blue, torch.cat([blue, red], dim=2))
    ]
    assert 0 < moved[1] < 0.5 * moved[0]


def test_in_a_scene_of_one_hue_every_colour_has_that_hue_at_its_own_light() -> None:
    grey = torch.linspace(0.05, 0.95, 96).expand(96, 96) ** 1.2
    sepia = torch.stack([grey, 0.9 * grey**1.1, 0.7 * grey**1.3])
    own = to_lab(torch.cat([painted(GREEN), painted(MAGENTA, seed=1)], dim=2))
    scene = to_lab(sepia)
    turned = in_its_hue(own, hue_of(scene), 1.0)
    assert np.array_equal(turned[..., 0], own[..., 0])
    ramp = scene[0]  # L rises from left to right
    inside = (own[..., 0] > ramp[1, 0]) & (own[..., 0] < ramp[-2, 0])
    for channel in (1, 2):
        wanted = np.interp(own[..., 0], ramp[:, 0], ramp[:, channel])
        assert np.abs(turned[..., channel] - wanted)[inside].max() < 1.0
    half = in_its_hue(own, hue_of(scene), 0.5)
    assert np.allclose(half, (own + turned) / 2, atol=1e-3)
    many = to_lab(torch.cat([painted((0.2, 0.3, 0.7), seed=2), painted((0.7, 0.3, 0.2), seed=3)], dim=2))
    assert np.array_equal(in_its_hue(own, hue_of(many), 1.0), own)


def test_edges_stay_where_they_are() -> None:
    rgb = painted(GREEN)
    rgb[:, :, 48:] = rgb[:, :, 48:] * 0.4
    left = int(disc(rgb).alpha.amax(dim=(0, 1)).nonzero()[0])
    drawn = toned(disc(rgb), painted(GREY, seed=1), strength=1.0)[:3].mean(dim=0)
    assert int(drawn[20:60].diff(dim=1).abs().mean(dim=0).argmax()) == 47 - left


def test_what_shone_through_the_border_is_gone() -> None:
    rgb, alpha = torch.tensor(GREEN)[:, None, None].expand(3, 40, 40).clone(), torch.ones(1, 40, 40)
    alpha[:, :, 20:] = torch.linspace(1, 0, 20)
    rgb[:, :, 20:] = torch.lerp(torch.ones(3, 40, 20), rgb[:, :, 20:], alpha[:, :, 20:])
    lab = to_lab(rgb)
    clean = clean_border(lab, alpha[0].numpy())
    assert np.abs((clean - lab[0, 0])[alpha[0].numpy() > 0.02]).max() < 2.0


def test_lines_are_found_in_drawings_with_lines_alone_and_bright_ones_in_blueprints() -> None:
    styles = ["ink", "cartoon", "blueprint", "watercolour", "oil"]
    scene = trace([scene_world(sample_scene(1))], 256 * SUPERSAMPLE)
    marks = [read_scene(drawn).marks for drawn in drawings(scene, styles, 1)]
    assert min(found.lines for found in marks[:3]) > 0.5
    assert max(found.lines for found in marks[3:]) == 0
    assert [found.bright for found in marks] == [False, False, True, False, False]
    assert 3 < marks[0].width < 6


def test_thin_dark_things_of_many_greys_are_no_drawn_lines_and_those_of_one_ink_are() -> None:
    lines = {}
    for name, step in (("posts", 0.25), ("ink", 0.0)):
        scene = torch.tensor([0.9, 0.8, 0.6])[:, None, None].repeat(1, 200, 200)
        for i in range(10):  # edges that are no lines, in more than one hue
            scene[i % 3, 20 * i : 20 * i + 10, 100:] = 0.2
        for i in range(4):
            scene[:, :, 10 + 20 * i : 12 + 20 * i] = 0.05 + step * i / 1.5
        lines[name] = read_scene(scene).marks.lines
    assert lines == {"posts": 0, "ink": 1}


@pytest.mark.parametrize("width", [2, 4])
def test_outlines_of_many_inks_are_lines_and_edges_and_texture_without_them_are_not(width: int) -> None:
    """Eight coloured boxes with an outline, each of an ink of its own, without one, and both under a texture."""
    plain = torch.tensor([0.8, 0.75, 0.6])[:, None, None].repeat(1, 200, 240)
    outlined = plain.clone()
    for i in range(8):
        y, x = 10 + 100 * (i // 4), 8 + 58 * (i % 4)
        for scene, rim in ((plain, 0), (outlined, width)):
            scene[:, y : y + 80, x : x + 44] = torch.tensor([0.02 * i, 0.05, 0.2 - 0.02 * i])[:, None, None]
            box = torch.tensor([0.9 - 0.1 * i, 0.4, 0.2 + 0.1 * i])[:, None, None]
            scene[:, y + rim : y + 80 - rim, x + rim : x + 44 - rim] = box
    noise = 0.25 * torch.randn(1, 200, 240, generator=generator(0, "leaves"))
    textured = [(scene + blur(noise, 0.7)).clamp(0, 1) for scene in (plain, outlined)]
    found = [read_scene(scene).marks.lines for scene in (plain, outlined, *textured)]
    assert found[0] == found[2] == 0
    assert found[1] == 1
    assert found[3] > 0.5


def test_a_sketch_of_many_greys_on_pale_paper_is_drawn_with_lines_and_the_same_on_grey_is_not() -> None:
    found = []
    for paper in (0.95, 0.55):
        scene = torch.full((3, 160, 160), paper)
        for i in range(12):
            scene[:, :, 6 + 12 * i : 8 + 12 * i] = 0.02 + 0.02 * i
        scene[:, 40:44] = 0.5 * paper
        found.append(read_scene(scene).marks.lines)
    assert found == [1, 0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 200), (200, 1), (3, 3)])
def test_the_smallest_scenes_have_no_marks(height: int, width: int) -> None:
    marks = read_scene(painted(GREEN)[:, :1, :1].expand(3, height, width)).marks
    assert (marks.lines, marks.softness, marks.grain, marks.block) == (0, 0, 0, 0)


@pytest.mark.parametrize("side", [3, 8])
def test_pixel_art_is_known_by_its_blocks_and_gives_them_to_the_subject(side: int) -> None:
    coarse = torch.rand(3, 24, 30, generator=generator(0, "sprite"))
    scene = coarse.repeat_interleave(side, 1).repeat_interleave(side, 2)
    assert read_scene(scene).marks.block == pytest.approx(side)
    assert read_scene(torch.rand(3, 90, 90, generator=generator(0, "noise"))).marks.block == 0
    drawn = toned(disc(painted(GREEN)), scene, lines=0.0, grain=0.0)
    rows = round(drawn.shape[-2] / (side * drawn.shape[-2] / (0.45 * scene.shape[-2])))
    steps = (drawn.diff(dim=-2).abs().amax(dim=(0, 2)) > 1e-6).sum()
    assert int(steps) < rows
    assert set(drawn[3].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("ground", "line"), [(0.9, 0.05), (0.1, 0.95)])
def test_the_subject_gets_the_lines_of_a_scene_dark_or_light(ground: float, line: float) -> None:
    scene = torch.full((3, 200, 200), ground)
    scene[:, ::20] = scene[:, 1::20] = line
    subject = disc(torch.tensor(GREEN)[:, None, None].expand(3, 96, 96).clone())
    plain, lined = (toned(subject, scene, strength=0.0, lines=lines) for lines in (0.0, 1.0))
    towards = (lined[:3].mean(dim=0) - plain[:3].mean(dim=0)) * (1 if line > ground else -1)
    assert float(towards.max()) > 0.2
    assert float(towards.min()) > -0.02


def test_half_of_the_outline_lies_outside_the_subject_in_the_colour_of_the_scenes_lines() -> None:
    scene, brown = torch.full((3, 200, 200), 0.9), torch.tensor([0.3, 0.15, 0.02])[:, None, None]
    for row in range(0, 200, 20):
        scene[:, row : row + 4] = brown
    flat = torch.tensor(GREEN)[:, None, None].expand(3, 90, 90).clone()
    drawn = toned(Subject(flat, torch.ones(1, 90, 90), "square"), scene, strength=0.0, lines=1.0, grain=0.0)
    inked = ((drawn[:3] - brown).norm(dim=0) < 0.1)[45]  # the scene's 4 pixels, at one pixel for one
    assert inked.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 86, 87, 88, 89]
    assert float(drawn[3, 45].min()) > 0.97
    round_one = toned(disc(flat), scene, strength=0.0, lines=1.0, grain=0.0)
    across = int((round_one[3, round_one.shape[1] // 2] > 0.5).sum())
    inside = int(((round_one[:3] - brown).norm(dim=0) >= 0.1)[round_one.shape[1] // 2].sum())
    assert across == round_one.shape[2]
    assert inside == pytest.approx(across - 8, abs=2)  # pixels that the ink covers in part


@pytest.mark.parametrize("sigma", [1.0, 1.5, 1.9])
def test_the_softness_of_a_scene_is_the_blur_over_its_edges(sigma: float) -> None:
    boxes = torch.full((1, 192, 192), 0.8)
    for k in range(6):
        boxes[:, 12 + 28 * k : 30 + 28 * k, 20 + 9 * k : 90 + 15 * k] = 0.1 + 0.1 * k
    grain = 0.02 * torch.randn(1, 192, 192, generator=generator(0, "grain"))
    read = [edge_softness(100 * (blur(boxes, s) + grain)[0].numpy()) for s in (0.0, sigma)]
    assert read[0] < 0.05
    assert abs(read[1] - sigma) < 0.2 * sigma


def test_a_scene_without_edges_or_out_of_focus_leaves_a_subject_sharp() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 128), torch.linspace(0, 1, 160), indexing="ij")
    gradient = 50 + 40 * torch.sin(9 * x + 2 * y)
    checks = 100 * torch.eye(2).repeat(3, 3).repeat_interleave(24, 0).repeat_interleave(24, 1)
    plain = torch.full((90, 120), 60.0)
    found = [edge_softness(scene.numpy()) for scene in (gradient, blur(checks[None], 5.0)[0], plain)]
    assert found == [0, 0, 0]


def test_vintage_pictures_and_watercolours_are_soft_and_drawings_with_lines_are_not() -> None:
    styles = ("vintage", "watercolour", "ink", "cartoon", "blueprint", "papercut")
    scene = trace([scene_world(sample_scene(5, "heldout"))], 256 * SUPERSAMPLE)
    soft = [read_scene(drawn).marks.softness for drawn in drawings(scene, styles, 5)]
    assert min(soft[:2]) > 0.5
    assert max(soft[2:]) == 0


def test_a_subject_becomes_as_soft_as_the_scene_where_it_will_stand() -> None:
    """At k times its size in the scene it is blurred k times as widely; what lies beyond its matte does not come in."""
    scene = blur(torch.eye(8).repeat_interleave(16, 0).repeat_interleave(16, 1)[None], 2.0).expand(3, -1, -1)
    sigma = read_scene(scene).marks.softness
    flat = torch.tensor(MAGENTA)[:, None, None].expand(-1, 64, 64).clone()
    subject = disc(flat)
    crisp, soft = (toned(subject, scene, strength=0.0, softness=s, height=0.25) for s in (0.0, 1.0))
    assert sigma > 1.5
    larger = crisp.shape[1] / (0.25 * scene.shape[1])
    assert torch.allclose(soft[3:], blur(crisp[3:], larger * sigma), atol=1e-5)
    assert torch.allclose(soft[:3] * soft[3:], crisp[:3].amax((1, 2), keepdim=True) * soft[3:], atol=0.02)


@pytest.mark.parametrize(("height", "width"), [(2, 200), (200, 2), (90, 60)])
def test_grain_is_no_larger_than_the_scene(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    def textured(light: Plane) -> tuple[Plane, float]:
        sizes.append(light.shape)
        return texture(light)

    monkeypatch.setattr(tone, "texture", textured)
    scene = (painted(GREY) + 0.1 * torch.randn(3, 96, 96, generator=generator(0, "grain"))).clamp(0, 1)
    subject = Subject(torch.full((3, height, width), 0.5), torch.ones(1, height, width), "bar")
    drawn = toned(subject, scene, grain=1.0)
    assert drawn.shape == (4, height, width)
    assert drawn.isfinite().all()
    assert len(sizes) == 2
    assert all(side <= 96 for size in sizes for side in size)


@pytest.mark.parametrize("size", [128, pytest.param(256, marks=pytest.mark.slow)])
def test_dots_hatching_tiles_and_lines_of_one_ink_are_marks_and_eyes_and_patterns_are_not(size: int) -> None:
    marked = ["halftone", "pencil", "ink", "mosaic", "woodcut"]
    styles = [*marked, "photo", "oil", "watercolour", "papercut", "vintage"]
    g = trace_subjects([sample_subject(4, "heldout")], size * SUPERSAMPLE)
    alpha = shrink(g.coverage)[0]
    found = [consists_of_marks(rgb, alpha) for rgb in drawings(g, styles, 4)]
    assert found == [style in marked for style in styles]
