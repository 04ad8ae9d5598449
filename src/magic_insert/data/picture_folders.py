"""Benchmarks that are folders of pictures: any user's, and what SubjectPlop shares with them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import BenchmarkConfig, SegmenterConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, load_rgba
from magic_insert.core.jsonl import read_json
from magic_insert.core.records import Subject
from magic_insert.data.benchmarks import BenchBackground, BenchSubject, Truth, article
from magic_insert.models.segment import cut_subject

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SMALLEST_SIDE = 16
TEXTS = "texts.json"
SUBJECT_FOLDERS = ("characters", "subjects")


class PictureFolders:
    """Subjects and backgrounds as files; an opaque subject is cut out, there is no truth."""

    has_truth = False

    def __init__(
        self, name: str, subjects: Mapping[str, Path], backgrounds: Mapping[str, Path], words: "Words",
        segmenter: SegmenterConfig,
        whole: tuple[int, int] | None = None,
        deviations: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name, self.segmenter, self.deviations = name, segmenter, deviations
        self.whole = whole or (len(subjects), len(backgrounds))
        self.subject_files, self.background_files = dict(subjects), dict(backgrounds)
        self.subjects: Sequence[BenchSubject] = [words.subject(stem) for stem in subjects]
        self.backgrounds: Sequence[BenchBackground] = [words.background(stem) for stem in backgrounds]

    @property
    def contents(self) -> Any:
        """The bytes of every picture, every text, and how subjects are cut out."""
        files = [*self.subject_files.items(), *self.background_files.items()]
        texts = [[s.id, s.simple, s.detailed] for s in self.subjects]
        texts += [[b.id, b.style or "", b.style_text] for b in self.backgrounds]
        return [[[name, sha256_file(path)] for name, path in files], texts, self.segmenter.name]

    def subject(self, name: str) -> Subject:
        """The subject cut out by its file's alpha or by the segmenter.

        Raises:
            UserError: a damaged or tiny picture, or nothing stands out; names the file.
        """
        path = self.subject_files[name]
        rgb, alpha = load_rgba(path)
        _check_size(path, rgb)
        folder = None if self.segmenter.model_dir is None else Path(self.segmenter.model_dir)
        try:
            return cut_subject(rgb, alpha, name, segmenter=self.segmenter.name, model_folder=folder)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def background(self, name: str) -> Float[Tensor, "3 H W"]:
        """The background's picture; raises as `subject`."""
        rgb = load_rgb(self.background_files[name])
        _check_size(self.background_files[name], rgb)
        return rgb

    def truth(self, subject: str, background: str) -> Truth:
        """Nobody knows it.

        Raises:
            UserError: always.
        """
        raise UserError(f"expected a benchmark with truth for {subject} and {background}, got {self.name}")


class Words:
    """What subjects are and how backgrounds are drawn: from a file of texts, else from the rule for file names."""

    def __init__(self, subjects: Mapping[str, Any], backgrounds: Mapping[str, Any]) -> None:
        self.subjects, self.backgrounds = subjects, backgrounds

    def subject(self, stem: str) -> BenchSubject:
        """Its texts; by the rule `human_red2` is "a human red", and nobody has said more than that."""
        if (row := self.subjects.get(stem)) is None:
            noun = re.sub(r"[\d\s]+$", "", stem.replace("_", " ").replace("-", " ")) or stem
            row = {"simple": f"{article(noun)} {noun}"}
        return BenchSubject(stem, str(row["simple"]), str(row.get("detailed", "")))

    def background(self, stem: str) -> BenchBackground:
        """Its texts; by the rule there are none, and the columns that need one stay empty."""
        row = self.backgrounds.get(stem, "")
        if isinstance(row, str):
            row = {"style": stem if row else None, "style_text": row}
        return BenchBackground(stem, row.get("style"), str(row.get("style_text", "")))


def read_words(path: Path) -> Words:
    """Texts in a JSON file: subjects {name: {"simple": ..., "detailed": ...}}, backgrounds {name: "a drawing"}.

    A subject may have no detailed text.

    Raises:
        UserError: not such a file.
    """
    row = read_json(path)
    subjects = row.get("subjects", {}) if isinstance(row, dict) else None
    if not isinstance(subjects, dict) or not all(
        isinstance(texts, dict) and "simple" in texts for texts in subjects.values()
    ):
        raise UserError(
            f'expected {{"subjects": {{name: {{"simple": ..., "detailed": ...}}}}, "backgrounds": {{name: "..."}}}} '
            f"in {path}, got something else"
        )
    return Words(subjects, row.get("backgrounds", {}))


def folder(cfg: BenchmarkConfig, segmenter: SegmenterConfig) -> PictureFolders:
    """A user's pictures: `subjects/` (or `characters/`), `backgrounds/`, and their texts in `texts.json`, if any.

    Raises:
        UserError: no pictures there, two of one name, or texts that do not fit.
    """
    root = Path(str(cfg.root))
    words = read_words(root / TEXTS) if (root / TEXTS).is_file() else Words({}, {})
    return PictureFolders("folder", *pictures_below(root), words, segmenter)


def subjectplop_root(root: Path) -> Path:
    """The folder that holds `characters/`: `root` itself or its `assets/`."""
    return root / "assets" if (root / "assets" / "characters").is_dir() else root


def pictures_below(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Subjects and backgrounds by name; raises as `named_pictures`."""
    subjects = next((root / name for name in SUBJECT_FOLDERS if (root / name).is_dir()), root / "subjects")
    return named_pictures(subjects), named_pictures(root / "backgrounds")


def named_pictures(place: Path) -> dict[str, Path]:
    """The pictures in a folder by their names without suffix, sorted.

    Raises:
        UserError: no folder, no picture in it, or two of one name.
    """
    if not place.is_dir():
        raise UserError(f"expected a folder of pictures at {place}, got none; set benchmark.root=FOLDER")
    found: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UserError(
                f"expected pictures of different names, got {found[path.stem]} and {path}; rename one"
            )
        found[path.stem] = path
    if not found:
        raise UserError(
            f"expected pictures ({', '.join(SUFFIXES)}) in {place}, got none; set benchmark.root=FOLDER"
        )
    return found


def _check_size(path: Path, rgb: torch.Tensor) -> None:
    height, width = rgb.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(f"expected at least {SMALLEST_SIDE} pixels a side in {path}, got {width} x {height}")
