"""Metrics against plain numpy, and the laws they must keep when data is split."""

import numpy as np
import pytest
import torch
from torchmetrics import Metric

from magic_insert.core.errors import UserError
from magic_insert.evaluation.metrics import MeanCosine, RegionPSNR, RetrievalTop1, ShadowIoU


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(7)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def test_mean_cosine_agrees_with_numpy_row_by_row(draw: np.random.Generator) -> None:
    a, b = draw.normal(size=(9, 5)).astype(np.float32), draw.normal(size=(9, 5)).astype(np.float32)
    expected = np.mean([x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)])
    metric = MeanCosine()
    metric.update(tensor(a), tensor(b))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_mean_cosine_is_neither_clipped_at_zero_nor_scaled() -> None:
    metric = MeanCosine()
    metric.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[-3.0, 0.0]]))
    assert metric.compute().item() == -1.0


def test_retrieval_counts_only_pictures_whose_own_text_is_nearest(draw: np.random.Generator) -> None:
    images, texts = draw.normal(size=(40, 6)), draw.normal(size=(11, 6))
    targets = draw.integers(0, 11, size=40)
    cosines = images @ texts.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    expected = np.mean(
        [int(np.argsort(row)[-1]) == target for row, target in zip(cosines, targets, strict=True)]
    )
    metric = RetrievalTop1()
    metric.update(tensor(images), tensor(texts), torch.from_numpy(targets))
    assert metric.compute().item() == pytest.approx(expected)


def test_a_retrieval_target_that_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="targets"):
        RetrievalTop1().update(torch.ones(1, 2), torch.ones(3, 2), torch.tensor([3]))


def test_region_psnr_agrees_with_numpy_and_ignores_the_outside(draw: np.random.Generator) -> None:
    images, truth = draw.random((4, 3, 8, 6)), draw.random((4, 3, 8, 6))
    region = (draw.random((4, 1, 8, 6)) > 0.6).astype(np.float64)
    inside = np.broadcast_to(region, images.shape) > 0
    expected = -10 * np.log10(np.mean((images - truth)[inside] ** 2))
    metric = RegionPSNR()
    metric.update(tensor(np.where(inside, images, 0.3)), tensor(truth), tensor(region))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-4)


def test_ten_times_the_error_costs_twenty_decibel() -> None:
    values = []
    for error in (0.05, 0.5):
        metric = RegionPSNR()
        metric.update(torch.full((1, 3, 4, 4), error), torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4))
        values.append(metric.compute().item())
    assert values[0] - values[1] == pytest.approx(20.0, abs=1e-4)


def test_shadow_iou_agrees_with_sets_of_pixels(draw: np.random.Generator) -> None:
    ours, theirs = draw.random((5, 1, 7, 7)), draw.random((5, 1, 7, 7))
    scores = []
    for p, t in zip(ours, theirs, strict=True):
        first, second = set(np.flatnonzero(p > 0.5)), set(np.flatnonzero(t > 0.5))
        scores.append(len(first & second) / len(first | second))
    metric = ShadowIoU()
    metric.update(tensor(ours), tensor(theirs))
    assert metric.compute().item() == pytest.approx(np.mean(scores))


def test_no_shadow_where_none_belongs_is_perfect_and_an_invented_one_is_zero() -> None:
    none, some = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    quiet, invented = ShadowIoU(), ShadowIoU()
    quiet.update(none, none)
    invented.update(some, none)
    assert (quiet.compute().item(), invented.compute().item()) == (1.0, 0.0)


@pytest.mark.parametrize("metric", [MeanCosine(), RetrievalTop1(), RegionPSNR(), ShadowIoU()], ids=repr)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_that_saw_nothing_is_nan(metric: Metric) -> None:
    assert torch.isnan(metric.compute())


def test_uneven_batches_give_the_value_of_one_batch(draw: np.random.Generator) -> None:
    images, truth = tensor(draw.random((7, 3, 5, 5))), tensor(draw.random((7, 3, 5, 5)))
    region = tensor(draw.random((7, 1, 5, 5)))
    a, b = tensor(draw.normal(size=(7, 4))), tensor(draw.normal(size=(7, 4)))
    for metric, data in (
        (RegionPSNR(), (images, truth, region)),
        (MeanCosine(), (a, b)),
        (ShadowIoU(), (region, region)),
    ):
        metric.update(*data)
        whole = metric.compute().item()
        metric.reset()
        for part in (slice(0, 1), slice(1, 6), slice(6, 7)):
            metric.update(*(values[part] for values in data))
        assert metric.compute().item() == pytest.approx(whole, abs=1e-9)
