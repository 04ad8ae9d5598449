"""The official pictures of SubjectPlop: fetched by those who have a network, compared with what was released.

The repository states no licence, so the package holds names, checksums and texts of its own, and never a picture.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from magic_insert.config.schema import BenchmarkConfig, SegmenterConfig, SubjectPlopConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json
from magic_insert.data.picture_folders import (
    PictureFolders,
    Words,
    named_pictures,
    pictures_below,
    subjectplop_root,
)
from magic_insert.paths import subjectplop_dir

KINDS = ("characters", "backgrounds")
NO_LICENCE = (
    "The official repository states no licence: use its pictures to evaluate; "
    "do not commit, ship or redistribute them."
)


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
    return [compare(kind, manifest[kind], named_pictures(place / kind)) for kind in KINDS]


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
    words = Words(
        read_json(subjectplop_dir() / "subjects.json")["subjects"],
        read_json(subjectplop_dir() / "backgrounds.json")["backgrounds"],
    )
    manifest = read_json(subjectplop_dir() / "manifest.json")
    found = pictures_below(root)
    whole = (len(manifest["characters"]), len(manifest["backgrounds"]))
    inventory = [compare(kind, manifest[kind], files) for kind, files in zip(KINDS, found, strict=True)]
    others = [name for kind in inventory for name in (*kind.unexpected, *kind.changed)]
    deviations = [f"pictures differ from the released ones ({', '.join(others)})"] if others else []
    return PictureFolders("subjectplop", *found, words, segmenter, whole, deviations)


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
