"""Renders on disk: a pure function of their plan, whoever makes them and however often they were stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from magic_insert.core.images import save_png
from magic_insert.core.rand import generator
from magic_insert.core.store import Store
from magic_insert.data import renders
from magic_insert.toybox.styles import HELD_OUT_STYLES, TRAIN_STYLES
from magic_insert.toybox.subjects import is_held_out

POOL = renders.PoolPlan(
    num_identities=3, poses_per_identity=2, drawings_per_subject=2, num_scenes=3, drawings_per_scene=2,
    num_photo_scenes=3, size=32, chunk=2,
)  # fmt: skip
PAIRS = renders.PairsPlan(seed=3, count=6, size=32, styles=("photo", "pencil"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> renders.ToyboxPool:
    return renders.ToyboxPool(renders.render(Store(tmp_path_factory.mktemp("pool")), POOL, workers=1), POOL)


def stop_after(count: int) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        if done >= count:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize(
    ("plan", "workers"),
    [pytest.param(POOL, 0, id="pool"), pytest.param(PAIRS, 2, marks=pytest.mark.slow, id="pairs")],
)
def test_what_was_stopped_goes_on_to_the_same_pixels(
    plan: renders.Plan, workers: int, tmp_path: Path
) -> None:
    store, calls = Store(tmp_path / "stopped"), []
    with pytest.raises(KeyboardInterrupt):
        renders.render(store, plan, workers=0, on_step=stop_after(4))
    assert store.find(plan.request) is None
    resumed = renders.render(store, plan, workers=0, on_step=lambda done, total: calls.append(done))
    assert calls[0] >= 4
    assert store.find(plan.request) is not None
    whole = renders.render(Store(tmp_path / "whole"), plan, workers=workers)
    assert all(np.array_equal(resumed[name], whole[name]) for name in plan.shapes())


def test_a_longer_plan_begins_like_a_shorter_one(tmp_path: Path) -> None:
    few, many = (
        renders.ToyboxPairs(renders.render(Store(tmp_path), plan, workers=0), plan)
        for plan in (replace(PAIRS, count=2), PAIRS)
    )
    assert many.styles == ["photo", "pencil"] * 3
    for index in range(2):
        assert torch.equal(few.load(index).with_subject, many.load(index).with_subject)
    one = many.load(0)
    assert not torch.equal(one.with_subject, one.without)
    assert (one.with_subject == one.without).all(0, keepdim=True)[one.mask == 0].float().mean() > 0.5


def test_on_a_photograph_a_subject_changes_by_the_factor_of_its_scene(tmp_path: Path) -> None:
    plan = replace(PAIRS, count=2, styles=("photo",))
    arrays = renders.render(Store(tmp_path / "store"), plan, workers=0)
    photograph = torch.rand(3, 90, 70, generator=generator(0, "photograph")) * 0.4 + 0.3
    save_png(tmp_path / "a.png", photograph)
    own, laid = renders.ToyboxPairs(arrays, plan), renders.ToyboxPairs(arrays, plan, [tmp_path / "a.png"])
    assert own.digests != laid.digests
    for index in range(2):
        scene, shown = own.load(index), laid.load(index)
        still = (scene.with_subject == scene.without).all(0) & (scene.mask[0] == 0)
        dark = (
            (scene.with_subject < 0.8 * scene.without).all(0)
            & (scene.mask[0] == 0)
            & (scene.without > 0.1).all(0)
        )
        assert torch.equal(shown.with_subject[:, still], shown.without[:, still])
        inside = scene.mask[0] == 1
        assert torch.equal(shown.with_subject[:, inside], scene.with_subject[:, inside])
        factors = [pair.with_subject[:, dark] / pair.without[:, dark] for pair in (scene, shown)]
        assert dark.any()
        torch.testing.assert_close(factors[1], factors[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(laid.load(0).without, laid.load(1).without)


def test_photo_scenes_are_the_scenes_after_the_drawn_ones(pool: renders.ToyboxPool, tmp_path: Path) -> None:
    longer = replace(POOL, num_scenes=4, num_photo_scenes=1)
    further = renders.ToyboxPool(renders.render(Store(tmp_path), longer, workers=1), longer)
    assert np.array_equal(further.scenes_with[3, 0], pool.photos_with[0, 0])
    assert np.array_equal(further.scenes_without[3, 0], pool.photos_without[0, 0])
    assert np.array_equal(further.scene_mask[3], pool.photo_mask[0])


def test_drawing_zero_is_a_photo_no_style_comes_twice_and_nothing_held_out_enters() -> None:
    for index in range(20):
        chosen = renders.drawings(POOL, "scene", index, 6)
        assert TRAIN_STYLES[chosen[0]] == "photo"
        assert len(set(chosen)) == 6
        assert not {TRAIN_STYLES[i] for i in chosen} & set(HELD_OUT_STYLES)
    plan = renders.PoolPlan(num_identities=200, num_scenes=200)
    assert not any(is_held_out(renders.subject_at(plan, i).combination) for i in range(400))
    assert not any(is_held_out(renders.scene_at(plan, i)[1].combination) for i in range(200))
    first, second = renders.subject_at(plan, 0), renders.subject_at(plan, 1)
    assert (first.identity, first.template, first.colour) == (second.identity, second.template, second.colour)
    assert first.yaw_deg != second.yaw_deg
