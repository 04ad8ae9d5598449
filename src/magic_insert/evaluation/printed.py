"""The paper's own numbers as a reference in our tables, and the reasons why they cannot be compared with ours.

The numbers lie in `printed_results.json` with their source. No evaluation can repeat them exactly: another number of
subjects was released, and no texts. What else differs is told from the facts of an evaluation.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PRINTED_FILE = Path(__file__).with_name("printed_results.json")


@cache
def printed_results() -> Mapping[str, Any]:
    """The content of the versioned file: version, source, track, rows (Tables 1-3) and preference (Table 4)."""
    content: Mapping[str, Any] = json.loads(PRINTED_FILE.read_text(encoding="utf-8"))
    return content


def printed_rows(track: str) -> list[tuple[str, Mapping[str, float]]]:
    """Method and values of every printed row of `track`; empty for a track the paper has no table of."""
    printed = printed_results()
    return [(row["method"], row["values"]) for row in printed["rows"]] if track == printed["track"] else []


def why_not_comparable(facts: Mapping[str, Any]) -> list[str]:
    """Why the printed numbers must not be compared with those of an evaluation; never empty."""
    printed = printed_results()
    benchmark, cards = facts.get("benchmark", {}), facts.get("cards", ())
    reasons: list[str] = []
    if facts.get("metrics") != printed["metrics"]:
        reasons.append("the encoders differ")
    elif not cards or not all(card.get("verified") for card in cards):
        reasons.append("the encoders' weights are not verified")
    if not str(benchmark.get("name")).startswith(printed["benchmark"]):
        return [*reasons, "the pictures differ"]
    if benchmark["name"] != printed["benchmark"]:
        reasons.append("only a part of the pictures was used")
    reasons += benchmark.get("deviations", ["the pictures were not compared with the released ones"])
    return [*reasons, *printed["unreleased"]]
