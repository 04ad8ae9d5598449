"""Counterfactual pairs from the Toybox, at any size and in chosen styles, rendered once and kept on disk.

Arrays are uint8 `.npy` files (memory-mapped): N pairs, H = W = size. Pair i depends on the plan and i alone, so a
half-written pool goes on where it stopped and a longer one begins like a shorter one.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from magic_insert.core.digest import digest
from magic_insert.config.registry import STYLES
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.data.pairs import LAYERS, Pair
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.subjects import SubjectSpec, sample_subject
from magic_insert.toybox.world import render_pairs

PAIRS_VERSION = 1
CHUNK = 4  # pairs rendered together


@dataclass(frozen=True)
class PairsPlan:
    """Which pairs are rendered; the digest of this record names them. Pair i is drawn in style i modulo `styles`."""

    seed: int = 0
    count: int = 400
    size: int = 128
    styles: tuple[str, ...] = ("photo",)
    split: Literal["train", "heldout"] = "train"
    occlusion: float = 0.1

    def __post_init__(self) -> None:
        unknown = [style for style in self.styles if style not in STYLES.names()]
        if unknown or not self.styles:
            raise UserError(
                f"expected data.styles among {', '.join(STYLES.names())}, got {', '.join(unknown) or 'none'}"
            )

    @property
    def key(self) -> str:
        """16 hex digits."""
        return digest({"version": PAIRS_VERSION, **asdict(self)})


def pair_at(plan: PairsPlan, index: int) -> tuple[SceneSpec, SubjectSpec]:
    """Scene `index` and the subject that stands in it."""
    scene = sample_scene(
        fold_in(plan.seed, "pair scene", plan.split, index), plan.split, occlusion=plan.occlusion
    )
    return scene, sample_subject(fold_in(plan.seed, "pair subject", plan.split, index), plan.split)


def render_chunk(plan: PairsPlan, start: int, stop: int, device: str = "cpu") -> dict[str, np.ndarray]:
    """Pairs `start` to `stop` - 1: uint8 arrays by layer."""
    specs = [pair_at(plan, i) for i in range(start, stop)]
    drawn = render_pairs(
        [scene for scene, _ in specs],
        [subject for _, subject in specs],
        [plan.styles[i % len(plan.styles)] for i in range(start, stop)],
        [(fold_in(plan.seed, "pair complexity", i) % 1000) / 999.0 for i in range(start, stop)],
        [fold_in(plan.seed, "pair texture", i) for i in range(start, stop)],
        size=plan.size,
        device=device,
    )
    layers = (drawn.with_subject, drawn.without, drawn.mask)
    return {
        name: (layer.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
        for name, layer in zip(LAYERS, layers, strict=True)
    }


def _worker(job: tuple[PairsPlan, int, int]) -> tuple[int, dict[str, np.ndarray]]:
    plan, start, stop = job
    torch.set_num_threads(1)
    return start, render_chunk(plan, start, stop)


def _rendered(
    jobs: list[tuple[PairsPlan, int, int]], device: str, workers: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    if device != "cpu" or workers < 2:
        for plan, start, stop in jobs:
            yield start, render_chunk(plan, start, stop, device)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_worker, jobs)


def write_pairs(
    root: Path,
    plan: PairsPlan,
    *,
    device: str = "cpu",
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Renders the pairs into `root`/pairs-<key> as far as they are not there yet; returns that folder.

    Args:
        device: where a single worker renders; several workers render on CPUs.
        on_progress: called with (pairs done, pairs in all) after every chunk.
    """
    folder = Path(root) / f"pairs-{plan.key}"
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / "state.json"
    state: dict[str, Any] = read_json(state_path) if state_path.is_file() else {"done": []}
    edge = plan.size
    arrays = {}
    for name in LAYERS:
        path, channels = folder / f"{name}.npy", 1 if name == "mask" else 3
        mode = "r+" if path.is_file() else "w+"
        shape = (plan.count, channels, edge, edge)
        arrays[name] = np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=shape)
    done = set(state["done"])
    starts = [start for start in range(0, plan.count, CHUNK) if start not in done]
    jobs = [(plan, start, min(start + CHUNK, plan.count)) for start in starts]
    on_progress(min(plan.count, CHUNK * len(done)), plan.count)
    for start, block in _rendered(jobs, device, workers):
        for name, values in block.items():
            arrays[name][start : start + len(values)] = values
            # Pixels reach the disk before the list that vouches for them.
            arrays[name].flush()
        done.add(start)
        write_json(state_path, {"done": sorted(done), "plan": asdict(plan)})
        on_progress(min(plan.count, CHUNK * len(done)), plan.count)
    return folder


class ToyboxPairs:
    """The finished pairs of a plan; a `PairSet` with a known style per pair."""

    def __init__(self, folder: Path, plan: PairsPlan):
        self.plan = plan
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in LAYERS}
        self.ids = [f"{plan.split}-{i:05d}" for i in range(plan.count)]
        self.digests = [f"{plan.key}-{i}" for i in range(plan.count)]
        self.styles = [plan.styles[i % len(plan.styles)] for i in range(plan.count)]

    def load(self, index: int) -> Pair:
        """Pair number `index`."""
        layers = [torch.from_numpy(self._arrays[name][index].astype(np.float32) / 255.0) for name in LAYERS]
        return Pair(self.ids[index], *layers)
