"""Where pairs lie on disk: plain folders, a JSONL manifest, and the layouts of three public sets.

Nothing is read here but names. A pair that is not whole is a problem with a name, never a silent gap.

`pairs`   ROOT/with/NAME.*, ROOT/without/NAME.*, ROOT/mask/NAME.*; or a .jsonl file whose lines hold "with", "without",
          "mask" (paths relative to the file) and, if wanted, "id".
`ober`    ObjectClear's OBER: files input_X, gt_X, mask_X side by side in any folder below ROOT; or the released
          parquet shards, see `data.ober`.
`desoba`  DESOBAv2: ROOT/shadow_imgs, shadowfree_imgs, object_masks of equal names, and optionally train.txt with the
          names. "Without" is without the shadow: the object stays, so these pairs teach insertion only.
`rord`    RORD: ROOT/img, gt, mask of equal names, or ROOT/train/... of the same. Many pictures share one empty scene.
"""

from collections.abc import Sequence
from pathlib import Path

from magic_insert.core.errors import UserError
from magic_insert.paths import PICTURE_SUFFIXES
from magic_insert.core.jsonl import read_jsonl
from magic_insert.data.pairs import LAYERS, Listing, PairRef, file_blob



def list_pairs(root: Path, *, black_subject: bool = False) -> Listing:
    """A folder with `with`, `without`, `mask`, or a JSONL manifest.

    Raises:
        UserError: neither.
    """
    if root.is_file():
        return _from_manifest(root, black_subject)
    return _from_folders(root, LAYERS, black_subject=black_subject)


def list_ober(root: Path, *, black_subject: bool = False) -> Listing:
    """OBER as folders of input_*, gt_* and mask_*.

    Raises:
        UserError: no such file below `root`.
    """
    found = sorted(p for p in root.rglob("input_*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise UserError(
            f"expected OBER's input_*.jpg (or data/*.parquet) below {root}, got none; set data.path"
        )
    pairs, problems = [], {}
    for picture in found:
        name = picture.stem.removeprefix("input_")
        key = (picture.parent.relative_to(root) / name).as_posix()
        others = [_find(picture.parent, f"{layer}_{name}") for layer in ("gt", "mask")]
        missing = [layer for layer, path in zip(("gt", "mask"), others, strict=True) if path is None]
        if missing:
            problems[key] = "no " + " and no ".join(f"{layer}_{name}" for layer in missing)
        else:
            pairs.append(_ref(key, [picture, *others], black_subject))  # type: ignore[list-item]
    return Listing(pairs, problems)


def list_desoba(root: Path, *, black_subject: bool = False) -> Listing:
    """DESOBAv2.

    Raises:
        UserError: a folder is missing.
    """
    listing = _from_folders(
        root, ("shadow_imgs", "shadowfree_imgs", "object_masks"), black_subject=black_subject
    )
    chosen = root / "train.txt"
    if not chosen.is_file():
        return listing
    names = {Path(line.strip()).stem for line in chosen.read_text().splitlines() if line.strip()}
    known = {ref.id for ref in listing.pairs} | set(listing.problems)
    absent = dict.fromkeys(sorted(names - known), "named in train.txt, but no picture has that name")
    problems = {k: v for k, v in listing.problems.items() if k in names}
    return Listing([ref for ref in listing.pairs if ref.id in names], {**problems, **absent})


def list_rord(root: Path, *, black_subject: bool = False) -> Listing:
    """RORD.

    Raises:
        UserError: a folder is missing.
    """
    inner = root / "train" if (root / "train" / "img").is_dir() else root
    return _from_folders(inner, ("img", "gt", "mask"), black_subject=black_subject)


def _from_manifest(path: Path, black_subject: bool) -> Listing:
    pairs, problems = [], {}
    for number, row in enumerate(read_jsonl(path), start=1):
        missing = [layer for layer in LAYERS if not isinstance(row.get(layer), str)]
        if missing:
            problems[f"line {number}"] = "no " + " and no ".join(missing)
            continue
        files = [path.parent / row[layer] for layer in LAYERS]
        pairs.append(_ref(str(row.get("id", Path(row["with"]).stem)), files, black_subject))
    return Listing(pairs, problems)


def _from_folders(root: Path, names: Sequence[str], *, black_subject: bool) -> Listing:
    """Three folders whose files agree in their stems; the first layer says which pairs there are."""
    absent = [name for name in names if not (root / name).is_dir()]
    if absent:
        raise UserError(
            f"expected the folders {', '.join(names)} in {root}, got no {absent[0]}; set data.path"
        )
    layers = [_by_stem(root / name) for name in names]
    pairs, problems = [], {}
    for stem in sorted(set().union(*layers)):
        missing = [name for name, layer in zip(names, layers, strict=True) if stem not in layer]
        if missing:
            problems[stem] = "no " + " and no ".join(missing)
        else:
            pairs.append(_ref(stem, [layer[stem] for layer in layers], black_subject))
    return Listing(pairs, problems)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURE_SUFFIXES}


def _find(folder: Path, stem: str) -> Path | None:
    return next((p for s in PICTURE_SUFFIXES if (p := folder / f"{stem}{s}").is_file()), None)


def _ref(name: str, files: Sequence[Path], black_subject: bool) -> PairRef:
    with_subject, without, mask = map(file_blob, files)
    return PairRef(name, with_subject, without, mask, black_subject)
