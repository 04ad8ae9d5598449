"""Filters and the selection: laws of thresholds, known verdicts, what is told when nothing passes."""

import random
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from magic_insert.bootstrap import filters
from magic_insert.bootstrap.filters import (
    MEASURES,
    Learned,
    acceptance,
    ask_for_cycle,
    bias_report,
    build_filters,
    learn_quality,
    left_out,
    ranking,
    rejected_by,
    rule_settings,
    select,
    truth_report,
)
from magic_insert.config.compose import compose_job
from magic_insert.config.registry import FILTERS
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_json

STYLES = ("ink", "oil", "cartoon")


def some_values(count: int = 60, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Removals with random measurements whose true PSNR falls with the residue."""
    rng = random.Random(seed)
    rows = {}
    for i in range(count):
        measures = {name: rng.uniform(0, 0.4) for name in MEASURES}
        rows[f"r{i:02d}"] = {
            "measures": measures,
            "facts": {"size": rng.uniform(0.05, 0.2), "contrast": rng.uniform(0, 0.5)},
            "truth": {"psnr": 25 - 30 * measures["residue"], "shadow_iou": 0.5},
        }
    return rows


VALUES = some_values()
STYLE_OF = {name: STYLES[i % 3] for i, name in enumerate(VALUES)}


def rules_of(name: str) -> dict[str, Any]:
    """One filter with its own bounds, or all of `filter=default`."""
    if name in FILTERS.own:
        return {name: {}}
    return dict(compose_job("bootstrap", [f"filter={name}"]).filter.rules)


def kept(threshold: float, most: int | None = None) -> set[str]:
    rules = build_filters({"residue": rules_of("residue")["residue"], "seam": rules_of("seam")["seam"]})
    chosen = select(VALUES, STYLE_OF, rules, threshold=threshold, keep_at_most_per_style=most)
    return set(chosen.accepted)


def test_a_looser_threshold_never_keeps_less() -> None:
    sets = [kept(threshold) for threshold in (0.0, 0.05, 0.1, 0.2, 0.3)]
    assert all(tighter <= looser for looser, tighter in pairwise(sets))
    assert sets[0] == set(VALUES)
    assert len(sets[-1]) < len(VALUES)


def test_one_more_filter_never_keeps_more() -> None:
    one = build_filters(rules_of("residue"))
    two = build_filters(rules_of("residue") | rules_of("cycle"))
    chosen = [
        set(select(VALUES, STYLE_OF, rules, threshold=0.5, keep_at_most_per_style=None).accepted)
        for rules in (one, two)
    ]
    assert chosen[1] < chosen[0]


def test_at_most_so_many_per_style_keeps_the_best_of_each() -> None:
    rules = build_filters(rules_of("residue"))
    chosen = select(VALUES, STYLE_OF, rules, threshold=0.2, keep_at_most_per_style=2)
    score = {item.id: item.score for item in chosen.judged}
    for style in STYLES:
        mine = [name for name in VALUES if STYLE_OF[name] == style]
        best = sorted(mine, key=lambda name: -score[name])[:2]
        assert set(best) == {name for name in chosen.accepted if STYLE_OF[name] == style}
    assert rejected_by(chosen)["keep_at_most_per_style"] > 0


def test_every_removal_is_accepted_or_refused_by_a_named_filter() -> None:
    rules = build_filters(rules_of("default"))
    chosen = select(VALUES, STYLE_OF, rules, threshold=0.1, keep_at_most_per_style=None)
    assert set(chosen.accepted) | set(chosen.rejected) == set(VALUES)
    assert not set(chosen.accepted) & set(chosen.rejected)
    assert set(chosen.rejected.values()) <= set(rules)
    assert sum(rejected_by(chosen).values()) == len(chosen.rejected)


def test_an_empty_selection_names_the_threshold_and_the_best_score_seen() -> None:
    rules = build_filters({"residue": rules_of("residue")["residue"] | {"good": 0.1, "bad": 0.7}})
    worst = {"a": {"measures": {"residue": 0.4}}, "b": {"measures": {"residue": 0.6}}}
    with pytest.raises(UserError) as told:
        select(worst, {"a": "ink", "b": "ink"}, rules, threshold=0.9, keep_at_most_per_style=None)
    assert "filter.threshold=0.9" in str(told.value)
    assert "best score of 0.500 (a, residue)" in str(told.value)
    assert "set filter.threshold=0.5 or lower" in str(told.value)


def test_acceptance_is_counted_per_style() -> None:
    rules = build_filters(rules_of("residue"))
    values = {name: {"measures": {"residue": r}} for name, r in (("a", 0.0), ("b", 0.7), ("c", 0.0))}
    chosen = select(
        values, {"a": "ink", "b": "ink", "c": "oil"}, rules, threshold=0.5, keep_at_most_per_style=None
    )
    assert acceptance(chosen) == {"ink": 0.5, "oil": 1.0}


def test_precision_and_recall_are_those_counted_by_hand() -> None:
    rules = build_filters(rules_of("residue"))
    chosen = select(VALUES, STYLE_OF, rules, threshold=0.7, keep_at_most_per_style=None)
    good = {name for name, row in VALUES.items() if row["truth"]["psnr"] >= 20}
    both = good & set(chosen.accepted)
    report = truth_report(chosen, VALUES, 20.0)
    assert report is not None
    assert report["precision"] == pytest.approx(len(both) / len(chosen.accepted), abs=1e-4)
    assert report["recall"] == pytest.approx(len(both) / len(good), abs=1e-4)
    assert report["base_rate"] == pytest.approx(len(good) / len(VALUES), abs=1e-4)
    # The residue decides the truth of these rows, so the filter must beat the base rate.
    assert len(both) / len(chosen.accepted) > len(good) / len(VALUES)


def test_without_truth_there_is_no_precision() -> None:
    rules = build_filters(rules_of("residue"))
    rows = {name: {**row, "truth": None} for name, row in VALUES.items()}
    chosen = select(rows, STYLE_OF, rules, threshold=0.5, keep_at_most_per_style=None)
    assert truth_report(chosen, rows, 20.0) is None


def test_a_filter_that_keeps_the_small_is_shown_to_be_biased() -> None:
    rules = build_filters(rules_of("residue"))
    small = {"measures": {"residue": 0.0}, "facts": {"size": 0.1, "contrast": 0.2}}
    large = {"measures": {"residue": 0.7}, "facts": {"size": 0.3, "contrast": 0.4}}
    rows = {"a": small, "b": large}
    chosen = select(rows, {"a": "ink", "b": "oil"}, rules, threshold=0.5, keep_at_most_per_style=None)
    report = bias_report(chosen, rows)
    assert report["size"] == {"accepted": 0.1, "all": 0.2}
    assert report["contrast"] == {"accepted": 0.2, "all": pytest.approx(0.3)}
    assert report["style"]["ink"] == {"accepted": 1.0, "all": 0.5}


@pytest.mark.parametrize("name", ["residue", "drift", "seam", "hallucination", "cycle"])
def test_a_filter_of_a_flaw_never_likes_more_of_it(name: str) -> None:
    judge = build_filters(rules_of(name))[name]
    scores = [judge.score("x", {name: value / 100}) for value in range(101)]
    assert scores[0] == 1.0
    assert scores[-1] == 0.0
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("name", "low", "high"), [("effect_area", 0.001, 0.9), ("mask_area", 0.001, 0.6)])
def test_a_filter_of_an_area_refuses_too_little_and_too_much(name: str, low: float, high: float) -> None:
    judge = build_filters(rules_of(name))[name]
    assert [judge.score("x", {name: value}) for value in (low, 0.1, high)] == [0.0, 1.0, 0.0]


def test_a_subject_over_a_fifth_of_the_lower_edge_is_refused_as_objectdrop_has_it() -> None:
    judge = build_filters(rules_of("border"))["border"]
    assert [judge.score("x", {"border": share}) for share in (0.0, 0.2, 0.21)] == [1.0, 1.0, 0.0]


def test_bounds_in_the_wrong_order_are_refused_by_their_key() -> None:
    node = {"good": 0.5, "bad": 0.1}
    with pytest.raises(UserError, match=r"filter\.rules\.residue"):
        build_filters({"residue": node})


def test_a_mistyped_bound_is_refused_by_its_rule() -> None:
    node = {"good": 0.1, "bed": 0.5}
    with pytest.raises(UserError, match=r"filter\.rules\.residue"):
        build_filters({"residue": node})


def test_an_unknown_filter_is_refused_with_the_known_names() -> None:
    with pytest.raises(UserError, match="residue, drift"):
        build_filters({"charm": {}})


def test_people_decide_alone_and_silence_is_no(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    write_json(path, {"verdicts": {"r00": "accept", "r01": "reject"}})
    node = rules_of("people")["people"] | {"verdicts": str(path)}
    chosen = select(
        VALUES, STYLE_OF, build_filters({"people": node}), threshold=0.5, keep_at_most_per_style=None
    )
    assert chosen.accepted == ("r00",)


def test_another_verdict_in_the_same_file_is_another_selection(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    rules = {"people": rules_of("people")["people"] | {"verdicts": str(path)}}
    write_json(path, {"verdicts": {"r00": "accept"}})
    first, judged = rule_settings(build_filters(rules)), build_filters(rules)["people"].score("r00", {})
    write_json(path, {"verdicts": {"r00": "reject"}})
    assert rule_settings(build_filters(rules)) != first
    assert (judged, build_filters(rules)["people"].score("r00", {})) == (1.0, 0.0)


def test_something_else_than_verdicts_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"verdicts": {"r00": "maybe"}})
    with pytest.raises(UserError, match="'accept' or 'reject'"):
        filters.read_verdicts(tmp_path / "file.json")


def test_the_learned_judge_ranks_removals_it_was_not_taught() -> None:
    verdicts = {name: row["measures"]["residue"] < 0.15 for name, row in VALUES.items()}
    order = ranking(left_out(VALUES, verdicts), verdicts)
    assert order is not None
    assert order > 0.9


def test_the_learned_judge_learns_nothing_from_verdicts_by_chance() -> None:
    rng = random.Random(1)
    values = some_values(120)
    verdicts = {name: rng.random() < 0.5 for name in values}
    order = ranking(left_out(values, verdicts), verdicts)
    assert order is not None
    assert 0.3 < order < 0.7


def test_what_was_taught_is_what_the_filter_says(tmp_path: Path) -> None:
    verdicts = {name: row["measures"]["residue"] < 0.15 for name, row in VALUES.items()}
    write_json(tmp_path / "quality.json", asdict(learn_quality(VALUES, verdicts)))
    node = rules_of("learned")["learned"] | {"weights": str(tmp_path / "quality.json")}
    judge = build_filters({"learned": node})["learned"]
    scores = {name: judge.score(name, row["measures"]) for name, row in VALUES.items()}
    assert all(0 < score < 1 for score in scores.values())
    assert ranking(scores, verdicts) == pytest.approx(1.0, abs=0.02)


def test_too_few_verdicts_teach_nothing() -> None:
    with pytest.raises(UserError, match="judge more of them"):
        learn_quality(VALUES, {"r00": True, "r01": False})


def test_only_the_cycle_and_a_judge_that_knows_it_have_the_subjects_put_back(tmp_path: Path) -> None:
    asking = {}
    for name, measured in (("knows", MEASURES), ("does-not", MEASURES[:-1])):
        rows = {key: {"measures": {m: row["measures"][m] for m in measured}} for key, row in VALUES.items()}
        verdicts = {key: row["truth"]["psnr"] >= 20 for key, row in VALUES.items()}
        write_json(tmp_path / f"{name}.json", asdict(learn_quality(rows, verdicts)))
        asking[name] = ask_for_cycle([Learned(str(tmp_path / f"{name}.json"))])
    assert asking == {"knows": True, "does-not": False}
    assert ask_for_cycle(build_filters(rules_of("cycle") | rules_of("default")).values())
    assert not ask_for_cycle(build_filters(rules_of("default")).values())


def test_a_judge_from_another_file_is_refused(tmp_path: Path) -> None:
    verdicts = {key: row["truth"]["psnr"] >= 20 for key, row in VALUES.items()}
    sound = asdict(learn_quality(VALUES, verdicts))
    flawed: list[Any] = [
        {"verdicts": {}},
        ["residue"],
        sound | {"weight": [1.0]},
        sound | {"spread": dict.fromkeys(sound["spread"], 0.0)},
        sound | {"mean": {}},
        {name: table | {"charm": 1.0} if name != "bias" else table for name, table in sound.items()},
    ]
    for number, content in enumerate(flawed):
        write_json(tmp_path / f"{number}.json", content)
        with pytest.raises(UserError, match=r"set filter\.rules\.learned\.weights"):
            build_filters({"learned": {"weights": str(tmp_path / f"{number}.json")}})


def test_verdicts_of_another_kind_are_refused(tmp_path: Path) -> None:
    for number, content in enumerate(({"verdicts": {"a": ["accept"]}}, {"verdicts": {"a": 1}}, ["accept"])):
        write_json(tmp_path / f"{number}.json", content)
        with pytest.raises(UserError, match=r"Verdicts in .*json"):
            filters.read_verdicts(tmp_path / f"{number}.json")


def test_the_hint_of_an_empty_selection_names_a_threshold_that_keeps_something() -> None:
    rules = build_filters(rules_of("residue"))
    for residue in (0.9, 0.3, 0.41):
        worst = {"a": {"measures": {"residue": residue}}}
        with pytest.raises(UserError) as told:
            select(worst, {"a": "ink"}, rules, threshold=1.0, keep_at_most_per_style=None)
        hint = float(str(told.value).rpartition("filter.threshold=")[2].split()[0])
        kept = select(worst, {"a": "ink"}, rules, threshold=hint, keep_at_most_per_style=None)
        assert kept.accepted == ("a",)
