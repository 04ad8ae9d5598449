"""Small text records on disk. A whole file or folder appears at once or not at all; a JSONL file grows by whole lines.

`write_bytes`, `write_text`, `write_json` and `whole_folder` write beside the target and rename, so that a reader or a
killed run never sees half of it; what a killed process left beside is removed when another first writes there.
`append_jsonl` writes one line with one call, so that rows of several processes do not mix. What is read is hostile
until proven otherwise: whatever is wrong with a file is one `UserError` that names it.
"""

import errno
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from magic_insert.core.errors import CLOSED, NO_ROOM, UserError, expecting
from magic_insert.core.ranks import host_tag, is_alive, start_ticks

Record = TypeVar("Record")

LONGEST_NAME = 255  # bytes; what common file systems allow a single name
LARGEST_INTEGER = 2**64  # beyond this no seed, count or size of ours lies, and conversions to float fail
LITTLE_ROOM = 1 << 20  # bytes; with less left a failed write is called a full disk
TEMPORARY = re.compile(r"^\..*\.([0-9a-f]{8})-(\d+)-(\d+)-\d+\.tmp$", re.DOTALL)
_numbers = itertools.count()


def check_name(path: str | Path) -> None:
    """That every name in `path` is short enough for a file system, and text that a record can hold.

    Raises:
        UserError: shows the beginning of the name that is not.
    """
    for name in Path(path).parts:
        if (readable := name.encode(errors="replace").decode()) != name:
            raise UserError(f"expected names in UTF-8, got {readable[:40]}; rename it")
        if (length := len(os.fsencode(name))) > LONGEST_NAME:
            raise UserError(
                f"expected names of at most {LONGEST_NAME} bytes, got {length} in {name[:40]}...; choose a shorter one"
            )


def require_writable(path: str | Path, suffix: str | None = None) -> Path:
    """The place of an output, judged before any work: its nearest existing folder takes a file.

    Args:
        suffix: of the file to write, "" for any; None for a folder.

    Raises:
        UserError: another suffix, a file where a folder should go or the reverse, a name too long, no permission.
    """
    place = Path(path)
    check_name(place)
    if suffix and place.suffix.lower() != suffix:
        raise UserError(f"expected a file name ending in {suffix}, got {path}; set out=PATH{suffix}")
    if suffix is not None and place.is_dir():
        raise UserError(f"expected a file to write to, got the folder {path}; set another out=")
    if suffix is None and place.is_file():
        raise UserError(f"expected a folder to write to, got the file {path}; set out=FOLDER")
    parent = place if suffix is None else place.parent
    with expecting(f"to be able to write {path}", OSError, do="set out=... elsewhere"):
        # Unlike `Path.exists`, this raises for a loop of symbolic links and for a path below a file.
        while True:
            with suppress(FileNotFoundError):
                parent.stat()
                break
            parent = parent.parent
        with tempfile.TemporaryFile(dir=parent):
            pass
    return place


def disk_trouble(error: BaseException, place: Path) -> str | None:
    """Why writing to `place` failed, if it was the disk: by the error's number, or by how little room there is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*NO_ROOM, *CLOSED):
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    # Tensor libraries raise errors of their own for a short write, without its number.
    return "no room on the disk" if shutil.disk_usage(place).free < LITTLE_ROOM else None


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Checks the name and makes the parent; what the system refuses in the block is a `UserError` about `target`."""
    check_name(target)
    with expecting(f"to be able to write {target}", OSError, do="make room there or choose another place"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_litter(target.parent)
        yield


def _beside(target: Path) -> Path:
    """A new name beside `target` that tells which process it belongs to."""
    shown = target.name.encode()[:64].decode(errors="ignore")
    return target.with_name(f".{shown}.{_owner(os.getpid())}-{next(_numbers)}.tmp")


@cache
def _owner(pid: int) -> str:
    return f"{host_tag()}-{pid}-{start_ticks(pid) or 0}"


@cache
def _remove_litter(folder: Path) -> None:
    """Removes what processes of this machine that are no more left half-written in `folder`; once a process."""
    for entry in list(os.scandir(folder)):
        found = TEMPORARY.match(entry.name)
        if found is None or found[1] != host_tag() or is_alive(int(found[2]), int(found[3]) or None):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):  # gone by now, or another user's
                Path(entry.path).unlink()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Puts `content` at `path` by an atomic rename; missing parents are made.

    Raises:
        UserError: the place cannot be written, or its name is too long.
    """
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A new file to fill, which takes the place of `path` after the block; raises as `write_bytes`."""
    target = Path(path)
    with _writing(target):
        temporary = _beside(target)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder of this process alone among the system's temporary files, removed after the block.

    Where a process is killed inside the block, the next one that asks for such a folder removes it.
    """
    target = Path(tempfile.gettempdir()) / name
    with _writing(target):
        folder = _beside(target)
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` after the block; where the block raises, it is removed.

    Raises:
        UserError: the place cannot be written, its name is too long, or the block meets an error of the disk.
    """
    target = Path(path)
    with _writing(target):
        temporary = _beside(target)
        temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, UserError) or (reason := disk_trouble(error, target.parent)) is None:
            raise
        raise UserError(
            f"expected to be able to write {target}, got {reason}; make room there or choose another place"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Puts `text` at `path` as UTF-8, atomically.

    Raises:
        UserError: the place cannot be written, or its name is too long.
    """
    write_bytes(path, text.encode())


def write_json(path: str | Path, obj: Any) -> None:
    """Puts `obj` at `path` as indented JSON, atomically. NaN and infinities are refused: other readers reject them.

    Raises:
        UserError: the place cannot be written, or its name is too long.
        ValueError: a number is not finite.
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    # A file name that is not UTF-8 holds lone surrogates; written as escapes they stay JSON.
    write_text(path, text.encode("utf-8", "backslashreplace").decode() + "\n")


def append_jsonl(path: str | Path, row: dict[str, Any]) -> None:
    """Adds one line to a JSONL file; missing parents are made.

    If a killed writer left half a line behind, the new row starts on a line of its own.

    Raises:
        UserError: the place cannot be written; the file is as it was before.
    """
    target = Path(path)
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with _writing(target):
        handle = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(handle, line) < len(line):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]}")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= LARGEST_INTEGER:
        _refuse_number(text)
    return number


def _float(text: str) -> float:
    number = float(text)
    return number if abs(number) != float("inf") else _refuse_number(text)


def parse_json(content: bytes | str, name: object) -> Any:
    """What the JSON text `content` holds; `name` is what messages call it.

    Raises:
        UserError: not UTF-8, not JSON, nested too deeply, a number that is not finite or an integer of over 64 bits.
    """
    with expecting(f"JSON in {name}", RecursionError, ValueError):  # also of JSON and of UTF-8
        text = content if isinstance(content, str) else content.decode("utf-8")
        found = json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refuse_number)
    return found


def read_file(path: str | Path, what: str) -> bytes:
    """The bytes of the file at `path`; `what` is what messages call it, with its article ("a JSON file").

    Raises:
        UserError: no such file, or it cannot be read.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        raise UserError(f"expected {what} at {str(path)[:300]}, got no file; check the path")
    with expecting(f"{what} at {path} that can be read", OSError):
        content = Path(path).read_bytes()
    return content


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: the file is missing, unreadable or not JSON; the message names it.
    """
    return parse_json(read_file(path, "a JSON file"), path)


def read_object(path: str | Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UserError: as `read_json`, or the file holds something else than an object.
    """
    return _object(read_json(path), f"in {path}")


def _object(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        kinds = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
        raise UserError(f"expected a JSON object {where}, got {kinds.get(type(found), 'a number')}")
    return found


def read_jsonl(path: str | Path, *, begun: bool = True) -> list[dict[str, Any]]:
    """The rows of a JSONL file in order; blank lines are skipped. Without `begun` a missing file has none.

    Raises:
        UserError: the file is missing or unreadable, or a line is not a JSON object; names file and line.
    """
    rows: list[dict[str, Any]] = []
    if not begun and not Path(path).is_file():
        return rows
    for number, line in enumerate(read_file(path, "a JSONL file").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        rows.append(_object(parse_json(line, where), f"on {where}"))
    return rows


def read_record(path: str | Path, record: type[Record]) -> Record:
    """The dataclass `record` that a JSON file holds, every field of its declared type; other keys are left alone.

    Raises:
        UserError: as `read_json`, or a key is missing or holds another type; names file and key.
    """
    return as_record(read_json(path), record, path)


def read_records(path: str | Path, record: type[Record]) -> list[Record]:
    """The rows of a JSONL file as `record`s; raises as `read_jsonl` and `read_record`."""
    return [as_record(row, record, f"row {i} of {path}") for i, row in enumerate(read_jsonl(path), start=1)]


def as_record(found: Any, record: type[Record], name: object) -> Record:
    """`found`, JSON values, as the dataclass `record`; `name` is what messages call it.

    Raises:
        UserError: a key is missing or holds another type; names it.
    """
    from pydantic import ValidationError

    wanted: Any = record
    try:
        return _adapter(wanted).validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(
            f"expected {record.__name__} in {name}, got {key}: {first['msg'][:120]}; make the file again"
        ) from error


@cache
def _adapter(record: Any) -> Any:
    # Checking types brings a library that most processes never need.
    from pydantic import TypeAdapter

    return TypeAdapter(record)
