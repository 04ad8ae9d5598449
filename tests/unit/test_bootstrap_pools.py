"""Where the pictures come from: nothing held out enters a training, and a user's folder is checked by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rectangle

from magic_insert.bootstrap import networks, stages
from magic_insert.bootstrap.networks import composited, mixed
from magic_insert.bootstrap.pool import (
    View,
    imagined_items,
    render,
    require_trainable,
    take_in,
    views_of,
)
from magic_insert.config.schema.shared import ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.images import load_rgb, save_png
from magic_insert.core.rand import generator
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import is_held_out
from magic_insert.training.insertion import EditLatents

POOL = stages.RenderSettings("pool", seed=3, num_samples=48, size=32, occlusion=0.3)
PHOTOS = replace(POOL, use="photos", occlusion=0.0)
TEST = stages.RenderSettings("heldout", seed=0, num_samples=48, size=32)
IMAGINED = stages.ImagineSettings(
    0, 3, 32, styles=[], prompts=[], steps=1, guidance=1.0, segmenter=SegmenterConfig()
)


def run(stage: Any, out: Path, settings: Any, **inputs: Path) -> Path:
    """Runs one stage as the driver does."""
    model = ModelConfig(name="none", image_size=64)
    payload = stages.Payload(settings, inputs, model, out, out / "work", progress=False)
    payload.write(out / "work" / "payload.json")
    stage(out / "work" / "payload.json")
    return out


def test_nothing_of_the_test_enters_the_pool_and_a_larger_one_begins_with_the_smaller() -> None:
    test = views_of(TEST)
    secret = {(view.subject.identity, view.scene.seed) for view in test}
    for view in [*views_of(POOL), *views_of(PHOTOS)]:
        assert view.scene.seed % 2 == 0
        assert view.subject.identity % 2 == 0
        assert not is_held_out(view.subject.combination)
        assert (view.subject.identity, view.scene.seed) not in secret
        assert {item.style for item in view.items} <= set(TRAIN_STYLES)
    assert views_of(POOL)[:5] == views_of(replace(POOL, num_samples=5))
    assert views_of(replace(POOL, seed=4))[:5] != views_of(POOL)[:5]


def test_a_held_out_scene_identity_or_style_in_the_pool_stops_the_run() -> None:
    trained, tested = views_of(POOL)[0], views_of(TEST)[0]
    style = stages.Item("x", HELD_OUT_STYLES[0])
    for view in (
        View(tested.scene, trained.subject, trained.items),
        View(trained.scene, tested.subject, trained.items),
        View(trained.scene, trained.subject, (style,)),
    ):
        with pytest.raises(AssertionError, match="held-out"):
            require_trainable(view)


def test_a_rendered_pool_has_pictures_masks_and_truth_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    settings = replace(POOL, num_samples=2)
    folder = run(render, tmp_path / "pool", settings)
    items = stages.read_index(folder)
    assert len(items) == 2
    picture, without, mask = (
        load_rgb(stages.picture_file(folder, layer, items[0].id))
        for layer in (stages.WITH, "without", stages.MASK)
    )
    assert picture.shape == (3, 32, 32)
    assert torch.equal(picture[:, mask[0] == 0] > 2, without[:, mask[0] == 0] > 2)
    assert float((picture - without).abs().max()) > 0.1
    lost = stages.picture_file(folder, stages.WITH, items[0].id)
    before = lost.read_bytes()
    lost.unlink()  # as if the render had been killed before it
    assert stages.picture_file(run(render, folder, settings), stages.WITH, items[0].id).read_bytes() == before


def test_imagined_prompts_follow_the_users_words_and_styles() -> None:
    prompts = ["a cat, {style}", "a dog, {style}"]
    settings = replace(IMAGINED, num_samples=4, styles=["ink", "oil"], prompts=prompts)
    assert [item.facts["prompt"] for item in imagined_items(settings)] == [
        "a cat, ink", "a cat, oil", "a dog, ink", "a dog, oil",
    ]  # fmt: skip
    braces = replace(settings, prompts=["a {very} odd cat, {style}"])
    assert imagined_items(braces)[0].facts["prompt"] == "a {very} odd cat, ink"
    assert all("with a shadow" in item.facts["prompt"] for item in imagined_items(IMAGINED))
    for refused in (
        lambda: views_of(replace(POOL, styles=["neon"])),
        lambda: imagined_items(replace(settings, styles=["Neon"])),
    ):
        with pytest.raises(UserError, match=r"(?i)pool\.styles, got neon, which is held out"):
            refused()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good pictures, one of them in a folder of a style, and everything that can be wrong."""
    root = tmp_path / "mine"
    mask = rectangle(40, 60, (10, 30), (40, 55))
    for name in ("good", "ink/fine", "empty", "unmasked"):
        save_png(root / f"{name}.png", torch.rand(3, 40, 60, generator=generator(0, name)))
    for name in ("good", "ink/fine", "twin"):
        save_png(root / "masks" / f"{name}.png", mask)
    save_png(root / "masks" / "empty.png", torch.zeros(1, 40, 60))
    (root / "twin.png").write_bytes((root / "good.png").read_bytes())
    (root / "torn.png").write_bytes((root / "good.png").read_bytes()[:200])
    return root


def take(
    out: Path, root: Path, on_error: str, *, heldout: Path = Path("none"), segment: bool = False
) -> Path:
    """The pictures of `root` as a pool, by itself with no test known."""
    settings = stages.FolderSettings(False, 0, 9, 32, on_error, segment, SegmenterConfig())
    return run(take_in, out, settings, pictures=root, masks=root / "masks", heldout=heldout)


def test_unusable_pictures_are_named_at_once_or_left_out_and_noted(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError) as told:
        take(tmp_path / "out", folder, "refuse")
    text = str(told.value)
    for name, why in (("empty.png", "mask is empty"), ("unmasked.png", "no mask"), ("torn.png", "damaged")):
        assert name in text
        assert why in text
    assert "twin.png: the same picture as good.png" in text
    assert "data.on_error=skip" in text
    assert "ink/fine" not in text
    out = take(tmp_path / "out", folder, "skip")
    taken = [(item.id, item.style) for item in stages.read_index(out)]
    assert taken == [("good", "unnamed"), ("ink__fine", "ink")]
    assert [line.partition(":")[0] for line in stages.skipped_of(out)] == [
        "empty.png", "torn.png", "twin.png", "unmasked.png",
    ]  # fmt: skip
    assert load_rgb(stages.picture_file(out, stages.WITH, "good")).shape == (3, 32, 32)


def test_a_picture_without_a_mask_is_named_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(UserError, match=r"got none for torn\.png, unmasked\.png; .*pool\.segment=true"):
        stages.require_partners(folder, folder / "masks")
    with pytest.raises(UserError, match=r"got none; set pool\.dir"):
        stages.require_partners(folder / "masks", folder)


def test_pictures_of_the_test_and_styles_of_the_test_are_no_pool(tmp_path: Path) -> None:
    heldout = run(render, tmp_path / "heldout", replace(TEST, seed=1, num_samples=1))
    root = tmp_path / "mine"
    for name in ("stolen", "neon/drawn", "fair"):
        save_png(root / f"{name}.png", torch.rand(3, 32, 32, generator=generator(0, name)))
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "masks" / f"{name}.png").write_bytes(
            stages.picture_file(heldout, stages.MASK, "0000-seen").read_bytes()
        )
    (root / "stolen.png").write_bytes(stages.picture_file(heldout, stages.WITH, "0000-seen").read_bytes())
    out = take(tmp_path / "out", root, "skip", heldout=heldout)
    assert [item.id for item in stages.read_index(out)] == ["fair"]
    assert [line.partition(":")[0] for line in stages.skipped_of(out)] == ["neon/drawn.png", "stolen.png"]


@pytest.mark.parametrize(("one", "other"), [("fox.jpg", "fox.png"), ("ink/x.png", "ink__x.png")])
def test_two_pictures_of_one_name_are_listed_and_both_stay(tmp_path: Path, one: str, other: str) -> None:
    root = tmp_path / "mine"
    for name in (one, other):
        save_png(root / name, torch.rand(3, 40, 40, generator=generator(0, name)))
        save_png((root / "masks" / name).with_suffix(".png"), rectangle(40, 40, (10, 30), (10, 30)))
    with pytest.raises(UserError) as told:
        take(tmp_path / "out", root, "refuse")
    assert f"{other}: the same name as {one}" in str(told.value)
    out = take(tmp_path / "kept", root, "skip")
    assert [item.facts["file"] for item in stages.read_index(out)] == [one]


def test_a_missing_mask_may_be_found_by_the_segmenter(tmp_path: Path, folder: Path) -> None:
    picture = torch.full((3, 40, 40), 0.9)
    picture[:, 10:30, 10:30] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    save_png(folder / "unmasked.png", picture)
    found = take(tmp_path / "out", folder, "skip", segment=True)
    mask = load_rgb(stages.picture_file(found, stages.MASK, "unmasked"))[0]
    assert float(mask[16, 16]) == 1.0
    assert float(mask[1, 1]) == 0.0


def test_counterfactual_photographs_come_from_a_folder_of_pairs(tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    for layer in ("with", "without"):
        save_png(root / layer / "cup.png", torch.rand(3, 40, 40, generator=generator(0, layer)))
    save_png(root / "mask" / "cup.png", rectangle(40, 40, (10, 30), (10, 30)))
    settings = stages.FolderSettings(True, 0, 9, 32, "refuse")
    out = run(take_in, tmp_path / "out", settings, pairs=root, heldout=root / "none")
    assert [(item.id, item.style) for item in stages.read_index(out)] == [("cup", "photo")]
    assert stages.picture_file(out, "without", "cup").is_file()


def latents(count: int, value: float) -> EditLatents:
    array = np.full((count, 2, 1, 2, 2), value, dtype=np.float16)
    return EditLatents(array, array, array)


@pytest.mark.parametrize(
    ("drawn", "photos", "share"), [(31, 64, 0.5), (5, 64, 0.25), (50, 4, 0.8), (7, 3, 0.0)]
)
def test_a_batch_has_its_share_of_photographs_and_all_drawings(drawn: int, photos: int, share: float) -> None:
    rows = mixed(latents(drawn, 1.0), latents(photos, 0.0), share).target[:, 0, 0, 0, 0]
    assert float((rows == 0).mean()) == pytest.approx(share, abs=0.02)
    assert int((rows == 1).sum()) >= drawn
    assert share == 0 or int((rows == 0).sum()) >= photos - 1


class Faithful:
    """A pipeline whose autoencoder loses nothing."""

    vae, device = None, "cpu"


def test_hole_and_effect_are_the_removals_and_the_rest_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "encode", lambda vae, images: images)
    monkeypatch.setattr(networks, "decode", lambda vae, latents: latents)
    pipe: Any = Faithful()
    truth = torch.full((1, 3, 64, 64), 0.8)
    picture, mask = truth.clone(), torch.zeros(1, 1, 64, 64)
    picture[..., 30:40, 30:44] = 0.4  # a shadow
    picture[..., 20:40, 20:30], mask[..., 20:40, 20:30] = 0.1, 1.0
    removed = truth - 0.01
    found = composited(pipe, picture, removed, mask)
    for rows, columns in ((slice(20, 40), slice(20, 30)), (slice(32, 38), slice(32, 42))):
        assert torch.allclose(found[..., rows, columns], removed[..., rows, columns], atol=1e-3)
    assert torch.equal(found[..., :8, :], picture[..., :8, :])
    assert torch.equal(found[..., :, 56:], picture[..., :, 56:])
