"""A camera's photograph, and flat colour and line: the newspaper cartoon, the animation cel."""

import torch
from torch import Tensor

from magic_insert.toybox.styles import marks
from magic_insert.toybox.styles.marks import hatch
from magic_insert.toybox.styles.view import (
    View,
    gaussian,
    mix,
    posterise,
    saturate,
    style,
)


@style("as a photo")
def photo(v: View) -> Tensor:
    """Soft physical light; complexity adds surface texture, highlights, crispness and sensor grain."""
    image = exposure(v)
    if v.c > 0.0:
        texture = 0.7 * v.noise("grit", 1.0) + 0.5 * v.noise("mottle", 5.0)
        image = image * (1.0 + 0.055 * v.c * texture * (1.0 - v.sky))
        image = image + v.c * 0.35 * (image - v.blur(image, 1.2)) * (1.0 - v.sky)
    return image.clamp(0.0, 1.0)


def exposure(v: View) -> Tensor:
    """The photographed colour, 1 3 H W in [0, 1]: light, highlights, mirror image, shoulder, soft seams."""
    towards = v.g.sun_direction + torch.tensor([[0.0, 0.25, 1.0]], device=v.sky.device)
    half = (towards / towards.norm(dim=1, keepdim=True)).view(1, 3, 1, 1)
    glint = (v.g.normal * half).sum(1, keepdim=True).clamp(min=0.0) ** 40
    image = v.lit + (0.08 + 0.22 * v.c) * glint * v.g.visibility * v.things
    image = mix(image, v.g.mirror, v.g.gloss)
    shoulder = torch.where(image < 0.7, image, 0.7 + 0.3 * torch.tanh((image - 0.7) / 0.3))
    image = torch.where(v.sky > 0, image, shoulder).clamp(0.0, 1.0)
    seam = gaussian(torch.maximum(marks.border(v.g.object_id), marks.border(v.g.part_id)), 0.5)
    return mix(image, gaussian(image, 0.6), (seam * 2.0).clamp(max=1.0))


@style("as a cartoon")
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
    ink = marks.stroke(v, marks.drawing(v, at_part=0.15, at_pattern=2.0), 1.9 - 0.3 * v.c, 0.3)
    if v.c > 0.6:
        ink = torch.maximum(ink, marks.stroke(v, marks.pattern(v), 0.8) * 1.5 * (v.c - 0.6))
    return mix(image, v.colour((0.10, 0.08, 0.10)), ink).clamp(0.0, 1.0)


@style("as a cel animation")
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
    rim = marks.stroke(v, v.shift(marks.outline(v), 1.5, 1.5), 1.3) * v.things * v.light
    image = mix(image, v.colour((1.0, 0.97, 0.85)), rim * 0.6 * v.c)
    bands = 0.75 + 0.25 * hatch(v, 0.0, 5.0, 0.55)
    copy = saturate(v.g.mirror, 1.35) * v.colour((0.88, 0.90, 1.0))
    image = mix(image, copy, ((v.wet * 1.5).clamp(max=0.8) * bands) * (1.0 - v.sky))
    sky = (saturate(v.g.albedo, 1.6) + 0.04 * (hatch(v, 4.0, 26.0, 0.45) - 0.4)).clamp(0.0, 1.0)
    image = torch.where(v.sky > 0, sky, image)
    image = torch.where(v.paper > 0, 1.0, image)
    ink = marks.stroke(v, marks.drawing(v, at_part=0.0, at_pattern=0.5), 0.9, 0.4)
    return mix(image, (image * image * v.colour((0.42, 0.22, 0.40))), ink * 0.92).clamp(0.0, 1.0)
