"""What a job is given, judged once: files, pictures, boxes and folders of weights, before torch is imported.

`resolve_insert` and `resolve_remove` return what they found, and the job goes on with exactly that. Nothing is left on
the disk.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from magic_insert.config.schema.jobs import InsertConfig, RemoveConfig
from magic_insert.core import picture_files
from magic_insert.core.box import Box
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import check_name, read_json, require_writable
from magic_insert.core.store import Request, refuse_other
from magic_insert.data.subject_files import CARD_FILE, finished_run
from magic_insert.models.folders import Folders, find_folders, find_model, find_pipeline, find_remover
from magic_insert.pose import Suggester, build_pose
from magic_insert.stylizers import check_stylizer

RECORD_STEMS = ("run", "manifest")  # their .json in `out` are records of the run and no picture's sidecar
INSIDE = 0.5


@dataclass(frozen=True)
class InsertInputs:
    """What `insert` was given.

    `pictures`: every background with the picture that is written for it; `many`: in a folder. `refused`: of several
    backgrounds, why some are left out, a line each. `longest`: side of all the pictures. `run`: a personalisation of
    before.
    """

    pictures: tuple[tuple[Path, Path], ...]
    many: bool
    refused: tuple[str, ...]
    longest: int
    run: Path | None
    folders: Folders
    pose: Suggester


@dataclass(frozen=True)
class RemoveInputs:
    """What `remove` was given: where to write, and the model's folder (None: from the hub)."""

    out: Path
    model: Path | None


def resolve_insert(cfg: InsertConfig) -> InsertInputs:
    """The inputs of an `insert`.

    Of several backgrounds, those that do not fit are left out and named; the rest is done.

    Raises:
        UserError: anything else does not fit, or no background is left.
    """
    many = isinstance(cfg.background, list) or os.path.isdir(cfg.background)
    pose = build_pose(cfg.pose)
    if many and cfg.pose.name != "none":
        raise UserError(
            f"expected pose=none for several backgrounds, which share one prompt, got {cfg.pose.name}; "
            "set pose=none or one background"
        )
    if many and cfg.occluders is not None:
        raise UserError(
            f"expected one background for occluders={cfg.occluders}, got several; set occluders=null"
        )
    longest = max(judge_subject(cfg.subject))
    pictures: list[tuple[Path, Path]] = []
    refused: list[str] = []
    for background, out in (
        _outputs(cfg) if many else [(Path(cfg.background), require_writable(cfg.out, suffix=".png"))]
    ):
        try:
            if out in [taken for _, taken in pictures] or out.stem in RECORD_STEMS:
                raise UserError(
                    f"expected backgrounds of different names, and none called {' or '.join(RECORD_STEMS)}, got "
                    f"{background}; rename it"
                )
            _require_apart(out, cfg.subject, background)
            _require_sidecar(out)
            size = judge_picture(background)
            if cfg.box is not None:
                Box(*cfg.box).require_inside(size[1], size[0])
            if cfg.occluders is not None:
                _require_apart(out, cfg.occluders)
                judge_mask(cfg.occluders, size)
        except UserError as error:
            if not many:
                raise
            refused.append(" ".join(str(error).split()))
        else:
            pictures.append((background, out))
            longest = max(longest, *size)
    if not pictures:
        raise UserError(refused[0])
    model = None if cfg.mode == "preview" else cfg.model
    folders = find_folders(model, cfg.inserter, cfg.segmenter)
    check_stylizer(cfg.stylizer, cfg.model, folders.model, subject_text=cfg.subject_text)
    return InsertInputs(tuple(pictures), many, tuple(refused), longest, _find_run(cfg), folders, pose)


def resolve_remove(cfg: RemoveConfig) -> RemoveInputs:
    """The inputs of a `remove`.

    Raises:
        UserError: pictures that are not sound or do not fit, or no remover.
    """
    out = require_writable(cfg.out, suffix=".png")
    _require_apart(out, cfg.image, cfg.mask)
    _require_sidecar(out)
    judge_mask(cfg.mask, judge_picture(cfg.image))
    if cfg.remover == "diffusers":
        find_pipeline(cfg.run or "", "run")
        return RemoveInputs(out, None)
    model = find_model(cfg.model)
    find_remover(cfg.run, model)
    return RemoveInputs(out, model)


def _outputs(cfg: InsertConfig) -> list[tuple[Path, Path]]:
    """The pictures of a list or a folder, each with its output in the folder `out`."""
    if Path(cfg.out).suffix.lower() in picture_files.SUFFIXES:
        raise UserError(f"expected a folder for several backgrounds, got {cfg.out}; set out=FOLDER")
    folder = require_writable(cfg.out)
    refuse_other(folder, insert_request(cfg))
    given = cfg.background
    found = [Path(path) for path in given] if isinstance(given, list) else picture_files.pictures_in(given)
    picture_files.require_pictures(found, cfg.background, "background=PATH")
    return [(path, folder / f"{path.stem}.png") for path in found]


def insert_request(cfg: InsertConfig) -> Request:
    """What the pictures of a folder have in common: no other settings or subject may write between them."""
    settings = asdict(cfg)
    for name in ("background", "out", "subject", "subjects", "keep_intermediate"):
        del settings[name]
    del settings["model"]["device"]
    return Request("insert", 1, settings, {"subject": sha256_file(cfg.subject)})


def _require_apart(out: Path, *inputs: str | Path) -> None:
    """That `out` is none of `inputs`."""
    if os.path.realpath(out) in (os.path.realpath(path) for path in inputs):
        raise UserError(f"expected an output that is not one of the inputs, got {out}; set another out=")


def _require_sidecar(out: Path) -> None:
    """That the names of a picture, its sidecar and its parts can be written, and no folder lies in their place."""
    check_name(out.with_name(f"{out.stem}_parts"))
    for file in (out, out.with_suffix(".json")):
        require_writable(file, suffix="")


def judge_picture(path: str | Path) -> tuple[int, int]:
    """Width and height of a sound picture that is not too small; raises `UserError` otherwise."""
    size = picture_files.open_picture(path).size
    picture_files.require_size(path, size)
    return size


def judge_subject(path: str | Path) -> tuple[int, int]:
    """Width and height of a sound picture with a visible subject; raises `UserError` otherwise."""
    image = picture_files.open_picture(path)
    picture_files.require_size(path, image.size)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if alpha is not None and float(alpha.getextrema()[1]) / 255 < INSIDE:  # type: ignore[arg-type]
        raise UserError(
            f"expected a subject with visible pixels in {path}, got alpha below a half everywhere"
        )
    return image.size


def judge_mask(path: str | Path, size: tuple[int, int]) -> None:
    """That the mask at `path` fits a picture of `size` (width, height), and marks some of it but not all.

    Raises:
        UserError: not a sound picture, another size, all black or all white.
    """
    mask = picture_files.open_picture(path)
    picture_files.require_mask_size(path, mask.size, size)
    low, high = picture_files.brightness_range(mask)
    if high < INSIDE or low >= INSIDE:
        raise UserError(
            f"expected a mask with white where something is to go and black where the picture is to stay in {path}, "
            f"got {'no white' if high < INSIDE else 'no black'}"
        )


def _find_run(cfg: InsertConfig) -> Path | None:
    """The folder of the personalisation `cfg.run` of `cfg.subject`; None where the job is to make one.

    Raises:
        UserError: no finished personalisation there, or one of other pictures.
    """
    if cfg.run is None:
        return None
    run = finished_run(cfg.run)
    learned = _request(run).get("pictures", [])
    if learned and sha256_file(cfg.subject) not in [digest for _, digest in learned]:
        names = ", ".join(name for name, _ in learned)
        raise UserError(
            f"expected subject to be a picture that {run} learned ({names}), got another one at {cfg.subject}"
        )
    return run


def learned_settings(run: Path) -> dict[str, Any]:
    """What `run` was personalised with, as the part of a configuration; nothing where its card does not say."""
    request = _request(run)
    return {"personalization": request["personalization"]} if "personalization" in request else {}


def _request(run: Path) -> dict[str, Any]:
    return read_json(run / CARD_FILE).get("request") or {}
