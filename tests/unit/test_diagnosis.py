"""The known failures are named where they are, and nowhere else."""

from typing import Any

import pytest
from evaluation_rows import synthetic_rows

from magic_insert.evaluation.diagnosis import SIGNATURES, diagnose, shares

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


def names(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(finding.method, finding.pair_id, finding.signature) for finding in diagnose(rows)]


@pytest.mark.parametrize(
    ("track", "method", "values", "signature"),
    [
        ("stylize", "adain", {"subject_dino": 0.25}, "identity lost"),
        ("stylize", "adain", {"style_csd": 0.25}, "style mismatch"),
        ("stylize", "adain", {"style_csd": 0.22, "subject_dino": 0.92}, "copied, not redrawn"),
        ("insert", "personalized+real_only", {"inside_style": 0.31}, "pasted look"),
        ("insert", "personalized+real_only", {"outside_psnr": 29.0}, "background changed"),
        ("insert", "personalized+real_only", {"outside_shift": 8 / 255}, "background changed"),
        ("insert", "personalized+real_only", {"effect_area": 0.0}, "missing shadow"),
        ("insert", "personalized+real_only", {"truth_shadow_iou": 0.02}, "misplaced shadow"),
    ],
)
def test_a_failure_is_named_on_its_pair_and_only_there(
    track: str, method: str, values: dict[str, float], signature: str
) -> None:
    if signature == "style mismatch":
        values = {**values, "subject_dino": 0.6}
    assert names(rows_with(track, method, **values)) == [(method, PAIR, signature)]


def test_methods_as_good_as_the_truth_are_not_accused() -> None:
    assert names(rows_with("stylize", "nobody")) == []
    assert names(rows_with("insert", "nobody")) == []


def test_identity_in_the_picture_is_judged_against_the_bare_background() -> None:
    rows = rows_with("insert", "personalized+real_only", inside_identity=0.3)
    assert names(rows) == []  # without a floor there is nothing to judge by
    floor = [{**r, "method": "floor:background"} for r in rows if r["method"] == "floor:copy_paste"]
    for row in floor:
        row["values"] = {"inside_identity": 0.25}
    assert names(rows + floor) == [("personalized+real_only", PAIR, "identity lost in the picture")]


def test_a_finding_carries_the_number_its_frame_and_what_to_turn() -> None:
    (found,) = diagnose(rows_with("stylize", "adain", subject_dino=0.2))
    assert found.severity == 1
    assert "DINO 0.200" in found.evidence
    assert "0.200 (floor) to 0.850 (ceiling)" in found.evidence
    assert "personalization.steps" in found.turn


def test_the_worse_failure_stands_first() -> None:
    rows = rows_with("stylize", "adain", subject_dino=0.3)
    for row in rows:
        if (row["method"], row["pair_id"]) == ("adain", "bunny-00__forest-00"):
            row["values"]["subject_dino"] = 0.21
    first, second = diagnose(rows)
    assert (first.pair_id, second.pair_id) == ("bunny-00__forest-00", PAIR)
    assert first.severity > second.severity


def test_an_encoder_that_cannot_tell_floor_from_ceiling_accuses_nobody() -> None:
    rows = rows_with("stylize", "nobody")
    for row in rows:
        row["values"] = {"subject_dino": 0.5, "style_csd": 0.5}
    assert names(rows) == []


def test_without_the_truth_a_result_is_judged_against_the_reference_itself() -> None:
    rows = [r for r in rows_with("stylize", "adain", subject_dino=0.25) if r["method"] != "ceiling:truth"]
    assert ("adain", PAIR, "identity lost") in names(rows)


def test_a_scene_without_any_shadow_asks_for_none() -> None:
    rows = rows_with("insert", "personalized+real_only", effect_area=0.0)
    for row in rows:
        if row["method"] == "ceiling:truth":
            row["values"]["effect_area"] = 0.0
    assert names([r for r in rows if r["pair_id"] == PAIR]) == []


def test_without_a_truth_a_picture_that_nothing_changed_beside_the_subject_lacks_its_shadow() -> None:
    rows = rows_with("insert", "personalized+real_only", effect_area=0.0001)
    rows = [r for r in rows if r["method"] != "ceiling:truth"]
    assert names(rows) == [("personalized+real_only", PAIR, "missing shadow")]


def test_shares_count_every_result_of_every_method() -> None:
    rows = rows_with("stylize", "adain", subject_dino=0.2)
    found = shares(rows, diagnose(rows))
    assert found["stylize", "adain", "identity lost"] == (1, 20)
    assert found["stylize", "personalized", "identity lost"] == (0, 20)
    assert len(found) == 3 * sum(signature.track == "stylize" for signature in SIGNATURES)
