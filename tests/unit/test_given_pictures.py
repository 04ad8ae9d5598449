"""Composites made elsewhere: copied as they are, with masks that are either all handed in or all estimated."""

import shutil
from pathlib import Path

import pytest
import torch

from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.jsonl import read_json
from magic_insert.core.rand import generator
from magic_insert.data.benchmarks import BenchBackground, Benchmark, BenchPair, BenchSubject
from magic_insert.evaluation.claims import CLAIM
from magic_insert.evaluation.entries import mask_file, method_folder, picture_file
from magic_insert.evaluation.given_pictures import adopt

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
        adopt(bench, out, {("insert", "official"): {PAIR.pair_id: files["composite"]}}, masks, 0)
        return load_rgb(mask_file(picture_file(out, "insert", "official", PAIR, 0)))

    estimated = adopted(with_masks=False)
    assert not torch.equal(estimated, given)
    assert torch.equal(adopted(with_masks=True), given)
    assert torch.equal(adopted(with_masks=False), estimated)
    claim = method_folder(out, "insert", "official") / CLAIM
    assert read_json(claim) == {"masks": "estimated"}
    # Killed between the two: without a claim nothing that lies there is believed.
    shutil.copy(files["mask"], mask_file(picture_file(out, "insert", "official", PAIR, 0)))
    claim.unlink()
    assert torch.equal(adopted(with_masks=False), estimated)
