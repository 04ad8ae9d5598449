"""Counterfactual pairs: one scene with a subject and without it, and the subject's mask (ObjectDrop, section 3).

A pair is listed by name first and read later, so that a bad one can be told by its name before anything is trained.
Shape letters: H, W rows and columns. Pictures are 3HW, masks 1HW, float32 in [0, 1]; the subject is 1.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.images import decode_mask, decode_rgb
from magic_insert.core.picture_files import read_picture_bytes

LAYERS = ("with", "without", "mask")
LARGEST_MASK = (
    0.7  # a subject that covers more than this of its picture is a mask with black and white exchanged
)
SHOWN = 12  # names in one message


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
    """What a loader found: pairs, and what is wrong with those that are not whole, by name."""

    pairs: list[PairRef]
    problems: dict[str, str]


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
    track: Callable[[Sequence[PairRef]], Iterator[PairRef]] = iter,
) -> FilePairs:
    """Reads every pair once and keeps the sound ones, each picture once.

    Args:
        source: what the error calls the place they came from.
        on_error: "refuse" or "skip".
        report: told what is skipped.
        track: wraps the loop, for a progress bar.

    Raises:
        UserError: a pair is unreadable, maskless, of unequal sizes or a duplicate and `on_error` is not "skip", or no
            sound pair is left. All bad pairs are named in the one message.
    """
    problems = dict(listing.problems)
    kept: dict[str, PairRef] = {}
    names: set[str] = set()
    for ref in track(listing.pairs):
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
        told = f"{len(problems)} bad pair(s) in {source}: {name_all(problems)}"
        if on_error != "skip":
            raise UserError(f"expected sound pairs, got {told}; mend them or set data.on_error=skip")
        report(f"skipped {told}")
    if not kept:
        raise UserError(f"expected at least one sound pair in {source}, got none")
    return FilePairs(list(kept.values()), list(kept))


def name_all(problems: dict[str, str]) -> str:
    """The names with their reasons, the first SHOWN of them in full."""
    named = [f"{name}: {reason}" for name, reason in problems.items()]
    rest = len(named) - SHOWN
    return "; ".join(named[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")
