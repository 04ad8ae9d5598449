"""Counterfactual pairs on disk: every layout is read, every bad pair is told by its name."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import rectangle

from magic_insert.core.errors import UserError
from magic_insert.core.images import png_bytes, save_png
from magic_insert.core.jsonl import append_jsonl
from magic_insert.core.masks import bounding_box
from magic_insert.core.rand import generator
from magic_insert.data.pairs import (
    LISTERS,
    CompositePairs,
    FilePairs,
    Listing,
    Pair,
    list_desoba,
    list_ober,
    list_pairs,
    list_rord,
    list_shards,
    sound_pairs,
    write_shards,
)

NAMES = ("one", "two", "three")


def pair(number: int, size: tuple[int, int] = (20, 24)) -> Pair:
    """A grey scene, a brighter square on it, its mask."""
    without = torch.full((3, *size), 0.1 + 0.2 * number)
    mask = rectangle(*size, (5, 10), (4 + number, 12))
    return Pair(NAMES[number % 3], torch.where(mask > 0, 1.0, without), without, mask)


def write(root: Path, folders: tuple[str, str, str], *, black_subject: bool = False) -> None:
    for number, name in enumerate(NAMES):
        one = pair(number)
        mask = 1 - one.mask if black_subject else one.mask
        for folder, image in zip(folders, (one.with_subject, one.without, mask), strict=True):
            save_png(root / folder / f"{name}.png", image)


def sound(listing: Listing, on_error: str = "refuse") -> FilePairs:
    return sound_pairs(listing, source="here", on_error=on_error, report=lambda text: None)


def plain(root: Path) -> Listing:
    write(root, ("with", "without", "mask"))
    return list_pairs(root)


def manifest(root: Path) -> Listing:
    write(root, ("a", "b", "c"))
    for name in NAMES:
        row = {"id": name, "with": f"a/{name}.png", "without": f"b/{name}.png", "mask": f"c/{name}.png"}
        append_jsonl(root / "pairs.jsonl", row)
    return list_pairs(root / "pairs.jsonl")


def desoba(root: Path) -> Listing:
    write(root, ("shadow_imgs", "shadowfree_imgs", "object_masks"))
    (root / "train.txt").write_text("one\ntwo\nthree\n")
    return list_desoba(root)


def rord(root: Path) -> Listing:
    write(root / "train", ("img", "gt", "mask"), black_subject=True)
    found = list_rord(root)
    return replace(found, pairs=[replace(ref, black_subject=True) for ref in found.pairs])


def ober(root: Path) -> Listing:
    for number, name in enumerate(NAMES):
        one = pair(number)
        images = {"input": one.with_subject, "gt": one.without, "mask": one.mask, "shadow_mask": one.mask}
        for layer, image in images.items():
            save_png(root / "set" / name / f"{layer}_{name}.png", image)
    return list_ober(root)


def ober_parquet(root: Path) -> Listing:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (root / "data").mkdir(parents=True)
    pairs = [pair(number) for number in range(3)]
    layers = {"input": "with_subject", "gt": "without", "object_mask": "mask", "object_effect_mask": "mask"}
    columns = {
        name: [{"bytes": png_bytes(getattr(one, field)), "path": f"{one.id}.png"} for one in pairs]
        for name, field in layers.items()
    }
    table = pyarrow.table({**columns, "subset": ["real"] * 3, "split": ["train"] * 3})
    parquet.write_table(table, root / "data" / "train-00000-of-00001.parquet", row_group_size=2)
    parquet.write_table(table, root / "data" / "test-00000-of-00001.parquet")
    return list_ober(root)


def shards(root: Path) -> Listing:
    assert len(write_shards([pair(number) for number in range(3)], root, per_shard=2)) == 2
    return list_shards(root)


LAYOUTS = {f.__name__: f for f in (plain, manifest, desoba, rord, ober, ober_parquet, shards)}


@pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_pairs_written(make: Callable[[Path], Listing], tmp_path: Path) -> None:
    found = sound(make(tmp_path))
    loaded = {round(float(p.without.mean()), 1): p for p in map(found.load, range(3))}
    assert len(found.ids) == len(set(found.digests)) == len(loaded) == 3
    for number in range(3):
        truth, got = pair(number), loaded[round(0.1 + 0.2 * number, 1)]
        assert torch.allclose(got.with_subject, truth.with_subject, atol=0.05)
        assert torch.allclose(got.without, truth.without, atol=0.05)
        assert (got.mask - truth.mask).abs().mean() < 0.02


def spoilt(root: Path) -> Listing:
    """A good pair and one of every kind of bad ones."""
    for name in ("good", "twin", "torn", "blank", "small", "full", "alone", "text"):
        one = pair(0 if name == "twin" else 1 + len(name) % 2)
        save_png(root / "with" / f"{name}.png", one.with_subject)
        if name != "alone":
            save_png(root / "without" / f"{name}.png", one.without)
        save_png(root / "mask" / f"{name}.png", one.mask)
    shutil.copy(root / "with" / "twin.png", root / "with" / "good.png")
    shutil.copy(root / "without" / "twin.png", root / "without" / "good.png")
    shutil.copy(root / "mask" / "twin.png", root / "mask" / "good.png")
    torn = root / "with" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:-30])
    save_png(root / "mask" / "blank.png", torch.zeros(1, 20, 24))
    save_png(root / "mask" / "full.png", torch.ones(1, 20, 24))
    save_png(root / "without" / "small.png", torch.zeros(3, 10, 12))
    (root / "mask" / "text.png").write_text("no picture")
    return list_pairs(root)


def test_all_bad_pairs_are_named_in_one_error_or_skipped(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        sound(spoilt(tmp_path))
    told = str(caught.value)
    for name, reason in {
        "alone": "no without",
        "blank": "the mask is empty",
        "full": "covers 100 %",
        "small": "sizes differ: with 24 x 20, without 12 x 10",
        "text": "something else",
        "torn": "damaged",
        "twin": "the same pictures as good",
    }.items():
        assert f"{name}: " in told
        assert reason in told
    assert "data.on_error=skip" in told
    said: list[str] = []
    found = sound_pairs(spoilt(tmp_path), source="here", on_error="skip", report=said.append)
    assert found.ids == ["good"]
    assert "skipped 7 bad pair(s)" in said[0]


def test_names_that_come_twice_or_have_no_picture_are_told(tmp_path: Path) -> None:
    listing = plain(tmp_path)
    with pytest.raises(UserError, match=rf"{listing.pairs[0].id} \(again\)"):
        sound(Listing([*listing.pairs, listing.pairs[0]], {}))
    desoba(tmp_path)
    (tmp_path / "train.txt").write_text("two\nfour\n")
    listing = list_desoba(tmp_path)
    assert [ref.id for ref in listing.pairs] == ["two"]
    assert list(listing.problems) == ["four"]


@pytest.mark.parametrize("lister", LISTERS.values())
def test_an_empty_folder_lacks_what_is_named(lister: Callable[[Path], Listing], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        lister(tmp_path)


def test_a_torn_shard_and_an_opaque_cut_out_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        member = tarfile.TarInfo("a.with.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    with pytest.raises(UserError, match=r"plain, whole tar"):
        list_shards(tmp_path)
    save_png(tmp_path / "cut.png", torch.rand(3, 30, 30), torch.ones(1, 30, 30))
    with pytest.raises(UserError, match=r"transparency at .*cut\.png, got an opaque"):
        CompositePairs([tmp_path / "cut.png"], [tmp_path / "cut.png"], 1, seed=0).load(0)


def test_a_composite_is_its_photograph_but_for_subject_and_shadow_each_time(tmp_path: Path) -> None:
    save_png(tmp_path / "cut.png", torch.full((3, 40, 30), 0.5), rectangle(40, 30, (5, 38), (8, 22)))
    scene = torch.rand(3, 96, 128, generator=generator(0, "scene")) * 0.5 + 0.25
    save_png(tmp_path / "scene.png", scene)
    pairs = CompositePairs([tmp_path / "cut.png"], [tmp_path / "scene.png"], 6, seed=3)
    places = set()
    for index in range(6):
        pair = pairs.load(index)
        around = (pair.mask == 0).expand(3, -1, -1)
        assert torch.allclose(pair.without, scene, atol=1 / 255)
        assert (pair.with_subject <= pair.without)[around].all()
        shadow = ((pair.without - pair.with_subject) > 0.05).any(0) & around[0]
        assert 10 < shadow.sum() < 0.5 * around[0].sum()
        assert torch.equal(pair.with_subject, pairs.load(index).with_subject)
        places.add(bounding_box(pair.mask))
    assert len(places) == 6
    assert len(set(pairs.digests)) == len(set(pairs.ids)) == 6
