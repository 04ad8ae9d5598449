"""Which metric deserves trust: known answers."""

from typing import Any

import numpy as np
import pytest
from evaluation_rows import draw, synthetic_rows
from scipy import stats

from magic_insert.evaluation.columns import column
from magic_insert.evaluation.metric_trust import trust, trust_of, weighted_spearman


def test_the_weighted_correlation_is_scipys_on_the_written_out_sample() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    found = weighted_spearman(one, other, weights)
    for number, counts in enumerate(weights.astype(int)):
        expected = stats.spearmanr(np.repeat(one, counts), np.repeat(other, counts)).statistic
        assert found[number] == pytest.approx(expected)


def test_a_sample_that_does_not_vary_has_no_correlation() -> None:
    assert np.isnan(weighted_spearman(np.ones(5), np.arange(5.0), np.ones((1, 5))))[0]


def with_values(values: Any) -> list[dict[str, Any]]:
    """Rows of 8 x 6 pairs whose values are `values(method, pair, truth)`."""
    rows = synthetic_rows(tracks=["stylize"], num_subjects=8, num_backgrounds=6)
    for row in rows:
        truth = draw("truth", row["method"], row["pair_id"])
        row["values"] = {"truth_lpips": -truth, **values(row["method"], row["pair_id"], truth)}
    return rows


def test_a_metric_that_follows_the_truth_gets_one_and_its_opposite_minus_one() -> None:
    """LPIPS falls where the truth is good, so a rising metric agrees."""
    rows = with_values(lambda method, pair, truth: {"subject_dino": truth**3, "style_csd": -truth})
    good, bad = trust(rows, "stylize")
    for entry, sign in ((good, 1), (bad, -1)):
        for found in (entry.within, entry.pooled):
            assert found is not None
            assert (found.mean, found.low, found.high) == (pytest.approx(sign),) * 3
    assert good.agreement is not None
    assert bad.agreement is not None
    assert (good.agreement.mean, bad.agreement.mean) == (1, 0)
    assert good.agreement.n == 3 * 48  # three methods make three questions a pair


def test_a_metric_of_pure_chance_gets_nothing() -> None:
    rows = with_values(lambda method, pair, truth: {"subject_dino": draw("luck", method, pair)})
    (found,) = trust(rows, "stylize")
    for estimate, nothing in ((found.within, 0.0), (found.pooled, 0.0), (found.agreement, 0.5)):
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < nothing < estimate.high
        assert abs(estimate.mean - nothing) < 0.15


def test_a_metric_that_only_knows_the_method_is_found_out() -> None:
    """It looks good over all results, and says nothing about the results of one method."""
    levels = {"personalized": 0.0, "adain": 1.0, "instantstyle_canny": 2.0}
    rows = with_values(lambda method, pair, truth: {})
    for row in rows:
        level = levels.get(row["method"], 9.0)
        row["values"] = {
            "truth_psnr": 10 * level + draw("truth", row["method"], row["pair_id"]),
            "subject_dino": level + 0.1 * draw("luck", row["method"], row["pair_id"]),
        }
    (found,) = trust(rows, "stylize")
    assert found.pooled is not None
    assert found.within is not None
    assert found.pooled.mean > 0.8
    assert abs(found.within.mean) < 0.15


def test_floors_and_ceilings_do_not_flatter_a_metric() -> None:
    rows = with_values(lambda method, pair, truth: {"subject_dino": draw("luck", method, pair)})
    methods = [row for row in rows if ":" not in row["method"]]
    assert trust(rows, "stylize") == trust(methods, "stylize")


def test_a_metric_that_never_changes_is_left_out_and_three_results_are_needed() -> None:
    rows = with_values(lambda method, pair, truth: {"subject_dino": 0.5})
    assert trust(rows, "stylize") == []
    few = [r for r in with_values(lambda m, p, t: {"subject_dino": t}) if r["method"] == "adain"][:2]
    found = trust_of(few, column("stylize", "subject_dino"), column("stylize", "truth_lpips"))
    assert (found.within, found.pooled, found.agreement) == (None, None, None)
