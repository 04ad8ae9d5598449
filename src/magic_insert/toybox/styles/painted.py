"""Drawn and painted by hand: wet media (watercolour, oil, ink) and dry ones (pencil, wax crayon, charcoal)."""

import torch
from torch import Tensor

from magic_insert.core.compositing import luminance
from magic_insert.toybox.styles import marks
from magic_insert.toybox.styles.marks import Cells, cells, dab, hatch
from magic_insert.toybox.styles.view import (
    View,
    mix,
    ramp,
    saturate,
    style,
    value_of,
)


@style("as a watercolour painting")
def watercolour(v: View) -> Tensor:
    """Thin pigment on rough paper: bleeding, darker where a wash dried at its rim; a soft bluish shadow.

    Complexity adds pigment granules and an underdrawing. A reflection is a paler copy of the mirror image.
    """
    paper = v.colour((1.0, 0.995, 0.975))
    hue = mix(saturate(v.g.albedo, 1.5), torch.ones_like(v.g.albedo), 0.10)
    hue = torch.where(v.sky > 0, mix(saturate(v.g.albedo, 1.3), torch.ones_like(hue), 0.12), hue)
    wet = mix(hue, mix(v.g.mirror.clamp(0.0, 1.0), torch.ones_like(hue), 0.15), (v.wet * 1.2).clamp(max=0.8))
    maps = torch.cat((wet, v.g.visibility * ramp(v.g.sun, 0.05, 0.4), v.sky, v.paper), dim=1)
    maps = v.warp(maps, "bleed", 1.6)
    soft = v.blur(maps, 0.55)
    wet, light, sky = soft[:, :3], v.blur(maps[:, 3:4], 0.9), soft[:, 4:5]
    rim = (v.blur(maps[:, :3], 2.2) - soft[:, :3]).amax(1, keepdim=True).clamp(min=0.0)
    pool = 0.5 * v.noise("pool", 14.0) + 0.3 * v.noise("bloom", 6.0)
    density = 0.86 + 0.30 * pool + 2.6 * rim * (1.0 - 0.4 * sky)
    wash = 1.0 - (1.0 - wet) * density.clamp(0.3, 1.7)
    shadow = (1.0 - light) * (1.0 - sky)
    shadow_rim = (shadow - v.blur(shadow, 1.8)).clamp(min=0.0)
    amount = shadow * (0.92 + 0.25 * pool) + 0.9 * shadow_rim
    wash = wash * (1.0 - amount.clamp(0.0, 1.2) * v.colour((0.62, 0.50, 0.22)))
    granule = v.noise("tooth", 1.3)
    pigment = 1.0 - luminance(wash)
    wash = wash * (1.0 - (0.10 + 0.26 * v.c) * pigment * granule)
    dry = ramp(v.noise("dry", 2.2, 6.0) + 0.35 * marks.stroke(v, marks.outline(v), 1.2), 0.86, 1.02)
    wash = mix(wash, paper, 0.55 * dry * (1.0 - shadow))
    wash = mix(wash, paper, soft[:, 5:6])
    if v.c > 0.3:
        under = v.warp(marks.drawing(v, at_part=0.4, at_pattern=0.8), "hand", 0.9)
        wash = mix(wash, v.colour((0.30, 0.29, 0.34)), marks.stroke(v, under, 0.7, 0.45) * 0.7 * (v.c - 0.15))
    return (wash * (1.0 - 0.018 * (granule + 1.0))).clamp(0.0, 1.0)


@style("as an oil painting")
def oil(v: View) -> Tensor:
    """Loaded brush strokes of one colour each, warm brown shadow, canvas; complexity adds finer strokes.

    Every stroke takes the colour at its middle and carries ridges of paint that catch the light.
    """
    warm = v.g.albedo * mix(v.colour((0.30, 0.19, 0.17)), v.colour((1.06, 1.0, 0.88)), v.shade)
    subject = torch.where(v.sky > 0, saturate(v.g.albedo, 1.2) * 0.97, saturate(warm, 1.25))
    subject = mix(subject, v.g.mirror.clamp(0.0, 1.0) * 0.92, (v.wet * 1.1).clamp(max=0.85) * (1.0 - v.sky))
    subject = v.blur(subject, 0.7)
    broad = cells(v, "broad", 4.4 - 1.0 * v.c, aspect=2.4, turn_deg=30.0, spread_deg=40.0, overlap=0.95)
    image, ridge = _stroke_layer(v, subject, broad)
    detail = marks.outline(v) * (1.0 - v.paper) + marks.parts(v)
    fine = cells(v, "fine", 2.3 - 0.5 * v.c, aspect=1.8, turn_deg=-20.0, spread_deg=70.0, overlap=0.95)
    small, small_ridge = _stroke_layer(v, subject, fine)
    where = (v.blur(detail, 1.8) * 9.0 + (0.7 * v.c - 0.2) * (fine.lot + 0.3)[None, None]).clamp(0.0, 1.0)
    image, ridge = mix(image, small, where), mix(ridge, small_ridge, where)
    canvas = torch.sin(v.x * 3.7) * torch.sin(v.y * 3.7)
    bare = dab(v.paper, broad) * v.paper
    relief = ridge * (0.085 + 0.06 * v.c) * (1.0 - 0.4 * v.sky) * (1.0 - 0.8 * bare)
    return (image * (1.0 + relief) + 0.012 * canvas).clamp(0.0, 1.0)


def _stroke_layer(v: View, image: Tensor, strokes: Cells) -> tuple[Tensor, Tensor]:
    """Stroke colours 1 3 H W and the relief of the paint 1 1 H W in [-1, 1]: furrows and flanks."""
    across, lot = strokes.across[None, None], strokes.lot[None, None]
    furrow = torch.sin(across * 16.0 + lot * 40.0) * 0.45
    flank = (-across * 1.1).clamp(-1.0, 1.0) * 0.55
    drift = 1.0 + (lot - 0.5) * (0.10 + 0.08 * v.c) * (1.0 - v.paper)
    return dab(image, strokes) * drift, furrow + flank


@style("as a pencil drawing")
def pencil(v: View) -> Tensor:
    """Graphite on white: contours and directed hatching, shadows are denser hatching, hardly any colour.

    Complexity adds hatch directions and the drawing of parts and patterns. Reflections are vertical hatching.
    """
    tone = v.blur(value_of(v), 0.7)
    tone = tone + 0.26 * (1.0 - v.hard_cast) * v.ground  # lit ground stays nearly bare paper
    wobble = 0.7 * v.noise("wobble", 16.0)
    pressure = 0.85 + 0.30 * v.noise("pressure", 7.0)
    solid = 1.0 - v.sky
    first = hatch(v, -48.0, 2.7, (0.95 - tone).clamp(0.0, 0.62) * pressure * solid, wobble)
    graphite = first * 0.55
    shadow = torch.maximum(v.hard_cast, (1.0 - v.light) * 0.7) * solid
    graphite = graphite + hatch(v, -36.0, 2.2, 0.60 * shadow * pressure, wobble) * 0.62
    if v.c > 0.25:
        graphite = graphite + hatch(v, 38.0, 2.6, (0.62 - tone).clamp(0.0, 0.55) * solid, -wobble) * 0.5 * v.c
    if v.c > 0.6:
        graphite = graphite + hatch(v, 8.0, 2.4, (0.45 - tone).clamp(0.0, 0.5) * solid, wobble) * 0.5
        air = (1.05 - tone).clamp(0.0, 0.25) * v.sky * (1.0 - v.paper)
        graphite = graphite + hatch(v, -12.0, 4.2, air, wobble) * 0.3
    wet = (v.wet * 2.2).clamp(max=1.0) * solid
    mirror = ((v.g.mirror_id > 0).float() * 0.45 + 0.12) * wet
    graphite = graphite * (1.0 - 0.45 * wet) + hatch(v, 90.0, 2.3, mirror, wobble) * 0.6
    edges = v.warp(marks.drawing(v, at_part=0.1, at_pattern=0.5), "hand", 0.8)
    contour = marks.stroke(v, edges, 1.0, 0.42) * (0.78 + 0.2 * v.noise("press", 9.0))
    grain = 1.0 + 0.35 * v.noise("tooth", 1.0)
    graphite = (torch.maximum(graphite.clamp(max=0.9), contour) * grain).clamp(0.0, 0.95)
    faint = mix(torch.ones_like(v.g.albedo), v.g.albedo, 0.10 * v.c * solid)
    paper = v.colour((0.99, 0.985, 0.975)) * faint
    return mix(paper, v.colour((0.20, 0.20, 0.22)), graphite).clamp(0.0, 1.0)


@style("as an ink drawing")
def ink(v: View) -> Tensor:
    """A pen line of swelling width and flat washes of indigo: one if simple, three and stipple if complex."""
    paper, indigo = v.colour((0.985, 0.965, 0.91)), v.colour((0.07, 0.09, 0.22))
    own = luminance(v.g.albedo)
    tone = own * 0.55 + 0.45
    tone = torch.where(v.sky > 0, 0.90 + 0.10 * ramp(own, 0.3, 0.8), tone * (0.55 + 0.45 * v.shade))
    tone = mix(tone, luminance(v.g.mirror) * 0.9, (v.wet * 1.3).clamp(max=0.8) * (1.0 - v.sky))
    pool = v.noise("pool", 11.0)
    maps = v.warp(torch.cat((tone, v.light, v.cast, v.sky), dim=1), "brush", 1.0)
    tone = v.blur(maps[:, :1], 0.6) + 0.02 * pool
    wash = 0.42 * ramp(0.66 - tone, 0.0, 0.05)
    if v.c > 0.33:
        wash = wash + 0.22 * ramp(0.47 - tone, 0.0, 0.05)
    if v.c > 0.66:
        wash = wash + 0.12 * ramp(0.78 - tone, 0.0, 0.05) * (1.0 - 0.6 * maps[:, 3:4])
    dark = v.blur(torch.maximum(1.0 - maps[:, 1:2], maps[:, 2:3]) * (1.0 - maps[:, 3:4]), 0.45)
    wash = torch.maximum(wash, ramp(dark, 0.35, 0.65) * (0.56 + 0.10 * pool))
    edge_pool = (wash - v.blur(wash, 1.5)).clamp(min=0.0)
    wash = (wash + 0.45 * edge_pool) * (1.0 + 0.12 * v.noise("paper", 1.6))
    image = mix(paper, mix(v.colour((0.30, 0.38, 0.56)), indigo, wash.clamp(0.0, 1.0)), wash.clamp(0.0, 0.9))
    edges = v.warp(marks.drawing(v, at_part=0.1, at_pattern=0.55), "pen", 0.8)
    swell = 1.0 + 0.35 * v.noise("swell", 14.0)
    line = marks.stroke(v, edges * swell, 1.25, 0.3)
    if v.c > 0.4:
        stipple = (v.noise("stipple", 1.5) > 0.35 + 0.9 * tone).float() * (1.0 - v.sky)
        line = torch.maximum(line, stipple * 0.8 * (v.c - 0.2))
    return mix(image, v.colour((0.04, 0.04, 0.09)), line).clamp(0.0, 1.0)


@style("as a crayon drawing")
def crayon(v: View) -> Tensor:
    """Waxy, broken strokes of strong colour on toothy paper; shadow is violet-blue wax scribbled over.

    Complexity presses harder and adds strokes of form shade. Reflections are paler wax in upright strokes.
    """
    paper = v.colour((0.995, 0.985, 0.955))
    wax = saturate(v.g.albedo, 1.5) * v.colour((1.0, 0.97, 0.95))
    tooth = 0.55 * v.noise("tooth", 1.1) + 0.45 * v.noise("grain", 2.0)
    wobble = 1.6 * v.noise("scribble", 12.0)
    maps = v.warp(torch.cat((wax, v.sky, v.paper, v.shade), dim=1), "hand", 1.1)
    wax, sky, blank, shade = maps[:, :3], maps[:, 3:4], maps[:, 4:5], maps[:, 5:6]
    streak = hatch(v, -58.0, 3.4, 0.62, wobble)
    pressure = 0.30 + 0.35 * v.c + 0.42 * streak - 0.30 * sky
    cover = ramp(pressure + 0.8 * tooth, 0.02, 0.45) * (1.0 - blank)
    image = mix(paper, wax, cover * 0.93)
    shaded = hatch(v, -30.0, 3.0, (0.85 - shade).clamp(0.0, 0.8), wobble) * (1.0 - sky) * v.c
    image = mix(image, image * v.colour((0.62, 0.50, 0.60)), shaded * ramp(tooth + 0.5, 0.0, 0.6))
    shadow = v.warp(torch.maximum(v.hard_cast, 0.55 * (1.0 - v.light) * (1.0 - v.sky)), "hand", 1.1)
    scribble = hatch(v, 24.0, 3.1, 0.86 * shadow, 1.4 * wobble) * ramp(tooth + 0.75, 0.0, 0.5)
    image = mix(image, v.colour((0.21, 0.17, 0.47)), scribble * 0.78)
    wet = (v.wet * 1.7).clamp(max=0.85) * (1.0 - v.sky)
    upright = hatch(v, 90.0, 3.0, 0.7, wobble) * ramp(tooth + 0.7, 0.0, 0.6)
    image = mix(image, mix(saturate(v.g.mirror, 1.3), paper, 0.2), wet * upright)
    edges = v.warp(marks.drawing(v, at_part=0.2, at_pattern=0.9), "hand", 1.1)
    line = marks.stroke(v, edges, 1.9, 0.45) * ramp(tooth + 0.8, 0.0, 0.7)
    return mix(image, wax * wax * 0.32, line * 0.85).clamp(0.0, 1.0)


@style("as a charcoal drawing", held_out=True)
def charcoal(v: View) -> Tensor:
    """Black, smudged charcoal and white chalk on warm grey paper; shadows are rubbed soft and very dark.

    Complexity adds grain, inner lines and chalk. Reflections are dragged upright by the thumb.
    """
    sheet = v.colour((0.70, 0.645, 0.57))
    tone = value_of(v)
    tooth = 0.6 * v.noise("tooth", 1.0) + 0.4 * v.noise("laid", 1.6, 5.0)
    moved = v.warp(torch.cat((tone, v.cast), dim=1), "thumb", 2.0, 12.0)
    smudge = v.blur(moved[:, :1], 1.8 - 1.1 * v.c)
    rubbed = v.blur(moved[:, 1:], 1.3)
    black = ((0.74 - smudge) * 1.7).clamp(min=0.0) * (1.0 - v.sky) * (1.0 - 0.5 * v.ground)
    black = black + 0.85 * rubbed + 0.25 * (1.0 - v.light) * v.things
    wet = (v.wet * 1.5).clamp(max=0.8) * (1.0 - v.sky)
    drag = (0.85 - v.blur(tone + 0.2 * v.noise("drag", 24.0, 1.6), 1.0)).clamp(min=0.0)
    black = mix(black, drag, wet)
    edges = v.warp(marks.drawing(v, at_part=0.15, at_pattern=0.85), "hand", 1.2)
    line = marks.stroke(v, edges, 2.0, 0.5) * (0.8 + 0.25 * v.noise("press", 10.0))
    black = torch.maximum(black, 0.9 * line)
    black = (black * (1.0 + (0.25 + 0.2 * v.c) * tooth)).clamp(0.0, 0.95)
    chalk = ramp(smudge, 0.60, 0.95) * (1.0 - v.sky) * (0.45 + 0.4 * v.c) * ramp(tooth + 0.6, 0.0, 0.8)
    chalk = (chalk + 0.35 * v.c * ramp(v.g.sun, 0.85, 1.0) * v.things).clamp(max=0.85) * (1.0 - rubbed)
    blank = v.sky * (1.0 - v.paper) * (0.10 + 0.12 * ramp(tone, 0.6, 1.0)) * ramp(tooth + 0.5, 0.0, 0.8)
    image = sheet * (1.0 + 0.04 * tooth)
    image = mix(image, v.colour((0.97, 0.955, 0.92)), chalk + blank)
    return mix(image, v.colour((0.075, 0.07, 0.075)), black).clamp(0.0, 1.0)
