"""Where a benchmark's pictures come from: ToyPlop, any user's folders, and the official pictures of SubjectPlop.

ToyPlop is held-out Toybox subjects for held-out scenes, every answer known and rendered on demand. Of SubjectPlop,
whose repository states no licence, the package holds names, checksums and texts of its own, and never a picture: they
are fetched by those who have a network and compared with what was released.
"""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.evaluation import BenchmarkConfig
from magic_insert.config.schema.jobs import SubjectPlopConfig
from magic_insert.config.schema.shared import SegmenterConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import effect_of
from magic_insert.core.images import load_rgb, load_rgba
from magic_insert.core.jsonl import read_json, read_record
from magic_insert.core.picture_files import named_pictures, require_size
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.benchmarks import BenchBackground, BenchSubject, Source, Truth, article
from magic_insert.models.segment import cut_subject
from magic_insert.paths import subjectplop_dir
from magic_insert.toybox.captions import caption
from magic_insert.toybox.styles import style_phrase
from magic_insert.toybox.world import (
    COMPLEXITY,
    render_subjects,
    toyplop_pair,
    toyplop_scenes,
    toyplop_subjects,
)

VERSION = 1  # of ToyPlop's pictures: raised when the Toybox draws the same specs differently
ROOT = "benchmark.root"
TEXTS = "texts.json"
SUBJECT_FOLDERS = ("characters", "subjects")
KINDS = ("characters", "backgrounds")
NO_LICENCE = (
    "The official repository states no licence: use its pictures to evaluate; "
    "do not commit, ship or redistribute them."
)


class ToyPlop(Source):
    """The split `mini` (5 x 4) or `full` (35 x 20) at `size` pixels."""

    has_truth = True

    def __init__(self, cfg: BenchmarkConfig) -> None:
        self.split, self.size = cfg.split, cfg.size
        self.name = f"toyplop {cfg.split}"
        # The first so many should differ: bunny-01, bird-01, ... come before bunny-02.
        named = sorted(toyplop_subjects(cfg.split), key=lambda item: item[0].rpartition("-")[2])
        self.specs = dict(named)
        self.scenes = {scene[0]: scene for scene in toyplop_scenes(cfg.split)}
        self.subjects = [
            BenchSubject(name, f"{article(spec.template)} {spec.template}", caption(spec))
            for name, spec in named
        ]
        self.backgrounds = [
            BenchBackground(name, style, style_phrase(style)) for name, _, style in self.scenes.values()
        ]
        self.whole = len(self.subjects), len(self.backgrounds)

    @property
    def contents(self) -> Any:
        """Specs of every subject and scene, how they are drawn, and every text that prompts and encoders are given."""
        scenes = [[name, asdict(spec), style] for name, spec, style in self.scenes.values()]
        subjects = [[name, asdict(spec)] for name, spec in self.specs.items()]
        texts = [[s.id, s.simple, s.detailed] for s in self.subjects]
        texts += [[b.id, b.style_text] for b in self.backgrounds]
        return [VERSION, self.size, subjects, scenes, texts]

    def subject(self, name: str) -> Subject:
        seed = fold_in(0, "toyplop", name)
        alone = render_subjects([self.specs[name]], ["photo"], [COMPLEXITY], [seed], self.size)
        return Subject(alone.rgb[0], alone.alpha[0], name)

    def background(self, name: str) -> torch.Tensor:
        # The scene without a subject is the same whoever will stand there.
        first = next(iter(self.specs))
        return toyplop_pair((first, self.specs[first]), self.scenes[name], self.size).background

    def truth(self, subject: str, background: str) -> Truth:
        made = toyplop_pair((subject, self.specs[subject]), self.scenes[background], self.size)
        # Methods hand in eight-bit pictures: an effect is what can be seen in such a picture.
        shown = (made.with_subject, made.background, made.mask)
        composite, alone, mask = ((image * 255).round() / 255 for image in shown)
        effect = effect_of(composite[None], alone[None], mask[None])[0]
        return Truth(made.subject_styled, composite, mask, effect)


# Folders of pictures


class PictureFolders(Source):
    """Subjects and backgrounds as files; an opaque subject is cut out, there is no truth."""

    def __init__(
        self, name: str, subjects: Mapping[str, Path], backgrounds: Mapping[str, Path], words: "Words",
        segmenter: SegmenterConfig,
    ) -> None:  # fmt: skip
        self.name, self.segmenter = name, segmenter
        self.whole = len(subjects), len(backgrounds)
        self.subject_files, self.background_files = dict(subjects), dict(backgrounds)
        self.subjects = [words.subject(stem) for stem in subjects]
        self.backgrounds = [words.background(stem) for stem in backgrounds]

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
        require_size(path, (rgb.shape[-1], rgb.shape[-2]))
        folder = None if self.segmenter.model_dir is None else Path(self.segmenter.model_dir)
        try:
            return cut_subject(rgb, alpha, name, segmenter=self.segmenter.name, model_folder=folder)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def background(self, name: str) -> Float[Tensor, "3 H W"]:
        path = self.background_files[name]
        rgb = load_rgb(path)
        require_size(path, (rgb.shape[-1], rgb.shape[-2]))
        return rgb


@dataclass(frozen=True)
class SubjectText:
    """What a subject is; nobody need have described it in detail."""

    simple: str
    detailed: str = ""


@dataclass(frozen=True)
class Words:
    """What subjects are and how backgrounds are drawn: a file of texts, or nothing but the rule for file names."""

    subjects: dict[str, SubjectText] = field(default_factory=dict)
    backgrounds: dict[str, str] = field(default_factory=dict)

    def subject(self, stem: str) -> BenchSubject:
        """Its texts; by the rule `human_red2` is "a human red", without a detailed text."""
        noun = re.sub(r"[\d\s]+$", "", stem.replace("_", " ").replace("-", " ")) or stem
        text = self.subjects.get(stem, SubjectText(f"{article(noun)} {noun}"))
        return BenchSubject(stem, text.simple, text.detailed)

    def background(self, stem: str) -> BenchBackground:
        """Its text; by the rule there is none, and the columns that need one stay empty."""
        text = self.backgrounds.get(stem, "")
        return BenchBackground(stem, stem if text else None, text)


def folder(cfg: BenchmarkConfig, segmenter: SegmenterConfig) -> PictureFolders:
    """A user's pictures: `subjects/` (or `characters/`), `backgrounds/`, and their texts in `texts.json`, if any.

    Raises:
        UserError: no pictures there, two of one name, or texts that do not fit.
    """
    root = Path(str(cfg.root))
    words = read_record(root / TEXTS, Words) if (root / TEXTS).is_file() else Words()
    return PictureFolders("folder", *pictures_below(root), words, segmenter)


def subjectplop_root(root: Path) -> Path:
    """The folder that holds `characters/`: `root` itself or its `assets/`."""
    return root / "assets" if (root / "assets" / "characters").is_dir() else root


def pictures_below(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Subjects and backgrounds by name; raises as `named_pictures`."""
    subjects = next((root / name for name in SUBJECT_FOLDERS if (root / name).is_dir()), root / "subjects")
    return named_pictures(subjects, ROOT), named_pictures(root / "backgrounds", ROOT)


# SubjectPlop


@dataclass(frozen=True)
class Inventory:
    """What a folder holds of one kind, against the manifest. `changed`: files whose checksum is another."""

    kind: str
    present: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    changed: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the terminal."""
        said = [f"{self.kind}: {len(self.present)} present: {', '.join(self.present)}"]
        others = {what: getattr(self, what) for what in ("missing", "unexpected", "changed")}
        return said + [f"  {what}: {', '.join(names)}" for what, names in others.items() if names]


def take_inventory(root: Path) -> list[Inventory]:
    """The pictures in `root` (or its `assets/`), compared with the manifest.

    Raises:
        UserError: no such folders, or no pictures in them.
    """
    manifest = read_json(subjectplop_dir() / "manifest.json")
    place = subjectplop_root(root)
    return [compare(kind, manifest[kind], named_pictures(place / kind, ROOT)) for kind in KINDS]


def compare(kind: str, released: Mapping[str, str | None], files: Mapping[str, Path]) -> Inventory:
    """`files` against the names of the manifest and, where they are known, the checksums."""
    return Inventory(
        kind,
        present=tuple(name for name in files if name in released),
        missing=tuple(name for name in released if name not in files),
        unexpected=tuple(name for name in files if name not in released),
        changed=tuple(
            name
            for name, path in files.items()
            if (expected := released.get(name)) is not None and sha256_file(path) != expected
        ),
    )


def subjectplop(cfg: BenchmarkConfig, segmenter: SegmenterConfig) -> PictureFolders:
    """The official pictures below `cfg.root`, in any of the layouts they were released in, with our texts.

    Raises:
        UserError: no pictures there, or two of one name.
    """
    root = subjectplop_root(Path(str(cfg.root)))
    subjects, backgrounds = (
        read_record(subjectplop_dir() / f"{kind}.json", Words) for kind in ("subjects", "backgrounds")
    )
    words = Words(subjects.subjects, backgrounds.backgrounds)
    manifest = read_json(subjectplop_dir() / "manifest.json")
    found = pictures_below(root)
    source = PictureFolders("subjectplop", *found, words, segmenter)
    source.whole = len(manifest["characters"]), len(manifest["backgrounds"])
    inventory = [compare(kind, manifest[kind], files) for kind, files in zip(KINDS, found, strict=True)]
    others = [name for kind in inventory for name in (*kind.unexpected, *kind.changed)]
    if others:
        source.deviations = [f"pictures differ from the released ones ({', '.join(others)})"]
    return source


def fetch(url: str, out: Path) -> Path:
    """Clones the repository at `url` (an address or a local path) into the new folder `out`, newest state only.

    Raises:
        UserError: git is missing or refuses.
    """
    try:
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", "--", url, str(out)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise UserError("expected the program git, got none; install git") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["no word"]
        raise UserError(f"expected a git repository at {url}, got: {said[-1]}; set url=ADDRESS") from error
    return out


def run_subjectplop(cfg: SubjectPlopConfig) -> None:
    """`fetch` or `check`; prints what is there.

    Raises:
        UserError: see `fetch` and `take_inventory`; or a picture of a released name with other contents.
    """
    root = Path(str(cfg.root))
    if cfg.action == "fetch":
        print(NO_LICENCE)
        root = fetch(cfg.url, Path(cfg.out))
    inventory = take_inventory(root)
    for kind in inventory:
        print("\n".join(kind.lines()))
    if changed := [name for kind in inventory for name in kind.changed]:
        raise UserError(
            f"expected the released pictures in {root}, got other contents in {', '.join(changed)}; fetch them again"
        )
    print(f"evaluate them with: magic-insert evaluate benchmark=subjectplop benchmark.root={root}")
