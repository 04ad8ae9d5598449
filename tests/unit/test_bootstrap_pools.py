"""Where the pictures come from: nothing held out enters a training, and a user's folder is checked by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magic_insert.bootstrap import imagine
from magic_insert.bootstrap.files import MASK, WITH, Item, place, read_index, skipped_of
from magic_insert.bootstrap.fit import mixed
from magic_insert.bootstrap.folder_pictures import picture_files, square_around, take_in
from magic_insert.bootstrap.imagine import imagined_items
from magic_insert.bootstrap.payload import Payload
from magic_insert.bootstrap.toybox_pictures import (
    SEEN,
    View,
    held_out_views,
    photo_views,
    pool_views,
    render,
    require_trainable,
)
from magic_insert.config.schema import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import generator
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import is_held_out
from magic_insert.training.insertion import EditLatents

POOL = {"seed": 3, "num_samples": 48, "styles": [], "occlusion": 0.3}


def run(stage: Any, out: Path, settings: dict[str, Any], **inputs: Path) -> Path:
    """Runs one stage as the driver does."""
    model = ModelConfig(name="none", image_size=64)
    payload = Payload(out, out / "work", settings, inputs, model, progress=False)
    payload.write(out / "work" / "payload.json")
    stage(out / "work" / "payload.json")
    return out


def test_nothing_of_the_test_enters_the_pool_or_the_photographs() -> None:
    test = held_out_views({"seed": 0, "num_samples": 48})
    secret = {(view.subject.identity, view.scene.seed) for view in test}
    for view in [*pool_views(POOL), *photo_views(POOL)]:
        assert view.scene.seed % 2 == 0
        assert view.subject.identity % 2 == 0
        assert not is_held_out(view.subject.combination)
        assert (view.subject.identity, view.scene.seed) not in secret
        assert {item.style for item in view.items} <= set(TRAIN_STYLES)


def test_a_held_out_scene_identity_or_style_in_the_pool_stops_the_run() -> None:
    trained, tested = pool_views(POOL)[0], held_out_views({"seed": 0, "num_samples": 1})[0]
    style = Item("x", HELD_OUT_STYLES[0])
    for view in (
        View(tested.scene, trained.subject, trained.items),
        View(trained.scene, tested.subject, trained.items),
        View(trained.scene, trained.subject, (style,)),
    ):
        with pytest.raises(AssertionError, match="held-out"):
            require_trainable(view)


def test_a_held_out_style_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"pool\.styles, got neon, which is held out"):
        pool_views({**POOL, "styles": ["neon"]})


def test_every_drawn_style_takes_its_turn() -> None:
    styles = [item.style for view in pool_views(POOL) for item in view.items]
    assert {styles.count(style) for style in SEEN} == {len(styles) // len(SEEN)}
    assert "photo" not in styles


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    assert pool_views(POOL)[:5] == pool_views({**POOL, "num_samples": 5})
    assert pool_views({**POOL, "seed": 4})[:5] != pool_views(POOL)[:5]


def test_the_test_is_drawn_in_all_three_groups_per_scene() -> None:
    for view in held_out_views({"seed": 0, "num_samples": 8}):
        photo, seen, unseen = (item.style for item in view.items)
        assert photo == "photo"
        assert seen in SEEN
        assert unseen in HELD_OUT_STYLES


def test_a_rendered_pool_has_pictures_masks_and_truth(tmp_path: Path) -> None:
    settings = {**POOL, "use": "pool", "size": 32, "num_samples": 2}
    folder = run(render, tmp_path / "pool", settings)
    items = read_index(folder)
    assert len(items) == 2
    picture, without, mask = (
        load_rgb(place(folder, layer, items[0].id)) for layer in (WITH, "without", MASK)
    )
    assert picture.shape == (3, 32, 32)
    assert torch.equal(picture[:, mask[0] == 0] > 2, without[:, mask[0] == 0] > 2)
    assert float((picture - without).abs().max()) > 0.1


def test_a_render_that_was_killed_halfway_ends_in_the_same_bytes(tmp_path: Path) -> None:
    settings = {**POOL, "use": "pool", "size": 32, "num_samples": 2}
    whole = run(render, tmp_path / "whole", settings)
    name = read_index(whole)[0].id
    before = place(whole, WITH, name).read_bytes()
    place(whole, WITH, name).unlink()
    run(render, whole, settings)
    assert place(whole, WITH, name).read_bytes() == before


def test_imagined_prompts_follow_the_users_words_and_styles() -> None:
    settings = {
        "seed": 0,
        "num_samples": 4,
        "styles": ["ink", "oil"],
        "prompts": ["a cat, {style}", "a dog, {style}"],
    }
    assert [item.facts["prompt"] for item in imagined_items(settings)] == [
        "a cat, ink", "a cat, oil", "a dog, ink", "a dog, oil",
    ]  # fmt: skip
    braces = {**settings, "prompts": ["a {very} odd cat, {style}"]}
    assert imagined_items(braces)[0].facts["prompt"] == "a {very} odd cat, ink"


def test_imagined_captions_name_subject_place_shadow_and_style() -> None:
    items = imagined_items({"seed": 0, "num_samples": 3, "styles": [], "prompts": []})
    assert all("with a shadow" in item.facts["prompt"] for item in items)
    assert len({item.facts["noise"] for item in items}) == 3


@pytest.mark.parametrize("drawn", ["sample_scene", "sample_subject"])
def test_a_held_out_scene_or_subject_is_never_imagined(monkeypatch: pytest.MonkeyPatch, drawn: str) -> None:
    real = getattr(imagine, drawn)
    monkeypatch.setattr(imagine, drawn, lambda seed, split: real(seed, "heldout"))
    with pytest.raises(AssertionError, match="held-out"):
        imagined_items({"seed": 0, "num_samples": 3, "styles": [], "prompts": []})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good pictures, one of them in a folder of a style, and everything that can be wrong."""
    root = tmp_path / "mine"
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:30, 40:55] = 1
    for name in ("good", "ink/fine", "empty", "unmasked"):
        save_png(root / f"{name}.png", torch.rand(3, 40, 60, generator=generator(0, name)))
    for name in ("good", "ink/fine", "twin"):
        save_png(root / "masks" / f"{name}.png", mask)
    save_png(root / "masks" / "empty.png", torch.zeros(1, 40, 60))
    (root / "twin.png").write_bytes((root / "good.png").read_bytes())
    (root / "torn.png").write_bytes((root / "good.png").read_bytes()[:200])
    return root


def settings_of(on_error: str) -> dict[str, Any]:
    segmenter = {"name": "auto", "model_dir": None}
    return {
        "seed": 0, "num_samples": 9, "size": 32, "segment": False, "segmenter": segmenter, "on_error": on_error,
    }  # fmt: skip


def take(out: Path, root: Path, on_error: str) -> Path:
    """The pictures of `root` as a pool, no test known."""
    inputs = {"pictures": root, "masks": root / "masks", "heldout": root / "none"}
    return run(take_in, out, settings_of(on_error), **inputs)


def test_every_unusable_picture_is_named_at_once(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError) as told:
        take(tmp_path / "out", folder, "refuse")
    text = str(told.value)
    for name, why in (("empty.png", "mask is empty"), ("unmasked.png", "no mask"), ("torn.png", "damaged")):
        assert name in text
        assert why in text
    assert "twin.png: the same picture as good.png" in text
    assert "data.on_error=skip" in text
    assert "ink/fine" not in text


def test_unusable_pictures_are_left_out_when_asked_and_the_stage_remembers_them(
    tmp_path: Path, folder: Path
) -> None:
    out = take(tmp_path / "out", folder, "skip")
    assert [(item.id, item.style) for item in read_index(out)] == [("good", "unnamed"), ("ink__fine", "ink")]
    assert [line.partition(":")[0] for line in skipped_of(out)] == [
        "empty.png", "torn.png", "twin.png", "unmasked.png",
    ]  # fmt: skip
    assert load_rgb(place(out, WITH, "good")).shape == (3, 32, 32)


def test_pictures_of_the_test_and_styles_of_the_test_are_no_pool(tmp_path: Path) -> None:
    heldout = run(render, tmp_path / "heldout", {"use": "heldout", "seed": 1, "num_samples": 1, "size": 32})
    root = tmp_path / "mine"
    for name in ("stolen", "neon/drawn", "fair"):
        save_png(root / f"{name}.png", torch.rand(3, 32, 32, generator=generator(0, name)))
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "masks" / f"{name}.png").write_bytes(place(heldout, MASK, "0000-seen").read_bytes())
    (root / "stolen.png").write_bytes(place(heldout, WITH, "0000-seen").read_bytes())
    out = run(
        take_in, tmp_path / "out", settings_of("skip"), pictures=root, masks=root / "masks", heldout=heldout
    )
    assert [item.id for item in read_index(out)] == ["fair"]
    assert [line.partition(":")[0] for line in skipped_of(out)] == ["neon/drawn.png", "stolen.png"]
    with pytest.raises(UserError, match=r"pool\.styles, got Neon, which is held out"):
        imagined_items({"seed": 0, "num_samples": 1, "styles": ["Neon"], "prompts": ["a cat, {style}"]})


def test_masks_are_no_pictures_however_their_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    apart = picture_files(folder, folder / "masks")
    assert apart
    assert all("masks" not in path.parts for path in apart)
    assert [p.name for p in picture_files(Path("mine"), folder / "masks")] == [p.name for p in apart]


@pytest.mark.parametrize(
    ("one", "other"), [("fox.jpg", "fox.png"), ("a b.png", "a_b.png"), ("ink/x.png", "ink__x.png")]
)
def test_two_pictures_that_would_get_one_name_are_listed_and_none_overwrites_the_other(
    tmp_path: Path, one: str, other: str
) -> None:
    root, mask = tmp_path / "mine", torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    for name in (one, other):
        save_png(root / name, torch.rand(3, 40, 40, generator=generator(0, name)))
        save_png((root / "masks" / name).with_suffix(".png"), mask)
    with pytest.raises(UserError) as told:
        take(tmp_path / "out", root, "refuse")
    assert f"{other}: the same name as {one}" in str(told.value)
    out = take(tmp_path / "kept", root, "skip")
    assert [item.facts["file"] for item in read_index(out)] == [one]


def test_a_missing_mask_may_be_found_by_the_segmenter(tmp_path: Path, folder: Path) -> None:
    picture = torch.full((3, 40, 40), 0.9)
    picture[:, 10:30, 10:30] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    save_png(folder / "unmasked.png", picture)
    found = run(
        take_in,
        tmp_path / "out",
        {**settings_of("skip"), "segment": True},
        pictures=folder,
        masks=folder / "masks",
        heldout=folder / "none",
    )
    mask = load_rgb(place(found, MASK, "unmasked"))[0]
    assert float(mask[16, 16]) == 1.0
    assert float(mask[1, 1]) == 0.0


def test_counterfactual_photographs_come_from_a_folder_of_pairs(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    for layer in ("with", "without"):
        save_png(root / layer / "cup.png", torch.rand(3, 40, 40, generator=generator(0, layer)))
    save_png(root / "mask" / "cup.png", mask)
    settings = {"use": "pairs", "seed": 0, "num_samples": 9, "size": 32, "on_error": "refuse"}
    out = run(take_in, tmp_path / "out", settings, pairs=root, heldout=root / "none")
    assert [(item.id, item.style) for item in read_index(out)] == [("cup", "photo")]
    assert place(out, "without", "cup").is_file()


def test_the_square_holds_the_subject_and_stays_in_the_picture() -> None:
    mask = torch.zeros(1, 40, 100)
    mask[:, 5:15, 90:98] = 1
    rows, columns = square_around(mask)
    assert (rows, columns) == (slice(0, 40), slice(60, 100))


def latents(count: int, value: float) -> EditLatents:
    array = np.full((count, 2, 1, 2, 2), value, dtype=np.float16)
    return EditLatents(array, array, array)


@pytest.mark.parametrize(
    ("drawn", "photos", "share"), [(31, 64, 0.5), (5, 64, 0.25), (50, 4, 0.8), (7, 3, 0.0)]
)
def test_a_batch_has_the_asked_share_of_photographs_and_every_drawing(
    drawn: int, photos: int, share: float
) -> None:
    rows = mixed(latents(drawn, 1.0), latents(photos, 0.0), share).target[:, 0, 0, 0, 0]
    assert float((rows == 0).mean()) == pytest.approx(share, abs=0.02)
    assert int((rows == 1).sum()) >= drawn
    assert share == 0 or int((rows == 0).sum()) >= photos - 1
