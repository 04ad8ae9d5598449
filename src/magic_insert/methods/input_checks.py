"""What can be known to be wrong without torch: places, folders, sizes of pictures, boxes.

Every function returns what it checked, so the job goes on with exactly that. Nothing is left on the disk.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from magic_insert import paths
from magic_insert.config.schema import InserterConfig, ModelConfig, SegmenterConfig
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError
from magic_insert.core.picture_files import brightness_range, open_picture

WEIGHTS = "diffusion_pytorch_model.safetensors"
LORA_WEIGHTS = "edit_lora.safetensors"
SMALLEST_SIDE = 16
INSIDE = 0.5


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


def check_picture(path: str) -> tuple[int, int]:
    """Width and height of a sound picture that is not too small.

    Raises:
        UserError: not a sound picture, or too small.
    """
    width, height = open_picture(path).size
    check_size(path, (height, width))
    return width, height


def check_size(path: str, size: Sequence[int]) -> None:
    """That a picture of `size` (rows, columns) is large enough; raises `UserError`."""
    if min(size) < SMALLEST_SIDE:
        raise UserError(
            f"expected a picture of at least {SMALLEST_SIDE} pixels a side in {path}, got {size[1]} x {size[0]}"
        )


def check_mask(path: str, size: tuple[int, int]) -> None:
    """That the mask at `path` fits a picture of `size` (width, height), and marks some of it but not all.

    Raises:
        UserError: not a sound picture, another size, all black or all white.
    """
    mask = open_picture(path)
    if mask.size != size:
        raise UserError(
            f"expected a mask of {size[0]} x {size[1]}, the picture's size, in {path}, "
            f"got {mask.size[0]} x {mask.size[1]}"
        )
    low, high = brightness_range(mask)
    if high < INSIDE:
        raise UserError(f"expected white in the mask {path} where something is to go, got none")
    if low >= INSIDE:
        raise UserError(f"expected black in the mask {path} where the picture is to stay, got none")


def check_box_inside(box: Sequence[int] | None, size: tuple[int, int]) -> None:
    """That the box of `box=[x,y,w,h]` lies on a picture of `size` (width, height); None is the default place.

    Raises:
        UserError: it does not.
    """
    if box is not None:
        Box(*box).require_inside(size[1], size[0])


def check_apart(out: Path, *inputs: str) -> None:
    """That `out` is none of `inputs`; raises `UserError`."""
    if out.resolve() in (Path(path).resolve() for path in inputs):
        raise UserError(f"expected an output that is not one of the inputs, got {out}; set out=PATH")


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
    """Where the weights of the inserter lie: shipped with the model, or left by a run; None where none are needed.

    Raises:
        UserError: they are not there.
    """
    if cfg.name in ("copy_paste", "inpaint"):
        return None
    home = Path(cfg.run) if cfg.run is not None else model_folder
    if home is None:
        raise UserError(
            "expected inserter.run=FOLDER, because a model from the hub brings no inserter, got nothing"
        )
    return check_weights(home / "inserter", f"inserter={cfg.name}; set inserter.run=FOLDER")


def check_remover(run: str | None, model_folder: Path | None) -> Path:
    """Where the weights of the remover lie: in `run`, or beside the model's.

    Raises:
        UserError: they are not there.
    """
    home = Path(run) if run is not None else model_folder
    if home is None:
        raise UserError("expected run=FOLDER, because a model from the hub brings no remover, got nothing")
    return check_weights(home / "remover", "remove; set run=FOLDER")


def check_weights(folder: Path, wanted_for: str) -> Path:
    """`folder`, known to hold readable weights of an edit model, whole or as a LoRA.

    Raises:
        UserError: it does not.
    """
    if not any(os.access(folder / name, os.R_OK) for name in (WEIGHTS, LORA_WEIGHTS)):
        raise UserError(f"expected {WEIGHTS} or {LORA_WEIGHTS} in {folder}, got none, for {wanted_for}")
    return folder


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder that `check_weights` let pass."""
    return next(folder / name for name in (WEIGHTS, LORA_WEIGHTS) if (folder / name).is_file())
