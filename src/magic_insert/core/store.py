"""What is made once and found again: one marker that says what a folder is made from, and whether it is finished.

A `Request` says what is wanted: a kind, its version, its settings and the digests of its inputs; the digest of these
is its key. The marker, `manifest.json`, holds the request and, once the folder is finished, the SHA-256 of its files.

`Store` keeps finished folders as `ROOT/KIND/KEY`. One is made in `staging/KIND-KEY`, where a killed process's work goes
on, and published by one rename; a lock that dies with its process lets one process make what several want. `claim` and
`finish` use the same marker for a folder that the user names, so that no run overwrites what another made. Torch-free.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, expecting
from magic_insert.core.jsonl import disk_trouble, read_record, write_json

MANIFEST = "manifest.json"
WORK = "work"  # inside a staging folder: checkpoints and the like, never published


@dataclass(frozen=True)
class Request:
    """What is wanted: `settings` (JSON values) and the contents of `inputs` (name -> digest) decide its key."""

    kind: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """16 hex digits."""
        return digest([self.kind, self.version, dict(self.settings), dict(self.inputs)])


@dataclass(frozen=True, kw_only=True)
class Manifest(Request):
    """What the marker of a folder holds. `files`: name -> SHA-256 of each, None while the folder is being made."""

    files: dict[str, str] | None
    seconds: float


@dataclass(frozen=True)
class Entry:
    """A finished folder. `content` is the digest of its files: what the keys of later requests are made from."""

    kind: str
    key: str
    folder: Path
    content: str
    seconds: float


class Store:
    """A folder of finished folders. `announce` is called with one line about what is reused, waited for, damaged.

    `key` is the setting that names `root` in messages.
    """

    def __init__(
        self, root: Path, announce: Callable[[str], None] = lambda line: None, *, key: str = "store"
    ):
        self.root, self.announce, self.key = root, announce, key
        with expecting(f"a store that can be written at {root}", OSError, do=f"set {key}=FOLDER"):
            for name in ("staging", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            with open(root / "locks" / ".writable", "w"):
                pass

    def obtain(self, request: Request, make: Callable[[Path], None]) -> Entry:
        """The folder, found sound or made by `make` in a staging folder; one process makes it, others wait.

        Raises:
            UserError: no room, or the store is read-only; what was published stays valid.
        """
        name = f"{request.kind} {request.key}"
        try:
            with self._turn(request):
                if (entry := self.find(request)) is not None:
                    self.announce(f"{name}: reused")
                    return entry
                staging = self.root / "staging" / f"{request.kind}-{request.key}"
                began = time.monotonic()
                staging.mkdir(parents=True, exist_ok=True)
                make(staging)
                shutil.rmtree(staging / WORK, ignore_errors=True)
                (staging / MANIFEST).unlink(missing_ok=True)
                finish(staging, request, files_of(staging), seconds=time.monotonic() - began)
                folder = self.root / request.kind / request.key
                folder.parent.mkdir(exist_ok=True)
                os.rename(staging, folder)
                flush(folder.parent)
                return _entry(folder, request.key)
        except UserError:
            raise
        except Exception as error:
            if (reason := disk_trouble(error, self.root)) is not None:
                raise UserError(
                    f"expected to write {name} to the store {self.root}, got {reason}; make room or set "
                    f"{self.key}=FOLDER, then run the same command again"
                ) from error
            raise

    def find(self, request: Request) -> Entry | None:
        """The published folder if every file of it has its checksum; a damaged one is removed, with a line about it."""
        folder = self.root / request.kind / request.key
        if not folder.is_dir():
            return None
        if (flaw := flaw_of(folder)) is not None:
            self.announce(f"{request.kind} {request.key}: {flaw}; it is made again")
            shutil.rmtree(folder)
            return None
        return _entry(folder, request.key)

    @contextmanager
    def _turn(self, request: Request) -> Iterator[None]:
        """Holds the request's lock; the kernel lets go of it when the process ends, however it ends."""
        with open(self.root / "locks" / f"{request.kind}-{request.key}", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                self.announce(f"{request.kind} {request.key}: {holder} makes it, waiting")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"process {os.getpid()} of {socket.gethostname()}")
            file.flush()
            yield


def find_stage(root: Path, key: str) -> Path:
    """The published folder `key` in the store `root`, whatever its kind.

    Raises:
        UserError: it is not in the store, or damaged.
    """
    for folder in root.glob(f"*/{key}"):
        if (folder / MANIFEST).is_file():
            if (flaw := flaw_of(folder)) is not None:
                raise UserError(f"expected a sound stage in {folder}, got: {flaw}; make it again")
            return folder
    raise UserError(f"expected the stage {key} in the store {root}, got none; make it again")


def claim(folder: Path, request: Request) -> bool:
    """Marks `folder` as made from `request`; True where it is finished already.

    A folder without a marker is free, whatever lies in it. The same request may claim again, to go on.

    Raises:
        UserError: `folder` is made from another request (names what differs), or it is finished and damaged.
    """
    refuse_other(folder, request)
    path = folder / MANIFEST
    if path.is_file() and read_record(path, Manifest).files is not None:
        if (flaw := flaw_of(folder, whole=False)) is not None:
            raise UserError(
                f"expected the finished {request.kind} in {folder} to be sound, got: {flaw}; delete the folder and "
                "run the same command again"
            )
        return True
    write_json(path, asdict(Manifest(**vars(request), files=None, seconds=0.0)))
    return False


def refuse_other(folder: Path, request: Request) -> None:
    """That `folder` is free or made from `request`; writes nothing.

    Raises:
        UserError: it is made from another request; names what differs.
    """
    if not (folder / MANIFEST).is_file():
        return
    found = read_record(folder / MANIFEST, Manifest)
    if found.key != request.key:
        raise UserError(
            f"expected {folder} to be free or to hold the same {request.kind}, got {difference(found, request)}; "
            "set out=FOLDER, or delete the folder"
        )


def difference(found: Request, wanted: Request) -> str:
    """In which words a folder made from `found` is not the `wanted` one."""
    if found.kind != wanted.kind:
        return f"a {found.kind}"
    if found.version != wanted.version:
        return f"one of version {found.version} instead of {wanted.version}"
    names = []
    for before, after in ((found.settings, wanted.settings), (found.inputs, wanted.inputs)):
        names += [name for name in {**before, **after} if digest(before.get(name)) != digest(after.get(name))]
    return f"one with other {', '.join(names)}"


def finish(folder: Path, request: Request, files: Iterable[str], *, seconds: float = 0.0) -> None:
    """Marks `folder` as finished: `files`, by relative path, are what `request` asked for. All reach the disk first."""
    sums = {name: sha256_file(folder / name) for name in files}
    assert sums, f"{request.kind} wrote nothing"
    write_json(folder / MANIFEST, asdict(Manifest(**vars(request), files=sums, seconds=round(seconds, 2))))
    for name in (*sums, MANIFEST):
        flush(folder / name)
    flush(folder)


def files_of(folder: Path) -> list[str]:
    """The files below `folder` by relative path, sorted, without the marker and half-written ones."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST and not name.endswith(".tmp"))


def flaw_of(folder: Path, *, whole: bool = True) -> str | None:
    """What is wrong with a finished folder: a missing or changed file; None for a sound one.

    `whole`: the folder is the store's, so its name is its key and no file may be added.
    """
    if not (folder / MANIFEST).is_file():
        return "its manifest is missing"
    try:
        manifest = read_record(folder / MANIFEST, Manifest)
    except UserError:
        return "its manifest is damaged"
    if manifest.files is None:
        return "it is not finished"
    if whole and manifest.key != folder.name:
        return "its manifest does not match its name"
    there = set(files_of(folder))
    if strange := (there ^ set(manifest.files)) if whole else (set(manifest.files) - there):
        return f"files are missing or additional ({', '.join(sorted(strange)[:5])})"
    for name, checksum in manifest.files.items():
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


def _entry(folder: Path, key: str) -> Entry:
    manifest = read_record(folder / MANIFEST, Manifest)
    return Entry(manifest.kind, key, folder, digest(manifest.files), manifest.seconds)
