"""The products of the Toybox: subject pictures with alpha, and scenes with and without a subject, drawn in a style.

Shape letters: B images, H = W = size. Pictures lie in [0, 1]; alpha and mask are antialiased shares in [0, 1]; the
effect is 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import effect_of
from magic_insert.toybox.records import GBuffer
from magic_insert.toybox.scenes import SceneSpec, scene_world, studio_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.subjects import SubjectSpec, subject_shapes
from magic_insert.toybox.tracer import trace

SUPERSAMPLE = (
    2  # pictures are traced and drawn this much larger, then averaged: drawing is cheap, jaggies are not
)


@dataclass(frozen=True)
class SubjectImages:
    """Subjects alone on paper: rgb B 3 H W, alpha B 1 H W."""

    rgb: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class ScenePair:
    """The same scenes twice: with_subject and without B 3 H W, mask of the subject and effect around it B 1 H W."""

    with_subject: Tensor
    without: Tensor
    mask: Tensor
    effect: Tensor


def _same_length(**columns: Sequence[object]) -> None:
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) != 1:
        raise UserError(f"expected one of each per picture, got {counts}")


def rows(g: GBuffer, start: int, stop: int) -> GBuffer:
    """Rows start..stop-1 of a G-buffer (views, no copies)."""
    return GBuffer(**{f.name: getattr(g, f.name)[start:stop] for f in fields(GBuffer)})


def trace_subjects(
    specs: Sequence[SubjectSpec], size: int = 128, device: torch.device | str = "cpu"
) -> GBuffer:
    """Each subject alone in the studio."""
    return trace([studio_world(subject_shapes(spec)) for spec in specs], size, device=device)


def trace_scenes(
    scenes: Sequence[SceneSpec],
    subjects: Sequence[SubjectSpec],
    size: int = 128,
    device: torch.device | str = "cpu",
) -> tuple[GBuffer, GBuffer]:
    """Each scene with its subject at the drop place, and without it."""
    _same_length(scenes=scenes, subjects=subjects)
    full = [
        scene_world(
            scene, subject_shapes(subject, x=scene.drop_x, z=scene.drop_z, height=scene.subject_height)
        )
        for scene, subject in zip(scenes, subjects, strict=True)
    ]
    both = trace([*full, *(scene_world(scene) for scene in scenes)], size, device=device)
    return rows(both, 0, len(full)), rows(both, len(full), 2 * len(full))


def shrink(image: Tensor) -> Tensor:
    """Average SUPERSAMPLE x SUPERSAMPLE pixels of B C H W: the last step of an antialiased picture or mask."""
    return avg_pool2d(image, SUPERSAMPLE)


def render_subjects(
    specs: Sequence[SubjectSpec],
    styles: Sequence[str],
    complexity: Sequence[float],
    seeds: Sequence[int],
    size: int = 128,
    device: torch.device | str = "cpu",
) -> SubjectImages:
    """Subjects alone on paper, each drawn in its style."""
    _same_length(specs=specs, styles=styles, complexity=complexity, seeds=seeds)
    g = trace_subjects(specs, SUPERSAMPLE * size, device)
    return SubjectImages(shrink(draw(g, styles, complexity, seeds)), shrink(g.coverage))


def render_pairs(
    scenes: Sequence[SceneSpec],
    subjects: Sequence[SubjectSpec],
    styles: Sequence[str],
    complexity: Sequence[float],
    seeds: Sequence[int],
    size: int = 128,
    device: torch.device | str = "cpu",
) -> ScenePair:
    """Scenes with and without their subject, drawn with the same random numbers, and what the subject changed."""
    _same_length(scenes=scenes, subjects=subjects, styles=styles, complexity=complexity, seeds=seeds)
    g, empty = trace_scenes(scenes, subjects, SUPERSAMPLE * size, device)
    full = shrink(draw(g, styles, complexity, seeds))
    bare = shrink(draw(empty, styles, complexity, seeds))
    mask = shrink(g.coverage)
    return ScenePair(full, bare, mask, effect_of(full, bare, mask))
