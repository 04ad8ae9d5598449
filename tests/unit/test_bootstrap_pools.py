"""Where the pictures come from: nothing held out enters a training, and a user's folder is checked by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from magic_insert.bootstrap import pool
from magic_insert.bootstrap.fit import mixed
from magic_insert.bootstrap.pool import (
    SEEN,
    View,
    imagined_items,
    render,
    require_trainable,
    square_around,
    take_in,
    views_of,
)
from magic_insert.bootstrap.stages import (
    MASK,
    WITH,
    FolderSettings,
    ImagineSettings,
    Item,
    Payload,
    RenderSettings,
    picture_file,
    picture_files,
    read_index,
    require_partners,
    skipped_of,
)
from magic_insert.config.schema.shared import ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import generator
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import is_held_out
from magic_insert.training.insertion import EditLatents

POOL = RenderSettings("pool", seed=3, num_samples=48, size=32, occlusion=0.3)
PHOTOS = replace(POOL, use="photos", occlusion=0.0)
TEST = RenderSettings("heldout", seed=0, num_samples=48, size=32)
IMAGINED = ImagineSettings(
    0, 3, 32, styles=[], prompts=[], steps=1, guidance=1.0, segmenter=SegmenterConfig()
)


def run(stage: Any, out: Path, settings: Any, **inputs: Path) -> Path:
    """Runs one stage as the driver does."""
    model = ModelConfig(name="none", image_size=64)
    payload = Payload(settings, inputs, model, out, out / "work", progress=False)
    payload.write(out / "work" / "payload.json")
    stage(out / "work" / "payload.json")
    return out


def test_nothing_of_the_test_enters_the_pool_or_the_photographs() -> None:
    test = views_of(TEST)
    secret = {(view.subject.identity, view.scene.seed) for view in test}
    for view in [*views_of(POOL), *views_of(PHOTOS)]:
        assert view.scene.seed % 2 == 0
        assert view.subject.identity % 2 == 0
        assert not is_held_out(view.subject.combination)
        assert (view.subject.identity, view.scene.seed) not in secret
        assert {item.style for item in view.items} <= set(TRAIN_STYLES)


def test_a_held_out_scene_identity_or_style_in_the_pool_stops_the_run() -> None:
    trained, tested = views_of(POOL)[0], views_of(TEST)[0]
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
        views_of(replace(POOL, styles=["neon"]))


def test_every_drawn_style_takes_its_turn() -> None:
    styles = [item.style for view in views_of(POOL) for item in view.items]
    assert {styles.count(style) for style in SEEN} == {len(styles) // len(SEEN)}
    assert "photo" not in styles


def test_a_larger_pool_begins_with_the_smaller_one() -> None:
    assert views_of(POOL)[:5] == views_of(replace(POOL, num_samples=5))
    assert views_of(replace(POOL, seed=4))[:5] != views_of(POOL)[:5]


def test_the_test_is_drawn_in_all_three_groups_per_scene() -> None:
    for view in views_of(TEST)[:8]:
        photo, seen, unseen = (item.style for item in view.items)
        assert photo == "photo"
        assert seen in SEEN
        assert unseen in HELD_OUT_STYLES


def test_a_rendered_pool_has_pictures_masks_and_truth(tmp_path: Path) -> None:
    settings = replace(POOL, num_samples=2)
    folder = run(render, tmp_path / "pool", settings)
    items = read_index(folder)
    assert len(items) == 2
    picture, without, mask = (
        load_rgb(picture_file(folder, layer, items[0].id)) for layer in (WITH, "without", MASK)
    )
    assert picture.shape == (3, 32, 32)
    assert torch.equal(picture[:, mask[0] == 0] > 2, without[:, mask[0] == 0] > 2)
    assert float((picture - without).abs().max()) > 0.1


def test_a_render_that_was_killed_halfway_ends_in_the_same_bytes(tmp_path: Path) -> None:
    settings = replace(POOL, num_samples=2)
    whole = run(render, tmp_path / "whole", settings)
    name = read_index(whole)[0].id
    before = picture_file(whole, WITH, name).read_bytes()
    picture_file(whole, WITH, name).unlink()
    run(render, whole, settings)
    assert picture_file(whole, WITH, name).read_bytes() == before


def test_imagined_prompts_follow_the_users_words_and_styles() -> None:
    prompts = ["a cat, {style}", "a dog, {style}"]
    settings = replace(IMAGINED, num_samples=4, styles=["ink", "oil"], prompts=prompts)
    assert [item.facts["prompt"] for item in imagined_items(settings)] == [
        "a cat, ink", "a cat, oil", "a dog, ink", "a dog, oil",
    ]  # fmt: skip
    braces = replace(settings, prompts=["a {very} odd cat, {style}"])
    assert imagined_items(braces)[0].facts["prompt"] == "a {very} odd cat, ink"


def test_imagined_captions_name_subject_place_shadow_and_style() -> None:
    items = imagined_items(IMAGINED)
    assert all("with a shadow" in item.facts["prompt"] for item in items)
    assert len({item.facts["noise"] for item in items}) == 3


@pytest.mark.parametrize("drawn", ["sample_scene", "sample_subject"])
def test_a_held_out_scene_or_subject_is_never_imagined(monkeypatch: pytest.MonkeyPatch, drawn: str) -> None:
    real = getattr(pool, drawn)
    monkeypatch.setattr(pool, drawn, lambda seed, split: real(seed, "heldout"))
    with pytest.raises(AssertionError, match="held-out"):
        imagined_items(IMAGINED)


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


def settings_of(on_error: str, *, segment: bool = False) -> FolderSettings:
    return FolderSettings(False, 0, 9, 32, on_error, segment, SegmenterConfig())


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


def test_a_picture_without_a_mask_is_named_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(UserError, match=r"got none for torn\.png, unmasked\.png; .*pool\.segment=true"):
        require_partners(folder, folder / "masks")
    with pytest.raises(UserError, match=r"got none; set pool\.dir"):
        require_partners(folder / "masks", folder)


def test_unusable_pictures_are_left_out_when_asked_and_the_stage_remembers_them(
    tmp_path: Path, folder: Path
) -> None:
    out = take(tmp_path / "out", folder, "skip")
    assert [(item.id, item.style) for item in read_index(out)] == [("good", "unnamed"), ("ink__fine", "ink")]
    assert [line.partition(":")[0] for line in skipped_of(out)] == [
        "empty.png", "torn.png", "twin.png", "unmasked.png",
    ]  # fmt: skip
    assert load_rgb(picture_file(out, WITH, "good")).shape == (3, 32, 32)


def test_pictures_of_the_test_and_styles_of_the_test_are_no_pool(tmp_path: Path) -> None:
    heldout = run(render, tmp_path / "heldout", replace(TEST, seed=1, num_samples=1))
    root = tmp_path / "mine"
    for name in ("stolen", "neon/drawn", "fair"):
        save_png(root / f"{name}.png", torch.rand(3, 32, 32, generator=generator(0, name)))
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "masks" / f"{name}.png").write_bytes(picture_file(heldout, MASK, "0000-seen").read_bytes())
    (root / "stolen.png").write_bytes(picture_file(heldout, WITH, "0000-seen").read_bytes())
    out = run(
        take_in, tmp_path / "out", settings_of("skip"), pictures=root, masks=root / "masks", heldout=heldout
    )
    assert [item.id for item in read_index(out)] == ["fair"]
    assert [line.partition(":")[0] for line in skipped_of(out)] == ["neon/drawn.png", "stolen.png"]
    with pytest.raises(UserError, match=r"pool\.styles, got Neon, which is held out"):
        imagined_items(replace(IMAGINED, styles=["Neon"], prompts=["a cat, {style}"]))


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
        settings_of("skip", segment=True),
        pictures=folder,
        masks=folder / "masks",
        heldout=folder / "none",
    )
    mask = load_rgb(picture_file(found, MASK, "unmasked"))[0]
    assert float(mask[16, 16]) == 1.0
    assert float(mask[1, 1]) == 0.0


def test_counterfactual_photographs_come_from_a_folder_of_pairs(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    mask = torch.zeros(1, 40, 40)
    mask[:, 10:30, 10:30] = 1
    for layer in ("with", "without"):
        save_png(root / layer / "cup.png", torch.rand(3, 40, 40, generator=generator(0, layer)))
    save_png(root / "mask" / "cup.png", mask)
    settings = FolderSettings(True, 0, 9, 32, "refuse")
    out = run(take_in, tmp_path / "out", settings, pairs=root, heldout=root / "none")
    assert [(item.id, item.style) for item in read_index(out)] == [("cup", "photo")]
    assert picture_file(out, "without", "cup").is_file()


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
