"""Strided shards of odd length on two processes must give the numbers of one plain formula over all rows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from magic_insert.evaluation.metrics import MeanCosine, RegionPSNR, RetrievalTop1, ShadowIoU

ROWS, TEXTS = 5, 3  # odd, so that the ranks hold different numbers of rows


def _data() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(3)
    return {
        "a": draw.normal(size=(ROWS, 4)),
        "b": draw.normal(size=(ROWS, 4)),
        "texts": draw.normal(size=(TEXTS, 4)),
        "targets": draw.integers(0, TEXTS, size=ROWS),
        "image": draw.random((ROWS, 3, 6, 6)),
        "truth": draw.random((ROWS, 3, 6, 6)),
        "region": (draw.random((ROWS, 1, 6, 6)) > 0.5).astype(float),
        "shadow": draw.random((ROWS, 1, 6, 6)),
    }


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows = {name: torch.from_numpy(v) for name, v in _data().items()}
    mine = {
        name: v if name == "texts" else (v if v.dtype == torch.int64 else v.float())[rank::2]
        for name, v in rows.items()
    }
    cosine, retrieval, psnr, iou = MeanCosine(), RetrievalTop1(), RegionPSNR(), ShadowIoU()
    cosine.update(mine["a"], mine["b"])
    retrieval.update(mine["a"], mine["texts"].float(), mine["targets"])
    psnr.update(mine["image"], mine["truth"], mine["region"])
    iou.update(mine["region"], mine["shadow"])
    values = [metric.compute().item() for metric in (cosine, retrieval, psnr, iou)]
    Path(folder, f"{rank}.json").write_text(json.dumps(values))
    dist.destroy_process_group()


def _expected() -> list[float]:
    d = _data()
    a, b, texts = d["a"], d["b"], d["texts"]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    nearest = (a @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T).argmax(1)
    inside = np.broadcast_to(d["region"] > 0, d["image"].shape)
    error = ((d["image"] - d["truth"])[inside] ** 2).mean()
    overlaps = []
    for ours, theirs in zip(d["region"] > 0.5, d["shadow"] > 0.5, strict=True):
        overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
    return [cosine.mean(), (nearest == d["targets"]).mean(), -10 * np.log10(error), np.mean(overlaps)]


def test_two_ranks_with_uneven_shards_give_the_numbers_of_all_rows(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        values = json.loads(Path(tmp_path, f"{rank}.json").read_text())
        assert values == pytest.approx(_expected(), abs=1e-5)
