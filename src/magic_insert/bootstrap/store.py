"""The store: every finished stage in a folder named by what it was made from, whole or not there at all.

A stage's key is the digest of its kind, version, settings and the contents of its inputs. It is made in
`staging/KIND-KEY`, where a killed one goes on, and published by one rename as `KIND/KEY` with a manifest of the SHA-256
of each of its files. A lock that dies with its process lets one process make what several want. Torch-free.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json

MANIFEST = "manifest.json"
WORK = "work"  # inside a staging folder: checkpoints and the like, never published
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
LITTLE = 1 << 20  # bytes; with less left a failed write is told as a full disk


@dataclass(frozen=True)
class Entry:
    """One finished stage. `content` is the digest of its files: what the keys of later stages are made from."""

    kind: str
    key: str
    folder: Path
    content: str
    seconds: float


@dataclass(frozen=True)
class Request:
    """A stage that is wanted: `settings` and the contents of `inputs` (name -> digest) decide its key."""

    kind: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        return digest([self.kind, self.version, dict(self.settings), dict(self.inputs)])


class Store:
    """A folder of stages. `say` hears one line about what is reused, waited for, damaged."""

    def __init__(self, root: Path, say: Callable[[str], None]):
        self.root, self.say = root, say
        try:
            for name in ("staging", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            with open(root / "locks" / ".writable", "w"):
                pass
        except OSError as error:
            raise UserError(
                f"expected a store that can be written at {root}, got {error.strerror}; set store=FOLDER"
            ) from error

    def obtain(self, request: Request, make: Callable[[Path], None]) -> Entry:
        """The stage, found sound or made by `make` in a staging folder; one process makes it, others wait.

        Raises:
            UserError: no room, or the store is read-only; what was published stays valid.
        """
        name = f"{request.kind} {request.key}"
        try:
            with self._turn(request):
                if (entry := self.find(request)) is not None:
                    self.say(f"{name}: reused")
                    return entry
                staging = self.root / "staging" / f"{request.kind}-{request.key}"
                began = time.monotonic()
                staging.mkdir(parents=True, exist_ok=True)
                make(staging)
                return self._publish(request, staging, time.monotonic() - began)
        except UserError:
            raise
        except Exception as error:
            if (reason := disk_trouble(error, self.root)) is not None:
                raise UserError(
                    f"expected to write {name} to the store {self.root}, got {reason}; make room or set "
                    "store=FOLDER, then run the same command again"
                ) from error
            raise

    def find(self, request: Request) -> Entry | None:
        """The published stage if every file of it has its checksum; a damaged one is removed, and that is said."""
        folder = self.root / request.kind / request.key
        if not folder.is_dir():
            return None
        if (flaw := flaw_of(folder)) is not None:
            self.say(f"{request.kind} {request.key}: {flaw}; it is made again")
            shutil.rmtree(folder)
            return None
        manifest = read_json(folder / MANIFEST)
        return Entry(request.kind, request.key, folder, digest(manifest["files"]), manifest["seconds"])

    def _publish(self, request: Request, staging: Path, seconds: float) -> Entry:
        shutil.rmtree(staging / WORK, ignore_errors=True)
        (staging / MANIFEST).unlink(missing_ok=True)
        files = {name: sha256_file(staging / name) for name in files_of(staging)}
        assert files, f"stage {request.kind} wrote nothing"
        manifest = {
            "kind": request.kind,
            "version": request.version,
            "settings": dict(request.settings),
            "inputs": dict(request.inputs),
            "files": files,
            "seconds": round(seconds, 2),
        }
        write_json(staging / MANIFEST, manifest)
        for name in (*files, MANIFEST):
            flush(staging / name)
        flush(staging)
        folder = self.root / request.kind / request.key
        folder.parent.mkdir(exist_ok=True)
        os.rename(staging, folder)
        flush(folder.parent)
        return Entry(request.kind, request.key, folder, digest(files), round(seconds, 2))

    @contextmanager
    def _turn(self, request: Request) -> Iterator[None]:
        """Holds the stage's lock; the kernel lets go of it when the process ends, however it ends."""
        with open(self.root / "locks" / f"{request.kind}-{request.key}", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"{request.kind} {request.key}: another process makes it, waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def disk_trouble(error: BaseException, place: Path) -> str | None:
    """Why writing to `place` failed, if it was the disk: by the error's number, or by how little room there is."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (*NO_ROOM, *CLOSED):
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    # Tensor libraries raise errors of their own for a short write, without its number.
    return "no room on the disk" if shutil.disk_usage(place).free < LITTLE else None


def files_of(folder: Path) -> list[str]:
    """The files below `folder` by relative path, sorted, without the manifest and half-written ones."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST and not name.endswith(".tmp"))


def flaw_of(folder: Path) -> str | None:
    """What is wrong with a published stage: a missing, additional or changed file; None for a sound one."""
    if not (folder / MANIFEST).is_file():
        return "its manifest is missing"
    try:
        manifest = read_json(folder / MANIFEST)
        request = Request(*(manifest[name] for name in ("kind", "version", "settings", "inputs")))
        expected, key, _ = dict(manifest["files"]), request.key, float(manifest["seconds"])
    except (UserError, KeyError, TypeError, ValueError):
        return "its manifest is damaged"
    if key != folder.name:
        return "its manifest does not match its name"
    if files_of(folder) != sorted(expected):
        return f"files are missing or additional ({', '.join(set(files_of(folder)) ^ set(expected))})"
    for name, checksum in expected.items():
        if sha256_file(folder / name) != checksum:
            return f"{name} does not match its checksum"
    return None


def flush(path: Path) -> None:
    """Brings a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
