"""Metric encoders and the sets a table is made with, by the role they play in it: `metrics=micro` or `metrics=paper`.

Roles: "dino" and "dinov2" (who it is), "clip_i" and "clip_t" (one CLIP, pictures and texts), "csd" (how it is drawn),
"image_reward" (a scorer). The micro set fills the same roles with the Toybox's own encoders; cards say which is which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from magic_insert.config.registry import ENCODERS
from magic_insert.config.schema.evaluation import EncodersConfig
from magic_insert.models.encoders import paper
from magic_insert.models.encoders.micro import check_encoders, load_encoders
from magic_insert.paths import micro_dir

SETS: Mapping[str, Mapping[str, str]] = {
    "micro": {},  # its three are no published files
    "paper": {"dino": "dino_vits16", "clip_i": "clip_vitb32", "clip_t": "clip_vitb32", "csd": "csd_vitl14"},
    "paper_large": {
        "dino": "dino_vits16",
        "clip_i": "clip_vitl14",
        "clip_t": "clip_vitl14",
        "csd": "csd_vitl14",
    },
}


@dataclass(frozen=True)
class EncoderSet:
    """What judges: one of SETS, and what `cfg` adds to it, `extra` in the role of their name.

    `cfg` also says where the weights are. No LPIPS where its trunk is neither in `lpips` nor in `root`.
    """

    metrics: str
    cfg: EncodersConfig

    def check(self) -> None:
        """That `load` will find its files, with the digests they must have; builds no network.

        Raises:
            UserError: as `load`, except that tensors of another model show only when they are loaded.
        """
        if self.metrics == "micro":
            check_encoders(self._micro_folder)
        for name in dict.fromkeys(self._roles.values()):
            ENCODERS.get(name).locate(**self._where)
        if self.cfg.image_reward:
            paper.check_reward(self._root)
        if (folder := self._lpips_folder) is not None:
            paper.locate(paper.ALEXNET, root=folder, accept_unknown=self.cfg.accept_unknown)

    def load(self, device: torch.device | str = "cpu") -> tuple[Mapping[str, Any], paper.Lpips | None]:
        """Encoders by role (`embed_images`, for clip_t `embed_texts`, for image_reward `score`) and LPIPS, with cards.

        Raises:
            UserError: no such encoder, weights that are missing or not the known ones.
        """
        # One network per name: CLIP plays two roles.
        loaded = {
            name: ENCODERS.get(name).load(**self._where).to(device)
            for name in dict.fromkeys(self._roles.values())
        }
        encoders: dict[str, Any] = {role: loaded[name] for role, name in self._roles.items()}
        if self.metrics == "micro":
            found = load_encoders(self._micro_folder, device)
            encoders |= {"dino": found["identity"], "clip_i": found["clip"], "clip_t": found["clip"]}
            encoders["csd"] = found["style"]
        if self.cfg.image_reward:
            encoders["image_reward"] = paper.load_reward(self._root, device)
        if (folder := self._lpips_folder) is None:
            return encoders, None
        return encoders, paper.load_lpips(folder, accept_unknown=self.cfg.accept_unknown, device=device)

    @property
    def _roles(self) -> dict[str, str]:
        """Role -> name of a published encoder."""
        added = {"dinov2": "dinov2_vits14"} if self.cfg.dinov2 else {}
        return {**SETS[self.metrics], **added, **{name: name for name in self.cfg.extra}}

    @property
    def _root(self) -> Path | None:
        return Path(self.cfg.root) if self.cfg.root else None

    @property
    def _where(self) -> dict[str, Any]:
        cfg = self.cfg
        return {"root": self._root, "download": cfg.download, "accept_unknown": cfg.accept_unknown}

    @property
    def _micro_folder(self) -> Path:
        return self._root or micro_dir() / "encoders"

    @property
    def _lpips_folder(self) -> Path | None:
        if self.cfg.lpips:
            return Path(self.cfg.lpips)
        return self._root if self._root is not None and (self._root / paper.ALEXNET.file).is_file() else None
