"""People as the filter: verdicts come back from a page or from the truth, teach a judge, and the judge decides."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
import torch
from browser import Page
from helpers import frozen, serving
from processes import wait_until

from magic_insert.bootstrap.filters import MEASURES, build_filters, read_verdicts, select
from magic_insert.bootstrap.networks import save
from magic_insert.bootstrap.review import review_server, run_review
from magic_insert.bootstrap.rounds import open_round
from magic_insert.bootstrap.stages import MASK, WITH, WITHOUT, Item, values_file, write_index
from magic_insert.config.schema.jobs import ReviewConfig
from magic_insert.core.jsonl import append_jsonl, read_json, write_json
from magic_insert.core.rand import generator
from magic_insert.core.store import Entry, Request, Store

IDS = tuple(f"ink-{i:04d}" for i in range(12))
GOOD = IDS[::2]


def obtain(store: Store, kind: str, make: object) -> Entry:
    return store.obtain(Request(kind, 1, {}, {}), make)  # type: ignore[arg-type]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished round of twelve removals: the even ones are good and leave little residue; its filter kept all."""
    store = Store(tmp_path / "store", lambda line: None)

    def pool(folder: Path) -> None:
        write_index(folder, [Item(name, "ink") for name in IDS], truth=True)
        for name in IDS:
            save(folder, WITH, name, torch.rand(3, 16, 16, generator=generator(0, name)))
            save(folder, MASK, name, torch.ones(1, 16, 16))

    def harvest(folder: Path) -> None:
        for name in IDS:
            save(folder, WITHOUT, name, torch.rand(3, 16, 16, generator=generator(1, name)))

    def measure(folder: Path) -> None:
        for i, name in enumerate(IDS):
            good = name in GOOD
            measures = dict.fromkeys(MEASURES, 0.5) | {"residue": (0.1 if good else 0.8) + 0.01 * i}
            truth = {"psnr": 20.0 if good else 10.0, "shadow_iou": 0.5}
            write_json(values_file(folder, name), {"measures": measures, "facts": {}, "truth": truth})

    def selection(folder: Path) -> None:
        scores = dict.fromkeys(IDS, 0.9)
        write_json(folder / "selection.json", {"accepted": list(IDS), "rejected": {}, "scores": scores})

    made = {"pool": pool, "harvest": harvest, "measure": measure, "select": selection}
    stages = {kind: obtain(store, kind, make).key for kind, make in made.items()}
    row = {"round": 1, "store": str(store.root), "stages": stages}
    append_jsonl(tmp_path / "run" / "rounds.jsonl", row)
    return tmp_path / "run"


def kept_by_the_judge(run: Path, weights: Path) -> Sequence[str]:
    """What filter=learned accepts, by the configuration that a user would write."""
    cfg = frozen("bootstrap", "filter=learned", f"filter.rules.learned.weights={weights}").filter
    values, styles, rules = open_round(run, 1).values, dict.fromkeys(IDS, "ink"), build_filters(cfg.rules)
    how = {"threshold": cfg.threshold, "keep_at_most_per_style": cfg.keep_at_most_per_style}
    return sorted(select(values, styles, rules, **how).accepted)


def test_the_truth_teaches_a_judge_that_keeps_the_good_removals(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = run_review(ReviewConfig(run=str(run_folder), out=str(tmp_path / "review"), verdicts="truth"))
    assert written.name == "quality.json"
    assert kept_by_the_judge(run_folder, written) == sorted(GOOD)
    said = capsys.readouterr().out
    assert "12 verdicts, 6 accepted; the filter kept 12 of them: precision 0.50, recall 1.00" in said
    assert "ranks 1.00 of pairs right" in said


def test_the_file_of_a_person_teaches_what_that_person_thinks(run_folder: Path, tmp_path: Path) -> None:
    verdicts = {name: "reject" if name in GOOD else "accept" for name in IDS}
    write_json(tmp_path / "mine.json", {"verdicts": verdicts})
    cfg = ReviewConfig(
        run=str(run_folder), out=str(tmp_path / "review"), verdicts=str(tmp_path / "mine.json")
    )
    assert kept_by_the_judge(run_folder, run_review(cfg)) == sorted(set(IDS) - set(GOOD))


def test_a_served_page_keeps_each_verdict_as_it_is_given(
    run_folder: Path, tmp_path: Path, page: Page
) -> None:
    out = tmp_path / "review"
    run_review(ReviewConfig(run=str(run_folder), out=str(out)))
    with serving(review_server(out, 0)) as server:
        page.open(server.address)
        page.click(f"[data-id={IDS[3]}]")
        wait_until(lambda: "reject" in (out / "verdicts.json").read_text())
        wrong = {"id": "no-such", "verdict": "accept"}
        assert httpx.post(f"{server.address}verdicts", json=wrong).status_code == 400
    found = read_verdicts(out / "verdicts.json")
    assert [name for name, liked in found.items() if not liked] == [IDS[3]]


def test_pressing_r_rejects_and_save_offers_a_file_for_review(
    run_folder: Path, tmp_path: Path, page: Page
) -> None:
    cfg = ReviewConfig(run=str(run_folder), out=str(tmp_path / "review"))
    page_file = run_review(cfg)
    page.open(page_file.absolute().as_uri())
    assert page.ask("document.getElementById('count').textContent") == "12 accepted, 0 rejected"
    for name in (IDS[1], IDS[3], IDS[5], IDS[7], IDS[9]):
        page.ask(f"document.querySelector('[data-id={name}]').focus()")
        page.press("r")
    page.ask(f"document.querySelector('[data-id={IDS[9]}]').focus()")
    page.press("a")
    assert page.ask("document.getElementById('count').textContent") == "8 accepted, 4 rejected"
    page.ask(
        "(() => { const real = URL.createObjectURL; URL.createObjectURL = blob => { window.offered = blob; "
        "return real(blob); }; HTMLAnchorElement.prototype.click = function () { window.named = this.download; }; "
        "document.getElementById('save').click(); })()"
    )
    offered, named = page.ask("window.offered.text()"), page.ask("window.named")
    assert named == "verdicts.json"
    rejected = {name for name, verdict in json.loads(offered)["verdicts"].items() if verdict == "reject"}
    assert rejected == {IDS[1], IDS[3], IDS[5], IDS[7]}
    (tmp_path / "saved.json").write_text(offered)
    learned = run_review(ReviewConfig(**{**asdict(cfg), "verdicts": str(tmp_path / "saved.json")}))
    assert set(read_json(learned)) == {"bias", "terms"}
