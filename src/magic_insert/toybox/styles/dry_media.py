"""Sticks and points on paper: pencil, wax crayon, charcoal with chalk."""

import torch
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.marks import hatch
from magic_insert.toybox.styles.view import View, mix, ramp, saturate, value_of


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
    edges = v.warp(lines.drawing(v, at_part=0.1, at_pattern=0.5), "hand", 0.8)
    contour = lines.stroke(v, edges, 1.0, 0.42) * (0.78 + 0.2 * v.noise("press", 9.0))
    grain = 1.0 + 0.35 * v.noise("tooth", 1.0)
    graphite = (torch.maximum(graphite.clamp(max=0.9), contour) * grain).clamp(0.0, 0.95)
    faint = mix(torch.ones_like(v.g.albedo), v.g.albedo, 0.10 * v.c * solid)
    paper = v.colour((0.99, 0.985, 0.975)) * faint
    return mix(paper, v.colour((0.20, 0.20, 0.22)), graphite).clamp(0.0, 1.0)


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
    edges = v.warp(lines.drawing(v, at_part=0.2, at_pattern=0.9), "hand", 1.1)
    line = lines.stroke(v, edges, 1.9, 0.45) * ramp(tooth + 0.8, 0.0, 0.7)
    return mix(image, wax * wax * 0.32, line * 0.85).clamp(0.0, 1.0)


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
    edges = v.warp(lines.drawing(v, at_part=0.15, at_pattern=0.85), "hand", 1.2)
    line = lines.stroke(v, edges, 2.0, 0.5) * (0.8 + 0.25 * v.noise("press", 10.0))
    black = torch.maximum(black, 0.9 * line)
    black = (black * (1.0 + (0.25 + 0.2 * v.c) * tooth)).clamp(0.0, 0.95)
    chalk = ramp(smudge, 0.60, 0.95) * (1.0 - v.sky) * (0.45 + 0.4 * v.c) * ramp(tooth + 0.6, 0.0, 0.8)
    chalk = (chalk + 0.35 * v.c * ramp(v.g.sun, 0.85, 1.0) * v.things).clamp(max=0.85) * (1.0 - rubbed)
    blank = v.sky * (1.0 - v.paper) * (0.10 + 0.12 * ramp(tone, 0.6, 1.0)) * ramp(tooth + 0.5, 0.0, 0.8)
    image = sheet * (1.0 + 0.04 * tooth)
    image = mix(image, v.colour((0.97, 0.955, 0.92)), chalk + blank)
    return mix(image, v.colour((0.075, 0.07, 0.075)), black).clamp(0.0, 1.0)
