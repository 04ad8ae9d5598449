"""Records on disk: whole or not at all, in order, with errors that name file and line; fingerprints of content."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import append_jsonl, read_jsonl, write_json, write_text


def test_rows_come_back_in_the_order_they_were_added(tmp_path: Path) -> None:
    rows = [{"step": i, "text": "größe\n2"} for i in range(5)]
    for row in rows:
        append_jsonl(tmp_path / "new" / "rows.jsonl", row)
    assert read_jsonl(tmp_path / "new" / "rows.jsonl") == rows


def test_a_row_after_a_torn_line_starts_on_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    append_jsonl(path, {"a": 3})
    assert [row["a"] for row in read_jsonl(path)] == [1, 2, 3]


def add_rows(path: Path, writer: int) -> None:
    for i in range(50):
        append_jsonl(path, {"writer": writer, "i": i, "pad": "x" * 500})


def test_rows_of_two_processes_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    workers = [multiprocessing.Process(target=add_rows, args=(path, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = read_jsonl(path)
    assert len(rows) == 100
    for n in range(2):
        assert [row["i"] for row in rows if row["writer"] == n] == list(range(50))


@pytest.mark.parametrize("bad", ["{", "[1]", "3"])
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n' + bad + "\n")
    with pytest.raises(UserError, match=r"line 3 of .*rows\.jsonl"):
        read_jsonl(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_jsonl(tmp_path / "nowhere.jsonl")


def test_a_refused_record_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_place_that_cannot_be_written_is_a_user_error_and_leaves_no_litter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file"):
        write_text(tmp_path / "file" / "a.json", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder"):
        write_text(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_atomic_file_is_as_readable_as_an_ordinary_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_digest_ignores_the_order_of_keys_and_survives_json(obj: dict) -> None:
    turned = dict(reversed(obj.items()))
    assert digest(obj) == digest(turned) == digest(json.loads(json.dumps(obj)))


def test_a_digest_sees_value_type_and_order() -> None:
    different = [
        {"a": 1},
        {"a": "1"},
        {"a": 1.5},
        {"b": 1},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": None},
        [],
        {},
    ]
    assert len({digest(obj) for obj in different}) == len(different)
    assert digest({"a": 1}) == "015abd7f5cc57a2d"


def test_the_digest_of_a_file_is_the_known_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
