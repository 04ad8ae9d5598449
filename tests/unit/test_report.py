"""Reports: the same numbers in every format, honest labels, one page that needs nothing else."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from evaluation_rows import FACTS, synthetic_rows
from helpers import frozen

from magic_insert.cli.jobs import methods_side_by_side
from magic_insert.config.schema.jobs import ReportConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.tables import csv_table, latex_escape
from magic_insert.evaluation import tables
from magic_insert.evaluation.evaluate import log_tables
from magic_insert.evaluation.metrics import columns_of
from magic_insert.evaluation.report import (
    REPORT_FILE,
    Album,
    run_report,
    verdict,
    write_report,
)
from magic_insert.evaluation.rows import write_rows
from magic_insert.evaluation.statistics import frame_of
from magic_insert.evaluation.tables import (
    Table,
    csv_text,
    latex,
    markdown,
    printed_results,
    printed_rows,
    why_not_comparable,
)
from magic_insert.launch.results import read_numbers

PAPER = {
    "benchmark": {"name": "subjectplop", "deviations": []},
    "metrics": "paper",
    "cards": [{**card, "verified": True} for card in FACTS["cards"]],
}
ALWAYS = ["36 subjects were released where the paper used 35", "the texts behind CLIP-T were never released"]


def main_table(rows: Any, track: str, facts: dict[str, Any] = FACTS, *, seed: int = 0) -> Table:
    return tables.main_table(frame_of(rows, track), track, facts, seed=seed)


def verdict_of(rows: Any, track: str) -> str:
    return verdict(frame_of(rows, track), main_table(rows, track))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return synthetic_rows()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report with pictures."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, synthetic_rows(pictures=folder), FACTS)
    return folder / REPORT_FILE


def test_the_page_names_no_address_and_embeds_every_picture(report: Path) -> None:
    page = report.read_text()
    assert not re.findall(r"""(?:src|href|srcset)\s*=\s*["'](?!data:)""", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("data:image/png;base64,") > 100
    table = csv_table([{"method": "=cmd()", "mean": -0.25}, {"method": "@x", "mean": None}])
    assert table.splitlines() == ["method,mean", "'=cmd(),-0.25", "'@x,"], (
        "text, and no formula of a spreadsheet"
    )


def test_a_report_opens_offline_with_every_picture_and_no_complaint(report: Path, page: Page) -> None:
    page.open(report.as_uri())
    page.ask("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait("[...document.images].every(image => image.complete || image.loading === 'lazy')")
    assert page.ask("document.images.length") > 50
    assert (
        page.ask("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert page.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.ask("[...document.images].every(image => image.alt)")


def test_every_table_says_which_metrics_made_it(report: Path) -> None:
    page = report.read_text()
    for table in re.findall(r'<div class="card"><p>(.*?)</p>', page):
        assert "metrics=micro" in table
    assert page.count("<table") == len(re.findall(r'<div class="card"><p>', page)) > 10
    written = "".join((report.parent / name).read_text() for name in ("table.md", "trust.md"))
    for heading in re.findall(r"^#+ .*$", written, flags=re.MULTILINE):
        assert "metrics=micro" in heading
    for line in csv.DictReader(io.StringIO((report.parent / "table.csv").read_text())):
        assert line["metrics"] == "micro"
    captions = re.findall(r"\\caption\{.*", (report.parent / "table.tex").read_text())
    assert len(captions) == 2
    assert all("metrics=micro" in caption for caption in captions)


def test_every_format_tells_the_same_numbers(rows: list[dict[str, Any]]) -> None:
    table = main_table(rows, "stylize")
    kinds = list(dict.fromkeys(line.kind for line in table.lines))
    assert kinds == ["floor", "method", "ceiling", "printed"]
    text = markdown([table], FACTS)
    tex = latex([table], FACTS)
    values = {
        (line["method"], line["column"]): float(line["mean"])
        for line in csv.DictReader(io.StringIO(csv_text([table], FACTS)))
    }
    for line in table.lines:
        for column in table.columns:
            if column.key not in line.estimates:
                assert (line.method, column.key) not in values
                continue
            mean = line.estimates[column.key].mean
            assert values[line.method, column.key] == mean
            for written in (text, tex):
                name = latex_escape(line.method) if written is tex else f"| {line.method} "
                row = next(one for one in written.splitlines() if one.startswith(name))
                assert column.text(mean) in row


def test_the_report_opens_with_who_won_and_by_how_much(report: Path, rows: list[dict[str, Any]]) -> None:
    sentence = verdict_of(rows, "insert")
    assert sentence.startswith("insert: personalized+diffusion leads in truth PSNR (mean) with ")
    assert "better than personalized+copy_paste and ahead on " in sentence
    page = report.read_text()
    assert page.index(sentence) < page.index("<table")
    unknown = [
        {**row, "values": {k: v for k, v in row["values"].items() if k != "truth_psnr"}} for row in rows
    ]
    # Without a truth each axis has its own leader.
    split = verdict_of(unknown, "stylize")
    assert "personalized leads in subject mean (micro)" in split
    assert "instantstyle_canny leads in style mean (micro)" in split
    alone = [row for row in rows if row["method"] in ("personalized", "floor:copy_paste")]
    assert "better than floor:copy_paste" in verdict_of(alone, "stylize")


def test_the_best_method_is_marked_and_no_interval_claims_the_impossible(rows: list[dict[str, Any]]) -> None:
    best = {key: line.method for line in main_table(rows, "stylize").lines for key in line.best}
    assert best["subject_dino"] == "personalized"
    assert best["style_csd"] == "instantstyle_canny"
    assert all(":" not in method for method in best.values())
    leading = {key for line in main_table(rows, "insert").lines for key in line.best}
    assert not leading & {"outside_equal", "effect_area"}, "all are equal there, or no side is better"
    for track in ("stylize", "insert"):
        for line in main_table(rows, track).lines:
            for column in columns_of(track):
                found = line.estimates.get(column.key)
                if found is not None and found.low is not None and found.high is not None:
                    assert column.bounds[0] <= found.low <= found.mean <= found.high <= column.bounds[1]


def test_the_printed_means_are_the_plain_means_of_the_printed_columns() -> None:
    """A misprint in our copy of Tables 1 and 2 would show here: the paper rounds to three digits."""
    subject = ("subject_dino", "subject_clip_i", "subject_clip_t_simple", "subject_clip_t_detailed")
    style = ("style_clip_i", "style_csd", "style_clip_t")
    assert len(printed_rows("stylize")) == 6
    for _, values in printed_rows("stylize"):
        assert sum(values[key] for key in subject) / 4 == pytest.approx(values["subject_mean"], abs=0.0011)
        assert sum(values[key] for key in style) / 3 == pytest.approx(values["style_mean"], abs=0.0011)
    assert printed_rows("insert") == []


def test_the_reasons_against_comparing_come_from_the_facts() -> None:
    def reasons(**changes: Any) -> list[str]:
        return why_not_comparable({**PAPER, **changes})

    assert why_not_comparable(FACTS) == ["the encoders differ", "the pictures differ"]
    assert reasons() == ALWAYS, "even with everything that can be had"
    assert reasons(metrics="micro") == ["the encoders differ", *ALWAYS]
    assert reasons(benchmark={"name": "folder"}) == ["the pictures differ"]
    unknown = "the encoders' weights are not verified"
    assert reasons(cards=[]) == [unknown, *ALWAYS]
    assert reasons(cards=[PAPER["cards"][0], {**PAPER["cards"][1], "verified": False}]) == [unknown, *ALWAYS]
    changed = {"name": "subjectplop", "deviations": ["pictures differ from the released ones (elf)"]}
    assert reasons(benchmark=changed) == [*changed["deviations"], *ALWAYS]
    part = {"name": "subjectplop, 4 pairs of 36 x 20", "deviations": []}
    assert reasons(benchmark=part) == ["only a part of the pictures was used", *ALWAYS]
    assert "compared" in reasons(benchmark={"name": "subjectplop"})[0]


def test_a_table_says_why_the_printed_rows_are_not_comparable(rows: list[dict[str, Any]]) -> None:
    text = markdown([main_table(rows, "stylize")], FACTS)
    assert "not comparable: the encoders differ and the pictures differ" in text
    assert " DINO role (micro) ↑ " in text, "micro encoders never stand under another encoder's name"
    same = markdown([main_table(rows, "stylize", PAPER)], PAPER)
    assert " DINO ↑ " in same
    assert f"not comparable: {' and '.join(ALWAYS)}." in same
    line = next(one for one in same.splitlines() if one.startswith("| Ours ControlNet (printed) "))
    assert "0.514 |" in line
    said = csv.DictReader(io.StringIO(csv_text([main_table(rows, "stylize", PAPER)], PAPER)))
    assert {(row["kind"] == "printed", row["comparable"]) for row in said} == {(True, "no"), (False, "yes")}
    assert printed_results()["preference"][0]["share"] == 0.85


def test_names_from_outside_are_text_and_not_markup(tmp_path: Path) -> None:
    rows = synthetic_rows(tracks=["stylize"], num_subjects=2, num_backgrounds=2)
    for row in rows:
        row["method"] = row["method"].replace("adain", "<img src=x onerror=alert(1)>&_%")
        row["style"] = "<b>bold</b>"
    write_report(tmp_path, rows, {**FACTS, "command": "<script>1</script>"})
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert "<b>bold" not in page
    assert "<script" not in page
    assert "no picture" in page  # none was written
    assert r"\&\_\%" in (tmp_path / "table.tex").read_text()


def test_a_picture_outside_the_folder_is_not_shown(tmp_path: Path) -> None:
    synthetic_rows(tracks=["insert"], num_subjects=1, num_backgrounds=1, pictures=tmp_path)
    (tmp_path / "below").mkdir()
    inside, outside = Album(tmp_path), Album(tmp_path / "below")
    assert inside.address("pictures/bunny-00.png") is not None
    assert outside.address("../pictures/bunny-00.png") is None


def test_every_mean_of_the_tables_is_a_number_that_a_sweep_can_name(tmp_path: Path) -> None:
    rows = synthetic_rows(num_subjects=3, num_backgrounds=2)
    both = [main_table(rows, track) for track in ("stylize", "insert")]
    log_tables(frozen("evaluate", *methods_side_by_side([f"out={tmp_path}"])), tmp_path, both, FACTS)
    assert read_numbers(tmp_path) == {
        f"{table.track}.{line.method}.{key}": estimate.mean
        for table in both
        for line in table.lines
        if line.kind != "printed"
        for key, estimate in line.estimates.items()
    }


@pytest.mark.slow
def test_facts_may_come_from_elsewhere_or_be_unknown(tmp_path: Path) -> None:
    rows = synthetic_rows(tracks=["insert"], num_subjects=2, num_backgrounds=2)
    write_rows(tmp_path / "rows.jsonl", rows)  # type: ignore[arg-type]
    write_json(tmp_path / "mine.json", {**FACTS, "metrics": "paper"})
    for facts, label in ((None, "metrics=unknown"), (str(tmp_path / "mine.json"), "metrics=paper")):
        page = run_report(
            ReportConfig(rows=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "out"), facts=facts)
        )
        assert label in page.read_text()
        assert ("deserves trust" in page.read_text()) == (facts is not None)
    assert read_json(tmp_path / "out" / "facts.json")["metrics"] == "paper"
    write_rows(tmp_path / "out" / "rows.jsonl", rows)  # type: ignore[arg-type]
    again = run_report(ReportConfig(rows=str(tmp_path / "out" / "rows.jsonl"), out=str(tmp_path / "again")))
    assert again.read_bytes() == page.read_bytes(), "with the facts beside the rows"
    with pytest.raises(UserError, match="at least one row"):
        write_report(tmp_path, [], FACTS)
    for damage in ("[]", '{"benchmark": 3}', '{"cards": {}}', '{"has_truth": "yes"}'):
        (tmp_path / "mine.json").write_text(damage)
        with pytest.raises(UserError, match=r"mine\.json"):
            run_report(
                ReportConfig(str(tmp_path / "rows.jsonl"), str(tmp_path / "out"), str(tmp_path / "mine.json"))
            )
