"""What a method's pictures depend on, written into their folder: pictures of two settings never mix."""

from pathlib import Path
from typing import Any

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json

CLAIM = "method.json"
JUDGES = "encoders"


def model_marks(folder: Path | None) -> list[Any]:
    """What tells one folder of weights from another without reading it all: sizes and the last 64 KiB of each file."""
    if folder is None:
        return []
    marks: list[Any] = []
    for path in sorted(folder.rglob("*.safetensors")):
        if JUDGES in path.relative_to(folder).parts:
            continue  # they look at pictures and make none
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - (1 << 16)))
            marks.append([path.relative_to(folder).as_posix(), size, digest(file.read().hex())])
    return marks


def claim(folder: Path, contents: Any) -> None:
    """Writes `contents` into a folder of pictures, which the same contents may claim again.

    Raises:
        UserError: the folder holds pictures of other settings.
    """
    key = digest(contents)
    path = folder / CLAIM
    if path.is_file() and read_json(path).get("key") != key:
        raise UserError(
            f"expected pictures of the same settings in {folder}, got those of others; set out=FOLDER, or delete it"
        )
    write_json(path, {"key": key, "made_with": contents})
