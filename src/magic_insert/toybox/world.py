"""The products of the Toybox: subject pictures with alpha, scenes with and without a subject, ToyPlop; and the job that
writes them as folders of PNG files, with captions in JSONL and a contact sheet.

ToyPlop is a benchmark in SubjectPlop's shape, 35 subjects for 20 backgrounds, with the truth for every pair. Subjects
come from the held-out identities and combinations, scenes from held-out seeds; every training style draws one scene,
the styles that are never trained on draw the others. The split `mini` (5 x 4) is for demos and tests. Picture i of an
export is a function of the seed, the split and i alone, so a longer export begins with the shorter one.

Shape letters: B images, H = W = size. Pictures lie in [0, 1]; alpha and mask are antialiased shares in [0, 1]; the
effect is 0 or 1.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from magic_insert.config.schema.jobs import ToyboxConfig
from magic_insert.core.errors import UserError
from magic_insert.core.events import tracked
from magic_insert.core.fidelity import effect_of
from magic_insert.core.images import contact_sheet, save_png
from magic_insert.core.jsonl import write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.store import Request, claim
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.records import GBuffer, rows
from magic_insert.toybox.scenes import KINDS, SceneSpec, sample_scene, scene_world, studio_world
from magic_insert.toybox.styles import ALL_STYLES, HELD_OUT_STYLES, TRAIN_STYLES, draw, style_phrase
from magic_insert.toybox.subjects import TEMPLATES, SubjectSpec, sample_subject, subject_shapes
from magic_insert.toybox.tracer import trace

# Pictures are traced and drawn this much larger, then averaged: drawing is cheap, jaggies are not.
SUPERSAMPLE = 2


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
    mini = {f"{template}-01" for template in _MINI_SUBJECTS}
    return named if _is_full(split) else [item for item in named if item[0] in mini]


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


def toyplop_pair(subject: NamedSubject, scene: NamedScene, size: int = 128) -> PlopTruth:
    """Renders one pair with all its truth."""
    (name, spec), (scene_name, place, style) = subject, scene
    seed = fold_in(0, "toyplop", scene_name)
    alone = render_subjects([spec, spec], ["photo", style], [COMPLEXITY] * 2, [seed] * 2, size)
    pair = render_pairs([place], [spec], [style], [COMPLEXITY], [seed], size)
    return PlopTruth(
        pair_id=f"{name}__{scene_name}",
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


BATCH = 8
SHEET_ROWS = 8


def run_toybox(cfg: ToyboxConfig) -> None:
    """Writes the product `cfg.what` into `cfg.out` and prints where.

    Raises:
        UserError: the place holds another export, or cannot be written.
    """
    styles = list(cfg.styles) or list(ALL_STYLES if cfg.what == "benchmark" else TRAIN_STYLES)
    settings = {name: getattr(cfg, name) for name in ("size", "seed", "split", "occlusion")}
    if cfg.what == "pairs":
        settings["num_subjects"] = cfg.num_subjects  # they take turns
    claim(Path(cfg.out), Request(f"toybox export of {cfg.what}", 1, {**settings, "styles": styles}))
    products = {
        "subjects": export_subjects,
        "pairs": export_pairs,
        "benchmark": export_benchmark,
        "sheet": export_sheet,
    }
    print(products[cfg.what](cfg, styles))


def subject_at(cfg: ToyboxConfig, index: int) -> SubjectSpec:
    """Subject `index` of an export."""
    return sample_subject(fold_in(cfg.seed, "export", "subject", index), cfg.split)


def scene_at(cfg: ToyboxConfig, index: int) -> SceneSpec:
    """Scene `index` of an export."""
    return sample_scene(fold_in(cfg.seed, "export", "scene", index), cfg.split, occlusion=cfg.occlusion)


def export_subjects(cfg: ToyboxConfig, styles: Sequence[str]) -> Path:
    """Subjects alone: `subjects/000000.png` with alpha, `captions.jsonl`, `sheet.png`. Returns the sheet's path."""
    out, rows, cells = Path(cfg.out), [], []
    for indices in batches(cfg.num_subjects, "subjects"):
        specs = [subject_at(cfg, i) for i in indices]
        drawn = [styles[i % len(styles)] for i in indices]
        seeds = [fold_in(cfg.seed, "export", "paper", i) for i in indices]
        images = render_subjects(specs, drawn, [COMPLEXITY] * len(specs), seeds, cfg.size)
        for i, spec, style, rgb, alpha in zip(indices, specs, drawn, images.rgb, images.alpha, strict=True):
            file = f"subjects/{i:06d}.png"
            save_png(out / file, torch.cat([rgb, alpha]))
            rows.append(
                {"file": file, "caption": caption(spec), "style": style, "style_phrase": style_phrase(style)}
            )
            cells.append(rgb)
    return _finish(out, rows, [cells[i : i + SHEET_ROWS] for i in range(0, len(cells), SHEET_ROWS)], None)


def export_pairs(cfg: ToyboxConfig, styles: Sequence[str]) -> Path:
    """Scenes with and without their subject: folders `with`, `without`, `mask`, `effect`; subjects take turns."""
    out, rows, cells = Path(cfg.out), [], []
    for indices in batches(cfg.num_scenes, "pairs"):
        scenes = [scene_at(cfg, i) for i in indices]
        specs = [subject_at(cfg, i % cfg.num_subjects) for i in indices]
        drawn = [styles[i % len(styles)] for i in indices]
        seeds = [fold_in(cfg.seed, "export", "paper", i) for i in indices]
        pair = render_pairs(scenes, specs, drawn, [COMPLEXITY] * len(specs), seeds, cfg.size)
        for row, i in enumerate(indices):
            file = f"{i:06d}.png"
            views = {
                "with": pair.with_subject[row],
                "without": pair.without[row],
                "mask": pair.mask[row],
                "effect": pair.effect[row],
            }
            for folder, image in views.items():
                save_png(out / folder / file, image)
            rows.append(
                {
                    "file": file,
                    "caption": caption(specs[row]),
                    "scene_phrase": scene_phrase(scenes[row]),
                    "style": drawn[row],
                    "style_phrase": style_phrase(drawn[row]),
                }
            )
            cells.append([image.expand(3, -1, -1) for image in views.values()])
    return _finish(out, rows, cells, ["with", "without", "mask", "effect"])


def export_benchmark(cfg: ToyboxConfig, styles: Sequence[str]) -> Path:
    """The first subjects and scenes of ToyPlop in SubjectPlop's shape, and the truth of every pair.

    `subjects/<id>.png` (photographs with alpha), `backgrounds/<id>.png`, `truth/<pair id>/` with `styled`, `with`,
    `mask` and `effect`, `captions.jsonl`. Scenes in a style outside `styles` are left out.
    """
    out, rows, cells = Path(cfg.out), [], []
    subjects = toyplop_subjects()[: cfg.num_subjects]
    scenes = [scene for scene in toyplop_scenes() if scene[2] in styles][: cfg.num_scenes]
    if not scenes:
        raise UserError(
            f"expected styles that a scene of the benchmark has, got {', '.join(styles)}; set styles=[]"
        )
    pairs = [(subject, scene) for subject in subjects for scene in scenes]
    for subject, scene in tracked(pairs, "benchmark"):
        truth = toyplop_pair(subject, scene, cfg.size)
        views = {
            "styled": torch.cat([truth.subject_styled, truth.subject_alpha]),
            "with": truth.with_subject,
            "mask": truth.mask,
            "effect": truth.effect,
        }
        for view, image in views.items():
            save_png(out / "truth" / truth.pair_id / f"{view}.png", image)
        save_png(
            out / "subjects" / f"{subject[0]}.png", torch.cat([truth.subject_photo, truth.subject_alpha])
        )
        save_png(out / "backgrounds" / f"{scene[0]}.png", truth.background)
        rows.append({"pair_id": truth.pair_id, "caption": caption(subject[1]), "style": truth.style})
        cells.append(truth.with_subject)
    return _finish(out, rows, [cells[i : i + len(scenes)] for i in range(0, len(cells), len(scenes))], None)


def export_sheet(cfg: ToyboxConfig, styles: Sequence[str]) -> Path:
    """`sheet.png`: the first subjects of the export as rows, every style as a column."""
    cells = []
    for index in tracked(range(cfg.num_subjects), "sheet"):
        count = len(styles)
        seeds = [fold_in(cfg.seed, "export", "paper", index)] * count
        images = render_subjects(
            [subject_at(cfg, index)] * count, styles, [COMPLEXITY] * count, seeds, cfg.size
        )
        cells.append(list(images.rgb))
    sheet = Path(cfg.out) / "sheet.png"
    save_png(sheet, contact_sheet(cells, None, styles, cell=cfg.size))
    return sheet


def batches(total: int, label: str) -> Iterator[range]:
    """0..total-1 in ranges of at most BATCH, with a progress bar on a terminal."""
    for start in tracked(range(0, total, BATCH), label):
        yield range(start, min(start + BATCH, total))


def _finish(
    out: Path,
    rows: Sequence[dict[str, Any]],
    cells: Sequence[Sequence[torch.Tensor]],
    column_labels: Sequence[str] | None,
) -> Path:
    """Writes captions and the contact sheet of the first rows."""
    write_text(out / "captions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    save_png(out / "sheet.png", contact_sheet(cells[:SHEET_ROWS], None, column_labels))
    return out / "sheet.png"
