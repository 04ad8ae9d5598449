"""Toybox folders: complete, captioned, and a function of the seed and the index alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from magic_insert.config.schema.jobs import ToyboxConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgba
from magic_insert.core.jsonl import read_jsonl
from magic_insert.toybox.world import run_toybox

CONFIG = ToyboxConfig(
    what="subjects", num_subjects=2, num_scenes=1, size=32, styles=["photo", "cartoon"], seed=5
)


def test_a_longer_export_begins_with_the_shorter_one(tmp_path: Path) -> None:
    run_toybox(replace(CONFIG, out=str(tmp_path / "short")))
    run_toybox(replace(CONFIG, out=str(tmp_path / "long"), num_subjects=3))
    short, long = read_jsonl(tmp_path / "short/captions.jsonl"), read_jsonl(tmp_path / "long/captions.jsonl")
    assert long[:2] == short
    for row in short:
        assert (tmp_path / "long" / row["file"]).read_bytes() == (
            tmp_path / "short" / row["file"]
        ).read_bytes()


def test_an_export_grows_in_its_folder_and_overwrites_no_other(tmp_path: Path) -> None:
    small = replace(CONFIG, out=str(tmp_path), num_subjects=1)
    run_toybox(small)
    run_toybox(replace(small, num_subjects=2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    for other, named in (
        (replace(small, seed=6), "other seed"),
        (replace(small, what="sheet"), "export of subjects"),
    ):
        with pytest.raises(UserError, match=named):
            run_toybox(other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before


def test_the_benchmark_has_the_truth_of_every_pair(tmp_path: Path) -> None:
    run_toybox(replace(CONFIG, out=str(tmp_path), what="benchmark", num_subjects=1, styles=[]))
    (row,) = read_jsonl(tmp_path / "captions.jsonl")
    subject, scene = row["pair_id"].split("__")
    assert (tmp_path / "subjects" / f"{subject}.png").is_file()
    background, _ = load_rgba(tmp_path / "backgrounds" / f"{scene}.png")
    inserted, _ = load_rgba(tmp_path / "truth" / row["pair_id"] / "with.png")
    assert background.shape == inserted.shape == (3, 32, 32)
    assert not torch.equal(background, inserted)
