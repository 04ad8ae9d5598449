"""The store: whole or not there, made once, found again, damaged never."""

import builtins
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import flip, frozen

from magic_insert.bootstrap.job import Source, publish
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_text
from magic_insert.core.store import WORK, Entry, Request, Store, claim, finish, flaw_of
from magic_insert.models.folders import WEIGHTS

REQUEST = Request("poem", 1, {"lines": 2}, {"muse": "0123"})


class Calls:
    """A stage that counts how often it is made."""

    def __init__(self, text: str = "two lines") -> None:
        self.text, self.count = text, 0

    def __call__(self, folder: Path) -> None:
        self.count += 1
        write_text(folder / "deep" / "poem.txt", self.text)
        write_text(folder / WORK / "notes.txt", "not for the world")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)


def test_a_finished_stage_is_found_again_and_not_made_again(store: Store, said: list[str]) -> None:
    make = Calls()
    first, second = store.obtain(REQUEST, make), store.obtain(REQUEST, make)
    assert make.count == 1
    assert first == second
    assert (second.folder / "deep" / "poem.txt").read_text() == "two lines"
    assert said == [f"poem {REQUEST.key}: reused"]
    twin, other = Request("poem", 1, {"lines": 9}, {}), Request("poem", 1, {"lines": 10}, {})
    assert store.obtain(twin, Calls()).content == first.content  # its files, not its settings
    assert store.obtain(other, Calls("else")).content != first.content


@pytest.mark.parametrize(
    "other",
    [
        Request("song", 1, {"lines": 2}, {"muse": "0123"}),
        Request("poem", 2, {"lines": 2}, {"muse": "0123"}),
        Request("poem", 1, {"lines": 3}, {"muse": "0123"}),
        Request("poem", 1, {"lines": 2}, {"muse": "4567"}),
    ],
)
def test_another_kind_version_setting_or_input_is_another_stage(store: Store, other: Request) -> None:
    first, second = store.obtain(REQUEST, Calls("one")), store.obtain(other, Calls("other"))
    assert first.folder != second.folder
    assert (first.folder / "deep" / "poem.txt").read_text() == "one"


def test_an_interrupted_stage_goes_on_in_its_own_staging_folder(store: Store) -> None:
    def stopped(folder: Path) -> None:
        write_text(folder / "half.txt", "half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain(REQUEST, stopped)
    assert store.find(REQUEST) is None

    def finish(folder: Path) -> None:
        assert (folder / "half.txt").read_text() == "half"
        write_text(folder / "whole.txt", "whole")

    entry = store.obtain(REQUEST, finish)
    assert {path.name for path in entry.folder.iterdir()} == {"half.txt", "whole.txt", "manifest.json"}


def flip_a_bit(entry: Entry) -> None:
    flip(entry.folder / "deep" / "poem.txt")


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (flip_a_bit, "deep/poem.txt does not match"),
        (lambda entry: (entry.folder / "deep" / "poem.txt").unlink(), "missing or additional"),
        (lambda entry: (entry.folder / "stray.txt").write_text("x"), "missing or additional"),
        (lambda entry: (entry.folder / "manifest.json").unlink(), "manifest is missing"),
        (lambda entry: (entry.folder / "manifest.json").write_text("{"), "manifest is damaged"),
        (
            lambda entry: change(entry.folder / "manifest.json", b'"seconds"', b'"sekonds"'),
            "manifest is damaged",
        ),
    ],
)
def test_damage_is_found_and_mended(store: Store, said: list[str], damage: object, word: str) -> None:
    make = Calls()
    entry = store.obtain(REQUEST, make)
    damage(entry)  # type: ignore[operator]
    again = store.obtain(REQUEST, make)
    assert make.count == 2
    assert flaw_of(again.folder) is None
    assert again.content == entry.content
    assert any(word in line and REQUEST.key in line for line in said)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("where", ["lock", "make", "repair", "publish"])
def test_a_store_that_turns_read_only_or_full_is_told_in_one_line_wherever_it_happens(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    sound = store.obtain(Request("song", 1, {}, {}), Calls())
    if where == "repair":
        flip_a_bit(store.obtain(REQUEST, Calls()))

    def closed(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if where == "lock":
            patch.setattr(builtins, "open", closed)
        elif where == "repair":
            patch.setattr(shutil, "rmtree", closed)
        elif where == "publish":
            patch.setattr(os, "rename", closed)
        with pytest.raises(UserError) as told:
            store.obtain(REQUEST, closed if where == "make" else Calls())
    assert f"got {os.strerror(number)}; make room or set store=FOLDER" in str(told.value)
    assert flaw_of(sound.folder) is None
    assert flaw_of(store.obtain(REQUEST, Calls()).folder) is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_no_room_for_the_products_is_told_in_one_line_and_the_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cfg = frozen("bootstrap", f"out={tmp_path}/out", f"store={tmp_path}/store")
    for file in ("config.json", WEIGHTS):
        write_text(tmp_path / "new" / file, "new")
        write_text(tmp_path / "out" / "inserter" / file, "old")
    new = Source(tmp_path / "new", "0123")

    def closed(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shutil, "copyfile", closed)
    with pytest.raises(UserError) as told:
        publish(cfg, [], 0, {"inserter": new, "remover": new})
    assert f"got {os.strerror(number)}; make room there" in str(told.value)
    assert (tmp_path / "out" / "inserter" / "config.json").read_text() == "old"


RACER = """
import sys, time
from pathlib import Path
from magic_insert.core.store import Request, Store
def make(folder):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    (folder / "half.txt").write_text("half")
    time.sleep(float(sys.argv[3]))
    (folder / "whole.txt").write_text("whole")
print(Store(Path(sys.argv[1]), print).obtain(Request("race", 1, {}, {}), make).content, flush=True)
"""


def race(store: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", RACER, str(store), str(log), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_make_a_stage_once_and_both_get_it(tmp_path: Path) -> None:
    runners = [race(tmp_path / "store", tmp_path / "log", 0.5) for _ in range(2)]
    outputs = [runner.communicate(timeout=60)[0] for runner in runners]
    assert (tmp_path / "log").read_text() == "made\n"
    assert outputs[0].split()[-1] == outputs[1].split()[-1]


def test_whoever_waits_for_a_killed_process_makes_the_stage_itself(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = race(tmp_path / "store", log, 60)
    while not log.exists():
        time.sleep(0.01)
    second = race(tmp_path / "store", log, 0)
    assert second.stdout is not None
    assert "waiting" in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(timeout=60) == 0
    assert log.read_text() == "made\nmade\n"


def test_a_claimed_folder_is_finished_once_and_refused_to_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not claim(out, REQUEST)
    assert not claim(out, REQUEST)  # goes on after a kill
    write_text(out / "poem.txt", "two lines")
    finish(out, REQUEST, ["poem.txt"])
    write_text(out / "run.json", "{}")  # what is no product may be added
    assert claim(out, REQUEST)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (Request("song", 1, {"lines": 2}, {"muse": "0123"}), "got a poem; set out=FOLDER"),
        (Request("poem", 2, {"lines": 2}, {"muse": "0123"}), "of version 1 instead of 2"),
        (Request("poem", 1, {"lines": 3}, {"muse": "4567"}), "one with other lines, muse"),
        (Request("poem", 1, {"lines": 2, "rhyme": True}, {"muse": "0123"}), "one with other rhyme"),
    ],
)
def test_another_request_is_refused_by_what_differs(tmp_path: Path, other: Request, difference: str) -> None:
    claim(tmp_path, REQUEST)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=difference):
        claim(tmp_path, other)
    assert (tmp_path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_a_finished_folder_that_was_damaged_is_not_taken_for_finished(tmp_path: Path, damage: Any) -> None:
    write_text(tmp_path / "poem.txt", "two lines")
    finish(tmp_path, REQUEST, ["poem.txt"])
    damage(tmp_path / "poem.txt")
    with pytest.raises(UserError, match=r"to be sound, got: .*poem.txt.*delete the folder"):
        claim(tmp_path, REQUEST)
