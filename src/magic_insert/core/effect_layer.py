"""The effect layer: what an inserter changed, carried back to the scene's own resolution without its blur.

An inserter redraws the whole picture at low resolution. Compared with a *no-op reconstruction* of its own input, the
difference is what it meant to change: shade (a factor <= 1 per channel: shadow, darker reflection) and light (an
addition >= 0: glow, lighter reflection). Both are cleaned, held to the neighbourhood of the subject, upsampled along
the edges of the full-resolution picture, and applied to the scene's own pixels. Outside, pixels are the scene's, bit
for bit. A hole that a remover drew at low resolution is filled in the same way, without a seam. Letters: h, w the
model's rows and columns, s its side, H, W the full-resolution window. All pictures are in [0, 1].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from magic_insert.core.box import Box
from magic_insert.core.compositing import area_resize, cover, luminance, resize
from magic_insert.core.masks import (
    INSIDE,
    area,
    blur_inside,
    bounding_box,
    dilate,
    feather,
    smoothstep,
    touching,
)

DARKEST = 0.05  # a reference darker than this says nothing about a factor
REACHED = 0.3  # coverage from which a pixel's change is continued from its neighbours instead of measured
FINEST = 8  # pixels of the guide for each pixel of the layer; larger pictures are guided at this size
# Shaded by a plain product, six subjects in 17 styles were paler and less like the truth (identity .818, so .819).
KEPT = 0.5
ROUNDS = 3  # of back-projection: +3 dB on Toybox scenes at three times the model's size, little beyond
QUIET = 0.5 / 255  # less than half a step of an 8-bit picture cannot be seen, so it is not applied


@dataclass(frozen=True)
class EffectConfig:
    """What counts as an effect.

    threshold: smallest change (largest channel, smoothed over a pixel) that is believed; in [0, 1].
    reach: how far from the subject an effect may lie, in units of the subject's longer side.
    gap: how far from the subject an effect may begin, same unit; what starts farther away is a redrawn background.
    edge_tolerance: colour distance (root mean square over channels) over which two pixels stop sharing an effect.
    """

    threshold: float = 0.03
    reach: float = 1.2
    gap: float = 0.12
    edge_tolerance: float = 0.12


@dataclass(frozen=True)
class EffectLayer:
    """`scene * shade + light`; shade in [0, 1], light in [0, 1]; exactly 1 and 0 where nothing happens."""

    shade: Float[Tensor, "3 H W"]
    light: Float[Tensor, "3 H W"]

    @property
    def region(self) -> Bool[Tensor, "1 H W"]:
        """Where the layer does anything at all."""
        return ((self.shade < 1.0) | (self.light > 0.0)).any(dim=0, keepdim=True)


def measure_effect(
    output: Float[Tensor, "3 h w"],
    reference: Float[Tensor, "3 h w"],
    subject: Float[Tensor, "1 h w"],
    config: EffectConfig | None = None,
) -> EffectLayer:
    """The low-resolution layer that turns `reference` into `output` near, but outside, the subject.

    Args:
        output: what the inserter drew.
        reference: the same inserter's reconstruction of its input when it changes nothing.
        subject: the subject's coverage at the same size.
    """
    config = config or EffectConfig()
    if area(subject) == 0:
        return EffectLayer(torch.ones_like(reference), torch.zeros_like(reference))
    # How far each pixel's change is believed, in [0, 1]: loud enough, and part of something at the subject's foot.
    # Loudness is the change that survives smoothing, so single noisy pixels fall and a faint wide shadow stays.
    outside = 1.0 - subject
    change = blur_inside(output - reference, outside, 0.7)
    loud = change.abs().amax(dim=0, keepdim=True) * (outside > 0)
    inside = min(INSIDE, float(subject.max()))
    box, body = bounding_box(subject, inside), (subject >= inside).to(subject.dtype)
    longer = max(box.w, box.h)
    found = (loud >= config.threshold).to(loud.dtype)
    found = touching(found, dilate(body, max(1, round(config.gap * longer))))
    support = dilate(found, 1) * dilate(body, max(1, round(config.reach * longer)))
    trust = smoothstep(loud, 0.5 * config.threshold, 1.5 * config.threshold) * support
    shade = (output / reference.clamp_min(DARKEST)).clamp(max=1.0)
    light = (output - reference).clamp_min(0.0)
    return EffectLayer(
        1.0 - continue_under(trust * (1.0 - shade), subject), continue_under(trust * light, subject)
    )


def in_shade(rgb: Float[Tensor, "3 H W"], shade: Float[Tensor, "1 H W"]) -> Float[Tensor, "3 H W"]:
    """`rgb` in a shade in [0, 1], with KEPT of the colour that a plain product would take away."""
    dark = rgb * shade
    grey = luminance(dark)
    return (grey + (dark - grey) * shade.clamp_min(DARKEST) ** -KEPT).clamp(0.0, 1.0)


def continue_under(change: Float[Tensor, "3 h w"], subject: Float[Tensor, "1 h w"]) -> Float[Tensor, "3 h w"]:
    """The change with what the subject covers, wholly or in part, continued from the open pixels beside it.

    A half-covered pixel shows half of the shadow; without this, a light seam would follow the subject's outline.
    """
    free = (1.0 - subject).square()
    beside = blur_inside(change, free, 1.0)
    return change + (beside - change) * (subject > REACHED).to(change.dtype)


def upsample_effect(
    layer: EffectLayer,
    guide: Float[Tensor, "3 H W"],
    subject: Float[Tensor, "1 H W"],
    config: EffectConfig | None = None,
) -> EffectLayer:
    """Joint bilateral upsampling of the layer to the size of `guide`, the full-resolution composite.

    Each fine pixel averages the 4 x 4 coarse pixels around it, weighted by distance (a Gaussian of 0.55 coarse
    pixels), by likeness of their colour in the guide, and by how little the subject covers them: an effect keeps to the
    surface it fell on and reaches right up to the subject's outline (Kopf et al. 2007, eq. 4). Then, a few times, the
    layer is shrunk again and what it lacks is added the same way, so that a shadow's own edge stays as crisp as it was
    measured (iterative back-projection, Irani and Peleg 1991).
    """
    shade, light = torch.ones_like(guide), torch.zeros_like(guide)
    near, box = upsample_near(layer, guide, subject, config)
    shade[box.pixels], light[box.pixels] = near.shade, near.light
    return EffectLayer(shade, light)


def upsample_near(
    layer: EffectLayer,
    guide: Float[Tensor, "3 H W"],
    subject: Float[Tensor, "1 H W"],
    config: EffectConfig | None = None,
) -> tuple[EffectLayer, Box]:
    """`upsample_effect` where the layer does anything: that part of it, and its box; an empty box where it does not."""
    config = config or EffectConfig()
    (height, width), (h, w) = guide.shape[-2:], layer.shade.shape[-2:]
    if (height, width) == (h, w):
        return _hush(layer), Box(0, 0, width, height)
    wanted = torch.cat([1.0 - layer.shade, layer.light])
    where = _neighbourhood(wanted)
    if where is None:
        nothing = guide[:, :0, :0]
        return EffectLayer(nothing, nothing), Box(0, 0, 0, 0)
    rows, columns = _span(where[0], height, h), _span(where[1], width, w)
    there = (slice(None), rows, columns)
    guide, subject, wanted = guide[there], subject[there], wanted[(slice(None), *where)]
    # Along the edges of the guide, at a whole number of pixels a cell, and resized from there.
    (height, width), (h, w) = guide.shape[-2:], wanted.shape[-2:]
    size = h * min(FINEST, -(-height // h)), w * min(FINEST, -(-width // w))
    spread = _Upsampler(area_resize(guide, *size), area_resize(subject, *size), (h, w), config.edge_tolerance)
    found = spread(wanted)
    for _ in range(ROUNDS):
        lacking = (wanted - area_resize(found, h, w)) * (spread.free > 1.0 - REACHED)
        # Where nothing was measured nothing may appear.
        found = (found + spread(lacking)) * (found > 0)
    if size != (height, width):
        found = functional.interpolate(found[None], (height, width), mode="bilinear", align_corners=False)[0]
    box = Box(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return _hush(EffectLayer(1.0 - found[:3], found[3:])), box


def _span(cells: slice, fine: int, coarse: int) -> slice:
    """The pixels of these cells."""
    return slice(cells.start * fine // coarse, -(-cells.stop * fine // coarse))


def _neighbourhood(change: Float[Tensor, "C h w"]) -> tuple[slice, slice] | None:
    """Rows and columns within three cells of any change; None where there is none."""
    found = change.abs().amax(dim=0) > 0
    if not found.any():
        return None
    spans = []
    for line in (found.any(dim=1), found.any(dim=0)):
        at = line.nonzero()[:, 0]
        spans.append(slice(max(0, int(at[0]) - 3), min(len(line), int(at[-1]) + 4)))
    return spans[0], spans[1]


class _Upsampler:
    """The weights of one guide, used for several layers."""

    def __init__(
        self,
        guide: Float[Tensor, "3 H W"],
        subject: Float[Tensor, "1 H W"],
        coarse_size: tuple[int, int],
        edge_tolerance: float,
    ) -> None:
        (height, width), (h, w) = guide.shape[-2:], coarse_size
        coarse = area_resize(guide, h, w)
        self.free = (1.0 - area_resize(subject, h, w)).clamp(0.0, 1.0)
        self.rows, self.columns = _taps(height, h, guide), _taps(width, w, guide)
        self.weights: list[Tensor] = []
        total = guide.new_zeros(1, height, width)
        for column, near_x in self.columns:
            seen, open_here = coarse.index_select(2, column), self.free.index_select(2, column).square()
            for row, near_y in self.rows:
                unlike = (seen.index_select(1, row) - guide).square().mean(dim=0, keepdim=True)
                alike = torch.exp(unlike * (-0.5 / edge_tolerance**2)) + 1e-4
                weight = alike * (open_here.index_select(1, row) + 1e-4)
                self.weights.append(weight * (near_y[:, None] * near_x[None, :]))
                total += self.weights[-1]
        for weight in self.weights:
            weight /= total

    def __call__(self, coarse: Float[Tensor, "C h w"]) -> Float[Tensor, "C H W"]:
        """The coarse planes at the guide's size."""
        weights = iter(self.weights)
        result = coarse.new_zeros(coarse.shape[0], *self.weights[0].shape[-2:])
        for column, _ in self.columns:
            across = coarse.index_select(2, column)  # first: they are few rows, and whole rows copy fast
            for row, _ in self.rows:
                result.addcmul_(next(weights), across.index_select(1, row))
        return result


def _taps(fine: int, coarse: int, like: Tensor) -> list[tuple[Int[Tensor, " F"], Float[Tensor, " F"]]]:
    """For each of four neighbours along one axis: its coarse index and its Gaussian weight, per fine pixel."""
    centre = (torch.arange(fine, device=like.device) + 0.5) * coarse / fine - 0.5
    first = centre.floor().long() - 1
    index = [first + step for step in range(4)]
    near = [torch.exp(-0.5 * ((i - centre) / 0.55) ** 2).to(like.dtype) for i in index]
    return [(i.clamp(0, coarse - 1), n) for i, n in zip(index, near, strict=True)]


def _hush(layer: EffectLayer) -> EffectLayer:
    """The layer with everything too faint for an 8-bit picture set to exactly nothing."""
    quiet = ((1.0 - layer.shade).amax(dim=0) < QUIET) & (layer.light.amax(dim=0) < QUIET)
    return EffectLayer(
        layer.shade.clamp(0.0, 1.0).masked_fill_(quiet, 1.0),
        layer.light.clamp(0.0, 1.0).masked_fill_(quiet, 0.0),
    )


def apply_effect(
    background: Float[Tensor, "3 H W"],
    composite: Float[Tensor, "3 H W"],
    alpha: Float[Tensor, "1 H W"],
    layer: EffectLayer,
) -> Float[Tensor, "3 H W"]:
    """The scene with its new light, under the subject: `alpha * subject + (1 - alpha) * (scene * shade + light)`.

    `composite` is the paste without effects, from which the subject's share is taken. Pixels outside the layer's region
    and the matte are the background's very values; fully covered ones are the composite's.
    """
    where = _neighbourhood(layer.region.to(alpha.dtype))
    if where is None:
        return composite
    cut = (slice(None), *where)
    background, region, cover = background[cut], layer.region[cut], alpha[cut]
    lit = (background * layer.shade[cut]).add_(layer.light[cut]).clamp_(0.0, 1.0)
    lit = torch.where(region, lit, background)
    # composite - (1 - alpha) * background is the subject's premultiplied colour, without dividing by alpha
    premultiplied = composite[cut] - (1.0 - cover) * background
    mixed = premultiplied.add_((1.0 - cover) * lit).clamp_(0.0, 1.0)
    result = composite.clone()
    result[cut] = torch.where(cover == 0, lit, torch.where((cover == 1) | ~region, composite[cut], mixed))
    return result


def transfer_effect(
    background: Float[Tensor, "3 H W"],
    composite: Float[Tensor, "3 H W"],
    alpha: Float[Tensor, "1 H W"],
    output: Float[Tensor, "3 h w"],
    reference: Float[Tensor, "3 h w"],
    config: EffectConfig | None = None,
) -> tuple[Float[Tensor, "3 H W"], EffectLayer]:
    """Measure, upsample and apply in one go; returns the finished picture and the full-resolution layer."""
    h, w = output.shape[-2:]
    coarse = measure_effect(output, reference, area_resize(alpha, h, w), config)
    layer = upsample_effect(coarse, composite, alpha, config)
    return apply_effect(background, composite, alpha, layer), layer


RING = 0.06  # width of the rim whose colours the fill is matched to, as a share of the side
SMOOTH = 0.08  # how smoothly the match fades into the hole, as a share of the side


def fill_hole(
    window: Float[Tensor, "3 H H"],
    hole: Float[Tensor, "1 H H"],
    output: Float[Tensor, "3 s s"],
    reference: Float[Tensor, "3 s s"],
    *,
    grow: float,
    config: EffectConfig,
) -> tuple[Float[Tensor, "3 H H"], Float[Tensor, "1 H H"]]:
    """The window with its hole filled from `output` and the light around it changed as `output` changed `reference`.

    Outside the hole only the effect layer acts (`core.effect_layer`), on the window's own pixels; what neither reaches
    keeps its values exactly.

    Args:
        output: the window redrawn by a remover.
        reference: the same machinery's picture when it changes nothing.
        grow: how far around the hole the picture is redrawn, as a share of the side.

    Returns:
        The new window, and where it was changed, 0 or 1.
    """
    side, small, body = window.shape[-1], output.shape[-1], (hole > 0).to(hole.dtype)
    wide = dilate(body, max(1, round(grow * side)))
    inside = area_resize(wide, small, small)
    layer = upsample_effect(measure_effect(output, reference, inside, config), window, wide, config)
    lit = apply_effect(window, window, torch.zeros_like(hole), layer)
    # How far the drawn colours are off at the rim of the hole, continued smoothly into it.
    rim = dilate(inside, max(1, round(RING * small))) * (inside == 0)
    off = blur_inside(area_resize(lit, small, small) - output, rim, max(1.0, SMOOTH * small))
    matched = (output + off).clamp(0, 1)
    # 1 on the hole, falling to 0 within the grown hole, exactly 0 outside it.
    half = max(1, round(grow * side / 2))
    soft = torch.maximum(feather(dilate(body, half), half), body) * wide
    changed = torch.maximum((soft > 0).to(hole.dtype), layer.region.to(hole.dtype))
    return cover(lit, resize(matched, side, side), soft), changed
