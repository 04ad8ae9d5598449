"""Counterfactual pairs: one scene with a subject and without it, and the subject's mask (ObjectDrop, section 3).

Listing reads names only; a pair that is not whole is a problem with a name, never a silent gap. Pictures are read
later, so that a bad pair can be named before anything is trained. `LISTERS` holds the layouts on disk:

`pairs`   ROOT/with/NAME.*, ROOT/without/NAME.*, ROOT/mask/NAME.*; or a .jsonl file whose lines hold "with", "without",
          "mask" (paths relative to the file) and, if wanted, "id".
`ober`    ObjectClear's OBER: files input_X, gt_X, mask_X side by side in any folder below ROOT; or parquet shards as
          released, with the columns input, gt and object_mask (needs `pip install 'magic-insert[parquet]'`).
`desoba`  DESOBAv2: ROOT/shadow_imgs, shadowfree_imgs, object_masks of equal names, and optionally train.txt with the
          names. "Without" is without the shadow: the object stays, so these pairs teach insertion only.
`rord`    RORD: ROOT/img, gt, mask of equal names, or ROOT/train/... of the same. Many pictures share one empty scene.
`shards`  tar files in the WebDataset convention: KEY.with.png, KEY.without.png, KEY.mask.png (or .jpg, .webp); other
          members are left alone. Plain tar files, read by position; `write_shards` makes them.

`CompositePairs` are made rather than read: cut-outs on photographs under made-up light.

Shape letters: H, W rows and columns. Pictures are 3HW, masks 1HW, float32 in [0, 1]; the subject is 1.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize, paste, resize, size_within
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, expecting, needing
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.images import decode_mask, decode_rgb, load_rgb, load_rgba, png_bytes
from magic_insert.core.jsonl import read_jsonl, write_bytes
from magic_insert.core.masks import blur, bounding_box
from magic_insert.core.picture_files import SUFFIXES, pictures_in, read_picture_bytes
from magic_insert.core.rand import Dice, fold_in, generator
from magic_insert.core.records import Box, Scene, Subject
from magic_insert.core.silhouettes import cast, foot_frame, frame_coordinates, soft_shadow

LAYERS = ("with", "without", "mask")
OBER_COLUMNS = ("input", "gt", "object_mask")
# A subject that covers more than this of its picture is a mask with black and white exchanged.
LARGEST_MASK = 0.7
SHOWN = 12  # names in one message
COMPOSITES_VERSION = 1
LONGEST, SHADOWS = 1024, 384  # sides of a composite's photograph, and of its shadow before it is enlarged


@dataclass(frozen=True)
class Pair:
    """One scene, twice."""

    id: str
    with_subject: Float[Tensor, "3 H W"]
    without: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]


@runtime_checkable
class PairSet(Protocol):
    """Pairs in a fixed order; `digests` change when a pair's pixels change."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def digests(self) -> Sequence[str]: ...

    def load(self, index: int) -> Pair:
        """Pair number `index`."""
        ...


@dataclass(frozen=True)
class Blob:
    """Bytes of a picture, wherever they lie; `name` is what messages call it."""

    name: str
    read: Callable[[], bytes]


def file_blob(path: Path) -> Blob:
    """A picture file."""
    return Blob(str(path), partial(read_picture_bytes, path))


@dataclass(frozen=True)
class PairRef:
    """Where the three pictures of a pair lie; `black_subject`: the mask is 0 on the subject."""

    id: str
    with_subject: Blob
    without: Blob
    mask: Blob
    black_subject: bool = False

    def load(self) -> Pair:
        """The pair's pixels.

        Raises:
            UserError: a picture is not sound, the sizes differ, or the mask is empty or covers nearly everything.
        """
        return self._decode(*(blob.read() for blob in (self.with_subject, self.without, self.mask)))

    def verify(self) -> str:
        """Reads and judges the pair; the SHA-256 of its three files, by which duplicates are known."""
        contents = [blob.read() for blob in (self.with_subject, self.without, self.mask)]
        self._decode(*contents)
        sha = hashlib.sha256()
        for content in contents:
            sha.update(hashlib.sha256(content).digest())
        return sha.hexdigest()

    def _decode(self, with_subject: bytes, without: bytes, mask: bytes) -> Pair:
        images = (
            decode_rgb(with_subject, self.with_subject.name),
            decode_rgb(without, self.without.name),
            decode_mask(mask, self.mask.name),
        )
        sizes = [f"{image.shape[-1]} x {image.shape[-2]}" for image in images]
        if len(set(sizes)) != 1:
            raise UserError(f"sizes differ: with {sizes[0]}, without {sizes[1]}, mask {sizes[2]}")
        subject = 1 - images[2] if self.black_subject else images[2]
        if float(subject.max()) < 0.5:
            raise UserError("the mask is empty")
        if (share := float(subject.mean())) > LARGEST_MASK:
            other = "white" if self.black_subject else "black"
            raise UserError(
                f"the mask covers {100 * share:.0f} % of the picture; set data.subject_in_mask={other}?"
            )
        return Pair(self.id, images[0], images[1], subject)


@dataclass(frozen=True)
class Listing:
    """What a loader found: complete pairs, and what is wrong with the others, by name."""

    pairs: list[PairRef] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, layers: Mapping[str, Blob | None], *, where: str = "") -> None:
        """One pair; `layers` in the order with, without, mask, None for one that is not there."""
        missing = [layer for layer, blob in layers.items() if blob is None]
        if missing:
            self.problems[name] = f"no {' and no '.join(missing)}{where}"
        else:
            with_subject, without, mask = (blob for blob in layers.values() if blob is not None)
            self.pairs.append(PairRef(name, with_subject, without, mask))


@dataclass(frozen=True)
class FilePairs:
    """Pairs that were found sound."""

    refs: Sequence[PairRef]
    digests: Sequence[str]

    @property
    def ids(self) -> list[str]:
        """The names of the pairs."""
        return [ref.id for ref in self.refs]

    def load(self, index: int) -> Pair:
        """Pair number `index`; see `PairRef.load`."""
        return self.refs[index].load()


def sound_pairs(
    listing: Listing,
    *,
    source: str,
    on_error: str,
    report: Callable[[str], None],
    on_step: OnStep = no_step,
) -> FilePairs:
    """Reads every pair once and keeps the sound ones, each picture once.

    Args:
        source: what the error calls the place they came from.
        on_error: "refuse" or "skip".
        report: called with one line about what is skipped.
        on_step: called with (pairs read, pairs in all).

    Raises:
        UserError: a pair is unreadable, maskless, of unequal sizes or a duplicate and `on_error` is not "skip", or no
            sound pair is left. All bad pairs are named in the one message.
    """
    problems = dict(listing.problems)
    kept: dict[str, PairRef] = {}
    names: set[str] = set()
    for number, ref in enumerate(listing.pairs, start=1):
        on_step(number, len(listing.pairs))
        if ref.id in names:
            problems[f"{ref.id} (again)"] = "a pair of this name is there already"
            continue
        names.add(ref.id)
        try:
            content = ref.verify()
        except UserError as error:
            problems[ref.id] = str(error)
            continue
        if content in kept:
            problems[ref.id] = f"the same pictures as {kept[content].id}"
        else:
            kept[content] = ref
    if problems:
        named = [f"{name}: {reason}" for name, reason in problems.items()]
        rest = f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        bad = f"{len(problems)} bad pair(s) in {source}: {'; '.join(named[:SHOWN])}{rest}"
        if on_error != "skip":
            raise UserError(f"expected sound pairs, got {bad}; mend them or set data.on_error=skip")
        report(f"skipped {bad}")
    if not kept:
        raise UserError(f"expected at least one sound pair in {source}, got none")
    return FilePairs(list(kept.values()), list(kept))


# Layouts on disk


def list_pairs(root: Path) -> Listing:
    """A folder with `with`, `without`, `mask`, or a JSONL manifest.

    Raises:
        UserError: neither.
    """
    if not root.is_file():
        return _from_folders(root, LAYERS)
    found = Listing()
    for number, row in enumerate(read_jsonl(root), start=1):
        layers = {
            layer: file_blob(root.parent / row[layer]) if isinstance(row.get(layer), str) else None
            for layer in LAYERS
        }
        whole = None not in layers.values()
        found.add(str(row.get("id", Path(row["with"]).stem)) if whole else f"line {number}", layers)
    return found


def list_desoba(root: Path) -> Listing:
    """DESOBAv2.

    Raises:
        UserError: a folder is missing.
    """
    listing = _from_folders(root, ("shadow_imgs", "shadowfree_imgs", "object_masks"))
    chosen = root / "train.txt"
    if not chosen.is_file():
        return listing
    names = {Path(line.strip()).stem for line in chosen.read_text().splitlines() if line.strip()}
    known = {ref.id for ref in listing.pairs} | set(listing.problems)
    absent = dict.fromkeys(sorted(names - known), "named in train.txt, but no picture has that name")
    problems = {k: v for k, v in listing.problems.items() if k in names}
    return Listing([ref for ref in listing.pairs if ref.id in names], {**problems, **absent})


def list_rord(root: Path) -> Listing:
    """RORD.

    Raises:
        UserError: a folder is missing.
    """
    inner = root / "train" if (root / "train" / "img").is_dir() else root
    return _from_folders(inner, ("img", "gt", "mask"))


def _from_folders(root: Path, names: Sequence[str]) -> Listing:
    """Three folders whose files agree in their stems."""
    if absent := [name for name in names if not (root / name).is_dir()]:
        raise UserError(
            f"expected the folders {', '.join(names)} in {root}, got no {absent[0]}; set data.path"
        )
    layers = {name: {path.stem: file_blob(path) for path in pictures_in(root / name)} for name in names}
    found = Listing()
    for stem in sorted(set().union(*layers.values())):
        found.add(stem, {name: layer.get(stem) for name, layer in layers.items()})
    return found


def list_ober(root: Path) -> Listing:
    """OBER in either form: parquet shards (`root` or `root`/data holds train-*.parquet), else folders.

    Raises:
        UserError: nothing there, pyarrow missing, or a shard without the columns.
    """
    found = Listing()
    shards = sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    if shards := [path for path in shards if not path.name.startswith("test-")]:
        for shard in shards:
            _collect_parquet(shard, found)
        return found
    pictures = sorted(path for path in root.rglob("input_*") if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise UserError(
            f"expected OBER's input_*.jpg (or data/*.parquet) below {root}, got none; set data.path"
        )
    for picture in pictures:
        name = picture.stem.removeprefix("input_")
        layers: dict[str, Blob | None] = {picture.stem: file_blob(picture)}
        for stem in (f"gt_{name}", f"mask_{name}"):
            files = (picture.parent / f"{stem}{suffix}" for suffix in SUFFIXES)
            layers[stem] = next((file_blob(path) for path in files if path.is_file()), None)
        found.add((picture.parent.relative_to(root) / name).as_posix(), layers)
    return found


def _collect_parquet(shard: Path, found: Listing) -> None:
    file = _open_parquet(shard)
    if absent := [name for name in OBER_COLUMNS if name not in file.schema_arrow.names]:
        raise UserError(f"expected the columns {', '.join(OBER_COLUMNS)} in {shard}, got no {absent[0]}")
    groups = range(file.metadata.num_row_groups)
    places = [(group, place) for group in groups for place in range(file.metadata.row_group(group).num_rows)]
    for row, at in enumerate(places):
        layers = {
            name: Blob(f"{shard.name}:{row}:{name}", partial(_cell, shard, *at, name))
            for name in OBER_COLUMNS
        }
        found.add(f"{shard.stem}-{row:06d}", layers)


@lru_cache(maxsize=4)
def _open_parquet(shard: Path) -> Any:
    with needing("pyarrow", shard.name, "parquet"):
        import pyarrow
        from pyarrow import parquet
    with expecting(f"a whole parquet file at {shard}", pyarrow.ArrowInvalid, OSError):
        opened = parquet.ParquetFile(shard)
    return opened


@lru_cache(maxsize=2)
def _row_group(shard: Path, group: int) -> Any:
    return _open_parquet(shard).read_row_group(group, columns=list(OBER_COLUMNS))


def _cell(shard: Path, group: int, place: int, column: str) -> bytes:
    content = _row_group(shard, group)[column][place].as_py()
    if not content or not content.get("bytes"):
        raise UserError(f"no {column} in the row")
    return bytes(content["bytes"])


def list_shards(root: Path) -> Listing:
    """The pairs of one tar file, or of every *.tar of a folder in the order of their names.

    Raises:
        UserError: no shard, or one that is not a plain tar file.
    """
    shards = [root] if root.is_file() else sorted(root.glob("*.tar"))
    if not shards:
        raise UserError(f"expected tar shards (*.tar) in {root}, got none; set data.path")
    found = Listing()
    for shard in shards:
        for key, layers in _members(shard).items():
            found.add(key, {layer: layers.get(layer) for layer in LAYERS}, where=f" in {shard.name}")
    return found


def _members(shard: Path) -> dict[str, dict[str, Blob]]:
    """Key to layer to the place of its bytes."""
    samples: dict[str, dict[str, Blob]] = {}
    with (
        expecting(f"a plain, whole tar file at {shard}", tarfile.TarError, OSError),
        tarfile.open(shard, "r:") as tar,  # ":" refuses compression, which forbids reading by position
    ):
        for member in tar:
            key, dot, rest = member.name.partition(".")
            layer, _, extension = rest.rpartition(".")
            if member.isfile() and dot and layer in LAYERS and f".{extension.lower()}" in SUFFIXES:
                read = partial(_read_span, shard, member.offset_data, member.size)
                samples.setdefault(key, {})[layer] = Blob(f"{shard.name}:{member.name}", read)
    return samples


def _read_span(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def write_shards(pairs: Iterable[Pair], folder: Path, *, per_shard: int = 1000) -> list[Path]:
    """Writes pairs as shards pairs-00000.tar, ... of PNG members; equal pairs give equal bytes."""
    written: list[Path] = []
    rest = iter(pairs)
    while batch := list(islice(rest, per_shard)):
        path = folder / f"pairs-{len(written):05d}.tar"
        write_bytes(path, _packed(batch))
        written.append(path)
    return written


def _packed(pairs: list[Pair]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for pair in pairs:
            for layer, image in zip(LAYERS, (pair.with_subject, pair.without, pair.mask), strict=True):
                content = png_bytes(image)
                member = tarfile.TarInfo(f"{pair.id}.{layer}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


LISTERS: dict[str, Callable[[Path], Listing]] = {
    "pairs": list_pairs,
    "ober": list_ober,
    "desoba": list_desoba,
    "rord": list_rord,
    "shards": list_shards,
}


# Pairs made of cut-outs and photographs


@dataclass(frozen=True)
class CompositePairs:
    """Cut-outs laid onto photographs with the shadow of a made-up sun; pair i is a function of `seed` and i.

    A subject is .25 to .55 of the picture tall and stands in its lower part. Its shadow is the product of a soft one
    (`soft_shadow`) and, mostly, of the silhouette cast onto the ground. Photographs are at most LONGEST pixels a side.
    """

    subjects: Sequence[Path]
    backgrounds: Sequence[Path]
    count: int
    seed: int

    @property
    def ids(self) -> list[str]:
        """Number, cut-out and photograph of each pair."""
        return [self._id(i) for i in range(self.count)]

    @cached_property
    def digests(self) -> list[str]:
        """What each pair is made of."""
        sums = {path: sha256_file(path) for path in (*self.subjects, *self.backgrounds)}
        return [
            digest([COMPOSITES_VERSION, self.seed, i, *(sums[path] for path in self.chosen(i))])
            for i in range(self.count)
        ]

    def load(self, index: int) -> Pair:
        """Pair number `index`.

        Raises:
            UserError: a picture is not sound, or the cut-out is opaque or empty.
        """
        subject, scene = self.chosen(index)
        rgb, alpha = load_cut_out(subject)
        without = load_rgb(scene)
        without = area_resize(without, *size_within(without.shape[-2:], LONGEST))
        dice = Dice(generator(self.seed, "composite", index))
        box = self._place(bounding_box(alpha), (without.shape[-2], without.shape[-1]), dice)
        mask = paste(Scene(without, scene.stem), Subject(rgb, alpha, subject.stem), box).mask
        shade = _made_up_shade(mask, dice)
        dark = paste(Scene(without * shade, scene.stem), Subject(rgb, alpha, subject.stem), box)
        return Pair(self._id(index), dark.rgb, without, mask)

    def _id(self, index: int) -> str:
        subject, scene = self.chosen(index)
        return f"{index:05d}-{subject.stem}-{scene.stem}"

    def chosen(self, index: int) -> tuple[Path, Path]:
        """The files of cut-out and photograph of pair `index`."""
        return tuple(
            paths[fold_in(self.seed, name, index) % len(paths)]
            for name, paths in (("subject", self.subjects), ("scene", self.backgrounds))
        )  # type: ignore[return-value]

    @staticmethod
    def _place(cut: Box, size: tuple[int, int], dice: Dice) -> Box:
        """Where a subject of the outline `cut` stands in a picture of `size` rows and columns."""
        height, width = size
        scale = min(dice.number(0.25, 0.55) * height / cut.h, 0.8 * width / cut.w)
        h, w = max(1, round(scale * cut.h)), max(1, round(scale * cut.w))
        bottom = min(height, max(h, round(dice.number(0.66, 0.96) * height)))
        return Box(round(dice.number(0, 1) * (width - w)), bottom - h, w, h)


def load_cut_out(path: Path) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """Colour and opacity of a cut-out.

    Raises:
        UserError: the picture is not sound, or nothing in it is transparent.
    """
    rgb, alpha = load_rgba(path)
    if alpha is None or float(alpha.min()) > 0.5:
        raise UserError(f"expected a cut-out with transparency at {path}, got an opaque picture; cut it out")
    return rgb, alpha


def _made_up_shade(mask: Float[Tensor, "1 H W"], dice: Dice) -> Float[Tensor, "3 H W"]:
    """The factor of a made-up shadow on everything around a subject; computed at SHADOWS pixels a side at most."""
    height, width = mask.shape[-2:]
    small = area_resize(mask, *size_within((height, width), SHADOWS))[None]
    frame = foot_frame(small)
    points = frame_coordinates(frame, small.shape[-2], small.shape[-1])
    shade = soft_shadow(small, frame, points, dice)
    if dice.number(0, 1) < 0.8:
        fallen = cast(small, frame, points, dice.number(-1.8, 1.8), dice.number(-0.35, -0.06))
        softness = float(frame[0, 2]) * dice.number(0.004, 0.05)
        tinge = torch.exp(dice.uniform(1, -0.15, 0.15, 3))[0]
        shade = shade * (1 - (dice.number(0.25, 0.7) * tinge).clamp(max=0.95) * blur(fallen[0], softness))
    return resize(shade[0].clamp(0, 1), height, width)
