"""A pool of Toybox renders on disk, from which every part of the foundation is trained.

One ray-traced picture is drawn in several styles, because tracing costs more than drawing. Drawing 0 is always
`photo`, the real domain. Arrays are uint8 `.npy` files (memory-mapped); S subject pictures, V drawings of each,
C scenes, W drawings of each, P further scenes that are photographs alone, for the models that start from photographs.
Everything is a pure function of the plan, so a half-written pool goes on where it stopped.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import TRAIN_STYLES, draw
from magic_insert.toybox.subjects import POSES, SubjectSpec, sample_subject, with_pose
from magic_insert.toybox.world import SUPERSAMPLE, shrink, trace_scenes, trace_subjects

POOL_VERSION = 1
_ARRAYS = {
    "scene": ("scenes_with", "scenes_without", "scene_mask"),
    "photo": ("photos_with", "photos_without", "photo_mask"),
    "subject": ("subjects", "subject_alpha"),
}


@dataclass(frozen=True)
class PoolPlan:
    """How much is rendered; the digest of this record names the pool."""

    seed: int = 0
    num_identities: int = 1200
    poses_per_identity: int = 2
    drawings_per_subject: int = 5
    num_scenes: int = 1200
    drawings_per_scene: int = 4
    num_photo_scenes: int = 1
    occlusion: float = 0.1
    size: int = 128
    chunk: int = 8  # pictures traced together

    @property
    def key(self) -> str:
        return digest({"version": POOL_VERSION, **asdict(self)})


def subject_at(plan: PoolPlan, index: int) -> SubjectSpec:
    """The subject of picture `index`; consecutive pictures share an identity and differ in pose and yaw."""
    identity, view = divmod(index, plan.poses_per_identity)
    spec = sample_subject(fold_in(plan.seed, "identity", identity), "train")
    if view == 0:
        return spec
    pick = fold_in(plan.seed, "view", identity, view)
    yaw = spec.yaw_deg + 15.0 + (pick >> 8) % 50
    return with_pose(spec, pose=POSES[pick % len(POSES)], yaw_deg=yaw if yaw <= 60 else yaw - 110)


def scene_at(plan: PoolPlan, index: int) -> tuple[SceneSpec, SubjectSpec]:
    """Scene `index` and the subject that stands in it; subjects are those of the subject pictures.

    Indices from `num_scenes` on are the scenes that are photographs alone.
    """
    scene = sample_scene(fold_in(plan.seed, "scene", index), "train", occlusion=plan.occlusion)
    pictures = max(1, plan.num_identities * plan.poses_per_identity)
    return scene, subject_at(plan, fold_in(plan.seed, "scene-subject", index) % pictures)


def drawings(plan: PoolPlan, kind: str, index: int, count: int) -> list[int]:
    """Which styles picture `index` is drawn in, as indices into TRAIN_STYLES: photo, then others without repeats."""
    order = sorted(range(1, len(TRAIN_STYLES)), key=lambda i: fold_in(plan.seed, kind, index, "style", i))
    return [0, *order[: count - 1]]


def complexity_at(plan: PoolPlan, kind: str, index: int, drawing: int) -> float:
    return (fold_in(plan.seed, kind, index, "complexity", drawing) % 1000) / 999.0


def _to_uint8(images: torch.Tensor) -> np.ndarray:
    return (images.clamp(0, 1) * 255.0 + 0.5).to(torch.uint8).cpu().numpy()


def _draw_all(plan: PoolPlan, kind: str, buffer: Any, indices: range, count: int) -> np.ndarray:
    """All drawings of one traced batch: uint8 [len(indices), count, 3, H, W]."""
    layers = []
    for drawing in range(count):
        styles = [TRAIN_STYLES[drawings(plan, kind, i, count)[drawing]] for i in indices]
        complexity = [complexity_at(plan, kind, i, drawing) for i in indices]
        seeds = [fold_in(plan.seed, kind, i, "texture", drawing) for i in indices]
        layers.append(_to_uint8(shrink(draw(buffer, styles, complexity, seeds))))
    return np.stack(layers, axis=1)


def render_subject_chunk(plan: PoolPlan, indices: range, device: str) -> dict[str, np.ndarray]:
    buffer = trace_subjects([subject_at(plan, i) for i in indices], SUPERSAMPLE * plan.size, device)
    return {
        "subjects": _draw_all(plan, "subject", buffer, indices, plan.drawings_per_subject),
        "subject_alpha": _to_uint8(shrink(buffer.coverage)),
    }


def render_scene_chunk(plan: PoolPlan, indices: range, device: str) -> dict[str, np.ndarray]:
    return _scenes(plan, "scene", indices, device, plan.drawings_per_scene)


def render_photo_chunk(plan: PoolPlan, indices: range, device: str) -> dict[str, np.ndarray]:
    beyond = range(plan.num_scenes + indices.start, plan.num_scenes + indices.stop)
    return _scenes(plan, "photo", beyond, device, 1)


def _scenes(plan: PoolPlan, kind: str, indices: range, device: str, count: int) -> dict[str, np.ndarray]:
    pairs = [scene_at(plan, i) for i in indices]
    buffers = trace_scenes(
        [scene for scene, _ in pairs], [subject for _, subject in pairs], SUPERSAMPLE * plan.size, device
    )
    drawn = [_draw_all(plan, "scene", buffer, indices, count) for buffer in buffers]
    return dict(zip(_ARRAYS[kind], [*drawn, _to_uint8(shrink(buffers[0].coverage))], strict=True))


RENDER = {"scene": render_scene_chunk, "photo": render_photo_chunk, "subject": render_subject_chunk}


def _worker(job: tuple[str, PoolPlan, int, int, str]) -> tuple[str, int, dict[str, np.ndarray]]:
    kind, plan, start, stop, device = job
    torch.set_num_threads(1)
    return kind, start, RENDER[kind](plan, range(start, stop), device)


def _render_jobs(
    jobs: list[Any], device: str, workers: int
) -> Iterator[tuple[str, int, dict[str, np.ndarray]]]:
    if device != "cpu" or workers < 2:
        for kind, plan, start, stop, where in jobs:
            yield kind, start, RENDER[kind](plan, range(start, stop), where)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_worker, jobs)


def _shapes(plan: PoolPlan) -> dict[str, tuple[int, ...]]:
    pictures, edge = plan.num_identities * plan.poses_per_identity, plan.size
    return {
        "subjects": (pictures, plan.drawings_per_subject, 3, edge, edge),
        "subject_alpha": (pictures, 1, edge, edge),
        "scenes_with": (plan.num_scenes, plan.drawings_per_scene, 3, edge, edge),
        "scenes_without": (plan.num_scenes, plan.drawings_per_scene, 3, edge, edge),
        "scene_mask": (plan.num_scenes, 1, edge, edge),
        "photos_with": (plan.num_photo_scenes, 1, 3, edge, edge),
        "photos_without": (plan.num_photo_scenes, 1, 3, edge, edge),
        "photo_mask": (plan.num_photo_scenes, 1, edge, edge),
    }


def write_pool(
    root: Path,
    plan: PoolPlan,
    *,
    device: str = "cpu",
    workers: int = 2,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Render the pool `root/pool-<key>` if it is not complete yet, and return its folder.

    Args:
        on_progress: called with (pictures done, pictures in all) after every chunk.
    """
    folder = Path(root) / f"pool-{plan.key}"
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / "state.json"
    state: dict[str, Any] = read_json(state_path) if state_path.is_file() else {"done": [], "complete": False}
    if state["complete"]:
        return folder
    arrays = {}
    for name, shape in _shapes(plan).items():
        path = folder / f"{name}.npy"
        mode = "r+" if path.is_file() else "w+"
        arrays[name] = np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=shape)
    done = {tuple(item) for item in state["done"]}
    counts = {
        "scene": plan.num_scenes,
        "photo": plan.num_photo_scenes,
        "subject": plan.num_identities * plan.poses_per_identity,
    }
    jobs, finished = [], 0
    for kind, count in counts.items():
        for start in range(0, count, plan.chunk):
            stop = min(start + plan.chunk, count)
            if (kind, start) in done:
                finished += stop - start
            else:
                jobs.append((kind, plan, start, stop, device))
    for number, (kind, start, block) in enumerate(_render_jobs(jobs, device, workers), 1):
        size = 0
        for name, values in block.items():
            size = len(values)
            arrays[name][start : start + size] = values
        done.add((kind, start))
        finished += size
        on_progress(finished, sum(counts.values()))
        if number % 16 == 0 or number == len(jobs):
            # Pixels reach the disk before the list that vouches for them.
            for array in arrays.values():
                array.flush()
            write_json(
                state_path, {"done": sorted(done), "complete": number == len(jobs), "plan": asdict(plan)}
            )
    return folder


class ToyboxPool:
    """A complete pool: uint8 arrays and, for every picture, its words, styles, identity and template.

    `subjects` [S V 3 H W], `subject_alpha` [S 1 H W], `scenes_with`/`scenes_without` [C W 3 H W],
    `scene_mask` [C 1 H W], `photos_with`/`photos_without` [P 1 3 H W], `photo_mask` [P 1 H W]; `subject_styles` [S V] and `scene_styles` [C W] index `style_names`.
    """

    def __init__(self, folder: Path):
        folder = Path(folder)
        state = read_json(folder / "state.json") if (folder / "state.json").is_file() else {}
        if not state.get("complete"):
            raise UserError(
                f"expected a complete pool in {folder}, found a missing or half-written one; render it again"
            )
        self.folder = folder
        self.plan = PoolPlan(**state["plan"])
        for name in _shapes(self.plan):
            setattr(self, name, np.load(folder / f"{name}.npy", mmap_mode="r"))
        self.style_names = list(TRAIN_STYLES)
        specs = [subject_at(self.plan, i) for i in range(len(self.subjects))]
        pairs = [scene_at(self.plan, i) for i in range(len(self.scenes_with))]
        self.templates = [spec.template for spec in specs]
        names = sorted(set(self.templates))
        self.template = np.array([names.index(t) for t in self.templates])
        self.identity = np.arange(len(specs)) // self.plan.poses_per_identity
        self.captions = [caption(spec) for spec in specs]
        self.scene_captions = [f"{caption(spec)}, {scene_phrase(scene)}" for scene, spec in pairs]
        self.scene_phrases = [scene_phrase(scene) for scene, _ in pairs]
        per_subject, per_scene = self.plan.drawings_per_subject, self.plan.drawings_per_scene
        self.subject_styles = np.array(
            [drawings(self.plan, "subject", i, per_subject) for i in range(len(specs))]
        )
        self.scene_styles = np.array([drawings(self.plan, "scene", i, per_scene) for i in range(len(pairs))])

    subjects: np.ndarray
    subject_alpha: np.ndarray
    scenes_with: np.ndarray
    scenes_without: np.ndarray
    scene_mask: np.ndarray
    photos_with: np.ndarray
    photos_without: np.ndarray
    photo_mask: np.ndarray
