"""Toybox renders that are made once and kept in a store: counterfactual pairs, and the pool of the foundation.

Arrays are uint8 `.npy` files (memory-mapped). Picture i is a function of the plan and i alone, so a longer plan begins
like a shorter one, and what a killed process left in the staging folder goes on where it stopped.
Letters: N pairs; S subject pictures in V drawings each, C scenes in W drawings each, P scenes that are photographs
alone, for the models that start from photographs. Of several drawings the first is always `photo`, the real domain:
one ray-traced picture is drawn in several styles, because tracing costs more than drawing. H = W = size.
"""

import multiprocessing
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize, centre_square
from magic_insert.core.digest import sha256_file
from magic_insert.core.effect_layer import continue_under
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.images import load_rgb
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.core.store import WORK, Request, Store
from magic_insert.data.pairs import LAYERS, Pair
from magic_insert.toybox.captions import caption, scene_phrase
from magic_insert.toybox.scenes import SceneSpec, sample_scene
from magic_insert.toybox.styles import TRAIN_STYLES, draw
from magic_insert.toybox.subjects import POSES, SubjectSpec, sample_subject
from magic_insert.toybox.world import SUPERSAMPLE, render_pairs, shrink, trace_scenes, trace_subjects

Arrays = Mapping[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]
DARKEST = 4 / 255  # a darker scene does not tell by how much it was darkened


@dataclass(frozen=True)
class Plan:
    """What is rendered; the digest of this record names the result."""

    kind: ClassVar[str]
    version: ClassVar[int]  # raised when the same plan gives other pictures

    @property
    def request(self) -> Request:
        """What the store is asked for."""
        return Request(self.kind, self.version, asdict(self))

    @property
    def key(self) -> str:
        """16 hex digits."""
        return self.request.key

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """The parts of the plan and how many pictures are traced for each."""

    @abstractmethod
    def shapes(self) -> Shapes:
        """The arrays by name."""

    @abstractmethod
    def draw(self, part: str, indices: range, device: str) -> Arrays:
        """Pictures `indices` of a part: rows of some of the arrays, by name."""

    @property
    @abstractmethod
    def together(self) -> int:
        """How many pictures are traced at once."""


def render(
    store: Store, plan: Plan, *, device: str = "cpu", workers: int = 2, on_step: OnStep = no_step
) -> dict[str, np.ndarray]:
    """The arrays of `plan` from the store, rendered as far as they are not there yet.

    Args:
        device: where a single worker renders; several workers render on CPUs.
        on_step: called after every chunk with (pictures done, pictures in all); raising in it cancels, and the next
            call goes on.
    """
    entry = store.obtain(plan.request, lambda staging: _render(staging, plan, device, workers, on_step))
    return {name: np.load(entry.folder / f"{name}.npy", mmap_mode="r") for name in plan.shapes()}


def _render(staging: Path, plan: Plan, device: str, workers: int, on_step: OnStep) -> None:
    arrays = {name: open_array(staging / f"{name}.npy", shape) for name, shape in plan.shapes().items()}
    record = staging / WORK / "chunks.json"
    done = {tuple(chunk) for chunk in read_json(record)} if record.is_file() else set()
    chunks = [
        (part, start, min(start + plan.together, count))
        for part, count in plan.counts().items()
        for start in range(0, count, plan.together)
    ]
    total, finished = sum(plan.counts().values()), sum(stop - start for _, start, stop in done)
    on_step(finished, total)
    jobs = [(plan, *chunk, device) for chunk in chunks if chunk not in done]
    for chunk, block in _drawn(jobs, device, workers):
        for name, values in block.items():
            arrays[name][chunk[1] : chunk[2]] = values
            arrays[name].flush()  # pixels reach the disk before the list that vouches for them
        done.add(chunk)
        write_json(record, sorted(done))
        finished += chunk[2] - chunk[1]
        on_step(finished, total)


def open_array(path: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> np.memmap:
    """The array in a `.npy` file, mapped to be filled; made if it is not there."""
    mode: Literal["r+", "w+"] = "r+" if path.is_file() else "w+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)


def _drawn(jobs: Sequence[Any], device: str, workers: int) -> Iterator[tuple[tuple[Any, ...], Arrays]]:
    if device != "cpu" or workers < 2:
        yield from map(_draw_chunk, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        yield from pool.imap_unordered(_draw_chunk, jobs)


def _draw_chunk(job: tuple[Plan, str, int, int, str]) -> tuple[tuple[Any, ...], Arrays]:
    plan, part, start, stop, device = job
    return (part, start, stop), plan.draw(part, range(start, stop), device)


def to_uint8(images: Tensor) -> np.ndarray:
    """Pictures in [0, 1] as they are kept."""
    return (images.clamp(0, 1) * 255.0 + 0.5).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class PairsPlan(Plan):
    """Counterfactual pairs; pair i is drawn in style i modulo `styles`."""

    seed: int = 0
    count: int = 400
    size: int = 128
    styles: tuple[str, ...] = ("photo",)
    split: Literal["train", "heldout"] = "train"
    occlusion: float = 0.1

    kind = "pairs"
    version = 1
    together = 4

    def counts(self) -> dict[str, int]:
        return {"pair": self.count}

    def shapes(self) -> Shapes:
        return {name: (self.count, 1 if name == "mask" else 3, self.size, self.size) for name in LAYERS}

    def draw(self, part: str, indices: range, device: str) -> Arrays:
        seed, split = self.seed, self.split
        drawn = render_pairs(
            [
                sample_scene(fold_in(seed, "pair scene", split, i), split, occlusion=self.occlusion)
                for i in indices
            ],
            [sample_subject(fold_in(seed, "pair subject", split, i), split) for i in indices],
            [self.styles[i % len(self.styles)] for i in indices],
            [(fold_in(seed, "pair complexity", i) % 1000) / 999.0 for i in indices],
            [fold_in(seed, "pair texture", i) for i in indices],
            size=self.size,
            device=device,
        )
        layers = (drawn.with_subject, drawn.without, drawn.mask)
        return dict(zip(LAYERS, map(to_uint8, layers), strict=True))


class ToyboxPairs:
    """The pairs of a plan, rendered by `render`; a `PairSet` with a known style per pair.

    `photographs`: what the subjects, their shadows and their reflections are laid onto in place of their own scenes.
    """

    def __init__(self, arrays: Arrays, plan: PairsPlan, photographs: Sequence[Path] = ()):
        self.plan, self._arrays = plan, arrays
        self.ids = [f"{plan.split}-{i:05d}" for i in range(plan.count)]
        self.grounds = [
            photographs[fold_in(plan.seed, "photograph", plan.split, i) % len(photographs)]
            for i in range(plan.count if photographs else 0)
        ]
        sums = {path: f"-{sha256_file(path)}" for path in set(self.grounds)}
        under = [sums[path] for path in self.grounds] or [""] * plan.count
        self.digests = [f"{plan.key}-{i}{ground}" for i, ground in enumerate(under)]
        self.styles = [plan.styles[i % len(plan.styles)] for i in range(plan.count)]

    def load(self, index: int) -> Pair:
        """Pair number `index`.

        Raises:
            UserError: its photograph is not sound.
        """
        layers = [torch.from_numpy(self._arrays[name][index].astype(np.float32) / 255.0) for name in LAYERS]
        pair = Pair(self.ids[index], *layers)
        return on_photograph(pair, load_rgb(self.grounds[index])) if self.grounds else pair


def on_photograph(pair: Pair, photograph: Float[Tensor, "3 H W"]) -> Pair:
    """`pair` with a photograph, cut to its shape, in place of its scene: what the subject made of the scene's light, as
    a factor for each pixel and channel, it makes of the photograph's. Where it changes nothing, nothing changes."""
    ground = (area_resize(centre_square(photograph), *pair.mask.shape[-2:]) * 255).round() / 255
    change = pair.with_subject.clamp(min=DARKEST) / pair.without.clamp(min=DARKEST) - 1
    factor = 1 + continue_under(change, (pair.mask > 0).to(change.dtype))
    # Behind a soft edge the scene shows through; there the photograph takes its place.
    behind = torch.where(pair.mask > 0, pair.with_subject - (1 - pair.mask) * factor * pair.without, 0)
    shown = behind + (1 - pair.mask) * factor * ground
    return Pair(pair.id, shown.clamp(0, 1), ground, pair.mask)


@dataclass(frozen=True)
class PoolPlan(Plan):
    """How much of each is in a pool. `chunk`: pictures traced together."""

    seed: int = 0
    num_identities: int = 1200
    poses_per_identity: int = 2
    drawings_per_subject: int = 5
    num_scenes: int = 1200
    drawings_per_scene: int = 4
    num_photo_scenes: int = 1
    occlusion: float = 0.1
    size: int = 128
    chunk: int = 8

    kind = "pool"
    version = 1

    @property
    def together(self) -> int:
        return self.chunk

    def counts(self) -> dict[str, int]:
        return {
            "scene": self.num_scenes,
            "photo": self.num_photo_scenes,
            "subject": self.num_identities * self.poses_per_identity,
        }

    def shapes(self) -> Shapes:
        edge, amount = self.size, self.counts()
        found: Shapes = {}
        for name, count, drawings in (
            ("scenes", amount["scene"], self.drawings_per_scene),
            ("photos", amount["photo"], 1),
        ):
            found[f"{name}_with"] = found[f"{name}_without"] = (count, drawings, 3, edge, edge)
            found[f"{name[:-1]}_mask"] = (count, 1, edge, edge)
        found["subjects"] = (amount["subject"], self.drawings_per_subject, 3, edge, edge)
        found["subject_alpha"] = (amount["subject"], 1, edge, edge)
        return found

    def draw(self, part: str, indices: range, device: str) -> Arrays:
        traced = SUPERSAMPLE * self.size
        if part == "subject":
            buffer = trace_subjects([subject_at(self, i) for i in indices], traced, device)
            drawn = self._drawings("subject", buffer, indices, self.drawings_per_subject)
            return {"subjects": drawn, "subject_alpha": to_uint8(shrink(buffer.coverage))}
        if part == "photo":
            indices = range(self.num_scenes + indices.start, self.num_scenes + indices.stop)
        scenes, subjects = zip(*(scene_at(self, i) for i in indices), strict=True)
        full, empty = trace_scenes(scenes, subjects, traced, device)
        count = self.drawings_per_scene if part == "scene" else 1
        return {
            f"{part}s_with": self._drawings("scene", full, indices, count),
            f"{part}s_without": self._drawings("scene", empty, indices, count),
            f"{part}_mask": to_uint8(shrink(full.coverage)),
        }

    def _drawings(self, kind: str, buffer: Any, indices: range, count: int) -> np.ndarray:
        """All drawings of one traced batch: uint8 [len(indices), count, 3, H, W]."""
        layers = []
        for number in range(count):
            styles = [TRAIN_STYLES[drawings(self, kind, i, count)[number]] for i in indices]
            complexity = [(fold_in(self.seed, kind, i, "complexity", number) % 1000) / 999.0 for i in indices]
            textures = [fold_in(self.seed, kind, i, "texture", number) for i in indices]
            layers.append(to_uint8(shrink(draw(buffer, styles, complexity, textures))))
        return np.stack(layers, axis=1)


def subject_at(plan: PoolPlan, index: int) -> SubjectSpec:
    """The subject of picture `index`; consecutive pictures share an identity and differ in pose and yaw."""
    identity, view = divmod(index, plan.poses_per_identity)
    spec = sample_subject(fold_in(plan.seed, "identity", identity), "train")
    if view == 0:
        return spec
    pick = fold_in(plan.seed, "view", identity, view)
    yaw = spec.yaw_deg + 15.0 + (pick >> 8) % 50
    return replace(spec, pose=POSES[pick % len(POSES)], yaw_deg=yaw if yaw <= 60 else yaw - 110)


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


class ToyboxPool:
    """The arrays of a pool, rendered by `render`, and for every picture its words, styles, identity and template.

    `subject_styles` [S V] and `scene_styles` [C W] index `style_names`.
    """

    subjects: np.ndarray  # S V 3 H W
    subject_alpha: np.ndarray  # S 1 H W
    scenes_with: np.ndarray  # C W 3 H W
    scenes_without: np.ndarray
    scene_mask: np.ndarray  # C 1 H W
    photos_with: np.ndarray  # P 1 3 H W
    photos_without: np.ndarray
    photo_mask: np.ndarray  # P 1 H W

    def __init__(self, arrays: Arrays, plan: PoolPlan):
        self.plan = plan
        for name, values in arrays.items():
            setattr(self, name, values)
        self.style_names = list(TRAIN_STYLES)
        specs = [subject_at(plan, i) for i in range(len(self.subjects))]
        pairs = [scene_at(plan, i) for i in range(len(self.scenes_with))]
        self.templates = [spec.template for spec in specs]
        self.identity = np.arange(len(specs)) // plan.poses_per_identity
        self.captions = [caption(spec) for spec in specs]
        self.scene_captions = [f"{caption(spec)}, {scene_phrase(scene)}" for scene, spec in pairs]
        self.scene_phrases = [scene_phrase(scene) for scene, _ in pairs]

        def styles(kind: str, pictures: np.ndarray) -> np.ndarray:
            count, each = pictures.shape[:2]
            return np.array([drawings(plan, kind, i, each) for i in range(count)])

        self.subject_styles = styles("subject", self.subjects)
        self.scene_styles = styles("scene", self.scenes_with)
