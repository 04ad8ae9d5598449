"""The one door for tensors: safetensors files whose bytes are a function of their content, checked before use.

The library writes metadata in the random order of a hash map, so two runs with equal numbers would differ in their
headers; here the header is written anew with sorted keys and a checksum of header and data. A file of another program
has none; where a card (`card.json`, `fit.json`) beside it or in the folder above lists its SHA-256 under
`weights_sha256`, by path relative to the card, that is compared. A file is read for this once: what was found sound is
remembered by path, size and time of its last change.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, expecting
from magic_insert.core.jsonl import read_object, whole_file, write_bytes

ALIGNMENT = 8  # the data starts at a multiple of this, as the format asks
CHECKSUM = "sha256"  # in the metadata: of the header without this entry, and of the data
CARDS = ("card.json", "fit.json")
# What the libraries raise for a model folder with damaged, missing or foreign files.
DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
LONGEST_HEADER = 100_000_000  # bytes, as the format asks


class TensorFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` (from any device) and `metadata` to `path` by an atomic rename.

    One tensor after the other: of a checkpoint of many gigabytes no second copy is held.

    Raises:
        UserError: the place cannot be written.
    """
    # Wide numbers first, so that every tensor begins at a multiple of its numbers' size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        tensor, start = tensors[name], place
        place += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, place]
        }  # fmt: skip
    sha = hashlib.sha256(_header_text(header))
    with whole_file(path) as file:
        # As long as the header will be with the checksum, which is known when all data were seen.
        file.write(_sealed(header, "0" * len(sha.hexdigest())))
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            numbers = flat.view(torch.uint8).numpy().data
            sha.update(numbers)
            file.write(numbers)
        file.seek(0)
        file.write(_sealed(header, sha.hexdigest()))


def read_tensors(path: Path) -> TensorFile:
    """All tensors of the file, on the CPU, and its metadata.

    Raises:
        UserError: no such file, one that is damaged or no longer what was written, or one without tensors.
    """
    verify(path)
    what = f"a sound safetensors file at {path}"
    with expecting(what, SafetensorError, OSError), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = dict(file.metadata() or {})
    if not tensors:
        raise UserError(f"expected tensors in {path}, got a file without any; make it again")
    metadata.pop(CHECKSUM, None)
    return TensorFile(tensors, metadata)


def verify(path: Path) -> None:
    """That a weights file is the one that was written, as far as it or a card tells.

    Raises:
        UserError: no such file, or a checksum that does not fit.
    """
    if not path.is_file():
        raise UserError(f"expected weights at {path}, got no such file; check the path")
    state = path.stat()
    _verify(path.absolute(), state.st_size, state.st_mtime_ns)


def verify_folder(folder: Path, parts: tuple[str, ...] = (".",)) -> None:
    """`verify` for every safetensors file directly in `folder`/part."""
    for part in parts:
        for path in sorted((folder / part).glob("*.safetensors")):
            verify(path)


@cache
def _verify(path: Path, size: int, changed: int) -> None:
    expected = _by_card(path)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    mark = home / "magic-insert" / "verified" / digest([str(path), size, changed, expected])
    if mark.is_file():
        return
    sound = sha256_file(path) == expected if expected is not None else fits_itself(path)
    if not sound:
        raise UserError(
            f"expected the weights that were written to {path}, got others: the checksum does not fit; copy or make "
            "the file again"
        )
    with suppress(UserError):  # read again next time
        write_bytes(mark, b"")


def _by_card(path: Path) -> str | None:
    """The SHA-256 that a card lists for the file; None where none does."""
    for folder in path.parents[:2]:
        for name in CARDS:
            if (folder / name).is_file():
                sums = read_object(folder / name).get("weights_sha256")
                if isinstance(sums, dict) and path.relative_to(folder).as_posix() in sums:
                    return str(sums[path.relative_to(folder).as_posix()])
    return None


def fits_itself(path: Path, *, unsealed: bool = True) -> bool:
    """Whether header and data are those that the file's own checksum was made of; `unsealed` where it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LONGEST_HEADER:
            return False
        try:
            header = json.loads(file.read(length))
            expected = header.get("__metadata__", {}).pop(CHECKSUM, None)
        except (ValueError, AttributeError, RecursionError):
            return False
        if expected is None:
            return unsealed
        sha = hashlib.sha256(_header_text(header))
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest() == expected


def _sealed(header: Mapping[str, Any], checksum: str) -> bytes:
    """The beginning of a file: the header with its checksum, and before it its length."""
    text = _header_text({**header, "__metadata__": {**header["__metadata__"], CHECKSUM: checksum}})
    return len(text).to_bytes(8, "little") + text


def _header_text(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return text + b" " * (-len(text) % ALIGNMENT)
