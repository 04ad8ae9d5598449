"""The products of the Toybox: subject pictures with alpha, scenes with and without a subject, and ToyPlop.

ToyPlop is a benchmark in SubjectPlop's shape, 35 subjects for 20 backgrounds, with the truth for every pair. Subjects
come from the held-out identities and combinations, scenes from held-out seeds; every training style draws one scene,
the styles that are never trained on draw the others. The split `mini` (5 x 4) is for demos and tests.

Shape letters: B images, H = W = size. Pictures lie in [0, 1]; alpha and mask are antialiased shares in [0, 1]; the
effect is 0 or 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from magic_insert.core.fidelity import effect_of
from magic_insert.core.rand import fold_in
from magic_insert.toybox.captions import caption
from magic_insert.toybox.records import GBuffer, rows
from magic_insert.toybox.scenes import KINDS, SceneSpec, sample_scene, scene_world, studio_world
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES, draw
from magic_insert.toybox.subjects import TEMPLATES, SubjectSpec, sample_subject, subject_shapes
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
    g, empty = trace_scenes(scenes, subjects, SUPERSAMPLE * size, device)
    full = shrink(draw(g, styles, complexity, seeds))
    bare = shrink(draw(empty, styles, complexity, seeds))
    mask = shrink(g.coverage)
    return ScenePair(full, bare, mask, effect_of(full, bare, mask))


NamedSubject = tuple[str, SubjectSpec]
NamedScene = tuple[str, SceneSpec, str]

SUBJECTS, SCENES = 35, 20
COMPLEXITY = 0.5
_MINI_SUBJECTS = ("bunny", "penguin", "robot", "person", "teapot")
_MINI_SCENES = (("photo", "room"), ("watercolour", "forest"), ("cartoon", "beach"), ("charcoal", "street"))
_SCENE_STYLES: tuple[str, ...] = (*TRAIN_STYLES, *HELD_OUT_STYLES, *HELD_OUT_STYLES)[:SCENES]


@dataclass(frozen=True)
class PlopTruth:
    """One pair of the benchmark and everything that is known about it. Pictures 3 H W, masks 1 H W."""

    pair_id: str
    caption: str
    style: str
    subject_photo: Tensor  # the subject alone on paper, as a photograph
    subject_alpha: Tensor
    subject_styled: Tensor  # the same view in the style of the scene
    background: Tensor  # the scene without the subject, in its style
    with_subject: Tensor
    mask: Tensor
    effect: Tensor  # what the subject changed outside its mask: shadow and reflection


def toyplop_subjects(split: str = "full") -> list[NamedSubject]:
    """35 (mini: 5) standing held-out subjects with names like "bunny-01": every template, none twice the same."""
    seen: dict[str, int] = {}
    named: list[NamedSubject] = []
    seed = 0
    while len(named) < SUBJECTS:
        spec = replace(sample_subject(fold_in(35, "toyplop subject", seed), "heldout"), pose="stand")
        seed += 1
        turn = len(named) // len(TEMPLATES)
        if seen.get(spec.template, 0) > turn or spec.combination in {old.combination for _, old in named}:
            continue
        seen[spec.template] = seen.get(spec.template, 0) + 1
        named.append((f"{spec.template}-{seen[spec.template]:02d}", spec))
    named.sort(key=lambda item: (TEMPLATES.index(item[1].template), item[0]))
    return (
        named
        if _is_full(split)
        else [item for item in named if item[0] in {f"{t}-01" for t in _MINI_SUBJECTS}]
    )


def toyplop_scenes(split: str = "full") -> list[NamedScene]:
    """20 (mini: 4) held-out scenes with names like "snow-field-07", each with the style it is drawn in."""
    if _is_full(split):
        plan = [(style, KINDS[(7 * n) % len(KINDS)]) for n, style in enumerate(_SCENE_STYLES)]
    else:
        plan = list(_MINI_SCENES)
    return [
        (
            f"{kind.replace(' ', '-')}-{n + 1:02d}",
            sample_scene(fold_in(20, "toyplop scene", split, n), "heldout", kind=kind),
            style,
        )
        for n, (style, kind) in enumerate(plan)
    ]


def pair_id(subject: NamedSubject, scene: NamedScene) -> str:
    """The name of a pair: "bunny-01__forest-07"."""
    return f"{subject[0]}__{scene[0]}"


def toyplop_pair(subject: NamedSubject, scene: NamedScene, size: int = 128) -> PlopTruth:
    """Renders one pair with all its truth."""
    name, (_, spec), (scene_name, place, style) = pair_id(subject, scene), subject, scene
    seed = fold_in(0, "toyplop", scene_name)
    alone = render_subjects([spec, spec], ["photo", style], [COMPLEXITY] * 2, [seed] * 2, size)
    pair = render_pairs([place], [spec], [style], [COMPLEXITY], [seed], size)
    return PlopTruth(
        pair_id=name,
        caption=caption(spec),
        style=style,
        subject_photo=alone.rgb[0],
        subject_alpha=alone.alpha[0],
        subject_styled=alone.rgb[1],
        background=pair.without[0],
        with_subject=pair.with_subject[0],
        mask=pair.mask[0],
        effect=pair.effect[0],
    )


def _is_full(split: str) -> bool:
    assert split in ("full", "mini"), split
    return split == "full"
