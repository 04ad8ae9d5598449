"""Statistics of the grid: intervals cover the truth as often as they promise, and comparisons have known answers."""

from typing import Any

import numpy as np
import pytest
from evaluation_rows import synthetic_rows

from magic_insert.core.errors import UserError
from magic_insert.evaluation.rows import axes_of, column, columns_in, primary_columns
from magic_insert.evaluation.statistics import (
    bradley_terry,
    breakdown,
    exact_interval,
    mean_interval,
    methods_of,
    paired,
    paired_table,
    present_columns,
    reference_method,
    summaries,
)


def grid(subjects: int, backgrounds: int) -> tuple[list[str], list[str]]:
    pairs = [(f"s{s}", f"b{b}") for s in range(subjects) for b in range(backgrounds)]
    return [s for s, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("subjects", "backgrounds", "spread", "least", "most"),
    [
        (5, 4, (1.0, 1.0, 1.0), 0.93, 1.0),
        (5, 4, (0.3, 1.0, 0.3), 0.93, 1.0),
        (14, 10, (1.0, 1.0, 1.0), 0.91, 0.99),
        (14, 10, (0.3, 1.0, 0.3), 0.91, 0.99),
    ],
)
def test_the_interval_covers_the_true_mean_as_often_as_it_says(
    subjects: int, backgrounds: int, spread: tuple[float, float, float], least: float, most: float
) -> None:
    """Values = subject's share + background's share + noise; 200 worlds, so 0.95 +- 0.03 (two standard errors)."""
    rng = np.random.default_rng(0)
    first, second = grid(subjects, backgrounds)
    covered = 0
    for _ in range(200):
        values = (
            spread[0] * rng.normal(size=(subjects, 1))
            + spread[1] * rng.normal(size=(1, backgrounds))
            + spread[2] * rng.normal(size=(subjects, backgrounds))
        )
        found = mean_interval(values.ravel(), first, second, draws=250)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert least <= covered / 200 <= most


def test_copies_of_every_value_tell_nothing_new() -> None:
    first, second = grid(6, 5)
    values = np.random.default_rng(2).normal(size=30)
    once = mean_interval(values, first, second)
    thrice = mean_interval(np.tile(values, 3), first * 3, second * 3)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (once.n, thrice.n) == (30, 90)


def test_the_order_of_the_values_does_not_matter_and_the_seed_does() -> None:
    first, second = grid(6, 5)
    values = np.random.default_rng(3).normal(size=30)
    order = np.random.default_rng(4).permutation(30)
    straight = mean_interval(values, first, second, seed=1)
    mixed = mean_interval(values[order], [first[i] for i in order], [second[i] for i in order], seed=1)
    assert mixed.low == pytest.approx(straight.low)
    assert mean_interval(values, first, second, seed=1) == straight
    assert mean_interval(values, first, second, seed=2).low != straight.low


def test_one_cluster_leaves_nothing_to_vary_and_gives_no_interval() -> None:
    found = mean_interval([1.0, 2.0], ["a", "a"], ["x", "x"])
    assert (found.mean, found.low, found.high) == (1.5, None, None)
    assert not found.excludes_zero


def test_no_value_or_a_missing_label_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        mean_interval([], [], [])
    with pytest.raises(ValueError, match="label"):
        mean_interval([1.0], ["a"], [])


def test_ten_wins_of_ten_leave_the_share_above_two_thirds() -> None:
    low, high = exact_interval(10, 10)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)


def test_strengths_are_recovered_from_the_choices_they_predict() -> None:
    """Wins in exact proportion to s_i / (s_i + s_j) have the strengths themselves as their maximum."""
    true = np.array([1.2, 0.3, -0.4, -1.1])
    strength = np.exp(true)
    wins = 100 * strength[:, None] / (strength[:, None] + strength[None])
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(bradley_terry(wins), true, atol=1e-7)


def test_a_star_of_comparisons_has_the_closed_form() -> None:
    """The paper's shape: ours against two baselines that never met; each odds is that comparison's own."""
    wins = np.array([[0.0, 85, 80], [15, 0, 0], [20, 0, 0]])
    found = bradley_terry(wins)
    assert found is not None
    assert found[0] - found[1] == pytest.approx(np.log(85 / 15), abs=1e-6)
    assert found[0] - found[2] == pytest.approx(np.log(80 / 20), abs=1e-6)


@pytest.mark.parametrize(
    "wins",
    [
        [[0.0, 5.0], [0.0, 0.0]],  # lost everything
        [[0, 1, 2, 2], [1, 0, 2, 2], [0, 0, 0, 1], [0, 0, 1, 0]],  # a group lost everything
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],  # two groups never met
    ],
)
def test_where_no_finite_strengths_exist_none_are_invented(wins: list[list[float]]) -> None:
    assert bradley_terry(np.array(wins, dtype=float)) is None


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


def test_a_group_without_its_mean_is_represented_by_its_columns() -> None:
    some = columns_in("stylize", ["subject_dino", "subject_clip_i", "style_mean", "style_csd"])
    assert [c.key for c in primary_columns(some)] == ["subject_dino", "subject_clip_i", "style_mean"]
    assert axes_of("stylize", some) == (some[0], column("stylize", "style_mean"))
    assert axes_of("stylize", some[:1]) is None
