"""The paper's own numbers as a reference in our tables, and the reasons why they cannot be compared with ours.

The numbers lie in `printed_results.json` with their source. They may be read beside ours only where the encoders and
the pictures are the same; everything that rests on texts nobody released never is.
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
    """Why the printed numbers must not be compared with those of an evaluation; empty if the protocol is the same."""
    printed = printed_results()
    reasons = []
    if facts.get("metrics") != printed["metrics"]:
        reasons.append("the encoders differ")
    if facts.get("benchmark", {}).get("name") != printed["benchmark"]:
        reasons.append("the pictures differ")
    return reasons


def comparable(column: str, facts: Mapping[str, Any]) -> bool:
    """Whether a printed value of `column` may stand beside a measured one."""
    return not why_not_comparable(facts) and column not in printed_results()["unreleased_texts"]
