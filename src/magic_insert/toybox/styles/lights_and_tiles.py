"""Pictures of glass: a mosaic of set tiles and a tangle of neon tubes."""

import torch
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.marks import cells, dab, hatch
from magic_insert.toybox.styles.view import View, mix, ramp, saturate


def mosaic(v: View) -> Tensor:
    """Glass tiles in dark grout, each of one colour; shadow is laid in deep blue tiles, mirrors in pale ones.

    Complexity lays smaller tiles. A tile takes the colour at its middle, a little its own by chance.
    """
    base = saturate(v.g.albedo, 1.4)
    shadow = mix(base * 0.34, v.colour((0.07, 0.13, 0.40)), 0.45)
    sunny = ramp(v.g.visibility * ramp(v.g.sun, 0.05, 0.3), 0.2, 0.8)
    image = mix(shadow, base * (0.62 + 0.42 * v.shade), torch.maximum(sunny, 0.62 * v.things))
    image = mix(image, mix(v.g.mirror, torch.ones_like(base), 0.22), (v.wet * 1.4).clamp(max=0.85))
    image = torch.where(v.sky > 0, saturate(v.g.albedo, 1.3), image).clamp(0.0, 1.0)
    tiles = cells(v, "tiles", 5.4 - 2.0 * v.c, jitter=0.66)
    lot, gap = tiles.lot[None, None], tiles.gap[None, None]
    image = dab(v.blur(image, 0.5), tiles) * (1.0 + (lot - 0.5) * (0.22 + 0.12 * v.c))
    slope = (tiles.along + tiles.across)[None, None]
    image = image * (1.0 - 0.07 * slope)
    half_seam = 0.30 + 0.16 * (1.0 - v.c)
    setting = ramp(gap, half_seam - 0.5 / v.scale, half_seam + 0.5 / v.scale)
    grout = v.colour((0.17, 0.155, 0.165))
    blank = dab(v.paper, tiles)
    grout = mix(grout, v.colour((0.74, 0.73, 0.72)), blank)
    return mix(grout, image, setting).clamp(0.0, 1.0)


def neon(v: View) -> Tensor:
    """Glowing tubes in the night: outlines shine in pure hues and spill on their surroundings.

    Lit ground has a violet haze with a grid of faint light, shadow is where the haze is missing; reflections
    are the tubes again, dimmer. Complexity adds tubes and grid.
    """
    night = v.colour((0.035, 0.025, 0.085))
    low, high = v.g.albedo.amin(1, keepdim=True), v.g.albedo.amax(1, keepdim=True)
    chroma = high - low
    pure = (v.g.albedo - low) / chroma.clamp(min=1e-3)
    hue = mix(v.colour((0.35, 0.85, 1.0)), pure * 0.92 + 0.08, ramp(chroma, 0.06, 0.22))
    edges = torch.maximum(lines.drawing(v, at_part=0.1, at_pattern=2.0), 0.5 * v.c * lines.pattern(v))
    edges = edges * mix(0.30 * v.ground, torch.ones_like(v.sky), v.things)
    walls = lines.outline(v) * 0.25 * (1.0 - v.things)
    tubes = hue * torch.maximum(edges, walls)
    core = lines.stroke(v, edges, 0.9, 0.4)
    halo = v.blur(tubes, 1.6) * (1.6 * v.scale * 1.8)
    spill = v.blur(tubes, 6.0) * (6.0 * v.scale * 0.75)
    haze = mix(v.colour((0.20, 0.085, 0.40)), v.g.albedo * v.colour((0.30, 0.16, 0.42)), 0.55)
    drift = 1.0 + 0.25 * v.noise("mist", 22.0)
    glow = haze * drift * v.light * (0.30 + 0.70 * v.g.occlusion) * (1.0 - v.sky)
    fade = 1.0 - ramp(v.g.depth, 5.0, 16.0)
    place = v.g.position
    rung = torch.maximum(_grid_line(v, place[:, 0:1]), _grid_line(v, place[:, 2:3]))
    rung = rung * v.ground * fade * v.light
    glow = glow + rung * v.colour((0.16, 0.42, 0.62)) * (0.25 + 0.55 * v.c)
    body = v.g.albedo * 0.20 * v.light * v.things
    sky = v.colour((0.05, 0.02, 0.12)) * ramp(v.y, 0.0, 70.0) * v.sky * (1.0 - v.paper)
    wet = (v.wet * 2.2).clamp(max=1.0) * (1.0 - v.sky)
    echo = v.blur(lines.border(v.g.mirror_id) * v.g.mirror, 0.9) * (2.2 * v.scale) * wet
    scan = 1.0 - 0.10 * v.c * hatch(v, 0.0, 2.0, 0.5)
    image = (night + glow + body + sky + echo) * scan + 0.55 * halo + 0.34 * spill * (0.55 + 0.45 * v.light)
    return mix(image, mix(hue, torch.ones_like(hue), 0.62), core * (0.35 + 0.65 * v.things)).clamp(0.0, 1.0)


def _grid_line(v: View, coordinate: Tensor) -> Tensor:
    off = (coordinate * 2.0 - (coordinate * 2.0).round()).abs()
    return 1.0 - ramp((off - 0.02) / (0.012 * v.g.depth.clamp(0.5, 20.0)), 0.0, 1.0)
