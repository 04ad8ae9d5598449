"""Pictures made elsewhere: exactly one for each pair, found by name; masks all handed in or all estimated."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import rectangle

from magic_insert.config.schema.evaluation import MadeElsewhere
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.core.store import MANIFEST
from magic_insert.data.benchmarks import BenchBackground, Benchmark, BenchPair, BenchSubject
from magic_insert.evaluation import pictures
from magic_insert.magic import Redrawn

PAIRS = [BenchPair("alien", "desert_oil", "r"), BenchPair("dog", "forest", "l")]
OFFICIAL = "res_{subject}_{background}_{side}.jpg"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_official_results_are_found_by_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "alien/res_alien_desert_oil_r.jpg", "dog/res_dog_forest_l.jpg", "other/unrelated.jpg")
    found = pictures.match_files(MadeElsewhere(str(tmp_path), "{subject}/" + OFFICIAL), PAIRS, "official")
    assert {pair: path.name for pair, path in found.items()} == {
        "alien__desert_oil.r": "res_alien_desert_oil_r.jpg",
        "dog__forest.l": "res_dog_forest_l.jpg",
    }


def test_missing_surplus_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "res_alien_desert_oil_r.jpg", "res_alien_desert_oil_l.jpg", "notes.txt")
    with pytest.raises(UserError) as caught:
        pictures.match_files(MadeElsewhere(str(tmp_path), OFFICIAL), PAIRS, "official")
    assert "1 missing (res_dog_forest_l.jpg)" in str(caught.value)
    assert "1 surplus (res_alien_desert_oil_l.jpg)" in str(caught.value)
    sides = [BenchPair("dog", "forest", side) for side in ("l", "r")]
    with pytest.raises(UserError, match="side"):
        pictures.match_files(MadeElsewhere(str(tmp_path)), sides, "official")


def test_the_subject_is_found_where_the_colours_changed_even_in_a_redrawn_picture() -> None:
    coarse = torch.rand(3, 8, 8, generator=generator(0, "scene"))
    background = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    composite = background + 0.03 * torch.randn(background.shape, generator=generator(0, "noise"))
    truth = rectangle(256, 256, (100, 220), (140, 200))
    composite = torch.where(truth > 0, 1 - background.round(), composite).clamp(0, 1)
    composite[:, 160:162, :] = 1 - composite[:, 160:162, :]  # a line that moved, touching the subject
    found = pictures.estimate_mask(composite, background, torch.zeros_like(truth))
    overlap = float(((found > 0.5) & (truth > 0.5)).sum() / ((found > 0.5) | (truth > 0.5)).sum())
    assert overlap > 0.8


PAIR = BenchPair("ball", "park")


@pytest.fixture
def bench(tmp_path: Path) -> Benchmark:
    """A ball for a park."""
    folder = tmp_path / "inputs"
    save_png(folder / "subjects" / "ball.png", torch.ones(4, 24, 24))
    save_png(folder / "backgrounds" / "park.png", torch.rand(3, 48, 48, generator=generator(0, "park")))
    subjects, backgrounds = (BenchSubject("ball", "a ball", ""),), (BenchBackground("park", None, ""),)
    return Benchmark("mine", "d", folder, subjects, backgrounds, (PAIR,), has_truth=False, placement="left")


def test_masks_that_came_along_do_not_outlive_a_run_without_them(bench: Benchmark, tmp_path: Path) -> None:
    composite = load_rgb(bench.background_file("park"))
    composite[:, 10:30, 10:30] = 1 - composite[:, 10:30, 10:30].round()
    given = torch.zeros(3, 48, 48)
    given[:, :5] = 1
    files = {"composite": tmp_path / "theirs.png", "mask": tmp_path / "mask.png"}
    save_png(files["composite"], composite)
    save_png(files["mask"], given)
    out = tmp_path / "out"

    def adopted(*, with_masks: bool) -> torch.Tensor:
        masks = {"official": {PAIR.pair_id: files["mask"]}} if with_masks else {}
        pictures.adopt(bench, out, {("insert", "official"): {PAIR.pair_id: files["composite"]}}, masks, 0)
        return load_rgb(pictures.mask_file(pictures.picture_file(out, "insert", "official", PAIR, 0)))

    estimated = adopted(with_masks=False)
    assert not torch.equal(estimated, given)
    assert torch.equal(adopted(with_masks=True), given)
    assert torch.equal(adopted(with_masks=False), estimated)
    claim = pictures.method_folder(out, "insert", "official") / MANIFEST
    assert read_json(claim)["settings"] == {"masks": "estimated"}
    # Killed between the two: without a claim nothing that lies there is believed.
    shutil.copy(files["mask"], pictures.mask_file(pictures.picture_file(out, "insert", "official", PAIR, 0)))
    claim.unlink()
    assert torch.equal(adopted(with_masks=False), estimated)


def test_a_redrawn_cut_out_stands_where_its_subject_does_and_any_other_picture_stays() -> None:
    alpha = rectangle(20, 30, (4, 14), (7, 12))
    subject = Subject(torch.rand(3, 20, 30), alpha, "box")
    cut = Redrawn(torch.full((3, 10, 5), 0.25), "box", "box__a", {}, {}, torch.full((1, 10, 5), 0.5))
    rgb, matte = pictures.in_own_frame(cut, subject)
    assert rgb.shape == (3, 20, 30)
    assert matte is not None
    assert torch.equal(matte, 0.5 * alpha)
    assert (rgb[:, 4:14, 7:12] == 0.25).all()
    assert (rgb[:, :4] == 1).all()
    larger = Redrawn(torch.full((3, 20, 10), 0.25), "box", "box__a", {}, {}, torch.full((1, 20, 10), 0.5))
    rgb, matte = pictures.in_own_frame(larger, subject)
    assert matte is not None
    assert rgb.shape == (3, 40, 60)
    assert torch.equal(matte, 0.5 * alpha.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert (rgb[:, 8:28, 14:24] == 0.25).all()
    other = Redrawn(torch.rand(3, 16, 16), "box", "box__a", {}, {}, torch.ones(1, 16, 16))
    assert pictures.in_own_frame(other, subject) == (other.rgb, other.alpha)
    whole = Redrawn(torch.rand(3, 8, 8), "box", "box__a", {}, {})
    assert pictures.in_own_frame(whole, subject) == (whole.rgb, None)
