"""The subject as the trainer sees it: one to five pictures, cut to the subject, on plain ground, at the model's size.

The aspect ratio is always kept: what is not subject is ground, of a square or of the bucket that suits the subject.
Shape letters: h, w of a subject's own picture; H, W of a training picture. Values are float32 in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgba
from magic_insert.core.masks import bounding_box
from magic_insert.core.picture_files import require_size
from magic_insert.core.rand import generator
from magic_insert.core.records import Box, Subject

FILL = 0.85  # share of the frame that a cut-out subject takes along one side before augmentation
Frame = tuple[int, int]  # height and width of a training picture in pixels


@dataclass(frozen=True)
class Augment:
    """How far a view may differ from the centred subject.

    `scale`: up to this share smaller. `shift`: this share of the free room is used. `flip`: mirror half the views
    (off, because a mirrored subject is another subject to a careful eye). `colors`: each on a plain colour of its own,
    so that white is not learned as part of the subject.
    """

    scale: float = 0.2
    shift: float = 0.5
    flip: bool = False
    colors: bool = False


def load_subjects(paths: Sequence[str | Path]) -> list[Subject]:
    """The pictures of one subject, as `subject_files` found them; one without transparency is opaque everywhere.

    Raises:
        UserError: a picture that is too small, a matte that is empty; and what `load_rgba` refuses.
    """
    subjects = []
    for file in paths:
        rgb, alpha = load_rgba(file)
        matte = torch.ones_like(rgb[:1]) if alpha is None else alpha
        subjects.append(check_subject(Subject(rgb, matte, Path(file).stem)))
    return subjects


def check_subject(subject: Subject) -> Subject:
    """The subject itself when it can be trained on.

    Raises:
        UserError: a picture that is too small, or nowhere at least half opaque.
    """
    require_size(subject.id, (subject.rgb.shape[-1], subject.rgb.shape[-2]))
    if subject.alpha.max() < 0.5:
        raise UserError(
            f"expected a visible subject in {subject.id}, got a picture that is transparent everywhere"
        )
    return subject


def is_cut_out(subject: Subject) -> bool:
    """Whether the matte tells subject from ground; an opaque picture says nothing about where the subject is."""
    return bool(subject.alpha.min() < 0.5)


def bucket(subject: Subject, size: int) -> Frame:
    """The frame of at most `size` x `size` pixels whose aspect ratio is nearest to the subject's.

    Its sides are multiples of a sixteenth of `size` and at most as 1 to 4, at 1024 pixels among those that SDXL was
    trained with (Podell et al. 2023, arXiv 2307.01952, appendix I).
    """
    step = max(8, size // 16)
    frames = [(size * size // width // step * step, width) for width in range(size // 2, 2 * size + 1, step)]
    height, width = own_part(subject)[0].shape[-2:]
    return min(frames, key=lambda frame: abs(math.log(frame[1] / frame[0] * height / width)))


def own_part(subject: Subject) -> tuple[Float[Tensor, "3 _ _"], Float[Tensor, "1 _ _"]]:
    """Picture and matte, of a cut-out cropped to the matte."""
    if not is_cut_out(subject):
        return subject.rgb, subject.alpha
    window = bounding_box(subject.alpha).pixels
    return subject.rgb[window], subject.alpha[window]


def place(
    subject: Subject,
    size: int | Frame,
    *,
    ground: float | Float[Tensor, "3"] = 1.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"]]:
    """The subject on a frame of plain `ground`, and its coverage there.

    A cut-out is cropped to its matte and fills `FILL * scale` of the side that it meets first; an opaque picture fills
    `scale` of it.

    Args:
        subject: the picture with its matte.
        size: the frame in pixels; a number is the side of a square.
        ground: brightness of the ground, 1 is white; or its colour.
        scale: at most 1.
        shift: right and down, each in [-1, 1]: 1 pushes the subject to the edge.
    """
    room = (size, size) if isinstance(size, int) else size
    rgb, alpha = own_part(subject)
    at = spot(subject, room, scale=scale, shift=shift)
    # Colours under transparent pixels mean nothing: weigh by the matte before mixing neighbours.
    small = functional.interpolate(
        torch.cat([rgb * alpha, alpha])[None],
        (at.h, at.w),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0].clamp(0, 1)
    paint = torch.as_tensor(ground, dtype=torch.float32).expand(3).view(3, 1, 1)
    canvas, coverage = paint.repeat(1, *room), torch.zeros(1, *room)
    coverage[at.pixels] = small[3:]
    canvas[at.pixels] = (small[:3] + (1 - small[3:]) * paint).clamp(0, 1)
    return canvas, coverage


def spot(
    subject: Subject, room: Frame, *, scale: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
) -> Box:
    """Where in a frame `place` puts the subject's own part."""
    sides = own_part(subject)[0].shape[-2:]
    if is_cut_out(subject):
        scale *= FILL
    first = 0 if sides[0] * room[1] >= sides[1] * room[0] else 1  # the side that meets the frame first
    height, width = (
        max(1, min(most, round(side / sides[first] * room[first] * scale)))
        for side, most in zip(sides, room, strict=True)
    )
    top = round((room[0] - height) / 2 * (1 + shift[1]))
    left = round((room[1] - width) / 2 * (1 + shift[0]))
    return Box(left, top, width, height)


def make_view(
    subjects: Sequence[Subject], index: int, size: int | Frame, *, seed: int, augment: Augment
) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"]]:
    """Training picture `index` and the subject's coverage in it: a function of `seed` and `index` alone.

    The subjects come in turn; the first picture of each is centred, on white and unchanged.
    """
    subject = subjects[index % len(subjects)]
    if index < len(subjects):
        return place(subject, size)
    draw = torch.rand(4, generator=generator(seed, "view", index)).tolist()
    if augment.flip and draw[3] < 0.5:
        subject = Subject(subject.rgb.flip(-1), subject.alpha.flip(-1), subject.id)
    shift = (augment.shift * (2 * draw[1] - 1), augment.shift * (2 * draw[2] - 1))
    ground = torch.rand(3, generator=generator(seed, "ground", index)) if augment.colors else torch.ones(3)
    return place(subject, size, ground=ground, scale=1 - augment.scale * draw[0], shift=shift)
