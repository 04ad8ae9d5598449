"""Laws of the drawing styles, on one small world: a figure, a box and a ball on a plain."""

from dataclasses import fields

import pytest
import torch

from magic_insert.config.registry import STYLES
from magic_insert.core.errors import UserError
from magic_insert.toybox.records import GBuffer, Paint, Shape, World
from magic_insert.toybox.styles import ALL_STYLES, HELD_OUT_STYLES, TRAIN_STYLES, draw, style_phrase
from magic_insert.toybox.styles.view import View, style
from magic_insert.toybox.tracer import trace

SIZE = 128
FIGURE = (
    Shape(
        "ellipsoid",
        (0.0, 0.38, 0.0),
        (0.28, 0.38, 0.26),
        Paint((0.95, 0.7, 0.15), (0.9, 0.3, 0.1), "stripes"),
    ),
    Shape("ellipsoid", (0.0, 0.9, 0.0), (0.22, 0.22, 0.22), Paint((0.95, 0.9, 0.7))),
)
PROPS = (
    Shape("box", (-1.1, 0.4, -0.6), (0.3, 0.4, 0.3), Paint((0.75, 0.3, 0.2)), object_id=3),
    Shape("ellipsoid", (1.1, 0.25, 0.2), (0.25, 0.25, 0.25), Paint((0.25, 0.4, 0.8)), object_id=4),
)
MEADOW = Paint((0.55, 0.72, 0.42))
LAKE = Paint((0.45, 0.52, 0.58), gloss=0.6)


def world(figure: bool = True, ground: Paint | None = MEADOW) -> World:
    if ground is None:
        return World(FIGURE, None, zenith=(0.98, 0.98, 0.97), horizon=(0.98, 0.98, 0.97))
    return World(PROPS + (FIGURE if figure else ()), ground)


@pytest.fixture(scope="module")
def g() -> GBuffer:
    """Rows: meadow with the figure, without, lake with, lake without, studio."""
    return trace([world(), world(False), world(True, LAKE), world(False, LAKE), world(ground=None)], SIZE)


def rows(g: GBuffer, *index: int) -> GBuffer:
    return GBuffer(**{f.name: getattr(g, f.name)[list(index)] for f in fields(g)})


def drawn(g: GBuffer, name: str, c: float = 0.5, seed: int = 3) -> torch.Tensor:
    n = g.depth.shape[0]
    return draw(g, [name] * n, [c] * n, [seed] * n)


def grown(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(mask.float(), 2 * pixels + 1, 1, pixels) > 0


def cast_shadow(g: GBuffer) -> torch.Tensor:
    """1 1 H W bool: ground the figure took the sun from, away from the figure's outline."""
    lost = (g.hard_visibility[1:2] - g.hard_visibility[0:1] > 0.5) & (g.object_id[0:1] == 1)
    return lost & ~grown(g.object_id[0:1] == 100, 2)


def test_one_more_style_is_one_decorated_function_and_changes_no_list(g: GBuffer) -> None:
    @STYLES.register("negative")
    @style("as a negative")
    def negative(v: View) -> torch.Tensor:
        return 1.0 - v.lit.clamp(0.0, 1.0)

    try:
        assert drawn(rows(g, 4), "negative").mean() < drawn(rows(g, 4), "photo").mean()
        assert style_phrase("negative") == "as a negative"
        assert "negative" not in ALL_STYLES
    finally:
        del STYLES.registered["negative"]
    assert TRAIN_STYLES[0] == "photo"
    assert not set(HELD_OUT_STYLES) & set(TRAIN_STYLES)


@pytest.mark.parametrize("size", [64, (96, 160)])
def test_every_style_draws_every_size(size: int | tuple[int, int]) -> None:
    small = trace([world()], size)
    for name in ALL_STYLES:
        simple, rich = (drawn(small, name, c) for c in (0.0, 1.0))
        assert (simple - rich).abs().mean() > 0.004, "complexity adds detail"
        for image in (simple, rich):
            assert image.shape[-2:] == small.depth.shape[-2:]
            assert image.isfinite().all()
            assert image.min() >= 0.0
            assert image.max() <= 1.0


def test_a_mixed_batch_equals_its_rows_drawn_alone_bit_for_bit(g: GBuffer) -> None:
    styles = ["oil", "neon", "mosaic", "photo", "ink"]
    complexity, seeds = [0.1, 0.4, 0.6, 0.9, 1.0], [5, 1, 4, 2, 3]
    batch = draw(g, styles, complexity, seeds)
    for i in range(5):
        alone = draw(rows(g, i), [styles[i]], [complexity[i]], [seeds[i]])
        assert torch.equal(batch[i : i + 1], alone)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_far_from_subject_and_shadow_it_is_drawn_alike_with_and_without_it(g: GBuffer, style: str) -> None:
    pair = drawn(rows(g, 0, 1), style)
    touched = torch.zeros_like(g.depth[:1], dtype=torch.bool)
    for f in fields(g):
        value = getattr(g, f.name)
        if value.dim() == 4:
            touched |= (value[0:1] != value[1:2]).any(1, keepdim=True)
    far = ~grown(touched, 26)
    assert far.float().mean() > 0.1
    assert torch.equal(pair[0:1] * far, pair[1:2] * far)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_a_cast_shadow_is_seen_in_every_style_at_every_complexity(g: GBuffer, style: str) -> None:
    shadow = cast_shadow(g)
    assert shadow.sum() > 60
    for c in (0.0, 0.5, 1.0):
        pair = drawn(rows(g, 0, 1), style, c)
        change = (pair[0:1] - pair[1:2]).mean(1, keepdim=True)[shadow].mean()
        brighter = style == "blueprint"  # white hatching on blue
        assert change > 0.05 if brighter else change < -0.05, (c, change)


@pytest.mark.parametrize("style", ALL_STYLES)
def test_a_mirror_image_is_seen_in_every_style(g: GBuffer, style: str) -> None:
    seen = (g.mirror_id[2:3] == 100) & (g.object_id[2:3] == 1) & (g.gloss[2:3] > 0.1)
    seen &= ~grown(g.object_id[2:3] == 100, 2)
    assert seen.sum() > 60
    pair = drawn(rows(g, 2, 3), style)
    assert (pair[0:1] - pair[1:2]).abs().mean(1, keepdim=True)[seen].mean() > 0.02


def test_styles_can_be_told_apart_by_colour_and_roughness(g: GBuffer) -> None:
    """A drawing at another seed and complexity is nearest to its own style's reference, by twelve numbers."""

    def traits(image: torch.Tensor) -> torch.Tensor:
        step = (image[..., 1:] - image[..., :-1]).abs().mean(1)
        wide = (image[..., 3:] - image[..., :-3]).abs().mean(1)
        spread = image.flatten(2)
        return torch.cat((
            spread.mean(2), spread.std(2), (image.amax(1) - image.amin(1)).mean((1, 2))[:, None] * 2.0,
            step.mean((1, 2))[:, None] * 4.0, wide.mean((1, 2))[:, None] * 2.0,
            (step > 0.15).float().mean((1, 2))[:, None] * 2.0,
            (step == 0.0).float().mean((1, 2))[:, None] * 2.0,
            image[:, :, :20].mean((1, 2, 3))[:, None],
        ), 1)  # fmt: skip

    row = rows(g, 0)
    reference = torch.cat([traits(drawn(row, s, 0.5, 1)) for s in ALL_STYLES])
    again = torch.cat([traits(drawn(row, s, 0.6, 2)) for s in ALL_STYLES])
    assert torch.cdist(again, reference).argmin(1).tolist() == list(range(len(ALL_STYLES)))


def test_an_unknown_style_is_refused(g: GBuffer) -> None:
    with pytest.raises(UserError, match="expected style"):
        draw(rows(g, 0), ["fresco"], [0.5], [0])
