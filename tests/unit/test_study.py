"""A preference study: fair forms, a page that cannot tell who is who, a careful server, known answers."""

import http.client
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_rows import synthetic_rows
from helpers import frozen, serving

from magic_insert.config.schema.evaluation import ProtocolConfig
from magic_insert.config.schema.jobs import StudyConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_json, read_jsonl
from magic_insert.evaluation.rows import write_rows
from magic_insert.evaluation.study import (
    SCRAMBLED,
    Choice,
    Key,
    Task,
    analyse,
    check_answer,
    draw_forms,
    report,
    run_analyse,
    run_build,
    scrambled,
    study_server,
)
from magic_insert.pages.server import MAX_BODY

PAIRS = [f"pair-{i:03d}" for i in range(30)]
POOLS = {"a": PAIRS, "b": PAIRS[5:]}
PAPER = ProtocolConfig(tasks=20, raters=60, checks=2, max_failed=0)


@pytest.fixture(scope="module")
def forms() -> list[list[Task]]:
    return draw_forms("ours", POOLS, PAPER, seed=0)


def test_no_pair_is_asked_twice_and_checks_are_mixed_in(forms: list[list[Task]]) -> None:
    """And ours stands left in half of each comparison, and every pair is asked equally often over all forms."""
    for form in forms:
        asked = [(frozenset((task.left, task.right)), task.pair_id) for task in form if not task.is_check]
        assert len(set(asked)) == len(asked) == 40
        for baseline in POOLS:
            sides = [task.left == "ours" for task in form if baseline in (task.left, task.right)]
            assert sum(sides) == 10
    for baseline, pool in POOLS.items():
        asked_of = Counter(t.pair_id for form in forms for t in form if baseline in (t.left, t.right))
        assert set(asked_of) == set(pool)
        assert max(asked_of.values()) - min(asked_of.values()) <= 1
    assert draw_forms("ours", POOLS, PAPER, seed=0) == forms != draw_forms("ours", POOLS, PAPER, seed=1)
    places = [[number for number, task in enumerate(form) if task.is_check] for form in forms]
    assert all(len(found) == 2 and 0 not in found for found in places)
    assert len({tuple(found) for found in places}) > 30
    sides = Counter(task.left == SCRAMBLED for form in forms for task in form if task.is_check)
    assert min(sides.values()) > 35


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
def test_a_scrambled_picture_has_the_same_pixels_elsewhere(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    mixed = scrambled(image, 0, "name")
    assert mixed.shape == image.shape
    assert (mixed != image).float().mean() > 0.5
    torch.testing.assert_close(mixed.flatten(1).sort().values, image.flatten(1).sort().values)
    assert torch.equal(mixed, scrambled(image, 0, "name"))


def config(out: Path, *words: str) -> StudyConfig:
    return frozen("study", f"out={out}", *words)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_rows(folder / "rows.jsonl", synthetic_rows(tracks=["insert"], pictures=folder))  # type: ignore[arg-type]
    run_build(
        config(
            folder / "study", f"rows={folder / 'rows.jsonl'}", "ours=personalized+diffusion",
            "against=[personalized+copy_paste]", "protocol=quick",
        )
    )  # fmt: skip
    return folder / "study"


def test_a_form_shows_the_methods_own_pictures_and_nothing_says_whose_they_are(study: Path) -> None:
    page, key = (study / "index.html").read_text(), read_json(study / "key.json")
    forms = json.loads(page.split('type="application/json">')[1].split("</script>")[0])["forms"]
    listed = set(read_json(study / "study.json")["pictures"])
    assert len(forms) == len(key["forms"]) == 6
    for form, tasks in zip(forms, key["forms"], strict=True):
        for task, meaning in zip(form, tasks, strict=True):
            for side in ("left", "right"):
                assert f"{task[side]}.png" in listed
                if meaning[side] != SCRAMBLED:
                    made = study.parent / f"pictures/insert-{meaning[side]}-{meaning['pair_id']}.png"
                    assert torch.equal(load_rgb(study / "pictures" / f"{task[side]}.png"), load_rgb(made))
            assert [name for name, _ in task["above"]] == ["subject", "background"]
    for secret in ("personalized", "diffusion", "copy_paste", "bunny", "forest", SCRAMBLED):
        assert secret not in page
        assert all(secret not in path.name for path in (study / "pictures").iterdir())
        assert secret not in (study / "study.json").read_text()


def answer(**changes: Any) -> dict[str, Any]:
    return {"study": "x", "rater": 0, "task": 1, "choice": "left", "milliseconds": 900, **changes}


def choice(**changes: Any) -> Choice:
    return Choice(**answer(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"study": "y"}, {"rater": 2}, {"rater": -1}, {"rater": True}, {"rater": "0"}, {"task": 3}, {"task": 1.0},
        {"choice": "both"}, {"choice": ["left"]}, {"milliseconds": -1}, {"milliseconds": 1e9}, {"rater": None},
    ],
)  # fmt: skip
def test_an_answer_that_belongs_elsewhere_is_refused(changes: dict[str, Any]) -> None:
    assert check_answer(answer(), "x", [3, 3], "here") == choice()
    with pytest.raises(UserError, match="here"):
        check_answer(answer(**changes), "x", [3, 3], "here")


@pytest.fixture
def port(study: Path) -> Iterator[int]:
    """The study served; answers are swept away afterwards."""
    with serving(study_server(study, 0)) as server:
        yield server.port
    (study / "answers.jsonl").unlink(missing_ok=True)


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body, headers=named)
    reply = connection.getresponse()
    return reply.status, reply.read()


def test_the_server_gives_the_page_and_listed_pictures_and_nothing_else(study: Path, port: int) -> None:
    picture = read_json(study / "study.json")["pictures"][0]
    assert ask(port, "GET", "/?rater=3") == (200, (study / "index.html").read_bytes())
    assert ask(port, "GET", f"/pictures/{picture}") == (200, (study / "pictures" / picture).read_bytes())
    for path in (
        "/key.json", "/study.json", "/config.yaml", "/pictures/../key.json", "/pictures/%2e%2e/key.json",
        "//key.json", "/pictures/", "/../../etc/passwd", "/pictures/other.png",
    ):  # fmt: skip
        assert ask(port, "GET", path)[0] == 404, path


def test_the_server_listens_on_this_machine_and_to_its_own_name_only(study: Path, port: int) -> None:
    with study_server(study, 0) as server:
        assert server.address == f"http://127.0.0.1:{server.port}/"
    with pytest.raises(UserError, match="port=0"):
        study_server(study, port)
    assert ask(port, "GET", "/", Host=f"localhost:{port}")[0] == 200
    assert ask(port, "GET", "/", Host="evil.example")[0] == 403
    assert ask(port, "POST", "/answers", b"{}", Host="evil.example")[0] == 403
    for origin, status in ((f"http://127.0.0.1:{port}", 200), ("http://evil.example", 403), ("null", 403)):
        assert ask(port, "GET", "/next", Origin=origin)[0] == status


def test_the_server_stores_good_answers_and_refuses_others(study: Path, port: int) -> None:
    good = answer(study=read_json(study / "study.json")["study"], task=0)
    kind = {"Content_Type": "application/json"}
    assert ask(port, "POST", "/answers", json.dumps(good).encode(), **kind)[0] == 200
    assert ask(port, "POST", "/answers", json.dumps({**good, "task": 99}).encode(), **kind)[0] == 400
    assert ask(port, "POST", "/answers", b"not json", **kind)[0] == 400
    for body in (b"\xff", b"[" * MAX_BODY, b"1" * MAX_BODY, b"[NaN]"):
        assert ask(port, "POST", "/answers", body, **kind)[0] == 400
    assert ask(port, "POST", "/answers", b"x" * (MAX_BODY + 1), **kind)[0] == 413
    # A form of a foreign page cannot send JSON without asking first.
    assert ask(port, "POST", "/answers", json.dumps(good).encode(), Content_Type="text/plain")[0] == 404
    assert ask(port, "POST", "/key.json", json.dumps(good).encode(), **kind)[0] == 404
    assert read_jsonl(study / "answers.jsonl") == [good]
    assert json.loads(ask(port, "GET", "/next")[1]) == {"rater": 1}


def test_three_hundred_answers_at_once_are_all_kept(study: Path, port: int) -> None:
    body = json.dumps(answer(study=read_json(study / "study.json")["study"], task=0)).encode()
    with ThreadPoolExecutor(300) as pool:
        replies = list(
            pool.map(
                lambda _: ask(port, "POST", "/answers", body, Content_Type="application/json"), range(300)
            )
        )
    assert {status for status, _ in replies} == {200}
    assert len(read_jsonl(study / "answers.jsonl")) == 300


@pytest.mark.parametrize("content", ["[]", "{}", '{"study": 1}'])
def test_a_damaged_study_is_refused_before_it_is_served(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=r"study\.json"):
        study_server(tmp_path, 0)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the strengths; their interval is as it is with many."""
    monkeypatch.setattr("magic_insert.evaluation.study.BT_DRAWS", 60)


def simulated(
    forms: list[list[Task]],
    share: dict[str, float],
    careless: set[int] = frozenset(),  # type: ignore[assignment]
) -> dict[tuple[int, int], Choice]:
    """Raters who prefer ours to a baseline with its `share`; the `careless` always press left."""
    stream = random.Random(0)
    answers = {}
    for rater, form in enumerate(forms):
        for number, task in enumerate(form):
            if task.is_check:
                right = "left" if task.right == SCRAMBLED else "right"
            else:
                baseline = task.right if task.left == "ours" else task.left
                ours = stream.random() < share[baseline]
                right = "left" if (task.left == "ours") == ours else "right"
            pressed = "left" if rater in careless else right
            answers[rater, number] = choice(rater=rater, task=number, choice=pressed)
    return answers


def key(forms: list[list[Task]], max_failed: int = 0) -> Key:
    return Key("x", "ours", replace(PAPER, max_failed=max_failed), 0, "insert", forms)


@pytest.mark.usefixtures("few_draws")
def test_the_papers_shares_come_out_of_raters_who_hold_them(forms: list[list[Task]]) -> None:
    result = analyse(key(forms), simulated(forms, {"a": 0.85, "b": 0.80}))
    assert (result["raters"], result["complete"], result["choices"]) == (60, 60, 2400)
    for found, share in zip(result["comparisons"], (0.85, 0.80), strict=True):
        assert found["choices"] == 1200
        assert found["exact"][0] < share < found["exact"][1]
        assert found["clustered"][0] <= found["exact"][0] < found["exact"][1] <= found["clustered"][1]
        assert found["p"] < 1e-50
    strength = result["bradley_terry"]["log_strength"]
    assert strength["ours"] > strength["b"] > strength["a"]
    low, high = result["bradley_terry"]["interval"]["ours"]
    assert low < strength["ours"] < high
    assert re.search(r"\| a +\| +8\d\.", report(result))


@pytest.mark.usefixtures("few_draws")
def test_raters_who_fail_a_check_are_left_out_and_counted(forms: list[list[Task]]) -> None:
    failing = {
        rater for rater, form in enumerate(forms) if any(t.is_check and t.left == SCRAMBLED for t in form)
    }
    careless = {rater for rater in range(20) if rater in failing}
    answers = simulated(forms, {"a": 0.9, "b": 0.9}, careless)
    result = analyse(key(forms), answers)
    assert set(result["excluded"]) == careless
    assert result["choices"] == 40 * (60 - len(careless))
    lenient = analyse(key(forms, max_failed=2), answers)
    assert lenient["excluded"] == []
    assert lenient["left"]["share"] > result["left"]["share"]


@pytest.mark.usefixtures("few_draws")
def test_raters_who_disagree_as_people_widen_the_clustered_interval(forms: list[list[Task]]) -> None:
    """Half of the raters always prefer ours, half never do: 1200 choices, but only 60 opinions."""
    answers = simulated(forms, {"a": 1.0, "b": 1.0})
    for (rater, number), given in list(answers.items()):
        if rater % 2 and not forms[rater][number].is_check:
            answers[rater, number] = replace(given, choice="right" if given.choice == "left" else "left")
    found = analyse(key(forms), answers)["comparisons"][0]
    assert found["share"] == 0.5
    assert found["clustered"][1] - found["clustered"][0] > 3 * (found["exact"][1] - found["exact"][0])


def test_no_attentive_choice_is_no_analysis(study: Path, forms: list[list[Task]]) -> None:
    with pytest.raises(UserError, match="attentive"):
        analyse(key(forms), {})
    with pytest.raises(UserError, match="action=serve"):
        run_analyse(config(study, "action=analyse"))
