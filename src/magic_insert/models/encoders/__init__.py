"""Metric encoders: what is said (clip), who it is (identity), how it is drawn (style).

The three micro encoders are made and trained by this project on the Toybox and judge micro-scale pictures only; those
of the paper's tables load published weights (`paper`). Cards say which is which; `load_metric_encoders` picks a set.
"""

from pathlib import Path
from typing import TypedDict

import torch

from magic_insert.models.encoders.base import MetricEncoder, SavedEncoder, preprocess
from magic_insert.models.encoders.card import EncoderCard
from magic_insert.models.encoders.clip import ClipEncoder, TextImageEncoder, load_clip, new_clip
from magic_insert.models.encoders.identity import IdentityEncoder, load_identity, new_identity
from magic_insert.models.encoders.lpips_distance import Lpips, check_lpips, load_lpips
from magic_insert.models.encoders.metric_set import check_metric_encoders, load_metric_encoders
from magic_insert.models.encoders.style import StyleEncoder, load_style, new_style

__all__ = [
    "ClipEncoder",
    "EncoderCard",
    "Encoders",
    "IdentityEncoder",
    "Lpips",
    "MetricEncoder",
    "SavedEncoder",
    "StyleEncoder",
    "TextImageEncoder",
    "check_lpips",
    "check_metric_encoders",
    "load_clip",
    "load_encoders",
    "load_identity",
    "load_lpips",
    "load_metric_encoders",
    "load_style",
    "new_clip",
    "new_identity",
    "new_style",
    "preprocess",
]


class Encoders(TypedDict):
    """The three encoders by role; evaluation asks each for embeddings and for its card."""

    clip: ClipEncoder
    identity: IdentityEncoder
    style: StyleEncoder


def load_encoders(folder: Path, device: torch.device | str = "cpu") -> Encoders:
    """The encoders saved in `folder`/clip, /identity and /style, in eval mode on `device`.

    Raises:
        UserError: a part is missing, or its weights are not those its card speaks of.
    """
    folder = Path(folder)
    return Encoders(
        clip=load_clip(folder / "clip").to(device),
        identity=load_identity(folder / "identity").to(device),
        style=load_style(folder / "style").to(device),
    )
