"""Views of pairs: windows that hold the subject, mirrored ones, masks that only grow, latents kept and continued."""

from pathlib import Path
from typing import Any

import pytest
import torch

from magic_insert.data.pairs import Pair
from magic_insert.training import insertion_job
from magic_insert.training.insertion_job import ViewConfig, edit_data, view_of

CONFIG = ViewConfig(views=4, context=2.2, dilate=0.1, seed=0)


def scene(number: int = 0, height: int = 90, width: int = 120) -> Pair:
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    without = torch.stack([x, y, 0.5 + 0 * x])
    mask = torch.zeros(1, height, width)
    mask[:, 40:70, 20 + 5 * number : 44 + 5 * number] = 1
    return Pair(f"scene-{number}", torch.where(mask > 0, 1.0, without), without, mask)


class Scenes:
    """Three pairs in memory."""

    ids = ("scene-0", "scene-1", "scene-2")
    digests = ("a", "b", "c")

    def load(self, index: int) -> Pair:
        return scene(index)


def test_the_second_view_is_the_first_one_mirrored() -> None:
    first, second = (view_of(scene(), number, 32, CONFIG) for number in (0, 1))
    assert torch.equal(first.pasted.flip(-1), second.pasted)
    assert torch.equal(first.mask.flip(-1), second.mask)


@pytest.mark.parametrize("number", range(12))
def test_every_window_holds_the_whole_subject(number: int) -> None:
    view = view_of(scene(), number, 48, CONFIG)
    border = torch.cat([view.mask[:, 0], view.mask[:, -1], view.mask[:, :, 0], view.mask[:, :, -1]], dim=-1)
    assert float(border.max()) == 0
    assert 0.05 < float(view.mask.mean()) < 0.7


def test_a_loose_mask_only_grows_and_without_dilation_not_at_all() -> None:
    masks = [view_of(scene(), number, 48, CONFIG) for number in range(8)]
    assert all((view.loose_mask >= view.mask).all() for view in masks)
    assert any(view.loose_mask.sum() > view.mask.sum() for view in masks)
    tight = view_of(scene(), 3, 48, ViewConfig(4, 2.2, 0.0, 0))
    assert torch.equal(tight.loose_mask, tight.mask)


@pytest.mark.parametrize("task", ["remove", "insert"])
def test_latents_that_were_interrupted_are_those_of_one_go(task: Any, tiny_pipe: Any, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    config = ViewConfig(2, 2.2, 0.1, 0)
    whole = edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "b", on_step=stop)
    resumed = edit_data(Scenes(), tiny_pipe, config, task, tmp_path / "b")
    for name in ("condition", "target", "mask"):
        first, second = getattr(whole, name), getattr(resumed, name)
        assert first.shape[:2] == (3, 2)
        assert (first == second).all()
        assert first[2].any()


def test_two_ranks_encode_half_each_and_together_what_one_does(
    tiny_pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ViewConfig(1, 2.2, 0.1, 0)
    whole = edit_data(Scenes(), tiny_pipe, config, "insert", tmp_path / "one")
    monkeypatch.setattr(insertion_job, "wait_for_all", lambda: None)  # one after the other, so nobody waits
    monkeypatch.setattr(insertion_job, "first_rank_first", lambda work: work())
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    # Both read the books before either writes, so each takes every second pair of three.
    monkeypatch.setattr(insertion_job, "read_jsonl", lambda file: [])
    counts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        seen: list[tuple[int, int]] = []
        both = edit_data(
            Scenes(),
            tiny_pipe,
            config,
            "insert",
            tmp_path / "two",
            on_step=lambda *step, seen=seen: seen.append(step),
        )
        counts.append(seen[-1])
    assert counts == [(2, 2), (1, 1)]
    assert (both.target == whole.target).all()
    assert (both.condition == whole.condition).all()
