"""Wet media: watercolour, ink with a wash, oil paint."""

import torch
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.marks import Cells, cells, dab
from magic_insert.toybox.styles.view import View, luminance, mix, ramp, saturate


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
    dry = ramp(v.noise("dry", 2.2, 6.0) + 0.35 * lines.stroke(v, lines.outline(v), 1.2), 0.86, 1.02)
    wash = mix(wash, paper, 0.55 * dry * (1.0 - shadow))
    wash = mix(wash, paper, soft[:, 5:6])
    if v.c > 0.3:
        under = v.warp(lines.drawing(v, at_part=0.4, at_pattern=0.8), "hand", 0.9)
        wash = mix(wash, v.colour((0.30, 0.29, 0.34)), lines.stroke(v, under, 0.7, 0.45) * 0.7 * (v.c - 0.15))
    return (wash * (1.0 - 0.018 * (granule + 1.0))).clamp(0.0, 1.0)


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
    edges = v.warp(lines.drawing(v, at_part=0.1, at_pattern=0.55), "pen", 0.8)
    swell = 1.0 + 0.35 * v.noise("swell", 14.0)
    line = lines.stroke(v, edges * swell, 1.25, 0.3)
    if v.c > 0.4:
        stipple = (v.noise("stipple", 1.5) > 0.35 + 0.9 * tone).float() * (1.0 - v.sky)
        line = torch.maximum(line, stipple * 0.8 * (v.c - 0.2))
    return mix(image, v.colour((0.04, 0.04, 0.09)), line).clamp(0.0, 1.0)


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
    detail = lines.outline(v) * (1.0 - v.paper) + lines.parts(v)
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
