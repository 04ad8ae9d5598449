"""Rows: read as written, keyed, merged without duplicates, refused when they cannot be compared."""

from pathlib import Path
from typing import Any

import pytest

from magic_insert.core.errors import UserError
from magic_insert.evaluation.rows import Row, merge, read_rows, rows_digest, write_rows


def row(pair: str = "bunny-01__forest-02", **changes: Any) -> Row:
    subject, background = pair.split("__")
    made: Any = {
        "track": "stylize", "method": "personalized", "benchmark": "b1", "subject": subject,
        "background": background, "pair_id": pair, "style": None, "seed": 0, "values": {"subject_dino": 0.5},
        "cards": {"dino": "c1"}, "images": {"stylised": "images/a.png"},
    }  # fmt: skip
    return {**made, **changes}


def test_merging_shards_gives_each_row_once_in_the_order_of_the_keys() -> None:
    one, two = row("a__x"), row("b__x")
    assert merge([two, one], [one]) == [one, two]
    assert rows_digest([one, two]) == rows_digest([two, one]) != rows_digest([one])


def test_two_rows_of_one_key_that_differ_are_refused() -> None:
    with pytest.raises(UserError, match="personalized"):
        merge([row()], [row(values={"subject_dino": 0.6})])


def test_rows_of_two_benchmarks_never_merge() -> None:
    with pytest.raises(UserError, match="b2"):
        merge([row()], [row("a__x", benchmark="b2")])


def test_a_file_of_another_benchmark_is_refused_by_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row()])
    with pytest.raises(UserError, match=r"b7.*b1"):
        read_rows(tmp_path / "rows.jsonl", benchmark="b7")


def test_values_of_two_encoders_in_one_role_of_a_track_are_never_averaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dino .*stylize.*c1 .*c2 \(adain\)"):
        merge([row()], [row(method="adain", cards={"dino": "c2"})])
    write_rows(tmp_path / "rows.jsonl", [row(), row("a__x", cards={"dino": "c2"})])
    with pytest.raises(UserError, match="one encoder for dino"):
        read_rows(tmp_path / "rows.jsonl")
    merge(
        [row()], [row(track="insert", cards={"dino": "c2"}), row("a__x", cards={"dino": "c1", "csd": "c2"})]
    )


@pytest.mark.parametrize(
    "broken",
    [{"values": {"subject_dino": float("nan")}}, {"values": {"subject_dino": "high"}}, {"track": "paint"}],
)
def test_a_row_that_cannot_be_averaged_is_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    import json

    (tmp_path / "rows.jsonl").write_text(json.dumps({**row(), **broken}) + "\n")
    with pytest.raises(UserError, match=r"(row|line) 1 of"):
        read_rows(tmp_path / "rows.jsonl")


def test_a_row_with_a_missing_field_or_twice_the_same_key_is_refused(tmp_path: Path) -> None:
    lacking = {key: value for key, value in row().items() if key != "cards"}
    write_rows(tmp_path / "one.jsonl", [lacking])  # type: ignore[list-item]
    with pytest.raises(UserError, match="cards"):
        read_rows(tmp_path / "one.jsonl")
    write_rows(tmp_path / "two.jsonl", [row(), row()])
    with pytest.raises(UserError, match="twice"):
        read_rows(tmp_path / "two.jsonl")
