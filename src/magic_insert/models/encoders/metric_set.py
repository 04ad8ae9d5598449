"""The encoders a table is made with, by the role they play in it: `metrics=micro` or `metrics=paper`.

Keys: "dino" and "dinov2" (who it is), "clip_i" and "clip_t" (one CLIP, pictures and texts), "csd" (how it is drawn),
"image_reward" (a scorer). The micro set fills the same roles with the Toybox's own encoders; cards say which is which.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from magic_insert.core.errors import UserError
from magic_insert.models.encoders.base import SavedEncoder, read_card
from magic_insert.models.encoders.clip import ClipEncoder, load_clip
from magic_insert.models.encoders.identity import IdentityEncoder, load_identity
from magic_insert.models.encoders.paper import PAPER_ENCODERS, load_paper_encoder
from magic_insert.models.encoders.reward import check_reward, load_reward
from magic_insert.models.encoders.style import StyleEncoder, load_style
from magic_insert.models.encoders.weights import locate
from magic_insert.paths import micro_dir

PAPER_ROLES: Mapping[str, Mapping[str, str]] = {
    "paper": {"dino": "dino_vits16", "clip_i": "clip_vitb32", "clip_t": "clip_vitb32", "csd": "csd_vitl14"},
    "paper_large": {
        "dino": "dino_vits16",
        "clip_i": "clip_vitl14",
        "clip_t": "clip_vitl14",
        "csd": "csd_vitl14",
    },
}
SETS = ("micro", *PAPER_ROLES)
EXTRAS = ("dinov2", "image_reward")


def load_metric_encoders(
    which: str,
    *,
    root: Path | None = None,
    device: torch.device | str = "cpu",
    extras: Sequence[str] = (),
    download: bool = False,
    accept_unknown: bool = False,
) -> Mapping[str, Any]:
    """Encoders by role, each with `.card`; `embed_images`, for clip_t `embed_texts`, for image_reward `score`.

    Args:
        which: "micro" (the Toybox's own), "paper" (CLIP ViT-B/32) or "paper_large" (CLIP ViT-L/14).
        root: folder of weights. Without, micro takes the shipped ones and the others the hub's cache.
        extras: of EXTRAS, with a paper set only.
        download: fetch what is not in the hub's cache.
        accept_unknown: use files whose digest is not the known one; their cards say so.
    Raises:
        UserError: no such set or extra, weights that are missing or not the known ones.
    """
    _check_names(which, extras)
    if which == "micro":
        folder = _micro_folder(root)
        clip = load_clip(folder / "clip").to(device)
        identity, style = load_identity(folder / "identity"), load_style(folder / "style")
        return {"dino": identity.to(device), "clip_i": clip, "clip_t": clip, "csd": style.to(device)}
    roles = _paper_roles(which, extras)
    # One network per name: CLIP plays two roles.
    loaded = {
        name: load_paper_encoder(
            name, root=root, download=download, accept_unknown=accept_unknown, device=device
        )
        for name in dict.fromkeys(roles.values())
    }
    encoders: dict[str, Any] = {role: loaded[name] for role, name in roles.items()}
    if "image_reward" in extras:
        encoders["image_reward"] = load_reward(root, device)
    return encoders


def check_metric_encoders(
    which: str,
    *,
    root: Path | None = None,
    extras: Sequence[str] = (),
    download: bool = False,
    accept_unknown: bool = False,
) -> None:
    """That `load_metric_encoders` will find its files, with the digests they must have; builds no network.

    Args:
        which, root, extras, download, accept_unknown: as there; a file that is to be downloaded is.
    Raises:
        UserError: as there, except that tensors of another model show only when they are loaded.
    """
    _check_names(which, extras)
    if which == "micro":
        kinds: dict[str, type[SavedEncoder]] = {
            "clip": ClipEncoder, "identity": IdentityEncoder, "style": StyleEncoder,
        }  # fmt: skip
        for name, kind in kinds.items():
            read_card(_micro_folder(root) / name, kind.weights_file)
        return
    for name in dict.fromkeys(_paper_roles(which, extras).values()):
        locate(PAPER_ENCODERS[name].weights, root=root, download=download, accept_unknown=accept_unknown)
    if "image_reward" in extras:
        check_reward(root)


def _micro_folder(root: Path | None) -> Path:
    return Path(root) if root is not None else micro_dir() / "encoders"


def _paper_roles(which: str, extras: Sequence[str]) -> dict[str, str]:
    """Role -> name of a paper encoder."""
    return {**PAPER_ROLES[which], **({"dinov2": "dinov2_vits14"} if "dinov2" in extras else {})}


def _check_names(which: str, extras: Sequence[str]) -> None:
    if which not in SETS:
        raise UserError(f"expected metrics of {', '.join(SETS)}, got {which!r}; set metrics=...")
    if strange := [name for name in extras if name not in EXTRAS or which == "micro"]:
        raise UserError(
            f"expected extra encoders of {', '.join(EXTRAS)} with metrics=paper, got {strange[0]!r}"
        )
