"""Toybox renders as folders of PNG files, with captions in JSONL and a contact sheet to look at.

Picture i is a function of the seed, the split and i alone, so a longer export begins with the shorter one.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from magic_insert.config.schema.jobs import ToyboxConfig
from magic_insert.core.errors import UserError
from magic_insert.core.events import tracked
from magic_insert.core.images import contact_sheet, save_png
from magic_insert.core.jsonl import write_text
from magic_insert.core.rand import fold_in
from magic_insert.core.store import Request, claim
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import ALL_STYLES, TRAIN_STYLES, style_phrase
from magic_insert.toybox.subjects import SubjectSpec, sample_subject
from magic_insert.toybox.world import (
    render_pairs,
    render_subjects,
    toyplop_pair,
    toyplop_scenes,
    toyplop_subjects,
)

BATCH = 8
SHEET_ROWS = 8
COMPLEXITY = 0.5


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
        rows.append({"pair_id": truth.pair_id, "caption": truth.caption, "style": truth.style})
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
