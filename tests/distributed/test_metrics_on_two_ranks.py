"""Strided shards of odd length on two processes must give the number of one process."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from magic_insert.evaluation.metrics import MeanCosine

ROWS = 5  # odd, so that the ranks hold different numbers of rows


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(3)
    return draw.normal(size=(ROWS, 4)).astype(np.float32), draw.normal(size=(ROWS, 4)).astype(np.float32)


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    a, b = (torch.from_numpy(values)[rank::2] for values in _pairs())
    metric = MeanCosine()
    metric.update(a, b)
    Path(folder, f"{rank}.txt").write_text(repr(metric.compute().item()))
    dist.destroy_process_group()


def test_two_ranks_with_uneven_shards_give_the_mean_of_all_rows(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    a, b = _pairs()
    expected = float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))
    for rank in range(2):
        assert float(Path(tmp_path, f"{rank}.txt").read_text()) == pytest.approx(expected, abs=1e-6)
