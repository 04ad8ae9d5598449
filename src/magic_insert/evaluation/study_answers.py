"""Answers of raters: one JSON line each, judged before they are stored and again before they are counted.

An answer is {"study": digest, "rater": number, "task": number, "choice": "left" | "right", "milliseconds": number}. The
last answer to a task counts: raters may go back.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_jsonl

CHOICES = ("left", "right")
FIELDS = frozenset({"study", "rater", "task", "choice", "milliseconds"})
DAY_MS = 86_400_000


def check_answer(answer: Any, study: str, lengths: Sequence[int], where: str) -> dict[str, Any]:
    """`answer` itself, if it answers a task of `study`; `lengths` are those of the raters' forms.

    Raises:
        UserError: it does not; `where` says which answer is meant.
    """
    if not isinstance(answer, dict) or set(answer) != FIELDS:
        raise UserError(f"expected the fields {', '.join(sorted(FIELDS))} in {where}, got something else")
    if answer["study"] != study:
        raise UserError(f"expected an answer to the study {study} in {where}, got one to {answer['study']!r}")
    for field, low, high in (("rater", 0, len(lengths)), ("milliseconds", 0, DAY_MS)):
        if type(answer[field]) is not int or not low <= answer[field] < high:
            raise UserError(f"expected {field} from {low} to {high - 1} in {where}, got {answer[field]!r}")
    if type(answer["task"]) is not int or not 0 <= answer["task"] < lengths[answer["rater"]]:
        raise UserError(
            f"expected a task of rater {answer['rater']}'s form in {where}, got {answer['task']!r}"
        )
    if answer["choice"] not in CHOICES:
        raise UserError(f"expected left or right in {where}, got {answer['choice']!r}")
    return answer


def read_answers(
    paths: Iterable[Path], study: str, lengths: Sequence[int]
) -> Mapping[tuple[int, int], dict[str, Any]]:
    """The last answer to each (rater, task) in the files, in their order.

    Raises:
        UserError: a file is missing or damaged, or an answer belongs elsewhere; the message names file and line.
    """
    answers: dict[tuple[int, int], dict[str, Any]] = {}
    for path in paths:
        for number, row in enumerate(read_jsonl(path), start=1):
            answer = check_answer(row, study, lengths, f"answer {number} of {path}")
            answers[answer["rater"], answer["task"]] = answer
    return answers
