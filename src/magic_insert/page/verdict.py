"""What the Toybox knows of a finished picture: the truth for this subject, in this scene, at this place."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import paste
from magic_insert.core.fidelity import effect_of, psnr_pooled, region_sums
from magic_insert.core.images import to_pil
from magic_insert.core.masks import INSIDE, area, bounding_box
from magic_insert.core.records import Box, Subject
from magic_insert.drops import Drop
from magic_insert.page.shelf import Toy, toy_seed, view_of
from magic_insert.toybox.scenes import SceneSpec, ground_point, height_at, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.subjects import SubjectSpec, subject_shapes
from magic_insert.toybox.tracer import trace
from magic_insert.toybox.world import COMPLEXITY, SUPERSAMPLE, shrink

SEEN = 0.002  # share of the picture that the true subject covers at least; else it stands behind a wall
ABOVE_GROUND = 0.02  # feet this near below the horizon stand nowhere


@dataclass(frozen=True)
class Verdict:
    """The numbers in a line, and the true picture for the browser."""

    line: str
    truth: tuple[bytes, str]


def judge(drop: Drop, box: Box, scene: Toy, subject: Toy, cut: Subject) -> Verdict | None:
    """How close the picture is to the truth, beside the subject's own picture pasted; None where it can stand nowhere.

    The subject is as tall as its box, and its feet are where the box ends.
    """
    place, person = scene.spec, subject.spec
    assert isinstance(place, SceneSpec)
    assert isinstance(person, SubjectSpec)
    assert drop.below is not None
    height, width = drop.below.size
    foot = box.bottom / height
    if foot <= scene.item.horizon + ABOVE_GROUND:
        return None
    x, z = ground_point(place.camera, box.centre_x / width, foot)
    tall = height_at(place.camera, x, z, box.y / height)
    worlds = [scene_world(place, subject_shapes(person, x=x, z=z, height=tall)), scene_world(place)]
    g = trace(worlds, SUPERSAMPLE * height)
    truth, empty = shrink(draw(g, [scene.style] * 2, [COMPLEXITY] * 2, [toy_seed(scene.item.id)] * 2))
    mask = shrink(g.coverage)[0]
    if area(mask) < SEEN:
        return None
    body = torch.zeros_like(mask)
    at = bounding_box(mask, INSIDE)
    body[:, at.y : at.bottom, at.x : at.right] = 1.0
    regions = {"shadow": effect_of(truth[None], empty[None], mask[None])[0], "subject": body}
    ours, pasted = drop.scene.rgb, paste(drop.below, cut, box).rgb
    found = [
        f"{name} {_psnr(ours, truth, where)}, pasted {_psnr(pasted, truth, where)}"
        for name, where in regions.items()
    ]
    return Verdict(f"Against the truth (PSNR): {'; '.join(found)}", view_of(to_pil(truth)))


def _psnr(image: Float[Tensor, "3 H W"], truth: Float[Tensor, "3 H W"], where: Float[Tensor, "1 H W"]) -> str:
    found = psnr_pooled(region_sums(image[None], truth[None], where[None]))
    return "none" if found is None else f"{found:.1f} dB"
