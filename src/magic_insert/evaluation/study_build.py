"""Builds a preference study from an evaluation's pictures or from folders.

The folder of a study holds `index.html` with all forms and `pictures/` under names that say nothing, `study.json` (what
the page may know) and `key.json` (which picture was whose; never served). Pictures are decoded and written anew, so no
note inside a file tells its maker. Shape letters: H, W pixels.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from magic_insert.config.schema import StudyConfig
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import write_json, write_text
from magic_insert.core.rand import generator
from magic_insert.evaluation.report import MADE
from magic_insert.evaluation.rows import read_rows
from magic_insert.evaluation.study_forms import SCRAMBLED, Task, draw_forms
from magic_insert.evaluation.study_page import study_page

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CONTEXT = ("subject", "background")
TILES = 8


@dataclass(frozen=True)
class Material:
    """What can be compared: `made`[method][pair_id], and `context`[pair_id] as (name, picture) to show above."""

    ours: str
    made: Mapping[str, Mapping[str, Path]]
    context: Mapping[str, Sequence[tuple[str, Path]]]
    track: str


def run_build(cfg: StudyConfig) -> Path:
    """Builds the study of `cfg` in `cfg.out` and returns the page's path.

    Raises:
        UserError: nothing to compare, too few shared pairs, a missing or damaged picture, or answers are there already.
    """
    cfg.require_source()
    out = Path(cfg.out)
    if (out / "answers.jsonl").is_file():
        raise UserError(f"expected a folder without answers, got {out / 'answers.jsonl'}; set out=FOLDER")
    material = from_rows(cfg) if cfg.rows is not None else from_folders(cfg)
    pools = {
        method: sorted(set(pictures) & set(material.made[material.ours]))
        for method, pictures in material.made.items()
        if method != material.ours
    }
    forms = draw_forms(material.ours, pools, cfg.protocol, seed=cfg.seed)
    page = write_study(out, cfg, material, forms)
    Console(stderr=True).print(
        f"{len(forms)} forms of {len(forms[0])} choices: {page}\n"
        f"open it, or collect answers with: magic-insert study action=serve out={out}"
    )
    return page


def from_rows(cfg: StudyConfig) -> Material:
    """The pictures of the methods named in `cfg`, at the lowest seed that a pair has.

    Raises:
        UserError: the rows are damaged, a method is not among them, or a picture is gone.
    """
    assert cfg.rows is not None
    assert cfg.ours is not None
    rows = [row for row in read_rows(cfg.rows) if row["track"] == cfg.track]
    root, wanted = Path(cfg.rows).resolve().parent, [cfg.ours, *cfg.against]
    names = sorted({row["method"] for row in rows})
    if len(set(wanted)) < len(wanted):
        raise UserError(f"expected different methods, got {', '.join(wanted)}; correct ours and against")
    for method in wanted:
        if method not in names:
            raise UserError(
                f"expected a method of the track {cfg.track} ({', '.join(names)}), got {method!r}; set ours and against"
            )
    made: dict[str, dict[str, Path]] = {method: {} for method in wanted}
    context: dict[str, list[tuple[str, Path]]] = {}
    for row in sorted(rows, key=lambda row: -row["seed"]):
        if row["method"] not in made or MADE[cfg.track] not in row["images"]:
            continue
        made[row["method"]][row["pair_id"]] = _inside(root, row["images"][MADE[cfg.track]])
        context[row["pair_id"]] = [
            (name, _inside(root, row["images"][name])) for name in CONTEXT if name in row["images"]
        ]
    return Material(cfg.ours, made, context, cfg.track)


def _inside(root: Path, path: str) -> Path:
    file = (root / path).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        raise UserError(
            f"expected a picture below {root}, got {path}; build the study where the pictures are"
        )
    return file


def from_folders(cfg: StudyConfig) -> Material:
    """Folders of pictures with equal names; a folder's own name is the method's.

    Raises:
        UserError: two folders have one name, or a folder has two pictures of one name.
    """
    made: dict[str, dict[str, Path]] = {}
    for folder in map(Path, cfg.folders):
        if folder.resolve().name in made:
            raise UserError(f"expected folders of different names, got {folder} twice; rename one")
        made[folder.resolve().name] = _pictures(folder)
    above = {} if cfg.references is None else _pictures(Path(cfg.references))
    return Material(
        next(iter(made)), made, {name: [("reference", path)] for name, path in above.items()}, cfg.track
    )


def _pictures(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise UserError(
                f"expected one picture per name, got {found[path.stem]} and {path}; leave one out"
            )
        found[path.stem] = path
    return found


def scrambled(image: Float[Tensor, "3 H W"], seed: int, name: str) -> Float[Tensor, "3 H W"]:
    """The picture with its TILES x TILES tiles shuffled: nobody who looks can prefer it."""
    height, width = (length // TILES * TILES for length in image.shape[-2:])
    tiles = image[:, :height, :width].unfold(1, height // TILES, height // TILES)
    tiles = tiles.unfold(2, width // TILES, width // TILES).flatten(1, 2)
    order = torch.randperm(TILES * TILES, generator=generator(seed, "scrambled", name))
    rows = tiles[:, order].unflatten(1, (TILES, TILES))
    shuffled = image.clone()
    shuffled[:, :height, :width] = rows.permute(0, 1, 3, 2, 4).reshape(3, height, width)
    return shuffled


def write_study(out: Path, cfg: StudyConfig, material: Material, forms: Sequence[Sequence[Task]]) -> Path:
    """Pictures, page, what the page knows and the key to it; returns the page's path."""
    known: dict[str, str] = {}  # what a picture shows -> its name

    def put(meaning: str, path: Path, *, scramble: bool = False) -> str:
        if meaning not in known:
            known[meaning] = digest([cfg.seed, meaning, sha256_file(path)])
            image = load_rgb(path)
            image = scrambled(image, cfg.seed, meaning) if scramble else image
            save_png(out / "pictures" / f"{known[meaning]}.png", image)
        return known[meaning]

    def side(task: Task, method: str) -> str:
        source = material.made[material.ours if method == SCRAMBLED else method][task.pair_id]
        return put(f"{method}|{task.pair_id}", source, scramble=method == SCRAMBLED)

    shutil.rmtree(out / "pictures", ignore_errors=True)
    shown = [
        [
            {
                "left": side(task, task.left),
                "right": side(task, task.right),
                "above": [
                    [name, put(f"{name}:{path}", path)]
                    for name, path in material.context.get(task.pair_id, ())
                ],
            }
            for task in form
        ]
        for form in forms
    ]
    key: dict[str, Any] = {
        "ours": material.ours,
        "protocol": asdict(cfg.protocol),
        "seed": cfg.seed,
        "track": material.track,
        "forms": [[asdict(task) for task in form] for form in forms],
    }
    study = digest([key, shown])
    write_json(out / "key.json", {"study": study, **key})
    write_text(out / "index.html", study_page(study, material.track, shown))
    # Last: a folder with study.json is a whole study.
    names = sorted(path.name for path in (out / "pictures").iterdir())
    write_json(
        out / "study.json", {"study": study, "forms": [len(form) for form in forms], "pictures": names}
    )
    return out / "index.html"
