"""What the raters said: shares with exact intervals, the same with clustered ones, and Bradley-Terry strengths.

The exact (Clopper-Pearson) interval treats all choices as independent, as the paper does. They are not: a rater gives
many, and a pair is shown to many; so beside it stands the interval clustered by rater and pair
(`evaluation.intervals`). Whoever fails more attention checks than the protocol allows is left out of everything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from magic_insert.config.schema.jobs import StudyConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_record, write_json, write_text
from magic_insert.evaluation.statistics import bradley_terry, cluster_draws, exact_interval, mean_interval
from magic_insert.evaluation.study import SCRAMBLED, Choice, Key, read_answers
from magic_insert.evaluation.tables import printed_results

BT_DRAWS = 300
ENOUGH_DRAWS = 0.95


@dataclass(frozen=True)
class Vote:
    """One counted choice between two methods."""

    rater: int
    pair_id: str
    winner: str
    loser: str
    left: bool


def run_analyse(cfg: StudyConfig) -> Path:
    """Analyses the answers of the study in `cfg.out`; writes analysis.json and analysis.md there, returns the latter.

    Raises:
        UserError: no answers, or answers to another study.
    """
    out = Path(cfg.out)
    key = read_record(out / "key.json", Key)
    collected = out / "answers.jsonl"
    paths = [*([collected] if collected.is_file() else []), *map(Path, cfg.answers)]
    if not paths:
        raise UserError(
            f"expected answers in {out}, got none; collect some with action=serve or set answers=[PATH]"
        )
    result = analyse(key, read_answers(paths, key.study, [len(form) for form in key.forms]), seed=cfg.seed)
    write_json(out / "analysis.json", result)
    write_text(out / "analysis.md", report(result))
    print(report(result), end="")
    return out / "analysis.md"


def analyse(key: Key, answers: Mapping[tuple[int, int], Choice], *, seed: int = 0) -> dict[str, Any]:
    """Everything as one JSON-able record.

    Raises:
        UserError: no choice is left after the attention checks.
    """
    failed: Counter[int] = Counter()
    votes = []
    for (rater, number), answer in sorted(answers.items()):
        task, left = key.forms[rater][number], answer.choice == "left"
        winner, loser = (task.left, task.right) if left else (task.right, task.left)
        votes += [] if task.is_check else [Vote(rater, task.pair_id, winner, loser, left)]
        failed[rater] += task.is_check and winner == SCRAMBLED
    raters = sorted(failed)
    excluded = [rater for rater in raters if failed[rater] > key.protocol.max_failed]
    votes = [vote for vote in votes if vote.rater not in excluded]
    if not votes:
        raise UserError(
            f"expected a choice by an attentive rater, got none of {len(raters)} raters; collect more answers"
        )
    times = sorted(answer.milliseconds for answer in answers.values())
    return {
        "study": key.study,
        "ours": key.ours,
        "raters": len(raters),
        "complete": sum(all((r, t) in answers for t in range(len(key.forms[r]))) for r in raters),
        "excluded": excluded,
        "choices": len(votes),
        "median_milliseconds": times[len(times) // 2],
        "left": _share(sum(vote.left for vote in votes), len(votes)),
        "comparisons": [
            comparison(votes, key.ours, baseline, seed=seed) for baseline in _baselines(votes, key.ours)
        ],
        "bradley_terry": strengths(votes, seed=seed),
    }


def _baselines(votes: Sequence[Vote], ours: str) -> list[str]:
    return sorted({name for vote in votes for name in (vote.winner, vote.loser)} - {ours})


def _share(wins: int, num: int) -> dict[str, Any]:
    low, high = exact_interval(wins, num)
    return {
        "wins": wins,
        "choices": num,
        "share": wins / num,
        "exact": [low, high],
        "p": float(binomtest(wins, num).pvalue),
    }


def comparison(votes: Sequence[Vote], ours: str, baseline: str, *, seed: int = 0) -> dict[str, Any]:
    """How often `ours` was preferred to `baseline`."""
    mine = [vote for vote in votes if {vote.winner, vote.loser} == {ours, baseline}]
    won = [float(vote.winner == ours) for vote in mine]
    clustered = mean_interval(won, [str(v.rater) for v in mine], [v.pair_id for v in mine], seed=seed)
    clustered = clustered.no_narrower_than_exact(len(won))
    return {
        "against": baseline,
        **_share(int(sum(won)), len(won)),
        "clustered": None if clustered.low is None else [clustered.low, clustered.high],
        "raters": len({vote.rater for vote in mine}),
    }


def strengths(votes: Sequence[Vote], *, seed: int = 0) -> dict[str, Any]:
    """Bradley-Terry log-strengths (mean zero), 95 % intervals from drawing raters; None where nothing is finite."""
    names = sorted({name for vote in votes for name in (vote.winner, vote.loser)})
    raters = sorted({vote.rater for vote in votes})
    wins = np.zeros((len(raters), len(names), len(names)))
    for vote in votes:
        wins[raters.index(vote.rater), names.index(vote.winner), names.index(vote.loser)] += 1
    fitted = bradley_terry(wins.sum(0))
    if fitted is None:
        return {"log_strength": None, "reason": "a method, or a group of them, won or lost every choice"}
    draws = cluster_draws("rater", tuple(map(str, raters)), seed, BT_DRAWS)
    found = [bradley_terry(np.tensordot(weights, wins, 1)) for weights in draws] if len(raters) > 1 else []
    finite = np.array([log_strength for log_strength in found if log_strength is not None])
    limits: dict[str, list[float]] | None = None
    if len(finite) >= ENOUGH_DRAWS * BT_DRAWS:
        low, high = np.quantile(finite, [0.025, 0.975], axis=0)
        limits = {name: [float(low[i]), float(high[i])] for i, name in enumerate(names)}
    return {
        "log_strength": {name: float(fitted[i]) for i, name in enumerate(names)},
        "interval": limits,
    }


def report(result: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    ours, left = result["ours"], result["left"]
    lines = [
        f"# Preference study {result['study']}",
        "",
        f"Raters: {result['raters']}, {result['complete']} complete, {len(result['excluded'])} left out for failed "
        f"attention checks. Choices: {result['choices']}, median {result['median_milliseconds'] / 1000:.1f} s. "
        f"The left picture was chosen in {left['share']:.1%} (exact 95 % interval {_percent(left['exact'])}).",
        "",
        f"| {ours} against | preferred | choices | exact 95 % | clustered 95 % | p (one half) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {c['against']} | {c['share']:.1%} | {c['choices']} | {_percent(c['exact'])} | "
        f"{_percent(c['clustered'])} | {c['p']:.2g} |"
        for c in result["comparisons"]
    ]
    lines += [
        "",
        "Exact: Clopper-Pearson, all choices independent. Clustered: raters and pairs drawn with replacement.",
        "",
    ]
    fitted = result["bradley_terry"]
    if fitted["log_strength"] is None:
        lines += [f"Bradley-Terry: no finite strengths, {fitted['reason']}.", ""]
    else:
        lines += ["| method | log-strength (Bradley-Terry) | 95 % over raters |", "|---|--:|--:|"]
        for name, value in sorted(fitted["log_strength"].items(), key=lambda item: -item[1]):
            limits = fitted["interval"] and fitted["interval"][name]
            lines.append(
                f"| {name} | {value:+.3f} | {'' if not limits else f'[{limits[0]:+.3f}, {limits[1]:+.3f}]'} |"
            )
        lines.append("")
    printed = "; ".join(
        f"{row['share']:.0%} over {row['against']}" for row in printed_results()["preference"]
    )
    lines.append(
        f"Printed by the paper (60 raters, 1200 choices each), other pictures and raters, not comparable: {printed}."
    )
    return "\n".join(lines) + "\n"


def _percent(limits: Sequence[float] | None) -> str:
    return "" if limits is None else f"[{limits[0]:.1%}, {limits[1]:.1%}]"
