"""Small text records on disk. A whole file appears at once or not at all; a JSONL file grows by whole lines.

`write_bytes`, `write_text` and `write_json` write beside the target and rename, so that a reader or a killed run never
sees half a file. `append_jsonl` writes one line with one call, so that rows of several processes do not mix.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError


def write_bytes(path: str | Path, content: bytes) -> None:
    """Puts `content` at `path` by an atomic rename; missing parents are made.

    Raises:
        UserError: the place cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    except OSError as error:
        raise UserError(
            f"expected to be able to write {target}, got {error.strerror}; choose another place"
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give the result the mode that open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UserError(
            f"expected to be able to write {target}, got {error.strerror}; choose another place"
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Puts `text` at `path` as UTF-8, atomically.

    Raises:
        UserError: the place cannot be written.
    """
    write_bytes(path, text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Puts `obj` at `path` as indented JSON, atomically. NaN and infinities are refused: other readers reject them.

    Raises:
        UserError: the place cannot be written.
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: the file is missing or not JSON; the message names it.
    """
    target = Path(path)
    if not target.is_file():
        raise UserError(f"expected a JSON file at {target}, got nothing; check the path")
    try:
        return json.loads(target.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"expected JSON in {target}, got something else ({error})") from error


def append_jsonl(path: str | Path, row: dict[str, Any]) -> None:
    """Adds one line to a JSONL file; missing parents are made.

    If a killed writer left half a line behind, the new row starts on a line of its own.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(handle, line)
    finally:
        os.close(handle)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file in order; blank lines are skipped.

    Raises:
        UserError: the file is missing, or a line is not a JSON object; the message names file and line.
    """
    target = Path(path)
    if not target.is_file():
        raise UserError(f"expected a JSONL file at {target}, got nothing; check the path")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(target.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"expected JSON on line {number} of {target}, got {line[:60]!r}") from error
        if not isinstance(row, dict):
            raise UserError(f"expected a JSON object on line {number} of {target}, got {line[:60]!r}")
        rows.append(row)
    return rows
