"""What can be known to be wrong before a model is imported: pictures and boxes, and all of `input_checks`.

Every function returns what it checked, so the job goes on with exactly that. Nothing here imports a model library, and
nothing is left on the disk.
"""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, load_rgba
from magic_insert.core.masks import INSIDE
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.methods.input_checks import (
    WEIGHTS,
    check_apart,
    check_inserter,
    check_model,
    check_place,
    check_segmenter,
    check_size,
)

__all__ = [
    "WEIGHTS",
    "check_apart",
    "check_box",
    "check_inserter",
    "check_model",
    "check_place",
    "check_scene",
    "check_segmenter",
    "check_subject",
]


def check_subject(path: str) -> Subject:
    """The subject's picture; an opaque one has alpha 1 everywhere.

    Raises:
        UserError: not a sound picture, too small, or nowhere half opaque.
    """
    rgb, alpha = load_rgba(path)
    check_size(path, rgb.shape[-2:])
    if alpha is None:
        alpha = rgb.new_ones(1, *rgb.shape[-2:])
    if float(alpha.max()) < INSIDE:
        raise UserError(
            f"expected a subject with visible pixels in {path}, got alpha below a half everywhere"
        )
    return Subject(rgb, alpha, Path(path).stem)


def check_scene(path: str) -> Scene:
    """The background's picture.

    Raises:
        UserError: not a sound picture, or too small.
    """
    rgb = load_rgb(path)
    check_size(path, rgb.shape[-2:])
    return Scene(rgb, Path(path).stem)


def check_box(box: Sequence[int] | None, scene: Scene) -> Box | None:
    """The box of `box=[x,y,w,h]`, None for the default place.

    Raises:
        UserError: it is not inside the scene.
    """
    return None if box is None else Box(*box).require_inside(*scene.size)
