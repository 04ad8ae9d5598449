"""What can be known to be wrong before anything is imported or computed: pictures, boxes, folders, the place to write.

Every function returns what it checked, so the job goes on with exactly that. Nothing here imports a model library, and
nothing is left on the disk.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from magic_insert import paths
from magic_insert.config.schema import InserterConfig, ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, load_rgba
from magic_insert.core.masks import INSIDE
from magic_insert.core.records import Box, Scene, Subject

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALLEST_SIDE = 16


def check_place(path: str, *, suffix: str | None = None) -> Path:
    """The place to write, known to be writable: its nearest existing parent is a folder that takes a file.

    Raises:
        UserError: another suffix, a folder where a file should go, or no permission.
    """
    place = Path(path)
    if suffix is not None and place.suffix.lower() != suffix:
        raise UserError(f"expected a file name ending in {suffix}, got {path}; set out=PATH{suffix}")
    if suffix is not None and place.is_dir():
        raise UserError(f"expected a file to write, got the folder {path}; set out=PATH{suffix}")
    if suffix is None and place.exists() and not place.is_dir():
        raise UserError(f"expected a folder to write to, got the file {path}; set out=FOLDER")
    parent = place if suffix is None else place.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(
            f"expected to be able to write {path}, got {error.strerror}; set out=... elsewhere"
        ) from error
    return place


def check_subject(path: str) -> Subject:
    """The subject's picture; an opaque one has alpha 1 everywhere.

    Raises:
        UserError: not a sound picture, too small, or alpha zero everywhere.
    """
    rgb, alpha = load_rgba(path)
    _check_size(path, rgb.shape[-2:])
    if alpha is None:
        alpha = rgb.new_ones(1, *rgb.shape[-2:])
    if float(alpha.max()) < INSIDE:
        raise UserError(f"expected a subject with visible pixels in {path}, got alpha zero everywhere")
    return Subject(rgb, alpha, Path(path).stem)


def check_scene(path: str) -> Scene:
    """The background's picture.

    Raises:
        UserError: not a sound picture, or too small.
    """
    rgb = load_rgb(path)
    _check_size(path, rgb.shape[-2:])
    return Scene(rgb, Path(path).stem)


def _check_size(path: str, size: Sequence[int]) -> None:
    if min(size) < SMALLEST_SIDE:
        raise UserError(
            f"expected a picture of at least {SMALLEST_SIDE} pixels a side in {path}, got {size[1]} x {size[0]}"
        )


def check_box(box: Sequence[int] | None, scene: Scene) -> Box | None:
    """The box of `box=[x,y,w,h]`, None for the default place.

    Raises:
        UserError: it is not inside the scene.
    """
    return None if box is None else Box(*box).require_inside(*scene.size)


def check_segmenter(cfg: SegmenterConfig) -> Path | None:
    """The folder of segmentation weights, which only rembg needs.

    Raises:
        UserError: the folder is missing.
    """
    folder = None if cfg.model_dir is None else Path(cfg.model_dir)
    if cfg.name == "rembg" and (folder is None or not folder.is_dir()):
        raise UserError(
            f"expected a local folder with u2netp.onnx for segmenter=rembg, got {cfg.model_dir}; "
            "set segmenter.model_dir=FOLDER or segmenter=grabcut"
        )
    return folder


def check_model(cfg: ModelConfig) -> Path | None:
    """The local folder of the model; None when it is a hub id, which cannot be judged without asking the hub.

    Raises:
        UserError: a folder was named, or is meant by default, that holds no model.
    """
    if cfg.source is None and cfg.name != "micro":
        raise UserError(
            f"expected model.source for the model {cfg.name!r}, got null; set model.source=FOLDER"
        )
    folder = paths.micro_dir() if cfg.source is None else Path(cfg.source).expanduser()
    if (folder / "model_index.json").is_file():
        return folder
    if cfg.source is not None and not folder.exists() and cfg.revision:
        return None
    raise UserError(
        f"expected an SDXL model in {folder}, got no model_index.json there; set model.source=FOLDER"
    )


def check_inserter(cfg: InserterConfig, model_folder: Path | None) -> Path | None:
    """Where the weights of the inserter lie: shipped with the model, or left by a bootstrap run; None for copy-paste.

    Raises:
        UserError: they are not there.
    """
    if cfg.name == "copy_paste":
        return None
    home = Path(cfg.run) if cfg.run is not None else model_folder
    if home is None:
        raise UserError(
            "expected inserter.run=FOLDER, because a model from the hub brings no inserter, got nothing"
        )
    folder = home / "inserter"
    if not (folder / WEIGHTS).is_file() or not os.access(folder / WEIGHTS, os.R_OK):
        raise UserError(
            f"expected {WEIGHTS} in {folder} for inserter={cfg.name}, got none; set inserter.run=FOLDER"
        )
    return folder
