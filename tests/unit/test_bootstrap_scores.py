"""Numbers of a round: the same as the metrics of the harness, with honest intervals."""

import pytest
import torch

from magic_insert.bootstrap.measure import sums_of
from magic_insert.bootstrap.scores import changes, intervals, metrics, pooled
from magic_insert.core.rand import generator


def pictures(count: int, noise: float, seed: int = 0) -> dict[str, dict[str, float]]:
    """Sums of `count` scenes whose drawings differ from the truth by noise."""
    rows = {}
    for i in range(count):
        draw = generator(seed, "scene", i)
        target = torch.rand(3, 12, 12, generator=draw)
        mask = torch.zeros(1, 12, 12)
        mask[:, 2:5, 2:5] = 1
        effect = torch.zeros(1, 12, 12)
        effect[:, 6:9, 2:9] = 1
        drawn = (target + noise * torch.randn(3, 12, 12, generator=draw)).clamp(0, 1)
        rows[f"{i:04d}-photo"] = sums_of(target * 0.5, drawn, target, mask, effect, effect)
    return rows


def test_an_interval_holds_its_value_and_narrows_with_more_scenes() -> None:
    how = {"seed": 0, "resamples": 200, "coverage": 0.95}
    widths = []
    for count in (8, 64):
        rows = pictures(count, 0.1)
        value = metrics(rows)["photo"]["effect_psnr"]
        low, high = intervals(rows, **how)["photo"]["effect_psnr"]
        assert low <= value <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_a_model_compared_with_itself_has_not_changed_at_all() -> None:
    rows = pictures(10, 0.1)
    change = changes(rows, rows, seed=0, resamples=50, coverage=0.95)["photo"]
    assert all(values == [0.0, 0.0, 0.0] for values in change.values())


def test_a_better_model_is_better_beyond_the_interval() -> None:
    change = changes(pictures(20, 0.2), pictures(20, 0.1), seed=0, resamples=200, coverage=0.95)["photo"]
    gain, low, high = change["effect_psnr"]
    assert 4 < low <= gain <= high < 7  # half the noise is 6 dB; clipping takes a little
    assert change["effect_psnr_nothing"] == [0.0, 0.0, 0.0]


def test_a_paired_interval_is_narrower_than_the_two_apart() -> None:
    hard, easy = pictures(20, 0.2), pictures(20, 0.1)
    how = {"seed": 0, "resamples": 200, "coverage": 0.95}
    paired = changes(hard, easy, **how)["photo"]["effect_psnr"]
    apart = [intervals(rows, **how)["photo"]["effect_psnr"] for rows in (hard, easy)]
    assert paired[2] - paired[1] < sum(high - low for low, high in apart)


def test_a_group_without_pictures_is_left_out() -> None:
    assert set(metrics(pictures(3, 0.1))) == {"photo"}


def test_a_picture_without_an_effect_counts_nothing() -> None:
    target = torch.full((3, 4, 4), 0.5)
    nothing = torch.zeros(1, 4, 4)
    row = sums_of(target, target + 0.3, target, nothing, nothing, nothing)
    assert pooled([row], "effect_error", "effect_pixels") is None
    assert "effect_psnr" not in metrics({"0000-seen": row})["seen"]


def test_the_finished_picture_is_measured_where_every_picture_has_one() -> None:
    rows = {
        name: {**row, "layered_error": row["effect_error"] / 10, "layered_lpips": 0.1}
        for name, row in pictures(4, 0.1).items()
    }
    found = metrics(rows)["photo"]
    assert found["layered_psnr"] == pytest.approx(found["effect_psnr"] + 10, abs=1e-3)
    assert found["layered_lpips"] == pytest.approx(0.1)
    del rows["0002-photo"]["layered_error"]
    assert "layered_psnr" not in metrics(rows)["photo"]
