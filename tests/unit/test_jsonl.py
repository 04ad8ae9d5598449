"""Records on disk: whole or not at all, in order, with errors that name file and line; fingerprints of content."""

import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_insert.core import jsonl
from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.ranks import host_tag, start_ticks


def test_rows_come_back_in_the_order_they_were_added(tmp_path: Path) -> None:
    rows = [{"step": i, "text": "größe\n2 one\u2028line\x85"} for i in range(5)]
    for row in rows:
        jsonl.append_jsonl(tmp_path / "new" / "rows.jsonl", row)
    assert jsonl.read_jsonl(tmp_path / "new" / "rows.jsonl") == rows


def add_rows(path: Path, writer: int) -> None:
    for i in range(50):
        jsonl.append_jsonl(path, {"writer": writer, "i": i, "pad": "x" * 500})


def test_rows_of_two_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    workers = [multiprocessing.Process(target=add_rows, args=(path, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = jsonl.read_jsonl(path)
    assert len(rows) == 100
    for n in range(2):
        assert [row["i"] for row in rows if row["writer"] == n] == list(range(50))


@dataclass(frozen=True)
class Note:
    """A record with a field of every kind that ours have."""

    name: str
    bars: int
    tempo: float
    words: dict[str, list[float]]
    key: str | None = None


NOTE = {"name": "A", "bars": 2, "tempo": 1, "words": {"la": [1.5]}}
NOTE_TEXT = json.dumps(NOTE).encode()


HOSTILE = {
    "half": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "nested": b'{"a": ' + b"[" * 100_000,
    "huge integer": b'{"a": ' + b"1" * 5000 + b"}",
    "large integer": b'{"a": 100000000000000000000}',
    "huge number": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "a list": b"[1]",
    "a number": b"3",
    "a null byte": b"\0",
}


@pytest.mark.parametrize("bad", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + bad + b"\n")
    with pytest.raises(UserError, match=r"line 3 of .*rows\.jsonl"):
        jsonl.read_jsonl(path)
    path.write_bytes(bad)
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        jsonl.read_object(path)


@given(
    st.binary(max_size=60) | st.builds(lambda value, cut: value[:cut], st.just(NOTE_TEXT), st.integers(0, 80))
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_at_all_are_read_or_refused_in_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "note.json"
        path.write_bytes(content)
        typed = (partial(read, record=Note) for read in (jsonl.read_record, jsonl.read_records))
        for read in (jsonl.read_object, jsonl.read_jsonl, *typed):
            try:
                read(path)
            except UserError as error:
                assert "note.json" in str(error)


def test_a_record_is_read_with_its_types(tmp_path: Path) -> None:
    jsonl.write_json(tmp_path / "note.json", {**NOTE, "of a later version": 1})
    assert jsonl.read_record(tmp_path / "note.json", Note) == Note("A", 2, 1.0, {"la": [1.5]})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"name": 3}, "name"),
        ({"bars": 2.5}, "bars"),
        ({"bars": True}, "bars"),
        ({"tempo": "1"}, "tempo"),
        ({"words": {"la": [None]}}, r"words\.la\.0"),
        ({"key": 1}, "key"),
        ({"words": []}, "words"),
    ],
)
def test_a_record_of_other_types_is_refused(tmp_path: Path, wrong: dict[str, object], named: str) -> None:
    jsonl.write_json(tmp_path / "note.json", {**NOTE, **wrong})
    with pytest.raises(UserError, match=rf"Note in .*note\.json, got {named}"):
        jsonl.read_record(tmp_path / "note.json", Note)
    without = {name: value for name, value in NOTE.items() if name not in wrong}
    if "key" not in wrong:
        jsonl.write_json(tmp_path / "note.json", without)
        with pytest.raises(UserError, match=rf"got {next(iter(wrong))}: Field required"):
            jsonl.read_record(tmp_path / "note.json", Note)


@pytest.mark.parametrize(
    "write", [lambda path: jsonl.write_text(path, "x"), lambda path: jsonl.append_jsonl(path, {})]
)
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(UserError, match=r"at most 255 bytes, got 260 in xxx"):
        write(tmp_path / ("x" * 260))
    with pytest.raises(UserError, match="no file"):
        jsonl.read_jsonl(tmp_path / ("x" * 300))
    jsonl.write_text(tmp_path / ("ü" * 127), "x")  # 254 bytes, and room for a temporary name beside
    write(tmp_path / ("x" * 255))


@pytest.mark.parametrize(
    "write", [jsonl.write_text, lambda path, text: jsonl.append_jsonl(path, {"a": text})]
)
def test_a_full_disk_is_one_line(write: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def closed(*_: object) -> None:
        raise full

    monkeypatch.setattr(os, "fsync", closed)
    monkeypatch.setattr(os, "write", closed)
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(UserError, match="No space left on device; make room"):
            write(Path(folder) / "a", "x")
        assert not [path for path in Path(folder).iterdir() if path.stat().st_size]


KILLED = """
import os, signal, sys
from pathlib import Path
from magic_insert.core import jsonl
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = kill
if sys.argv[2] == "file":
    jsonl.write_text(Path(sys.argv[1]) / "a.json", "new")
with jsonl.whole_folder(Path(sys.argv[1]) / "folder") as new:
    (new / "half").write_text("half")
    kill()
"""


def test_what_a_killed_process_left_half_written_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").write_text("old")
    for what in ("file", "folder"):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), what], check=False)
        assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) >= 1
    alive = tmp_path / f".b.{host_tag()}-{os.getpid()}-{start_ticks(os.getpid()) or 0}-0.tmp"
    alive.write_text("")
    jsonl.write_text(tmp_path / "b", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "b", "folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["old"]


def test_a_folder_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    with jsonl.whole_folder(tmp_path / "a") as new:
        (new / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), jsonl.whole_folder(tmp_path / "a") as new:
        (new / "y").write_text(str(1 // 0))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    with pytest.raises(UserError, match="No space left"), jsonl.whole_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_refused_record_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    jsonl.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        jsonl.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    (tmp_path / "folder").mkdir()
    for place, named in (("a.json/b.json", "a.json"), ("folder", "folder")):
        with pytest.raises(UserError, match=named):
            jsonl.write_text(tmp_path / place, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "folder"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_digest_ignores_the_order_of_keys_and_survives_json(obj: dict) -> None:
    turned = dict(reversed(obj.items()))
    assert digest(obj) == digest(turned) == digest(json.loads(json.dumps(obj)))


def test_a_digest_sees_value_type_and_order_and_stays_what_it_was(tmp_path: Path) -> None:
    different: list[object] = [{"a": value} for value in (1, "1", 1.5, [1, 2], [2, 1], None)]
    different += [{"b": 1}, [], {}]
    assert len({digest(obj) for obj in different}) == len(different)
    assert digest({"a": 1}) == "015abd7f5cc57a2d"
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_scratch_folder_goes_with_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = {pid: start_ticks(pid) for pid in (os.getpid(), os.getppid())}
    alive, killed = (
        tmp_path / f".page.{host_tag()}-{pid}-{ticks}-0.tmp"
        for pid, ticks in ((os.getppid(), started[os.getppid()]), (os.getpid(), 1))
    )  # the second one's process had our number before us
    for folder in (alive, killed):
        (folder / "results").mkdir(parents=True)
    with jsonl.scratch_folder("page") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert alive.is_dir()
        assert not killed.exists()
        (folder / "picture.png").write_bytes(b"picture")
    assert list(tmp_path.iterdir()) == [alive]
