"""Statistics of the grid: intervals cover the truth as often as they promise, and comparisons have known answers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from evaluation_rows import synthetic_rows

from magic_insert.core.errors import UserError
from magic_insert.evaluation import statistics
from magic_insert.evaluation.metrics import column, primary_columns

DINO = column("stylize", "subject_dino")


def grid(subjects: int, backgrounds: int) -> tuple[list[str], list[str]]:
    pairs = [(f"s{s}", f"b{b}") for s in range(subjects) for b in range(backgrounds)]
    return [s for s, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize(
    ("subjects", "backgrounds", "spread", "least", "most"),
    [(5, 4, (0.3, 1.0, 0.3), 0.93, 1.0), (14, 10, (1.0, 1.0, 1.0), 0.91, 0.99)],
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
        found = statistics.mean_interval(values.ravel(), first, second, draws=250)
        covered += (found.low or 0.0) <= 0 <= (found.high or 0.0)
    assert least <= covered / 200 <= most


def test_copies_of_every_value_tell_nothing_new_and_their_order_does_not_matter() -> None:
    first, second = grid(6, 5)
    values = np.random.default_rng(2).normal(size=30)
    once = statistics.mean_interval(values, first, second)
    thrice = statistics.mean_interval(np.tile(values, 3), first * 3, second * 3)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert (once.n, thrice.n) == (30, 90)
    order = np.random.default_rng(4).permutation(30)
    mixed = statistics.mean_interval(values[order], [first[i] for i in order], [second[i] for i in order])
    assert mixed.low == pytest.approx(once.low)
    assert statistics.mean_interval(values, first, second, seed=2).low != once.low


def test_one_cluster_has_no_interval_and_no_value_or_an_unknown_column_is_refused() -> None:
    found = statistics.mean_interval([1.0, 2.0], ["a", "a"], ["x", "x"])
    assert (found, found.excludes_zero) == (statistics.Estimate(1.5, None, None, 2), False)
    for labels in ([], ["a"]):
        with pytest.raises(ValueError, match="label"):
            statistics.mean_interval([], labels, [])
    with pytest.raises(UserError, match="subject_dyno"):
        statistics.present_columns(
            statistics.frame_of([row("x", "s", "b", subject_dyno=0.5)], "stylize"), "stylize"
        )


def test_strengths_are_recovered_from_the_choices_they_predict() -> None:
    """Wins in exact proportion to s_i / (s_i + s_j) have the strengths themselves as their maximum."""
    true = np.array([1.2, 0.3, -0.4, -1.1])
    strength = np.exp(true)
    wins = 100 * strength[:, None] / (strength[:, None] + strength[None])
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(statistics.bradley_terry(wins), true, atol=1e-7)


@pytest.mark.parametrize(
    "wins",
    [
        [[0.0, 5.0], [0.0, 0.0]],  # lost everything
        [[0, 1, 2, 2], [1, 0, 2, 2], [0, 0, 0, 1], [0, 0, 1, 0]],  # a group lost everything
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],  # two groups never met
    ],
)
def test_where_no_finite_strengths_exist_none_are_invented(wins: list[list[float]]) -> None:
    assert statistics.bradley_terry(np.array(wins, dtype=float)) is None


def row(method: str, subject: str, background: str, **values: float) -> dict[str, Any]:
    return {
        "track": "stylize", "method": method, "subject": subject, "background": background,
        "pair_id": f"{subject}__{background}", "style": None, "seed": 0, "values": values,
    }  # fmt: skip


@pytest.fixture
def two() -> pd.DataFrame:
    """`good` beats `bad` by 0.2 in DINO on every shared pair and loses everywhere in LPIPS; one pair is not shared."""
    rows = []
    for s in range(4):
        for b in range(3):
            base = 0.1 * s + 0.05 * b
            rows.append(row("good", f"s{s}", f"b{b}", subject_dino=base + 0.2, truth_lpips=0.6))
            if (s, b) != (3, 2):
                rows.append(row("bad", f"s{s}", f"b{b}", subject_dino=base, truth_lpips=0.5))
    return statistics.frame_of(rows, "stylize")


def compared(
    frame: pd.DataFrame, key: str, one: str, other: str
) -> tuple[statistics.Paired, statistics.Estimate]:
    found = statistics.paired(frame, column("stylize", key), one, other)
    assert found is not None
    assert found.win_rate is not None
    return found, found.win_rate


def test_a_constant_lead_is_exact_and_winning_every_pair_still_only_a_few(two: pd.DataFrame) -> None:
    """11 of 11: the exact lower limit is 0.025 ** (1 / 11)."""
    found, rate = compared(two, "subject_dino", "good", "bad")
    exactly = pytest.approx(0.2)
    assert (found.difference.mean, found.difference.low, found.difference.high) == (exactly,) * 3
    assert (found.difference.n, found.difference.excludes_zero) == (11, True)
    assert (rate.mean, rate.low, rate.high) == (1, pytest.approx(0.025 ** (1 / 11)), 1)
    found, rate = compared(two, "truth_lpips", "good", "bad")  # less is better
    assert (found.difference.mean, rate.mean) == (pytest.approx(0.1), 0)


def test_a_comparison_turned_round_is_its_negative() -> None:
    frame = statistics.frame_of(synthetic_rows(), "stylize")
    for entry in primary_columns(statistics.present_columns(frame, "stylize")):
        one, rate = compared(frame, entry.key, "adain", "personalized")
        other, other_rate = compared(frame, entry.key, "personalized", "adain")
        assert one.difference.mean == pytest.approx(-other.difference.mean)
        assert rate.mean == pytest.approx(1 - other_rate.mean)


def test_pairing_is_narrower_than_the_difference_of_two_means() -> None:
    """Subjects and backgrounds are shared, so their differences cancel."""
    rows = synthetic_rows(tracks=["stylize"], noise=0.0)
    for entry in rows:
        entry["values"] = {"subject_dino": entry["values"]["subject_dino"] + 0.1 * int(entry["subject"][-1])}
    frame = statistics.frame_of(rows, "stylize")
    wide = next(
        s.estimates["subject_dino"] for s in statistics.summaries(frame, [DINO]) if s.method == "adain"
    )
    found, _ = compared(frame, "subject_dino", "adain", "personalized")
    assert found.difference.high == pytest.approx(found.difference.low)
    assert (wide.high or 0) - (wide.low or 0) > 0.1


def test_equal_results_win_half_and_methods_without_a_shared_pair_are_not_compared() -> None:
    rows = [row(m, f"s{s}", f"b{b}", subject_dino=0.5) for m in "xy" for s in range(3) for b in range(3)]
    assert compared(statistics.frame_of(rows, "stylize"), "subject_dino", "x", "y")[1].mean == 0.5
    apart = [row("x", "s0", "b0", subject_dino=0.5), row("y", "s0", "b1", subject_dino=0.5)]
    assert statistics.paired(statistics.frame_of(apart, "stylize"), DINO, "x", "y") is None


def test_floors_stand_first_ceilings_last_and_neither_is_compared() -> None:
    frame = statistics.frame_of(synthetic_rows(tracks=["stylize"])[::-1], "stylize")
    assert [name.partition(":")[0] for name in statistics.methods_of(frame)] == [
        "floor", "floor", "adain", "instantstyle_canny", "personalized", "ceiling", "ceiling"
    ]  # fmt: skip
    found = statistics.paired_table(frame, statistics.present_columns(frame, "stylize"))
    assert {r.method for r in found} == {"instantstyle_canny", "adain"}
    assert {r.reference for r in found} == {"personalized"} == {statistics.reference_method(frame)}
    assert {r.column for r in found} == {"subject_mean", "style_mean", "truth_psnr"}


def test_the_parts_of_a_breakdown_average_to_the_whole(two: pd.DataFrame) -> None:
    frame, mean = (
        statistics.frame_of(synthetic_rows(tracks=["stylize"]), "stylize"),
        column("stylize", "style_mean"),
    )
    whole = {s.method: s.estimates["style_mean"].mean for s in statistics.summaries(frame, [mean])}
    for by, size in (("style", 4), ("subject", 5)):
        parts = statistics.breakdown(frame, [mean], by)["adain"]
        assert len(parts) == size
        assert sum(p["style_mean"].mean for p in parts.values()) / size == pytest.approx(whole["adain"])
    assert list(statistics.breakdown(two, [DINO], "style")["good"]) == ["unknown"], "nobody named a style"
