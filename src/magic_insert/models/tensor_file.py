"""Safetensors files whose bytes are a function of their content.

The library writes metadata in the random order of a hash map, so two runs with equal numbers would differ in their
headers; here the header is written anew with sorted keys.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from magic_insert.core.jsonl import write_bytes

ALIGNMENT = 8  # the data starts at a multiple of this, as the format asks


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` (from any device) and `metadata` to `path` by an atomic rename.

    Raises:
        UserError: the place cannot be written.
    """
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    write_bytes(path, len(text).to_bytes(8, "little") + text + content[8 + length :])
