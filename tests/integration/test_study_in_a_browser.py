"""The study's page in a real browser, by keyboard: from a file and served; then the answers are analysed."""

from pathlib import Path

import pytest
from browser import Page
from evaluation_rows import synthetic_rows
from helpers import frozen, serving

from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.evaluation.rows import write_rows
from magic_insert.evaluation.study import SCRAMBLED, run_analyse, run_build, study_server

OURS = "personalized"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two comparisons, two tasks each, and one attention check; two raters."""
    folder = tmp_path_factory.mktemp("browser")
    write_rows(folder / "rows.jsonl", synthetic_rows(tracks=["stylize"], pictures=folder))  # type: ignore[arg-type]
    words = [
        f"rows={folder / 'rows.jsonl'}", f"out={folder / 'study'}", "track=stylize", f"ours={OURS}",
        "against=[adain,instantstyle_canny]", "protocol=quick", "protocol.tasks=2", "protocol.raters=2",
    ]  # fmt: skip
    run_build(frozen("study", *words))
    return folder / "study"


def key_for(task: dict[str, str]) -> str:
    """A rater who always prefers ours, and never a scrambled picture."""
    left_is_right = task["left"] == OURS or task["right"] == SCRAMBLED
    return "ArrowLeft" if left_is_right and task["left"] != SCRAMBLED else "ArrowRight"


def answer_all(page: Page, study: Path, rater: int) -> None:
    page.wait(f"document.getElementById('number').value === '{rater}'")
    page.press("Enter")
    for number, task in enumerate(read_json(study / "key.json")["forms"][rater]):
        page.wait(f"document.body.dataset.task === '{number}'")
        page.wait("[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth > 0)")
        if number == 1:  # a slip, taken back
            page.press("ArrowLeft" if key_for(task) == "ArrowRight" else "ArrowRight")
            page.wait("document.body.dataset.task === '2'")
            page.press("Backspace")
            page.wait("document.body.dataset.task === '1'")
        page.press(key_for(task))
    page.wait("!document.getElementById('end').hidden")


def test_a_rater_answers_by_keyboard_and_downloads(page: Page, study: Path, tmp_path: Path) -> None:
    page.open(f"{(study / 'index.html').as_uri()}?rater=1")
    answer_all(page, study, 1)
    text = page.ask("fetch(document.getElementById('download').href).then(reply => reply.text())")
    downloaded = tmp_path / "answers-1.jsonl"
    downloaded.write_text(text)
    assert [row["task"] for row in read_jsonl(downloaded)] == [0, 1, 2, 3, 4]
    words = [f"out={study}", "action=analyse", f"answers=[{downloaded}]"]
    run_analyse(frozen("study", *words))
    result = read_json(study / "analysis.json")
    assert (result["raters"], result["complete"], result["excluded"], result["choices"]) == (1, 1, [], 4)
    assert [(c["wins"], c["choices"]) for c in result["comparisons"]] == [(2, 2), (2, 2)]


def test_a_rater_answers_by_keyboard_from_the_server_and_a_reload_goes_on(page: Page, study: Path) -> None:
    with serving(study_server(study, 0)) as server:
        address = f"http://127.0.0.1:{server.port}/"
        page.open(address)
        page.wait("document.getElementById('number').value === '0'")
        page.press("Enter")
        page.press(key_for(read_json(study / "key.json")["forms"][0][0]))
        page.wait("document.body.dataset.task === '1'")
        page.open(f"{address}?rater=0")
        page.wait("document.getElementById('number').value === '0'")
        page.press("Enter")
        page.wait("document.body.dataset.task === '1'")
        page.ask("localStorage.clear()")
        page.open(f"{address}?rater=0")
        answer_all(page, study, 0)
        page.wait("fetch('next').then(reply => reply.json()).then(next => next.rater === 1)")
    rows = read_jsonl(study / "answers.jsonl")
    assert {row["rater"] for row in rows} == {0}
    assert len(rows) == 7  # five tasks, the first one twice, one slip
    run_analyse(frozen("study", f"out={study}", "action=analyse"))
    assert all(c["share"] == 1 for c in read_json(study / "analysis.json")["comparisons"])
