"""The pool: a pure function of its plan, whoever renders it and however often it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from magic_insert.core.errors import UserError
from magic_insert.data.toybox_pool import PoolPlan, ToyboxPool, drawings, scene_at, subject_at, write_pool
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import is_held_out

PLAN = PoolPlan(
    num_identities=3,
    poses_per_identity=2,
    drawings_per_subject=2,
    num_scenes=3,
    drawings_per_scene=2,
    num_photo_scenes=3,
    size=32,
    chunk=2,
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ToyboxPool:
    return ToyboxPool(write_pool(tmp_path_factory.mktemp("pool"), PLAN, workers=1))


def test_a_pool_that_lost_chunks_is_finished_to_the_same_pixels(pool: ToyboxPool, tmp_path: Path) -> None:
    folder = write_pool(tmp_path, PLAN, workers=1)
    state = json.loads((folder / "state.json").read_text())
    state.update(done=state["done"][:1], complete=False)
    (folder / "state.json").write_text(json.dumps(state))
    kept = {kind for kind, _ in state["done"]}
    for name in ("subjects", "scenes_with"):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")[-1] = 0
    assert kept
    again = ToyboxPool(write_pool(tmp_path, PLAN, workers=1))
    for name in (
        "subjects",
        "subject_alpha",
        "scenes_with",
        "scenes_without",
        "scene_mask",
        "photos_with",
        "photo_mask",
    ):
        assert np.array_equal(getattr(again, name), getattr(pool, name)), name


def test_two_workers_render_what_one_renders(pool: ToyboxPool, tmp_path: Path) -> None:
    two = ToyboxPool(write_pool(tmp_path, PLAN, workers=2))
    assert np.array_equal(two.scenes_with, pool.scenes_with)
    assert np.array_equal(two.subjects, pool.subjects)
    assert np.array_equal(two.photos_without, pool.photos_without)


def test_photo_scenes_are_the_scenes_after_the_drawn_ones(pool: ToyboxPool, tmp_path: Path) -> None:
    longer = replace(PLAN, num_scenes=4, num_photo_scenes=1)
    further = ToyboxPool(write_pool(tmp_path, longer, workers=1))
    assert np.array_equal(further.scenes_with[3, 0], pool.photos_with[0, 0])
    assert np.array_equal(further.scenes_without[3, 0], pool.photos_without[0, 0])
    assert np.array_equal(further.scene_mask[3], pool.photo_mask[0])


def test_drawing_zero_is_a_photo_and_no_style_comes_twice() -> None:
    for index in range(20):
        chosen = drawings(PLAN, "scene", index, 6)
        assert TRAIN_STYLES[chosen[0]] == "photo"
        assert len(set(chosen)) == 6
        assert not {TRAIN_STYLES[i] for i in chosen} & set(HELD_OUT_STYLES)


def test_no_held_out_subject_enters_the_pool() -> None:
    plan = PoolPlan(num_identities=200, num_scenes=200)
    assert not any(is_held_out(subject_at(plan, i).combination) for i in range(400))
    assert not any(is_held_out(scene_at(plan, i)[1].combination) for i in range(200))


def test_views_of_one_identity_share_everything_but_pose_and_yaw() -> None:
    first, second = subject_at(PLAN, 0), subject_at(PLAN, 1)
    assert (first.identity, first.template, first.colour) == (second.identity, second.template, second.colour)
    assert first.yaw_deg != second.yaw_deg


def test_a_picture_with_its_subject_differs_from_the_one_without_where_the_mask_is(pool: ToyboxPool) -> None:
    change = np.abs(pool.scenes_with[:, 0].astype(int) - pool.scenes_without[:, 0]).max(axis=1)
    inside = pool.scene_mask[:, 0] == 255
    assert inside.any()
    assert (change[inside] > 0).mean() > 0.8


def test_a_half_written_pool_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="complete pool"):
        ToyboxPool(tmp_path)
