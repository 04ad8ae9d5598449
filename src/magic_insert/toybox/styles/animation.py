"""Flat colour and line: the newspaper cartoon, the animation cel, the pixel sprite, layered paper."""

import torch
import torch.nn.functional as F
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.marks import hatch
from magic_insert.toybox.styles.view import View, mix, posterise, ramp, saturate


def cartoon(v: View) -> Tensor:
    """Two flat tones, thick dark outlines, one hard grey shadow; complexity adds inner lines and a tone.

    Reflections are a pale flat copy crossed by two or three white glints.
    """
    flat = posterise(saturate(v.g.albedo, 1.15), 4.0 + 4.0 * v.c)
    flat = mix(flat, torch.ones_like(flat), 0.10)
    shadow = flat * v.colour((0.60, 0.60, 0.66))
    image = mix(shadow, flat, v.light)
    if v.c > 0.35:
        bright = (v.g.sun * v.g.hard_visibility > 0.93).float() * v.things
        image = mix(image, torch.ones_like(image), 0.45 * bright * min(1.0, (v.c - 0.35) * 3.0))
    gloss = (v.wet > 0.08).float() * (1.0 - v.sky)
    copy = torch.where(v.g.mirror_id > 0, posterise(v.g.mirror, 3.0), v.colour((0.86, 0.93, 0.98)))
    image = mix(image, copy, gloss * (0.25 + 0.6 * v.wet).clamp(max=0.7))
    glint = hatch(v, -28.0, 22.0, 0.10, v.noise("glint", 30.0) * 3.0) * gloss * v.ground
    image = mix(image, torch.ones_like(image), 0.55 * glint)
    image = torch.where(v.sky > 0, mix(posterise(v.g.albedo, 8.0), torch.ones_like(flat), 0.12), image)
    image = torch.where(v.paper > 0, 1.0, image)
    ink = lines.stroke(v, lines.drawing(v, at_part=0.15, at_pattern=2.0), 1.9 - 0.3 * v.c, 0.3)
    if v.c > 0.6:
        ink = torch.maximum(ink, lines.stroke(v, lines.pattern(v), 0.8) * 1.5 * (v.c - 0.6))
    return mix(image, v.colour((0.10, 0.08, 0.10)), ink).clamp(0.0, 1.0)


def cel(v: View) -> Tensor:
    """Saturated colour, a hard terminator with violet shade, thin coloured lines; complexity adds bands.

    Reflections are a crisp tinted copy, cut by horizontal bands.
    """
    base = saturate(v.g.albedo, 1.45)
    shade = base * v.colour((0.60, 0.44, 0.84))
    deep = base * v.colour((0.42, 0.30, 0.72))
    lit = (base * v.colour((1.10, 1.06, 0.98))).clamp(max=1.0)
    image = mix(shade, lit, v.light)
    if v.c > 0.2:
        band = (v.g.sun < 0.55).float() * v.light * v.things
        image = mix(image, base * v.colour((0.84, 0.72, 0.95)), band * min(1.0, v.c * 1.4))
        image = mix(image, deep, (v.g.occlusion < 0.45).float() * (1.0 - v.light) * (1.0 - v.sky) * v.c)
    shine = (v.g.sun > 0.96 - 0.05 * v.c).float() * v.light * v.things
    image = mix(image, v.colour((1.0, 1.0, 0.94)), shine * 0.75)
    rim = lines.stroke(v, v.shift(lines.outline(v), 1.5, 1.5), 1.3) * v.things * v.light
    image = mix(image, v.colour((1.0, 0.97, 0.85)), rim * 0.6 * v.c)
    bands = 0.75 + 0.25 * hatch(v, 0.0, 5.0, 0.55)
    copy = saturate(v.g.mirror, 1.35) * v.colour((0.88, 0.90, 1.0))
    image = mix(image, copy, ((v.wet * 1.5).clamp(max=0.8) * bands) * (1.0 - v.sky))
    sky = (saturate(v.g.albedo, 1.6) + 0.04 * (hatch(v, 4.0, 26.0, 0.45) - 0.4)).clamp(0.0, 1.0)
    image = torch.where(v.sky > 0, sky, image)
    image = torch.where(v.paper > 0, 1.0, image)
    ink = lines.stroke(v, lines.drawing(v, at_part=0.0, at_pattern=0.5), 0.9, 0.4)
    return mix(image, (image * image * v.colour((0.42, 0.22, 0.40))), ink * 0.92).clamp(0.0, 1.0)


def pixel(v: View) -> Tensor:
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
    albedo = saturate(take(v.g.albedo), 1.35)
    light, sky, things = take(v.light), take(v.sky), take(v.things)
    dark = mix(board * 0.34 + 0.26, torch.full_like(light, 0.55), things)
    image = albedo * mix(dark, torch.ones_like(light), light)
    gloss = take(v.wet) * 1.6 * ((w % 2) == 0)
    image = mix(image, take(v.g.mirror), gloss.clamp(max=0.9) * (1.0 - sky))
    steps = 5.0 + 2.0 * v.c
    spread = 0.15 + 0.35 * v.c  # of a palette step; more would bury the shadow's own dither
    value = image.amax(1, keepdim=True).clamp(min=1e-3)
    image = (image / value * 6.0).round() / 6.0 * ((value * steps + (bayer - 0.375) * spread).round() / steps)
    ink = (F.adaptive_max_pool2d(lines.outline(v) * v.things, cell) > 0).float() * things
    if v.c > 0.45:
        inner = (F.interpolate(lines.parts(v), cell, mode="area") > 0.22).float() * things
        ink = torch.maximum(ink, inner * 0.6)
    image = mix(image, image * 0.22 + v.colour((0.05, 0.03, 0.10)), ink)
    image = torch.where(take(v.paper) > 0, 1.0, image)
    to_rows = torch.arange(v.height, device=v.sky.device) * cell[0] // v.height
    to_cols = torch.arange(v.width, device=v.sky.device) * cell[1] // v.width
    return image.index_select(-2, to_rows).index_select(-1, to_cols).clamp(0.0, 1.0)


def papercut(v: View) -> Tensor:
    """Layers of coloured paper: no shading, pale cut edges, every layer shades the next a little.

    The cast shadow is a sheet of darker paper with its own edge, a reflection a sheet of lighter paper.
    Complexity cuts the parts (and then the tones) into layers of their own.
    """
    sheet = posterise(saturate(v.g.albedo, 1.2), 4.0 + 3.0 * v.c)
    sheet = mix(sheet, v.colour((1.0, 0.96, 0.88)), 0.20)
    dark_sheet = mix(sheet, v.colour((0.16, 0.17, 0.34)), 0.52)
    cast = (v.hard_cast > 0).float() * (1.0 - v.things)
    image = mix(sheet, dark_sheet, cast)
    if v.c > 0.5:
        turned = (1.0 - v.light) * v.things * (v.c - 0.5) * 2.0
        image = mix(image, image * v.colour((0.78, 0.77, 0.84)), turned)
    copy = mix(posterise(v.g.mirror, 4.0), v.colour((1.0, 1.0, 1.0)), 0.25)
    image = mix(image, copy, (v.wet * 1.6).clamp(max=0.75) * (1.0 - v.sky))
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
    edge = lines.outline(v) + 0.8 * lines.border(cast) * (1.0 - v.things)
    if v.c > 0.15:
        edge = torch.maximum(edge, lines.parts(v) * v.things * 0.8)
    image = mix(image, v.colour((1.0, 0.98, 0.94)), lines.stroke(v, edge, 0.9) * 0.6 * (1.0 - v.sky))
    wave = v.y + 3.0 * v.noise("torn", 26.0)  # the sky: torn strips, each shading the one below
    strip = (wave / 17.0).floor()
    below = 1.0 - ramp(wave - 17.0 * strip, 0.0, 2.2)
    tinted = image + 0.085 * (strip % 2.0) - 0.16 * below
    image = torch.where((v.sky > 0) & (v.paper == 0), tinted * (1.0 - 0.6 * drop), image)
    fibre = 0.6 * v.noise("fibre", 1.3, 2.6) + 0.4 * v.noise("pulp", 4.0)
    image = torch.where(v.paper > 0, v.colour((1.0, 0.995, 0.98)) * (1.0 - 0.75 * drop), image)
    return (image * (1.0 + (0.015 + 0.025 * v.c) * fibre)).clamp(0.0, 1.0)


def _middles(blocks: int, pixels: int, device: torch.device) -> Tensor:
    return ((torch.arange(blocks, device=device) * 2 + 1) * pixels // (2 * blocks)).clamp(max=pixels - 1)
