"""Filters and the selection: laws of thresholds, known verdicts, what is told when nothing passes."""

import random
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from magic_insert.bootstrap.filters import (
    MEASURES,
    Learned,
    Selection,
    acceptance,
    ask_for_cycle,
    bias_report,
    build_filters,
    rejected_by,
    rule_settings,
    select,
    truth_report,
)
from magic_insert.bootstrap.review import learn_quality, left_out, ranking
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


def chosen_by(rules: dict[str, Any], threshold: float, most: int | None = None) -> Selection:
    return select(VALUES, STYLE_OF, build_filters(rules), threshold=threshold, keep_at_most_per_style=most)


def test_a_looser_threshold_never_keeps_less_and_one_more_filter_never_more() -> None:
    both = rules_of("residue") | rules_of("seam")
    sets = [set(chosen_by(both, threshold).accepted) for threshold in (0.0, 0.05, 0.1, 0.2, 0.3)]
    assert all(tighter <= looser for looser, tighter in pairwise(sets))
    assert sets[0] == set(VALUES)
    assert len(sets[-1]) < len(VALUES)
    assert sets[-1] <= set(chosen_by(rules_of("residue"), 0.3).accepted)


@pytest.mark.parametrize("residue", [0.9, 0.3, 0.41])
def test_an_empty_selection_names_the_best_score_and_a_threshold_that_keeps_it(residue: float) -> None:
    rules = build_filters({"residue": {"good": 0.05, "bad": 1.0}})
    rows = {"a": {"measures": {"residue": residue}}, "b": {"measures": {"residue": 0.95}}}
    judge = partial(select, rows, {"a": "ink", "b": "ink"}, rules, keep_at_most_per_style=None)
    expected = r"filter\.threshold=1, got a best score of .* \(a, residue\)"
    with pytest.raises(UserError, match=expected) as told:
        judge(threshold=1.0)
    hint = float(str(told.value).rpartition("filter.threshold=")[2].split()[0])
    assert judge(threshold=hint).accepted == ("a",)


def test_at_most_so_many_per_style_keeps_the_best_of_each() -> None:
    chosen = chosen_by(rules_of("residue"), 0.2, most=2)
    score = {item.id: item.score for item in chosen.judged}
    for style in STYLES:
        mine = [name for name in VALUES if STYLE_OF[name] == style]
        best = sorted(mine, key=lambda name: -score[name])[:2]
        assert set(best) == {name for name in chosen.accepted if STYLE_OF[name] == style}
    assert rejected_by(chosen)["keep_at_most_per_style"] > 0


def test_every_removal_is_accepted_or_refused_by_a_named_filter() -> None:
    rules = rules_of("default")
    chosen = chosen_by(rules, 0.1)
    assert set(chosen.accepted) | set(chosen.rejected) == set(VALUES)
    assert not set(chosen.accepted) & set(chosen.rejected)
    assert set(chosen.rejected.values()) <= set(rules)
    assert sum(rejected_by(chosen).values()) == len(chosen.rejected)


def test_precision_and_recall_are_those_counted_by_hand() -> None:
    chosen = chosen_by(rules_of("residue"), 0.7)
    good = {name for name, row in VALUES.items() if row["truth"]["psnr"] >= 20}
    both = good & set(chosen.accepted)
    report = truth_report(chosen, VALUES, 20.0)
    assert report is not None
    assert report["precision"] == pytest.approx(len(both) / len(chosen.accepted), abs=1e-4)
    assert report["recall"] == pytest.approx(len(both) / len(good), abs=1e-4)
    assert report["base_rate"] == pytest.approx(len(good) / len(VALUES), abs=1e-4)
    # The residue decides the truth of these rows, so the filter must beat the base rate.
    assert len(both) / len(chosen.accepted) > len(good) / len(VALUES)
    assert truth_report(chosen, {name: {**row, "truth": None} for name, row in VALUES.items()}, 20.0) is None


def test_a_filter_that_keeps_the_small_is_shown_to_be_biased() -> None:
    rules = build_filters(rules_of("residue"))
    small = {"measures": {"residue": 0.0}, "facts": {"size": 0.1, "contrast": 0.2}}
    large = {"measures": {"residue": 0.7}, "facts": {"size": 0.3, "contrast": 0.4}}
    rows = {"a": small, "b": large}
    chosen = select(rows, {"a": "ink", "b": "oil"}, rules, threshold=0.5, keep_at_most_per_style=None)
    assert acceptance(chosen) == {"ink": 1.0, "oil": 0.0}
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


@pytest.mark.parametrize(
    ("name", "values", "scores"),
    [
        ("effect_area", (0.001, 0.1, 0.9), [0.0, 1.0, 0.0]),
        ("mask_area", (0.001, 0.1, 0.6), [0.0, 1.0, 0.0]),
        ("border", (0.0, 0.2, 0.21), [1.0, 1.0, 0.0]),  # as ObjectDrop has it
    ],
)
def test_a_filter_of_an_area_has_bounds(name: str, values: tuple[float, ...], scores: list[float]) -> None:
    judge = build_filters(rules_of(name))[name]
    assert [judge.score("x", {name: value}) for value in values] == scores


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"residue": {"good": 0.5, "bad": 0.1}}, r"filter\.rules\.residue"),
        ({"residue": {"good": 0.1, "bed": 0.5}}, r"filter\.rules\.residue"),
        ({"charm": {}}, "residue, drift"),
    ],
)
def test_rules_that_cannot_be_applied_are_refused_by_name(rules: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build_filters(rules)


def test_people_decide_alone_and_another_verdict_in_their_file_is_another_selection(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    rules = {"people": rules_of("people")["people"] | {"verdicts": str(path)}}
    write_json(path, {"verdicts": {"r00": "accept", "r01": "reject"}})
    before = rule_settings(build_filters(rules))
    assert chosen_by(rules, 0.5).accepted == ("r00",)
    write_json(path, {"verdicts": {"r00": "reject"}})
    assert rule_settings(build_filters(rules)) != before
    assert build_filters(rules)["people"].score("r00", {}) == 0.0


def test_a_learned_judge_gives_probabilities_in_the_order_of_the_verdicts(tmp_path: Path) -> None:
    verdicts = {name: row["measures"]["residue"] < 0.15 for name, row in VALUES.items()}
    write_json(tmp_path / "quality.json", asdict(learn_quality(VALUES, verdicts)))
    judge = build_filters({"learned": {"weights": str(tmp_path / "quality.json")}})["learned"]
    scores = {name: judge.score(name, row["measures"]) for name, row in VALUES.items()}
    assert all(0 < score < 1 for score in scores.values())
    assert ranking(scores, verdicts) == pytest.approx(1.0, abs=0.02)
    rng = random.Random(1)
    chance = {name: rng.random() < 0.5 for name in some_values(120)}
    assert 0.3 < (ranking(left_out(some_values(120), chance), chance) or 0.0) < 0.7


def test_files_that_no_review_wrote_and_too_few_verdicts_are_refused(tmp_path: Path) -> None:
    verdicts = {key: row["truth"]["psnr"] >= 20 for key, row in VALUES.items()}
    sound = asdict(learn_quality(VALUES, verdicts))
    term = sound["terms"]["residue"]
    judges: list[Any] = [
        {"verdicts": {}},
        ["residue"],
        sound | {"terms": {"residue": term | {"spread": 0.0}}},
        sound | {"terms": {"charm": term}},
    ]
    people: list[Any] = [{"verdicts": {"a": ["accept"]}}, {"verdicts": {"a": "maybe"}}, ["accept"]]
    for rule, key, contents in (("learned", "weights", judges), ("people", "verdicts", people)):
        for number, content in enumerate(contents):
            write_json(tmp_path / f"{rule}-{number}.json", content)
            with pytest.raises(UserError, match=rf"set filter\.rules\.{rule}\.{key}"):
                build_filters({rule: {key: str(tmp_path / f"{rule}-{number}.json")}})
    with pytest.raises(UserError, match="judge more of them"):
        learn_quality(VALUES, {"r00": True, "r01": False})
