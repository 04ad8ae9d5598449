"""Benchmarks: the same protocol for rendered and for found pictures; selections, places, words, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import noise, oval

from magic_insert.config.schema.evaluation import BenchmarkConfig
from magic_insert.config.schema.shared import SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import save_png
from magic_insert.core.jsonl import read_json
from magic_insert.data import benchmarks
from magic_insert.data.benchmark_sources import ToyPlop, folder, subjectplop
from magic_insert.data.benchmarks import Benchmark, Source, describe
from magic_insert.toybox.captions import caption
from magic_insert.toybox.world import toyplop_pair, toyplop_scenes, toyplop_subjects

AUTO = SegmenterConfig()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two subjects, one of them opaque, and two backgrounds."""
    root = tmp_path / "mine"
    save_png(root / "subjects" / "red_ball2.png", oval(48))
    save_png(root / "subjects" / "apple.png", oval(48)[:3])
    for name in ("park", "hall"):
        save_png(root / "backgrounds" / f"{name}.png", noise(name))
    return root


def mine(pictures: Path, **more: Any) -> BenchmarkConfig:
    return BenchmarkConfig("folder", root=str(pictures), **more)


def laid_out(source: Source, cfg: BenchmarkConfig, out: Path) -> Benchmark:
    bench = describe(source, cfg, out)
    benchmarks.claim(bench)
    assert list(benchmarks.lay_out(source, bench, benchmarks.missing_parts(bench)))
    assert not benchmarks.missing_parts(bench)
    return bench


def test_toyplop_has_its_shape_and_a_part_of_a_benchmark_never_the_name_of_the_whole(tmp_path: Path) -> None:
    for split, subjects, scenes in (("mini", 5, 4), ("full", 35, 20)):
        cfg = BenchmarkConfig("toyplop", split=split)
        bench = describe(source := ToyPlop(cfg), cfg, Path("x"))
        assert (len(bench.subjects), len(bench.backgrounds)) == (subjects, scenes)
        assert len(bench.pairs) == subjects * scenes
        assert source.has_truth
    for split, subjects in (("full", 35), ("mini", 5)):
        whole = BenchmarkConfig("toyplop", split=split)
        part = BenchmarkConfig("toyplop", split=split, num_subjects=subjects - 1)
        named = [describe(ToyPlop(cfg), cfg, Path("x")).described["name"] for cfg in (whole, part)]
        assert named[0] == f"toyplop {split}"
        assert named[1].startswith(f"toyplop {split}, ")
    save_png(tmp_path / "characters" / "alien.png", oval(48))
    save_png(tmp_path / "backgrounds" / "winter.png", torch.zeros(3, 40, 40))
    cfg = BenchmarkConfig("subjectplop", root=str(tmp_path))
    bench = describe(subjectplop(cfg, AUTO), cfg, Path("x"))
    assert bench.described["name"] == "subjectplop, 1 pairs of 36 x 20"


def test_what_lies_in_the_folder_is_what_the_toybox_renders(tmp_path: Path) -> None:
    cfg = BenchmarkConfig("toyplop", num_subjects=1, num_scenes=1, size=32)
    bench = laid_out(ToyPlop(cfg), cfg, tmp_path)
    pair = bench.pairs[0]
    specs, scenes = dict(toyplop_subjects("mini")), toyplop_scenes("mini")
    expected = toyplop_pair((pair.subject, specs[pair.subject]), scenes[0], 32)
    truth = bench.truth(pair)
    assert torch.allclose(truth.composite, expected.with_subject, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(truth.mask, expected.mask, atol=0.5 / 255 + 1e-6)
    assert torch.allclose(bench.scene(pair.background).rgb, expected.background, atol=0.5 / 255 + 1e-6)
    box = bench.box(pair, bench.scene(pair.background))
    outside = truth.mask.clone()
    outside[:, box.y : box.bottom, box.x : box.right] = 0
    assert float(outside.max()) < 0.1
    assert bench.subject_words[pair.subject].detailed == caption(specs[pair.subject])


def test_a_larger_selection_begins_with_the_smaller_and_shares_its_digest() -> None:
    def ids(number: int) -> tuple[str, list[str]]:
        cfg = BenchmarkConfig("toyplop", split="full", num_subjects=number, num_scenes=2)
        bench = describe(ToyPlop(cfg), cfg, Path("x"))
        return bench.digest, [subject.id for subject in bench.subjects]

    (few_digest, few), (many_digest, many) = ids(3), ids(10)
    assert many[:3] == few
    assert few_digest == many_digest
    assert len({name.rpartition("-")[0] for name in many}) == 10, "ten different kinds of subject"


def test_a_name_that_the_benchmark_does_not_have_is_refused_by_its_key(pictures: Path) -> None:
    one = mine(pictures, pairs=["apple__park"])
    bench = describe(folder(one, AUTO), one, Path("x"))
    assert ([s.id for s in bench.subjects], [b.id for b in bench.backgrounds]) == (["apple"], ["park"])
    around = mine(pictures, num_subjects=1, first=5)
    (subject,) = describe(folder(around, AUTO), around, Path("x")).subjects
    assert subject.id == "red_ball2", "the sixth, counted around two"
    for key in ("subjects", "backgrounds", "styles", "pairs"):
        cfg = mine(pictures, **{key: ["dragon"]})
        with pytest.raises(UserError, match=rf"benchmark\.{key}.*dragon"):
            describe(folder(cfg, AUTO), cfg, Path("x"))


def test_both_sides_make_two_pairs_of_each(pictures: Path, tmp_path: Path) -> None:
    cfg = mine(pictures, placement="both", subjects=["apple"])
    bench = laid_out(folder(cfg, AUTO), cfg, tmp_path / "out")
    assert [pair.pair_id for pair in bench.pairs][:2] == ["apple__hall.l", "apple__hall.r"]
    scene = bench.scene("hall")
    left, right = (bench.box(pair, scene) for pair in bench.pairs[:2])
    assert left.centre_x < scene.size[1] / 2 < right.centre_x


def test_an_opaque_subject_is_cut_out_and_another_keeps_its_alpha(pictures: Path, tmp_path: Path) -> None:
    cfg = mine(pictures)
    bench = laid_out(folder(cfg, AUTO), cfg, tmp_path / "out")
    expected = oval(48)[3:]
    assert torch.equal(bench.subject("red_ball2").alpha, expected)
    assert float((bench.subject("apple").alpha - expected).abs().mean()) < 0.05


def test_subjects_without_texts_are_named_by_their_file_and_texts_go_before(pictures: Path) -> None:
    cfg = mine(pictures)
    texts = {
        "subjects": {"apple": {"simple": "a fruit", "detailed": "a red apple"}},
        "backgrounds": {"park": "a pastel"},
    }
    (pictures / "texts.json").write_text(json.dumps(texts))
    source = folder(cfg, AUTO)
    assert {s.id: (s.simple, s.detailed) for s in source.subjects} == {
        "apple": ("a fruit", "a red apple"),
        "red_ball2": ("a red ball", ""),
    }
    assert {b.id: b.style_text for b in source.backgrounds} == {"hall": "", "park": "a pastel"}


def test_a_folder_takes_more_pairs_but_no_other_benchmark(pictures: Path, tmp_path: Path) -> None:
    cfg = mine(pictures, pairs=["apple__park"])
    laid_out(folder(cfg, AUTO), cfg, tmp_path / "out")
    everything = mine(pictures)
    laid_out(folder(everything, AUTO), everything, tmp_path / "out")
    assert len(read_json(tmp_path / "out" / "benchmark.json")["pairs"]) == 4
    save_png(pictures / "backgrounds" / "park.png", torch.zeros(3, 60, 80))
    with pytest.raises(UserError, match="out=FOLDER"):
        benchmarks.claim(describe(folder(everything, AUTO), everything, tmp_path / "out"))


def test_a_damaged_picture_is_named_and_the_sound_ones_stay(pictures: Path, tmp_path: Path) -> None:
    path = pictures / "backgrounds" / "park.png"
    path.write_bytes(path.read_bytes()[:500])
    cfg = mine(pictures)
    source = folder(cfg, AUTO)
    bench = describe(source, cfg, tmp_path / "out")
    with pytest.raises(UserError, match=r"park\.png"):
        list(benchmarks.lay_out(source, bench, benchmarks.missing_parts(bench)))
    assert [part[1] for part in benchmarks.missing_parts(bench)] == ["park"]


@pytest.mark.parametrize(("kind", "message"), [("empty", "expected pictures"), ("twice", "different names")])
def test_an_empty_folder_and_equal_names_are_refused(pictures: Path, kind: str, message: str) -> None:
    for path in (pictures / "subjects").iterdir():
        if kind == "empty":
            path.unlink()
    if kind == "twice":
        (pictures / "subjects" / "apple.jpg").write_bytes((pictures / "subjects" / "apple.png").read_bytes())
    with pytest.raises(UserError, match=message):
        folder(mine(pictures), AUTO)


@pytest.mark.parametrize("layout", ["", "assets"])
def test_subjectplop_is_found_in_the_repository_and_in_a_bare_folder(tmp_path: Path, layout: str) -> None:
    save_png(tmp_path / layout / "characters" / "alien.png", oval(48))
    save_png(tmp_path / layout / "characters" / "fairy2.png", oval(48))
    save_png(tmp_path / layout / "backgrounds" / "winter.png", torch.zeros(3, 40, 40))
    source = subjectplop(BenchmarkConfig("subjectplop", root=str(tmp_path)), AUTO)
    assert [(s.id, s.simple) for s in source.subjects] == [("alien", "an alien"), ("fairy2", "a fairy")]
    assert source.backgrounds[0].style_text.startswith("a cinematic pastel drawing")


def test_pictures_that_are_not_the_released_ones_are_told_in_the_facts(tmp_path: Path) -> None:
    for name in ("elf", "newcomer"):  # no checksum of the elf is known; the newcomer was never released
        save_png(tmp_path / "characters" / f"{name}.png", oval(48))
    save_png(tmp_path / "backgrounds" / "cave.png", torch.zeros(3, 40, 40))
    cfg = BenchmarkConfig("subjectplop", root=str(tmp_path))

    def told() -> list[str]:
        described: list[str] = describe(subjectplop(cfg, AUTO), cfg, Path("x")).described["deviations"]
        return described

    assert told() == ["pictures differ from the released ones (newcomer)"]
    save_png(tmp_path / "backgrounds" / "winter.png", torch.zeros(3, 40, 40))
    assert told() == ["pictures differ from the released ones (newcomer, winter)"]
    for path in ("characters/newcomer.png", "backgrounds/winter.png"):
        (tmp_path / path).unlink()
    assert told() == []
