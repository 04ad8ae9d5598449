"""Embeddings of pictures, each made once: kept by the bytes of the picture's file and the card of the encoder.

Files are decoded and prepared by threads while the network is busy, a few pictures at a time, so memory does not grow
with the number of pictures and the slower of the two sets the pace. Pictures come in groups, and a group is embedded
and stored as a whole, in chunks that depend on the group alone: a run that was killed, or that is spread over
processes, stacks the same pictures and gets the same bits.
Shape letters: H, W of a picture, C side of an encoder's input, D its embedding's length.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import write_bytes
from magic_insert.evaluation.metrics import subject_crop

CHUNK = 16  # pictures through a network at once
AHEAD = 3  # chunks that are being decoded while one is embedded
WORKERS = min(8, max(2, os.cpu_count() or 1))

Vectors = dict[str, Tensor]
Prepared = dict[str, Float[Tensor, "3 C C"]]


@dataclass(frozen=True)
class Picture:
    """What an encoder looks at: a whole picture, or with `mask` the subject's box cut out of it."""

    file: Path
    mask: Path | None = None

    def key(self) -> str:
        """A name by content: equal files have equal keys wherever they lie.

        Raises:
            UserError: a file is missing.
        """
        shas = []
        for path in (self.file, self.mask):
            if path is not None and not path.is_file():
                raise UserError(f"expected a picture at {path}, got no such file; make it again")
            shas.append(None if path is None else sha256_file(path))
        return str(shas[0]) if self.mask is None else digest(shas)

    def pixels(self) -> Float[Tensor, "3 _ _"]:
        """The picture; transparent parts are white.

        Raises:
            UserError: a damaged file, or an empty mask; names the file.
        """
        rgb = load_rgb(self.file)
        if self.mask is None:
            return rgb
        try:
            return subject_crop(rgb, load_rgb(self.mask)[:1])
        except UserError as error:
            raise UserError(f"{self.mask}: {error}") from error


class FeatureStore:
    """Vectors on disk in `folder`/<card digest>/<group>.safetensors, and those of this run in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: dict[str, Vectors] = {}

    def of(self, card: str) -> Vectors:
        """The vectors of one encoder by picture key; those on disk are read once.

        Raises:
            UserError: a stored file is damaged.
        """
        if card not in self.vectors:
            found: Vectors = {}
            for path in sorted((self.folder / card).glob("*.safetensors")):
                found.update(_read(path))
            self.vectors[card] = found
        return self.vectors[card]

    def add(self, card: str, group: Vectors) -> None:
        """Stores a group of vectors, atomically."""
        self.of(card).update(group)
        name = digest(sorted(group))
        write_bytes(self.folder / card / f"{name}.safetensors", save(dict(sorted(group.items()))))

    def forget(self) -> None:
        """Reads from disk again when next asked: other processes may have added theirs."""
        self.vectors.clear()


def _read(path: Path) -> Vectors:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"expected stored features in {path}, got a damaged file ({error}); delete it"
        ) from error


def embeddings(encoders: Mapping[str, Any]) -> dict[str, Any]:
    """The encoders that embed pictures by card digest; one that plays two roles is there once, scorers are left out."""
    return {e.card.digest: e for e in encoders.values() if hasattr(e, "embed_pixels")}


def keys_of(pictures: Sequence[Picture]) -> dict[Picture, str]:
    """The key of each picture; files are read by several threads.

    Raises:
        UserError: a file is missing.
    """
    unique = list(dict.fromkeys(pictures))
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(unique, pool.map(Picture.key, unique), strict=True))


def embed_groups(
    groups: Sequence[Sequence[Picture]],
    keys: Mapping[Picture, str],
    encoders: Mapping[str, Any],
    store: FeatureStore,
    on_picture: Callable[[int], None],
) -> None:
    """Embeds every group that is not wholly in `store`; `on_picture` hears how many pictures are done.

    Args:
        groups: pictures that are embedded together; a picture may be in several.
        keys: `keys_of` all of them.
        encoders: `embeddings(...)`, by card digest.

    Raises:
        UserError: a damaged picture, or an embedding that is not finite; names the file. Finished groups are kept.
    """
    pending = []
    for group in groups:
        unique = list({keys[picture]: picture for picture in group}.values())
        lacking = [card for card in encoders if any(keys[p] not in store.of(card) for p in unique)]
        if lacking:
            pending.append((unique, lacking))
        else:
            on_picture(len(group))
    with ThreadPoolExecutor(WORKERS) as pool:
        chunks = _prepared(pool, pending, encoders)
        try:
            for group, lacking in pending:
                made: dict[str, Vectors] = {card: {} for card in lacking}
                for _ in range(0, len(group), CHUNK):
                    pictures, prepared = next(chunks)
                    for card in lacking:
                        rows = (
                            encoders[card].embed_pixels(torch.stack([part[card] for part in prepared])).cpu()
                        )
                        made[card].update(_finite(pictures, rows, keys, encoders[card].card.name))
                    on_picture(len(pictures))
                for card in lacking:
                    store.add(card, made[card])
        finally:
            pool.shutdown(cancel_futures=True)


def _prepared(
    pool: ThreadPoolExecutor,
    pending: Sequence[tuple[Sequence[Picture], Sequence[str]]],
    encoders: Mapping[str, Any],
) -> Iterator[tuple[Sequence[Picture], list[Prepared]]]:
    """Chunks in order, decoded and prepared AHEAD of their use."""
    waiting: deque[tuple[Sequence[Picture], list[Future[Prepared]]]] = deque()
    for group, lacking in pending:
        looking = {card: encoders[card] for card in lacking}
        for start in range(0, len(group), CHUNK):
            chunk = group[start : start + CHUNK]
            waiting.append((chunk, [pool.submit(_prepare, picture, looking) for picture in chunk]))
            if len(waiting) > AHEAD:
                pictures, futures = waiting.popleft()
                yield pictures, [future.result() for future in futures]
    while waiting:
        pictures, futures = waiting.popleft()
        yield pictures, [future.result() for future in futures]


def _prepare(picture: Picture, encoders: Mapping[str, Any]) -> Prepared:
    pixels = picture.pixels()
    return {card: encoder.prepare(pixels) for card, encoder in encoders.items()}


def _finite(
    pictures: Sequence[Picture], rows: Float[Tensor, "B D"], keys: Mapping[Picture, str], encoder: str
) -> Vectors:
    for picture, row in zip(pictures, rows, strict=True):
        if not bool(torch.isfinite(row).all()):
            raise UserError(
                f"expected a finite embedding of {picture.file} from {encoder}, got NaN or infinity; "
                "check the encoder's weights"
            )
    return {keys[picture]: row.clone() for picture, row in zip(pictures, rows, strict=True)}
