"""SubjectPlop for those who have it: fetched with git, checked against names and checksums, evaluated in part."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import frozen

from magic_insert.cli.jobs import methods_side_by_side as rewrite
from magic_insert.config.schema.jobs import SubjectPlopConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import read_json
from magic_insert.data.benchmark_sources import fetch, run_subjectplop, take_inventory
from magic_insert.evaluation.evaluate import run_evaluate
from magic_insert.evaluation.rows import read_rows
from magic_insert.paths import CHECKOUT, subjectplop_dir

SHARED = Path(os.environ.get("MAGIC_INSERT_SHARED", CHECKOUT.parent / "shared")) / "subjectplop"
needs_pictures = pytest.mark.skipif(
    not (SHARED / "characters").is_dir(), reason="no pictures of SubjectPlop; set MAGIC_INSERT_SHARED"
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository in the layout of the official one."""
    root = tmp_path / "official"
    for name in ("alien", "newcomer"):
        save_png(root / "assets" / "characters" / f"{name}.png", torch.rand(4, 20, 20))
    save_png(root / "assets" / "backgrounds" / "cave.png", torch.rand(3, 20, 20))
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "pictures"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_fetch_clones_and_tells_what_is_there_and_that_no_licence_is_stated(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    with pytest.raises(UserError, match="alien"):  # a released name with other contents
        run_subjectplop(SubjectPlopConfig("fetch", out=str(out), url=str(repository)))
    said = capsys.readouterr().out
    assert "no licence" in said
    assert "unexpected: newcomer" in said
    assert (out / "assets" / "characters" / "newcomer.png").is_file()
    characters, backgrounds = take_inventory(out)
    assert (characters.present, characters.changed) == (("alien",), ("alien",))
    assert len(characters.missing) == 35
    assert backgrounds.present == ("cave",)


def test_a_place_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="url="):
        fetch(str(tmp_path / "nothing"), tmp_path / "out")


def test_texts_and_checksums_speak_of_the_36_released_subjects_and_the_20_backgrounds() -> None:
    manifest = read_json(subjectplop_dir() / "manifest.json")
    assert (len(manifest["characters"]), len(manifest["backgrounds"])) == (36, 20)
    texts = read_json(subjectplop_dir() / "subjects.json")["subjects"]
    assert set(texts) == set(manifest["characters"])
    assert all(row["simple"] and row["detailed"] != row["simple"] for row in texts.values())
    styles = read_json(subjectplop_dir() / "backgrounds.json")["backgrounds"]
    assert set(styles) == set(manifest["backgrounds"])
    assert not [path for path in subjectplop_dir().rglob("*") if path.suffix not in (".json", "")]


@needs_pictures
def test_the_pictures_at_hand_are_the_released_ones() -> None:
    for kind in take_inventory(SHARED):
        assert kind.present
        assert not kind.changed
        assert not kind.unexpected


@needs_pictures
@pytest.mark.slow
def test_a_part_of_subjectplop_and_official_results_run_end_to_end(tiny_micro: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    results = SHARED / "official_results"
    pairs = sorted(path.stem.removeprefix("res_").partition("_") for path in results.glob("res_*.jpg"))
    named = [f"{subject}__{rest[:-2]}.{rest[-1]}" for subject, _, rest in pairs]
    words = [
        f"model.source={tiny_micro}", "model.image_size=64", "model.device=cpu", "benchmark=subjectplop",
        f"root={SHARED}", "benchmark.placement=both", f"benchmark.pairs=[{','.join(named)}]", "track=both",
        "personalization.steps=1", "personalization.batch_size=1", "personalization.views=1", "sampling.steps=2",
        "stylizer=personalized", "inserter=[copy_paste,diffusion,official:images]", f"inserters.official.dir={results}",
        "inserters.official.pattern='res_{subject}_{background}_{side}.jpg'", f"out={tmp_path / 'out'}",
    ]  # fmt: skip
    run_evaluate(frozen("evaluate", *rewrite(words)))
    every = read_rows(tmp_path / "out" / "rows.jsonl")

    def of(track: str, method: str) -> list[dict[str, Any]]:
        return [row for row in every if (row["track"], row["method"]) == (track, method)]

    ours = ("personalized+copy_paste", "personalized+diffusion")
    assert [len(of("stylize", "personalized")), *(len(of("insert", name)) for name in ours)] == [
        len(named)
    ] * 3
    assert all(row["values"]["outside_equal"] == 1.0 for row in of("insert", ours[0]))
    rows = of("insert", "official")
    assert len(rows) == len(named)
    # The official method redraws the whole picture: about 29 dB outside, measured on 160 of its results.
    assert all(20 < row["values"]["outside_psnr"] < 40 for row in rows)
    assert all(row["values"]["outside_equal"] < 0.5 for row in rows)
