"""Camera pictures: a colour photograph and a faded vintage print.

Both keep the physical light: soft shadows by the sun's size, contact darkening, a mirror image in gloss.
"""

import torch
from torch import Tensor

from magic_insert.toybox.styles import lines
from magic_insert.toybox.styles.view import View, gaussian, luminance, mix, ramp


def photo(v: View) -> Tensor:
    """Soft physical light; complexity adds surface texture, highlights, crispness and sensor grain."""
    image = exposure(v)
    if v.c > 0.0:
        texture = 0.7 * v.noise("grit", 1.0) + 0.5 * v.noise("mottle", 5.0)
        image = image * (1.0 + 0.055 * v.c * texture * (1.0 - v.sky))
        image = image + v.c * 0.35 * (image - v.blur(image, 1.2)) * (1.0 - v.sky)
    return image.clamp(0.0, 1.0)


def vintage(v: View) -> Tensor:
    """A sepia print: veiled blacks, soft focus, grain, vignette, dust; complexity sharpens and ages it."""
    tone = luminance(exposure(v))
    tone = v.blur(tone, 1.0 - 0.6 * v.c)
    tone = ramp(tone * 0.95 + 0.02, 0.0, 1.0)
    grain = v.noise("grain", 1.2) * (0.03 + 0.05 * v.c)
    stains = v.noise("stains", 30.0) * (0.02 + 0.04 * v.c)
    tone = tone + grain * (1.0 - 0.6 * v.paper) + stains
    across = v.x / (v.width / v.scale) - 0.5
    down = v.y / (v.height / v.scale) - 0.5
    corner = (across.square() + down.square()) * 2.0
    vignette = 1.0 - 0.62 * ramp(corner, 0.25, 1.05)
    low, high = v.colour((0.24, 0.155, 0.085)), v.colour((0.955, 0.885, 0.725))
    image = mix(low, high, tone.clamp(0.0, 1.0)) * vignette
    if v.c > 0.3:
        scratches = ramp(v.noise("scratch", 40.0, 0.8), 0.93, 0.99) + ramp(v.noise("dust", 1.6), 0.97, 1.0)
        image = mix(image, high, (scratches * 0.5 * v.c).clamp(max=0.6))
    return image


def exposure(v: View) -> Tensor:
    """The photographed colour, 1 3 H W in [0, 1]: light, highlights, mirror image, shoulder, soft seams."""
    towards = v.g.sun_direction + torch.tensor([[0.0, 0.25, 1.0]], device=v.sky.device)
    half = (towards / towards.norm(dim=1, keepdim=True)).view(1, 3, 1, 1)
    glint = (v.g.normal * half).sum(1, keepdim=True).clamp(min=0.0) ** 40
    image = v.lit + (0.08 + 0.22 * v.c) * glint * v.g.visibility * v.things
    image = mix(image, v.g.mirror, v.g.gloss)
    shoulder = torch.where(image < 0.7, image, 0.7 + 0.3 * torch.tanh((image - 0.7) / 0.3))
    image = torch.where(v.sky > 0, image, shoulder).clamp(0.0, 1.0)
    seam = gaussian(torch.maximum(lines.border(v.g.object_id), lines.border(v.g.part_id)), 0.5)
    return mix(image, gaussian(image, 0.6), (seam * 2.0).clamp(max=1.0))
