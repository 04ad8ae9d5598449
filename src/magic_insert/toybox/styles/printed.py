"""Made by a machine or piece by piece: photographs, cartoons, sprites, prints, plans, paper, tiles, neon, woodcuts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from magic_insert.toybox.styles import marks, view
from magic_insert.toybox.styles.marks import cells, dab, dots, hatch, lines_of_phase


@view.style("as a photo")
def photo(v: view.View) -> Tensor:
    """Soft physical light; complexity adds surface texture, highlights, crispness and sensor grain."""
    image = exposure(v)
    if v.c > 0.0:
        texture = 0.7 * v.noise("grit", 1.0) + 0.5 * v.noise("mottle", 5.0)
        image = image * (1.0 + 0.055 * v.c * texture * (1.0 - v.sky))
        image = image + v.c * 0.35 * (image - v.blur(image, 1.2)) * (1.0 - v.sky)
    return image.clamp(0.0, 1.0)


def exposure(v: view.View) -> Tensor:
    """The photographed colour, 1 3 H W in [0, 1]: light, highlights, mirror image, shoulder, soft seams."""
    towards = v.g.sun_direction + torch.tensor([[0.0, 0.25, 1.0]], device=v.sky.device)
    half = (towards / towards.norm(dim=1, keepdim=True)).view(1, 3, 1, 1)
    glint = (v.g.normal * half).sum(1, keepdim=True).clamp(min=0.0) ** 40
    image = v.lit + (0.08 + 0.22 * v.c) * glint * v.g.visibility * v.things
    image = view.mix(image, v.g.mirror, v.g.gloss)
    shoulder = torch.where(image < 0.7, image, 0.7 + 0.3 * torch.tanh((image - 0.7) / 0.3))
    image = torch.where(v.sky > 0, image, shoulder).clamp(0.0, 1.0)
    seam = view.gaussian(torch.maximum(marks.border(v.g.object_id), marks.border(v.g.part_id)), 0.5)
    return view.mix(image, view.gaussian(image, 0.6), (seam * 2.0).clamp(max=1.0))


@view.style("as a cartoon")
def cartoon(v: view.View) -> Tensor:
    """Two flat tones, thick dark outlines, one hard grey shadow; complexity adds inner lines and a tone.

    Reflections are a pale flat copy crossed by two or three white glints.
    """
    flat = view.posterise(view.saturate(v.g.albedo, 1.15), 4.0 + 4.0 * v.c)
    flat = view.mix(flat, torch.ones_like(flat), 0.10)
    shadow = flat * v.colour((0.60, 0.60, 0.66))
    image = view.mix(shadow, flat, v.light)
    if v.c > 0.35:
        bright = (v.g.sun * v.g.hard_visibility > 0.93).float() * v.things
        image = view.mix(image, torch.ones_like(image), 0.45 * bright * min(1.0, (v.c - 0.35) * 3.0))
    gloss = (v.wet > 0.08).float() * (1.0 - v.sky)
    copy = torch.where(v.g.mirror_id > 0, view.posterise(v.g.mirror, 3.0), v.colour((0.86, 0.93, 0.98)))
    image = view.mix(image, copy, gloss * (0.25 + 0.6 * v.wet).clamp(max=0.7))
    glint = hatch(v, -28.0, 22.0, 0.10, v.noise("glint", 30.0) * 3.0) * gloss * v.ground
    image = view.mix(image, torch.ones_like(image), 0.55 * glint)
    image = torch.where(
        v.sky > 0, view.mix(view.posterise(v.g.albedo, 8.0), torch.ones_like(flat), 0.12), image
    )
    image = torch.where(v.paper > 0, 1.0, image)
    ink = marks.stroke(v, marks.drawing(v, at_part=0.15, at_pattern=2.0), 1.9 - 0.3 * v.c, 0.3)
    if v.c > 0.6:
        ink = torch.maximum(ink, marks.stroke(v, marks.pattern(v), 0.8) * 1.5 * (v.c - 0.6))
    return view.mix(image, v.colour((0.10, 0.08, 0.10)), ink).clamp(0.0, 1.0)


@view.style("as a cel animation")
def cel(v: view.View) -> Tensor:
    """Saturated colour, a hard terminator with violet shade, thin coloured lines; complexity adds bands.

    Reflections are a crisp tinted copy, cut by horizontal bands.
    """
    base = view.saturate(v.g.albedo, 1.45)
    shade = base * v.colour((0.60, 0.44, 0.84))
    deep = base * v.colour((0.42, 0.30, 0.72))
    lit = (base * v.colour((1.10, 1.06, 0.98))).clamp(max=1.0)
    image = view.mix(shade, lit, v.light)
    if v.c > 0.2:
        band = (v.g.sun < 0.55).float() * v.light * v.things
        image = view.mix(image, base * v.colour((0.84, 0.72, 0.95)), band * min(1.0, v.c * 1.4))
        image = view.mix(image, deep, (v.g.occlusion < 0.45).float() * (1.0 - v.light) * (1.0 - v.sky) * v.c)
    shine = (v.g.sun > 0.96 - 0.05 * v.c).float() * v.light * v.things
    image = view.mix(image, v.colour((1.0, 1.0, 0.94)), shine * 0.75)
    rim = marks.stroke(v, v.shift(marks.outline(v), 1.5, 1.5), 1.3) * v.things * v.light
    image = view.mix(image, v.colour((1.0, 0.97, 0.85)), rim * 0.6 * v.c)
    bands = 0.75 + 0.25 * hatch(v, 0.0, 5.0, 0.55)
    copy = view.saturate(v.g.mirror, 1.35) * v.colour((0.88, 0.90, 1.0))
    image = view.mix(image, copy, ((v.wet * 1.5).clamp(max=0.8) * bands) * (1.0 - v.sky))
    sky = (view.saturate(v.g.albedo, 1.6) + 0.04 * (hatch(v, 4.0, 26.0, 0.45) - 0.4)).clamp(0.0, 1.0)
    image = torch.where(v.sky > 0, sky, image)
    image = torch.where(v.paper > 0, 1.0, image)
    ink = marks.stroke(v, marks.drawing(v, at_part=0.0, at_pattern=0.5), 0.9, 0.4)
    return view.mix(image, (image * image * v.colour((0.42, 0.22, 0.40))), ink * 0.92).clamp(0.0, 1.0)


@view.style("as pixel art")
def pixel(v: view.View) -> Tensor:
    """A sprite of 32 to 48 blocks per height, a fixed palette, dithered shadow; complexity: finer blocks.

    Shadows alternate lit and dark blocks like a chess board; reflections are every second row of blocks.
    """
    per_height = (32, 40, 48)[min(2, int(v.c * 3.0))]
    cell = (per_height, max(1, round(per_height * v.width / v.height)))
    rows = _middles(cell[0], v.height, v.sky.device)
    cols = _middles(cell[1], v.width, v.sky.device)

    def take(image: Tensor) -> Tensor:
        return image.index_select(-2, rows).index_select(-1, cols)

    u = torch.arange(cell[1], device=v.sky.device).view(1, 1, 1, -1)
    w = torch.arange(cell[0], device=v.sky.device).view(1, 1, -1, 1)
    board = ((u + w) % 2).float()
    bayer = torch.tensor([[0.0, 0.5], [0.75, 0.25]], device=v.sky.device)[w % 2, u % 2]
    albedo = view.saturate(take(v.g.albedo), 1.35)
    light, sky, things = take(v.light), take(v.sky), take(v.things)
    dark = view.mix(board * 0.34 + 0.26, torch.full_like(light, 0.55), things)
    image = albedo * view.mix(dark, torch.ones_like(light), light)
    gloss = take(v.wet) * 1.6 * ((w % 2) == 0)
    image = view.mix(image, take(v.g.mirror), gloss.clamp(max=0.9) * (1.0 - sky))
    steps = 5.0 + 2.0 * v.c
    spread = 0.15 + 0.35 * v.c  # of a palette step; more would bury the shadow's own dither
    value = image.amax(1, keepdim=True).clamp(min=1e-3)
    image = (image / value * 6.0).round() / 6.0 * ((value * steps + (bayer - 0.375) * spread).round() / steps)
    ink = (F.adaptive_max_pool2d(marks.outline(v) * v.things, cell) > 0).float() * things
    if v.c > 0.45:
        inner = (F.interpolate(marks.parts(v), cell, mode="area") > 0.22).float() * things
        ink = torch.maximum(ink, inner * 0.6)
    image = view.mix(image, image * 0.22 + v.colour((0.05, 0.03, 0.10)), ink)
    image = torch.where(take(v.paper) > 0, 1.0, image)
    to_rows = torch.arange(v.height, device=v.sky.device) * cell[0] // v.height
    to_cols = torch.arange(v.width, device=v.sky.device) * cell[1] // v.width
    return image.index_select(-2, to_rows).index_select(-1, to_cols).clamp(0.0, 1.0)


def _middles(blocks: int, pixels: int, device: torch.device) -> Tensor:
    return ((torch.arange(blocks, device=device) * 2 + 1) * pixels // (2 * blocks)).clamp(max=pixels - 1)


@view.style("as a halftone print")
def halftone(v: view.View) -> Tensor:
    """Cyan, magenta, yellow and black dot screens on newsprint; a shadow is larger black dots.

    Complexity refines the screen and adds a thin key line.
    """
    paper = v.colour((0.975, 0.965, 0.93))
    ink = 1.0 - view.saturate(v.g.albedo, 1.25)
    ink = view.mix(ink, 1.0 - v.g.mirror.clamp(0.0, 1.0), (v.wet * 1.1).clamp(max=0.8) * (1.0 - v.sky))
    ink = v.blur(ink, 0.8) * (1.0 - v.paper)
    period = 4.3 - 1.1 * v.c
    image = paper * (1.0 - 0.40 * ink)  # a flat tint under the dots keeps the motif readable
    screens = ((0, 15.0, (0.05, 0.62, 0.86)), (1, 75.0, (0.88, 0.12, 0.48)), (2, 0.0, (0.99, 0.88, 0.10)))
    for channel, angle, pigment in screens:
        slip = 2.4 * float(v.noise(f"plate {channel}", 90.0).mean())  # degrees; plates never meet exactly
        plate = dots(v, angle + slip, period, ink[:, channel : channel + 1] * 0.92)
        image = image * view.mix(torch.ones_like(paper), v.colour(pigment), plate)
    dark = 0.70 * v.hard_cast + (0.50 * (1.0 - v.shade) * v.things + 0.14 * (1.0 - v.light)) * (1.0 - v.sky)
    black = dots(v, 45.0, period, v.blur(dark.clamp(0.0, 0.74), 0.5))
    image = image * (1.0 - 0.86 * black)
    if v.c > 0.2:
        key = marks.stroke(v, marks.drawing(v, at_part=0.5, at_pattern=1.0), 1.1) * min(1.0, v.c * 1.4)
        image = view.mix(image, v.colour((0.10, 0.09, 0.11)), key * 0.9)
    return image.clamp(0.0, 1.0)


@view.style("as a blueprint")
def blueprint(v: view.View) -> Tensor:
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
    shore = marks.stroke(v, marks.border(v.hard_cast > 0) * v.ground, 0.8) * 0.55
    white = white + 0.72 * torch.maximum(shadow, shore)
    dash = hatch(v, 35.0, 3.6, 0.55)
    white = white + 0.8 * marks.stroke(v, marks.mirrored(v), 0.9) * dash
    white = white + 0.10 * (v.g.mirror_id > 0) * (v.wet * 2.0).clamp(max=1.0) * solid
    outer = marks.stroke(v, marks.outline(v), 1.35, 0.4)
    inner = marks.stroke(v, marks.drawing(v, always=0.0, at_part=0.05, at_pattern=0.45), 0.8, 0.4)
    white = torch.maximum(white, torch.maximum(outer, 0.78 * inner))
    chalk = 1.0 + 0.12 * v.noise("chalk", 1.2) * v.c
    return view.mix(sheet, v.colour((0.93, 0.96, 1.0)), (white * chalk).clamp(0.0, 1.0)).clamp(0.0, 1.0)


@view.style("as a papercut")
def papercut(v: view.View) -> Tensor:
    """Layers of coloured paper: no shading, pale cut edges, every layer shades the next a little.

    The cast shadow is a sheet of darker paper with its own edge, a reflection a sheet of lighter paper.
    Complexity cuts the parts (and then the tones) into layers of their own.
    """
    sheet = view.posterise(view.saturate(v.g.albedo, 1.2), 4.0 + 3.0 * v.c)
    sheet = view.mix(sheet, v.colour((1.0, 0.96, 0.88)), 0.20)
    dark_sheet = view.mix(sheet, v.colour((0.16, 0.17, 0.34)), 0.52)
    cast = (v.hard_cast > 0).float() * (1.0 - v.things)
    image = view.mix(sheet, dark_sheet, cast)
    if v.c > 0.5:
        turned = (1.0 - v.light) * v.things * (v.c - 0.5) * 2.0
        image = view.mix(image, image * v.colour((0.78, 0.77, 0.84)), turned)
    copy = view.mix(view.posterise(v.g.mirror, 4.0), v.colour((1.0, 1.0, 1.0)), 0.25)
    image = view.mix(image, copy, (v.wet * 1.6).clamp(max=0.75) * (1.0 - v.sky))
    ids = v.g.object_id * 1000.0
    if v.c > 0.15:
        ids = ids + v.g.part_id
    drop = torch.zeros_like(v.sky)
    for step in (1.0, 2.0, 3.0):  # a nearer sheet up and to the left shades what lies behind it
        over_id, over_depth = v.shift(ids, step, step), v.shift(v.g.depth, step, step)
        same_object = v.shift(v.g.object_id.float(), step, step) == v.g.object_id
        lift = torch.where(same_object, 0.02, 0.06)
        drop = drop + ((over_id != ids) & (over_depth < v.g.depth - lift)).float()
    drop = v.blur(drop / 3.0, 0.8)
    image = image * (1.0 - drop * v.colour((0.62, 0.60, 0.48)))
    edge = marks.outline(v) + 0.8 * marks.border(cast) * (1.0 - v.things)
    if v.c > 0.15:
        edge = torch.maximum(edge, marks.parts(v) * v.things * 0.8)
    image = view.mix(image, v.colour((1.0, 0.98, 0.94)), marks.stroke(v, edge, 0.9) * 0.6 * (1.0 - v.sky))
    wave = v.y + 3.0 * v.noise("torn", 26.0)  # the sky: torn strips, each shading the one below
    strip = (wave / 17.0).floor()
    below = 1.0 - view.ramp(wave - 17.0 * strip, 0.0, 2.2)
    tinted = image + 0.085 * (strip % 2.0) - 0.16 * below
    image = torch.where((v.sky > 0) & (v.paper == 0), tinted * (1.0 - 0.6 * drop), image)
    fibre = 0.6 * v.noise("fibre", 1.3, 2.6) + 0.4 * v.noise("pulp", 4.0)
    image = torch.where(v.paper > 0, v.colour((1.0, 0.995, 0.98)) * (1.0 - 0.75 * drop), image)
    return (image * (1.0 + (0.015 + 0.025 * v.c) * fibre)).clamp(0.0, 1.0)


@view.style("as a vintage photo")
def vintage(v: view.View) -> Tensor:
    """A sepia print: veiled blacks, soft focus, grain, vignette, dust; complexity sharpens and ages it."""
    tone = view.luminance(exposure(v))
    tone = v.blur(tone, 1.0 - 0.6 * v.c)
    tone = view.ramp(tone * 0.95 + 0.02, 0.0, 1.0)
    grain = v.noise("grain", 1.2) * (0.03 + 0.05 * v.c)
    stains = v.noise("stains", 30.0) * (0.02 + 0.04 * v.c)
    tone = tone + grain * (1.0 - 0.6 * v.paper) + stains
    across = v.x / (v.width / v.scale) - 0.5
    down = v.y / (v.height / v.scale) - 0.5
    corner = (across.square() + down.square()) * 2.0
    vignette = 1.0 - 0.62 * view.ramp(corner, 0.25, 1.05)
    low, high = v.colour((0.24, 0.155, 0.085)), v.colour((0.955, 0.885, 0.725))
    image = view.mix(low, high, tone.clamp(0.0, 1.0)) * vignette
    if v.c > 0.3:
        scratches = view.ramp(v.noise("scratch", 40.0, 0.8), 0.93, 0.99) + view.ramp(
            v.noise("dust", 1.6), 0.97, 1.0
        )
        image = view.mix(image, high, (scratches * 0.5 * v.c).clamp(max=0.6))
    return image


@view.style("as a mosaic", held_out=True)
def mosaic(v: view.View) -> Tensor:
    """Glass tiles in dark grout, each of one colour; shadow is laid in deep blue tiles, mirrors in pale ones.

    Complexity lays smaller tiles. A tile takes the colour at its middle, a little its own by chance.
    """
    base = view.saturate(v.g.albedo, 1.4)
    shadow = view.mix(base * 0.34, v.colour((0.07, 0.13, 0.40)), 0.45)
    sunny = view.ramp(v.g.visibility * view.ramp(v.g.sun, 0.05, 0.3), 0.2, 0.8)
    image = view.mix(shadow, base * (0.62 + 0.42 * v.shade), torch.maximum(sunny, 0.62 * v.things))
    image = view.mix(image, view.mix(v.g.mirror, torch.ones_like(base), 0.22), (v.wet * 1.4).clamp(max=0.85))
    image = torch.where(v.sky > 0, view.saturate(v.g.albedo, 1.3), image).clamp(0.0, 1.0)
    tiles = cells(v, "tiles", 5.4 - 2.0 * v.c, jitter=0.66)
    lot, gap = tiles.lot[None, None], tiles.gap[None, None]
    image = dab(v.blur(image, 0.5), tiles) * (1.0 + (lot - 0.5) * (0.22 + 0.12 * v.c))
    slope = (tiles.along + tiles.across)[None, None]
    image = image * (1.0 - 0.07 * slope)
    half_seam = 0.30 + 0.16 * (1.0 - v.c)
    setting = view.ramp(gap, half_seam - 0.5 / v.scale, half_seam + 0.5 / v.scale)
    grout = v.colour((0.17, 0.155, 0.165))
    blank = dab(v.paper, tiles)
    grout = view.mix(grout, v.colour((0.74, 0.73, 0.72)), blank)
    return view.mix(grout, image, setting).clamp(0.0, 1.0)


@view.style("as a neon sign", held_out=True)
def neon(v: view.View) -> Tensor:
    """Glowing tubes in the night: outlines shine in pure hues and spill on their surroundings.

    Lit ground has a violet haze with a grid of faint light, shadow is where the haze is missing; reflections
    are the tubes again, dimmer. Complexity adds tubes and grid.
    """
    night = v.colour((0.035, 0.025, 0.085))
    low, high = v.g.albedo.amin(1, keepdim=True), v.g.albedo.amax(1, keepdim=True)
    chroma = high - low
    pure = (v.g.albedo - low) / chroma.clamp(min=1e-3)
    hue = view.mix(v.colour((0.35, 0.85, 1.0)), pure * 0.92 + 0.08, view.ramp(chroma, 0.06, 0.22))
    edges = torch.maximum(marks.drawing(v, at_part=0.1, at_pattern=2.0), 0.5 * v.c * marks.pattern(v))
    edges = edges * view.mix(0.30 * v.ground, torch.ones_like(v.sky), v.things)
    walls = marks.outline(v) * 0.25 * (1.0 - v.things)
    tubes = hue * torch.maximum(edges, walls)
    core = marks.stroke(v, edges, 0.9, 0.4)
    halo = v.blur(tubes, 1.6) * (1.6 * v.scale * 1.8)
    spill = v.blur(tubes, 6.0) * (6.0 * v.scale * 0.75)
    haze = view.mix(v.colour((0.20, 0.085, 0.40)), v.g.albedo * v.colour((0.30, 0.16, 0.42)), 0.55)
    drift = 1.0 + 0.25 * v.noise("mist", 22.0)
    glow = haze * drift * v.light * (0.30 + 0.70 * v.g.occlusion) * (1.0 - v.sky)
    fade = 1.0 - view.ramp(v.g.depth, 5.0, 16.0)
    place = v.g.position
    rung = torch.maximum(_grid_line(v, place[:, 0:1]), _grid_line(v, place[:, 2:3]))
    rung = rung * v.ground * fade * v.light
    glow = glow + rung * v.colour((0.16, 0.42, 0.62)) * (0.25 + 0.55 * v.c)
    body = v.g.albedo * 0.20 * v.light * v.things
    sky = v.colour((0.05, 0.02, 0.12)) * view.ramp(v.y, 0.0, 70.0) * v.sky * (1.0 - v.paper)
    wet = (v.wet * 2.2).clamp(max=1.0) * (1.0 - v.sky)
    echo = v.blur(marks.border(v.g.mirror_id) * v.g.mirror, 0.9) * (2.2 * v.scale) * wet
    scan = 1.0 - 0.10 * v.c * hatch(v, 0.0, 2.0, 0.5)
    image = (night + glow + body + sky + echo) * scan + 0.55 * halo + 0.34 * spill * (0.55 + 0.45 * v.light)
    return view.mix(image, view.mix(hue, torch.ones_like(hue), 0.62), core * (0.35 + 0.65 * v.things)).clamp(
        0.0, 1.0
    )


def _grid_line(v: view.View, coordinate: Tensor) -> Tensor:
    off = (coordinate * 2.0 - (coordinate * 2.0).round()).abs()
    return 1.0 - view.ramp((off - 0.02) / (0.012 * v.g.depth.clamp(0.5, 20.0)), 0.0, 1.0)


@view.style("as a woodcut print", held_out=True)
def woodcut(v: view.View) -> Tensor:
    """Black ink cut into lines on cream paper: the gouge follows the form, its cuts widen with the light.

    Shadows stay nearly uncut black; in mirrors the cuts run upright. Complexity: narrower lines, wood grain.
    """
    paper, black = v.colour((0.945, 0.895, 0.78)), v.colour((0.095, 0.075, 0.065))
    tone = view.value_of(v)
    tone = v.blur((tone + 0.22 * v.things) * (1.0 - 0.78 * v.hard_cast), 0.5)
    period = 5.0 - 1.9 * v.c
    normal = v.g.normal
    bend = (normal[:, 0:1] * 2.2 + normal[:, 1:2] * 3.2) * v.things
    across = torch.where(v.things > 0, v.y * 0.85 + v.x * 0.5 + bend * 1.6, v.y + 0.0 * v.x)
    across = torch.where(v.wet * (1.0 - v.things) > 0.08, v.x + 0.0 * v.y, across)
    gouge = 0.8 * v.noise("gouge", 14.0)
    ink_share = view.ramp(1.02 - tone, 0.05, 0.80) * 1.08
    ink_share = torch.minimum(ink_share, 0.84 + 0.3 * v.hard_cast)  # only a shadow is solid black
    ink_share = torch.where(v.sky > 0, ink_share * 0.75 * (1.0 - v.paper), ink_share)
    swing = 1.0 + 0.22 * v.noise("swing", 7.0)
    ink = lines_of_phase(v, (across + gouge) / period, period, ink_share * swing)
    ink = torch.where(ink_share > 0.95, torch.maximum(ink, (ink_share - 0.95) * 20.0).clamp(max=1.0), ink)
    nicks = hatch(v, -20.0, 7.0, 0.16 * v.hard_cast * (1.0 - v.things), gouge)
    ink = ink * (1.0 - nicks * view.ramp(v.noise("nick", 4.0), 0.0, 0.3))
    edges = v.warp(marks.drawing(v, at_part=0.2, at_pattern=0.8), "knife", 0.7)
    ink = torch.maximum(ink, marks.stroke(v, edges, 2.0, 0.15))
    grain = view.ramp(v.noise("wood", 1.2, 16.0), 0.62, 0.85) * (0.15 + 0.5 * v.c)
    return view.mix(paper, black, (ink * (1.0 - 0.6 * grain)).clamp(0.0, 1.0)).clamp(0.0, 1.0)
