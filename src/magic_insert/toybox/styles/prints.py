"""Pictures that come off a press or a drawing office: halftone, blueprint, woodcut."""

import torch
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.marks import dots, hatch, lines_of_phase
from magic_insert.toybox.styles.view import View, mix, ramp, saturate, value_of


def halftone(v: View) -> Tensor:
    """Cyan, magenta, yellow and black dot screens on newsprint; a shadow is larger black dots.

    Complexity refines the screen and adds a thin key line.
    """
    paper = v.colour((0.975, 0.965, 0.93))
    ink = 1.0 - saturate(v.g.albedo, 1.25)
    ink = mix(ink, 1.0 - v.g.mirror.clamp(0.0, 1.0), (v.wet * 1.1).clamp(max=0.8) * (1.0 - v.sky))
    ink = v.blur(ink, 0.8) * (1.0 - v.paper)
    period = 4.3 - 1.1 * v.c
    image = paper * (1.0 - 0.40 * ink)  # a flat tint under the dots keeps the motif readable
    screens = ((0, 15.0, (0.05, 0.62, 0.86)), (1, 75.0, (0.88, 0.12, 0.48)), (2, 0.0, (0.99, 0.88, 0.10)))
    for channel, angle, pigment in screens:
        slip = 2.4 * float(v.noise(f"plate {channel}", 90.0).mean())  # degrees; plates never meet exactly
        plate = dots(v, angle + slip, period, ink[:, channel : channel + 1] * 0.92)
        image = image * mix(torch.ones_like(paper), v.colour(pigment), plate)
    dark = 0.70 * v.hard_cast + (0.50 * (1.0 - v.shade) * v.things + 0.14 * (1.0 - v.light)) * (1.0 - v.sky)
    black = dots(v, 45.0, period, v.blur(dark.clamp(0.0, 0.74), 0.5))
    image = image * (1.0 - 0.86 * black)
    if v.c > 0.2:
        key = lines.stroke(v, lines.drawing(v, at_part=0.5, at_pattern=1.0), 1.1) * min(1.0, v.c * 1.4)
        image = mix(image, v.colour((0.10, 0.09, 0.11)), key * 0.9)
    return image.clamp(0.0, 1.0)


def blueprint(v: View) -> Tensor:
    """White lines on Prussian blue; shadows are 45 degree hatching, reflections dashed outlines.

    Complexity adds the grid, inner and hidden lines, and hatching on shaded faces.
    """
    sheet = v.colour((0.075, 0.215, 0.50)) * (1.0 + 0.05 * v.noise("sheet", 24.0))
    grid = torch.maximum(hatch(v, 0.0, 8.0, 0.10), hatch(v, 90.0, 8.0, 0.10)) * (0.05 + 0.15 * v.c)
    tint = (v.g.albedo.mean(1, keepdim=True) * 0.16 * v.things + 0.03 * v.ground) * (0.6 + 0.4 * v.light)
    white = grid + tint
    solid = 1.0 - v.sky
    shadow = hatch(v, -45.0, 3.4, 0.42 * v.hard_cast) * solid
    if v.c > 0.3:
        facing = hatch(v, -45.0, 2.6, 0.34 * (1.0 - v.light) * v.things)
        shadow = torch.maximum(shadow, facing * min(1.0, (v.c - 0.3) * 2.0))
    shore = lines.stroke(v, lines.border(v.hard_cast > 0) * v.ground, 0.8) * 0.55
    white = white + 0.72 * torch.maximum(shadow, shore)
    dash = hatch(v, 35.0, 3.6, 0.55)
    white = white + 0.8 * lines.stroke(v, lines.mirrored(v), 0.9) * dash
    white = white + 0.10 * (v.g.mirror_id > 0) * (v.wet * 2.0).clamp(max=1.0) * solid
    outer = lines.stroke(v, lines.outline(v), 1.35, 0.4)
    inner = lines.stroke(v, lines.drawing(v, always=0.0, at_part=0.05, at_pattern=0.45), 0.8, 0.4)
    white = torch.maximum(white, torch.maximum(outer, 0.78 * inner))
    chalk = 1.0 + 0.12 * v.noise("chalk", 1.2) * v.c
    return mix(sheet, v.colour((0.93, 0.96, 1.0)), (white * chalk).clamp(0.0, 1.0)).clamp(0.0, 1.0)


def woodcut(v: View) -> Tensor:
    """Black ink cut into lines on cream paper: the gouge follows the form, its cuts widen with the light.

    Shadows stay nearly uncut black; in mirrors the cuts run upright. Complexity: narrower lines, wood grain.
    """
    paper, black = v.colour((0.945, 0.895, 0.78)), v.colour((0.095, 0.075, 0.065))
    tone = value_of(v)
    tone = v.blur((tone + 0.22 * v.things) * (1.0 - 0.78 * v.hard_cast), 0.5)
    period = 5.0 - 1.9 * v.c
    normal = v.g.normal
    bend = (normal[:, 0:1] * 2.2 + normal[:, 1:2] * 3.2) * v.things
    across = torch.where(v.things > 0, v.y * 0.85 + v.x * 0.5 + bend * 1.6, v.y + 0.0 * v.x)
    across = torch.where(v.wet * (1.0 - v.things) > 0.08, v.x + 0.0 * v.y, across)
    gouge = 0.8 * v.noise("gouge", 14.0)
    ink_share = ramp(1.02 - tone, 0.05, 0.80) * 1.08
    ink_share = torch.minimum(ink_share, 0.84 + 0.3 * v.hard_cast)  # only a shadow is solid black
    ink_share = torch.where(v.sky > 0, ink_share * 0.75 * (1.0 - v.paper), ink_share)
    swing = 1.0 + 0.22 * v.noise("swing", 7.0)
    ink = lines_of_phase(v, (across + gouge) / period, period, ink_share * swing)
    ink = torch.where(ink_share > 0.95, torch.maximum(ink, (ink_share - 0.95) * 20.0).clamp(max=1.0), ink)
    nicks = hatch(v, -20.0, 7.0, 0.16 * v.hard_cast * (1.0 - v.things), gouge)
    ink = ink * (1.0 - nicks * ramp(v.noise("nick", 4.0), 0.0, 0.3))
    edges = v.warp(lines.drawing(v, at_part=0.2, at_pattern=0.8), "knife", 0.7)
    ink = torch.maximum(ink, lines.stroke(v, edges, 2.0, 0.15))
    grain = ramp(v.noise("wood", 1.2, 16.0), 0.62, 0.85) * (0.15 + 0.5 * v.c)
    return mix(paper, black, (ink * (1.0 - 0.6 * grain)).clamp(0.0, 1.0)).clamp(0.0, 1.0)
