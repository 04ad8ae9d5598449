"""Where a draughtsman puts lines: silhouettes, parts, creases and painted patterns.

Lines lie on the nearer surface's side of a border, so that a subject's outline belongs to the subject.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from magic_insert.toybox.styles.view import View, ramp


def outline(v: View) -> Tensor:
    """1 1 H W, 1 on pixels at the border of an object (or of ground, wall and sky)."""
    return _near_side(v, v.g.object_id)


def parts(v: View) -> Tensor:
    """1 1 H W, 1 on pixels where one primitive meets another, and on sharp creases inside one."""
    pair = _near_side(v, v.g.part_id)
    normal = v.g.normal
    crease_x = _after_x((normal[..., :, 1:] * normal[..., :, :-1]).sum(1, keepdim=True) < 0.6)
    crease_y = _after_y((normal[..., 1:, :] * normal[..., :-1, :]).sum(1, keepdim=True) < 0.6)
    return torch.maximum(pair, torch.maximum(crease_x, crease_y) * v.things)


def pattern(v: View) -> Tensor:
    """1 1 H W in [0, 1]: colour steps painted on a surface; fades where distance makes them fine."""
    albedo = v.g.albedo
    step_x = _after_x((albedo[..., :, 1:] - albedo[..., :, :-1]).abs().amax(1, keepdim=True) > 0.12)
    step_y = _after_y((albedo[..., 1:, :] - albedo[..., :-1, :]).abs().amax(1, keepdim=True) > 0.12)
    near = 1.0 - ramp(v.g.depth, 8.0, 16.0)
    return torch.maximum(step_x, step_y) * near * (1.0 - v.sky)


def border(mask: Tensor) -> Tensor:
    """1 1 H W, 1 on pixels where a 0/1 mask (or an id map) changes."""
    step_x, step_y = mask[..., :, 1:] != mask[..., :, :-1], mask[..., 1:, :] != mask[..., :-1, :]
    return torch.maximum(_after_x(step_x), _after_y(step_y))


def mirrored(v: View) -> Tensor:
    """1 1 H W in [0, 1]: outlines seen in glossy surfaces, as strong as the gloss."""
    return border(v.g.mirror_id) * (v.wet * 2.5).clamp(max=1.0) * (1.0 - border(v.g.object_id))


def stroke(v: View, edges: Tensor, width: float, softness: float = 0.35) -> Tensor:
    """One-pixel edges thickened to a smooth line `width` units wide.

    Returns 1 1 H W in [0, 1]. Blurring a one-pixel line and scaling by the blur's own peak gives a profile
    that depends on the distance only; a steep ramp over it cuts the line out.
    """
    sigma = max(0.45 * width, 0.5 / v.scale)
    profile = v.blur(edges, sigma) * (sigma * v.scale * 2.3)
    return ramp(profile, 0.5 - softness, 0.5 + softness)


def drawing(v: View, *, always: float = 1.0, at_part: float = 0.1, at_pattern: float = 0.5) -> Tensor:
    """Edges by complexity: outlines always, parts and patterns fade in from the given complexity on."""
    edges = outline(v) * always
    inner = min(1.0, max(0.0, (v.c - at_part) * 3.0 + 0.35))
    if inner > 0.0:
        edges = torch.maximum(edges, parts(v) * inner)
    fine = min(1.0, max(0.0, (v.c - at_pattern) * 2.0))
    if fine > 0.0:
        edges = torch.maximum(edges, pattern(v) * fine)
    return edges


def _near_side(v: View, ids: Tensor) -> Tensor:
    depth = v.g.depth
    differs_x, differs_y = ids[..., :, 1:] != ids[..., :, :-1], ids[..., 1:, :] != ids[..., :-1, :]
    first_x, first_y = depth[..., :, :-1] <= depth[..., :, 1:], depth[..., :-1, :] <= depth[..., 1:, :]
    left, right = differs_x & first_x, differs_x & ~first_x
    top, bottom = differs_y & first_y, differs_y & ~first_y
    edges = _after_x(right) + _after_y(bottom)
    edges = edges + F.pad(left.float(), (0, 1)) + F.pad(top.float(), (0, 0, 0, 1))
    return edges.clamp(max=1.0)


def _after_x(step: Tensor) -> Tensor:
    return F.pad(step.float(), (1, 0))


def _after_y(step: Tensor) -> Tensor:
    return F.pad(step.float(), (0, 0, 1, 0))
