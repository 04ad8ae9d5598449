"""Laws of masks: growing, softening, components."""

import pytest
import torch
from helpers import rectangle
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_insert.core import masks
from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.core.records import Box


def test_the_bounding_box_of_a_rectangle_is_the_rectangle_and_an_empty_mask_has_none() -> None:
    assert masks.bounding_box(rectangle(20, 30, (4, 9), (11, 23))) == Box(11, 4, 12, 5)
    with pytest.raises(UserError, match="empty"):
        masks.bounding_box(torch.zeros(1, 5, 5))


def test_dilation_reaches_exactly_its_radius_and_a_blur_keeps_the_mean() -> None:
    mask = torch.zeros(1, 21, 21)
    mask[:, 10, 10] = 1
    assert masks.bounding_box(masks.dilate(mask, 3)) == Box(7, 7, 7, 7)
    assert torch.equal(masks.dilate(mask, 0), mask)
    mask = rectangle(40, 40, (15, 25), (18, 22))
    soft = masks.feather(mask, 4.0)
    assert masks.area(soft) == pytest.approx(masks.area(mask), rel=1e-4)
    assert float(soft.min()) >= 0
    assert float(soft.max()) <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_erosion_is_inside_and_dilation_outside_and_both_undo_on_a_square(seed: int, radius: int) -> None:
    mask = (torch.rand(1, 24, 31, generator=generator(seed, "mask")) < 0.5).float()
    assert bool((masks.erode(mask, radius) <= mask).all())
    assert bool((masks.dilate(mask, radius) >= mask).all())
    square = rectangle(30, 30, (10, 20), (10, 20))
    assert torch.equal(masks.erode(masks.dilate(square, radius), radius), square)


def test_the_largest_component_or_the_one_that_meets_the_seed_is_kept_and_nothing_stays_nothing() -> None:
    mask, seed = torch.zeros(2, 1, 20, 20)
    mask[:, 2:4, 2:9] = mask[:, 10:15, 10:15] = 1
    seed[:, 3, 8] = 1
    assert masks.bounding_box(masks.largest_component(mask)) == Box(10, 10, 5, 5)
    assert masks.area(masks.largest_component(torch.zeros(1, 8, 8))) == 0
    assert masks.bounding_box(masks.touching(mask, seed)) == Box(2, 2, 7, 2)
    assert masks.area(masks.touching(mask, torch.zeros(1, 20, 20))) == 0


def test_a_ring_is_filled_and_a_bay_is_not() -> None:
    mask = rectangle(20, 20, (5, 15), (5, 15))
    mask[:, 8:12, 8:12] = 0
    ring = masks.fill_holes(mask)
    assert float(ring.sum()) == 100
    mask[:, 9, 12:15] = 0  # a channel to the outside
    assert torch.equal(masks.fill_holes(mask), mask)
