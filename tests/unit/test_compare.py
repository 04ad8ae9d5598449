"""Comparisons of methods on rows with known answers."""

from typing import Any

import pytest
from evaluation_rows import synthetic_rows

from magic_insert.core.errors import UserError
from magic_insert.evaluation.columns import COLUMNS, axes_of, column, columns_in, primary_columns
from magic_insert.evaluation.compare import (
    breakdown,
    methods_of,
    paired,
    paired_table,
    present_columns,
    reference_method,
    summaries,
)


def row(method: str, subject: str, background: str, **values: float) -> dict[str, Any]:
    return {
        "track": "stylize", "method": method, "benchmark": "b", "subject": subject, "background": background,
        "pair_id": f"{subject}__{background}", "style": None, "seed": 0, "values": values, "cards": {}, "images": {},
    }  # fmt: skip


@pytest.fixture
def two() -> list[dict[str, Any]]:
    """`good` beats `bad` by 0.2 in DINO on every shared pair and loses everywhere in LPIPS; one pair is not shared."""
    rows = []
    for s in range(4):
        for b in range(3):
            base = 0.1 * s + 0.05 * b
            rows.append(row("good", f"s{s}", f"b{b}", subject_dino=base + 0.2, truth_lpips=0.6))
            if (s, b) != (3, 2):
                rows.append(row("bad", f"s{s}", f"b{b}", subject_dino=base, truth_lpips=0.5))
    return rows


def test_a_constant_lead_is_found_exactly_although_the_pairs_differ(two: list[dict[str, Any]]) -> None:
    found = paired(two, "stylize", column("stylize", "subject_dino"), "good", "bad")
    assert found is not None
    assert found.difference.n == 11
    assert found.difference.mean == pytest.approx(0.2)
    assert (found.difference.low, found.difference.high) == (pytest.approx(0.2), pytest.approx(0.2))
    assert found.difference.excludes_zero


def test_winning_every_pair_is_still_only_a_few_pairs(two: list[dict[str, Any]]) -> None:
    """11 of 11: the exact lower limit is 0.025 ** (1 / 11)."""
    found = paired(two, "stylize", column("stylize", "subject_dino"), "good", "bad")
    assert found is not None
    assert found.win_rate is not None
    assert (found.win_rate.mean, found.win_rate.high) == (1, 1)
    assert found.win_rate.low == pytest.approx(0.025 ** (1 / 11))


def test_where_less_is_better_the_smaller_value_wins(two: list[dict[str, Any]]) -> None:
    found = paired(two, "stylize", column("stylize", "truth_lpips"), "good", "bad")
    assert found is not None
    assert found.difference.mean == pytest.approx(0.1)
    assert found.win_rate is not None
    assert found.win_rate.mean == 0


def test_a_comparison_turned_round_is_its_negative() -> None:
    rows = synthetic_rows()
    for entry in primary_columns(present_columns(rows, "stylize")):
        one = paired(rows, "stylize", entry, "adain", "personalized")
        other = paired(rows, "stylize", entry, "personalized", "adain")
        assert one is not None
        assert other is not None
        assert one.difference.mean == pytest.approx(-other.difference.mean)
        assert one.win_rate is not None
        assert other.win_rate is not None
        assert one.win_rate.mean == pytest.approx(1 - other.win_rate.mean)


def test_pairing_is_narrower_than_the_difference_of_two_means() -> None:
    """Subjects and backgrounds are shared, so their differences cancel."""
    rows = synthetic_rows(tracks=["stylize"], noise=0.0)
    for entry in rows:
        entry["values"] = {"subject_dino": entry["values"]["subject_dino"] + 0.1 * int(entry["subject"][-1])}
    by_method = {s.method: s.estimates["subject_dino"] for s in summaries(rows, "stylize")}
    found = paired(rows, "stylize", column("stylize", "subject_dino"), "adain", "personalized")
    assert found is not None
    assert found.difference.high == pytest.approx(found.difference.low)
    wide = by_method["adain"]
    assert wide.high is not None
    assert wide.low is not None
    assert wide.high - wide.low > 0.1


def test_equal_results_win_half() -> None:
    rows = [row(m, f"s{s}", f"b{b}", subject_dino=0.5) for m in "xy" for s in range(3) for b in range(3)]
    found = paired(rows, "stylize", column("stylize", "subject_dino"), "x", "y")
    assert found is not None
    assert found.win_rate is not None
    assert found.win_rate.mean == 0.5


def test_methods_without_a_shared_pair_are_not_compared() -> None:
    rows = [row("x", "s0", "b0", subject_dino=0.5), row("y", "s0", "b1", subject_dino=0.5)]
    assert paired(rows, "stylize", column("stylize", "subject_dino"), "x", "y") is None


def test_floors_stand_first_ceilings_last_and_neither_is_compared() -> None:
    rows = synthetic_rows(tracks=["stylize"])
    assert methods_of(rows) == [
        "floor:copy_paste", "floor:random_subject", "personalized", "instantstyle_canny", "adain", "ceiling:self",
        "ceiling:truth",
    ]  # fmt: skip
    compared = paired_table(rows, "stylize")
    assert {r.method for r in compared} == {"instantstyle_canny", "adain"}
    assert {r.reference for r in compared} == {"personalized"} == {reference_method(rows, "stylize")}
    assert {r.column for r in compared} == {"subject_mean", "style_mean", "truth_psnr"}


def test_an_inserter_goes_before_pasting_as_the_reference() -> None:
    rows = synthetic_rows(tracks=["insert"])
    assert (
        reference_method(rows[::-1], "insert") == reference_method(rows, "insert") == "personalized+real_only"
    )


def test_floors_alone_have_no_reference() -> None:
    rows = [r for r in synthetic_rows(tracks=["stylize"]) if r["method"].startswith("floor:")]
    assert reference_method(rows, "stylize") is None
    assert paired_table(rows, "stylize") == []


def test_the_parts_of_a_breakdown_average_to_the_whole() -> None:
    rows = synthetic_rows(tracks=["stylize"])
    whole = {s.method: s.estimates["style_mean"].mean for s in summaries(rows, "stylize")}
    for by, size in (("style", 4), ("subject", 5)):
        parts = breakdown(rows, "stylize", by)["adain"]
        assert len(parts) == size
        assert sum(p["style_mean"].mean for p in parts.values()) / size == pytest.approx(whole["adain"])


def test_rows_whose_style_nobody_named_are_broken_down_as_unknown(two: list[dict[str, Any]]) -> None:
    assert list(breakdown(two, "stylize", "style")["good"]) == ["unknown"]


def test_an_unknown_column_is_refused_by_name(two: list[dict[str, Any]]) -> None:
    two[0]["values"]["subject_dyno"] = 0.5
    with pytest.raises(UserError, match="subject_dyno"):
        present_columns(two, "stylize")
    with pytest.raises(UserError, match="paint"):
        columns_in("paint", [])


def test_columns_come_in_the_order_of_the_tables_and_keys_are_unique() -> None:
    for track, columns in COLUMNS.items():
        keys = [entry.key for entry in columns]
        assert len(set(keys)) == len(keys)
        assert [entry.key for entry in columns_in(track, reversed(keys))] == keys


def test_a_group_without_its_mean_is_represented_by_its_columns() -> None:
    some = columns_in("stylize", ["subject_dino", "subject_clip_i", "style_mean", "style_csd"])
    assert [c.key for c in primary_columns(some)] == ["subject_dino", "subject_clip_i", "style_mean"]
    assert axes_of("stylize", some) == (some[0], column("stylize", "style_mean"))
    assert axes_of("stylize", some[:1]) is None
