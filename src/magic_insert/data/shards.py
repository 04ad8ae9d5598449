"""Pairs in tar files in the WebDataset convention: members of one sample share a key and differ in what follows.

KEY.with.png, KEY.without.png, KEY.mask.png (or .jpg, .webp); other members are left alone. Shards are plain tar files:
only their index is read at first, pictures later by position, so a pool larger than memory or than one folder is fine.
`write_shards` makes such a pool.
"""

import io
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from magic_insert.core.errors import UserError
from magic_insert.core.images import png_bytes
from magic_insert.core.jsonl import write_bytes
from magic_insert.data.pairs import LAYERS, Blob, Listing, Pair, PairRef

EXTENSIONS = ("png", "jpg", "jpeg", "webp")


def find_shards(root: Path) -> list[Path]:
    """The shards at `root`: one tar file, or every *.tar of a folder in the order of their names.

    Raises:
        UserError: there is none.
    """
    shards = [root] if root.is_file() else sorted(root.glob("*.tar"))
    if not shards:
        raise UserError(f"expected tar shards (*.tar) in {root}, got none; set data.path")
    return shards


def list_shards(root: Path, *, black_subject: bool = False) -> Listing:
    """The pairs of all shards at `root`.

    Raises:
        UserError: no shard, or one that is not a plain tar file.
    """
    pairs: list[PairRef] = []
    problems: dict[str, str] = {}
    for shard in find_shards(root):
        for key, layers in _index(shard).items():
            missing = [layer for layer in LAYERS if layer not in layers]
            if missing:
                problems[key] = f"no {' and no '.join(missing)} in {shard.name}"
            else:
                with_subject, without, mask = (layers[layer] for layer in LAYERS)
                pairs.append(PairRef(key, with_subject, without, mask, black_subject))
    return Listing(pairs, problems)


def _index(shard: Path) -> dict[str, dict[str, Blob]]:
    """Key to layer to the place of its bytes."""
    samples: dict[str, dict[str, Blob]] = {}
    try:
        with tarfile.open(
            shard, "r:"
        ) as tar:  # "r:" refuses compression, which would forbid reading by position
            for member in tar:
                key, dot, rest = member.name.partition(".")
                layer, _, extension = rest.rpartition(".")
                if member.isfile() and dot and layer in LAYERS and extension.lower() in EXTENSIONS:
                    read = partial(read_span, shard, member.offset_data, member.size)
                    samples.setdefault(key, {})[layer] = Blob(f"{shard.name}:{member.name}", read)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"expected a plain, whole tar file at {shard}, got something else ({error})"
        ) from error
    return samples


def read_span(path: Path, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def write_shards(pairs: Iterable[Pair], folder: Path, *, per_shard: int = 1000) -> list[Path]:
    """Writes pairs as shards pairs-00000.tar, ... of PNG members; equal pairs give equal bytes."""
    written: list[Path] = []
    batch: list[Pair] = []

    def flush() -> None:
        if batch:
            path = folder / f"pairs-{len(written):05d}.tar"
            write_bytes(path, _packed(batch))
            written.append(path)
            batch.clear()

    for pair in pairs:
        batch.append(pair)
        if len(batch) == per_shard:
            flush()
    flush()
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
