"""The known failures are named where they are and nowhere else; a metric is trusted as far as it follows the truth."""

from typing import Any

import numpy as np
import pytest
from evaluation_rows import FACTS, draw, synthetic_rows
from scipy import stats

from magic_insert.evaluation import diagnosis
from magic_insert.evaluation.diagnosis import (
    SIGNATURES,
    Finding,
    Trust,
    shares,
    signatures_of,
    weighted_spearman,
)
from magic_insert.evaluation.statistics import frame_of

PAIR = "bunny-01__forest-02"


def rows_with(track: str, method: str, **values: float) -> list[dict[str, Any]]:
    """Rows in which every method does as well as the truth, except `method` on PAIR, which has `values`."""
    rows = synthetic_rows(tracks=[track], noise=0.0)
    best = {r["pair_id"]: r["values"] for r in rows if r["method"] == "ceiling:truth"}
    for row in rows:
        if ":" not in row["method"]:
            row["values"] = dict(best[row["pair_id"]])
            if (row["method"], row["pair_id"]) == (method, PAIR):
                row["values"] |= values
    return rows


def diagnose(rows: list[dict[str, Any]], facts: dict[str, Any] = FACTS) -> list[Finding]:
    track = rows[0]["track"]
    return diagnosis.diagnose(frame_of(rows, track), track, facts)


def trust(rows: list[dict[str, Any]]) -> list[Trust]:
    return diagnosis.trust(frame_of(rows, "stylize"), "stylize", FACTS)


def names(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(finding.method, finding.pair_id, finding.signature) for finding in diagnose(rows)]


@pytest.mark.parametrize(
    ("track", "method", "values", "signature"),
    [
        ("stylize", "adain", {"subject_dino": 0.25}, "identity lost"),
        ("stylize", "adain", {"style_csd": 0.25}, "style mismatch"),
        ("stylize", "adain", {"style_csd": 0.22, "subject_dino": 0.92}, "copied, not redrawn"),
        ("insert", "personalized+diffusion", {"inside_style": 0.31}, "pasted look"),
        ("insert", "personalized+diffusion", {"outside_psnr": 29.0}, "background changed"),
        ("insert", "personalized+diffusion", {"outside_shift": 8 / 255}, "background changed"),
        ("insert", "personalized+diffusion", {"effect_area": 0.0}, "missing shadow"),
        ("insert", "personalized+diffusion", {"truth_shadow_iou": 0.02}, "misplaced shadow"),
    ],
)
def test_a_failure_is_named_by_pair(
    track: str, method: str, values: dict[str, float], signature: str
) -> None:
    if signature == "style mismatch":
        values = {**values, "subject_dino": 0.6}
    assert names(rows_with(track, method, **values)) == [(method, PAIR, signature)]


def test_neither_the_truth_nor_an_encoder_that_cannot_tell_floor_from_ceiling_fails() -> None:
    for track in ("stylize", "insert"):
        rows = rows_with(track, "nobody")
        assert names(rows) == []
        for row in rows:
            row["values"] = {"subject_dino": 0.5, "style_csd": 0.5}
        assert names(rows) == []


def test_identity_in_the_picture_is_judged_against_the_bare_background() -> None:
    rows = rows_with("insert", "personalized+diffusion", inside_identity=0.3)
    assert names(rows) == []  # without a floor there is nothing to judge by
    floor = [{**r, "method": "floor:background"} for r in rows if r["method"] == "floor:copy_paste"]
    for row in floor:
        row["values"] = {"inside_identity": 0.25}
    assert names(rows + floor) == [("personalized+diffusion", PAIR, "identity lost in the picture")]


def test_a_shadow_is_missing_without_a_truth_too_and_not_where_the_truth_has_none() -> None:
    rows = rows_with("insert", "personalized+diffusion", effect_area=0.0001)
    unknown = [r for r in rows if r["method"] != "ceiling:truth"]
    assert names(unknown) == [("personalized+diffusion", PAIR, "missing shadow")]
    for row in rows:
        if row["method"] == "ceiling:truth":
            row["values"]["effect_area"] = 0.0
    assert names([r for r in rows if r["pair_id"] == PAIR]) == []


def test_shares_count_every_result_of_every_method() -> None:
    rows = rows_with("stylize", "adain", subject_dino=0.2)
    found = shares(frame_of(rows, "stylize"), "stylize", diagnose(rows), FACTS)
    assert found["adain", "identity lost"] == (1, 20)
    assert found["personalized", "identity lost"] == (0, 20)
    assert len(found) == 3 * sum(signature.track == "stylize" for signature in SIGNATURES)


def test_encoders_of_another_world_accuse_nobody_and_pixels_still_do() -> None:
    """Micro encoders know the Toybox; on other pictures only what pixels show is a failure."""
    rows = rows_with(
        "insert", "personalized+diffusion", inside_style=0.31, inside_identity=0.1, outside_psnr=29.0
    )
    facts = {"metrics": "micro", "benchmark": {"name": "subjectplop, 12 pairs of 36 x 20"}}
    assert [finding.signature for finding in diagnose(rows, facts)] == ["background changed"]
    told = {signature.name for signature in signatures_of("insert", facts)}
    assert told == {"background changed", "missing shadow", "misplaced shadow"}
    assert len(diagnose(rows, {**facts, "metrics": "paper"})) > 1
    assert signatures_of("stylize", facts) == []


def test_the_weighted_correlation_is_scipys_on_the_written_out_sample() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    found = weighted_spearman(one, other, weights)
    for number, counts in enumerate(weights.astype(int)):
        expected = stats.spearmanr(np.repeat(one, counts), np.repeat(other, counts)).statistic
        assert found[number] == pytest.approx(expected)


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
    good, bad = trust(rows)
    for entry, sign in ((good, 1), (bad, -1)):
        for found in (entry.within, entry.pooled):
            assert found is not None
            assert (found.mean, found.low, found.high) == (pytest.approx(sign),) * 3
    assert good.agreement is not None
    assert bad.agreement is not None
    assert (good.agreement.mean, bad.agreement.mean) == (1, 0)
    assert good.agreement.n == 3 * 48  # three methods make three questions a pair


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
    (found,) = trust(rows)
    assert found.pooled is not None
    assert found.within is not None
    assert found.pooled.mean > 0.8
    assert abs(found.within.mean) < 0.15


def test_floors_and_ceilings_do_not_flatter_a_metric() -> None:
    rows = with_values(lambda method, pair, truth: {"subject_dino": draw("luck", method, pair)})
    methods = [row for row in rows if ":" not in row["method"]]
    assert trust(rows) == trust(methods)
