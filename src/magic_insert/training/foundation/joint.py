"""UNet, image adapter and ControlNet on a GPU, from random weights, while the pool is still being rendered.

The text encoders, the image encoder and the autoencoder of a finished model stay as they are; everything they say of the
pool is computed once and kept on the device, so a step is a few gathers and one replay of a CUDA graph (forward,
backward, clipping, AdamW and the moving average). A UNet of this size leaves a GPU idle otherwise: launching its kernels
one by one from Python takes several times as long as running them.

Shapes: S subject pictures, N scenes, V drawings of each, C h w latents, T tokens, D width, B rows of a batch.
"""

import argparse
import bisect
import multiprocessing
import queue
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.rand import fold_in
from magic_insert.data.toybox_pool import (
    RENDER,
    PoolPlan,
    drawings,
    scene_at,
    subject_at,
)
from magic_insert.models.controlnet import canny_edges
from magic_insert.models.micro import MICRO, MicroSizes, build_scheduler, build_unet, load_tokenizers
from magic_insert.models.micro_adapter import collect_ip_adapter, save_ip_adapter
from magic_insert.models.micro_controlnet import build_controlnet
from magic_insert.models.micro_parts import load_part, new_adapter, without_adapter
from magic_insert.toybox.captions import caption, scene_phrase, style_phrase
from magic_insert.toybox.styles import TRAIN_STYLES
from magic_insert.training.foundation.adapter import act_in
from magic_insert.training.foundation.clip import clip_pixels
from magic_insert.training.foundation.looks import LOOK_NAMES, apply_look


@dataclass(frozen=True)
class Rows:
    """A share of the rows of a batch: which words they have, and whether a picture says the style."""

    share: float
    text: str  # "caption", "styled" (caption and style), "empty"
    picture: bool


# A person may change these tables; shares of one table add up to 1.
WITH_ADAPTER = (
    Rows(0.58, "caption", True),
    Rows(0.07, "styled", True),
    Rows(0.13, "styled", False),
    Rows(0.07, "caption", False),
    Rows(0.06, "empty", True),
    Rows(0.09, "empty", False),
)
WORDS_ONLY = (Rows(0.65, "styled", False), Rows(0.25, "caption", False), Rows(0.10, "empty", False))
# Where the adapter acts, by turns: everywhere, in the paper's block, in InstantStyle's, nowhere.
PLACES: tuple[str | None, ...] = ("", "up_blocks.0.", "up_blocks.0.attentions.1.", None)
TURNS = (0, 0, 0, 1, 0, 1, 2, 3)
SUBJECT_SHARE = 0.75  # of the rows; the rest are scenes with their subject
LOOK_SHARE = 0.3  # of the subject rows whose style a picture says are in a colour look
POOLED_SILENT = 0.5  # of the styled rows name the style in the token states alone
# Line drawings are the hardest to draw: how often each style is chosen, relative to 1.
STYLE_WEIGHT = {
    "photo": 1.3,
    "cartoon": 1.6,
    "cel": 1.2,
    "pencil": 1.5,
    "ink": 1.8,
    "blueprint": 1.6,
    "crayon": 1.2,
}
# Structure is decided in the middle of the schedule, where the held-out loss of line styles was highest.
MIDDLE, MIDDLE_SHARE = (350, 900), 0.4


@dataclass(frozen=True)
class JointPlan:
    """What is rendered and how long is trained; `minutes` of wall-clock time from the first step."""

    pool: PoolPlan
    workers: int = 14
    batch_size: int = 256
    lr: float = 1.0e-3
    minutes: float = 6.0
    controlnet_minutes: float = 1.0
    ema_decay: float = 0.9995
    seed: int = 0
    device: str = "cuda"
    start_share: float = 0.15  # of the pool that must be rendered before training starts
    channels_last: bool = False
    graph: bool = True
    max_steps: int = 1_000_000


# --- the pool, rendered by worker processes -------------------------------------------------------------------------


@dataclass
class Chunk:
    """A few rendered pictures of one kind, in every drawing and in colour looks, uint8, and their words as ids."""

    kind: str  # "subject" or "scene"
    rows: np.ndarray  # [n]
    pictures: np.ndarray  # [n, V, 3, H, W]; scenes with their subject
    references: (
        np.ndarray
    )  # [n, V, 3, H, W]; what may say the style: the subjects themselves, scenes without theirs
    toned: np.ndarray  # [n, K, 3, H, W] in a look: subjects to be drawn, scenes that say the look
    toned_drawing: np.ndarray  # [n, K] which drawing each of them is
    look: np.ndarray  # [n, K]
    styles: np.ndarray  # [n, V] indices into TRAIN_STYLES
    edges: np.ndarray  # [n, H, W] outlines of the photograph, of subjects alone
    texts: list[list[str]]  # [n][1 + V]: the caption, and the caption with each drawing's style


def render_chunk(job: tuple[str, PoolPlan, int, int]) -> Chunk:
    """One job of the pool; runs in a worker process on one thread of the CPU."""
    kind, plan, start, stop = job
    torch.set_num_threads(1)
    rows = np.arange(start, stop)
    block = RENDER[kind](plan, range(start, stop), "cpu")
    per = plan.drawings_per_subject if kind == "subject" else plan.drawings_per_scene
    styles = np.array([drawings(plan, kind, int(i), per) for i in rows])
    if kind == "subject":
        pictures = references = block["subjects"]
        words = [caption(subject_at(plan, int(i))) for i in rows]
        edges = np.stack(
            [canny_edges(torch.from_numpy(p[0].astype(np.float32) / 255.0))[0].numpy() > 0 for p in pictures]
        )
    else:
        pictures, references = block["scenes_with"], block["scenes_without"]
        pairs = [scene_at(plan, int(i)) for i in rows]
        words = [f"{caption(subject)}, {scene_phrase(scene)}" for scene, subject in pairs]
        edges = np.zeros((len(rows), 1, 1), bool)
    toned, chosen, looks = [], [], []
    for n, i in enumerate(rows):
        picks = [fold_in(plan.seed, kind, int(i), "look", k) for k in range(3)]
        chosen.append([p % per for p in picks])
        looks.append([(p >> 16) % len(LOOK_NAMES) for p in picks])
        toned.append(
            [
                apply_look(torch.from_numpy(references[n, d].copy()), LOOK_NAMES[k]).numpy()
                for d, k in zip(chosen[-1], looks[-1], strict=True)
            ]
        )
    texts = [
        [text, *(f"{text}, {style_phrase(TRAIN_STYLES[s])}" for s in drawn)]
        for text, drawn in zip(words, styles, strict=True)
    ]
    return Chunk(
        kind,
        rows,
        pictures,
        references,
        np.array(toned),
        np.array(chosen),
        np.array(looks),
        styles,
        edges,
        texts,
    )


def _work(jobs: Any, results: Any) -> None:
    while (job := jobs.get()) is not None:
        results.put(render_chunk(job))


class Renderer:
    """Worker processes that render the pool chunk by chunk, subjects and scenes in turn."""

    def __init__(self, plan: PoolPlan, workers: int):
        counts = {"subject": plan.num_identities * plan.poses_per_identity, "scene": plan.num_scenes}
        jobs = [
            ((start / count, kind), (kind, plan, start, min(start + plan.chunk, count)))
            for kind, count in counts.items()
            for start in range(0, count, plan.chunk)
        ]
        self.total, self.done = len(jobs), 0
        self._ready: list[Chunk] = []
        ordered = [job for _, job in sorted(jobs, key=lambda j: j[0])]
        if workers == 0:
            self._ready = [render_chunk(job) for job in ordered]
            self.processes: list[Any] = []
            return
        context = multiprocessing.get_context("spawn")
        self._jobs, self._results = context.Queue(), context.Queue(maxsize=4 * workers)
        for job in [*ordered, *[None] * workers]:
            self._jobs.put(job)
        self.processes = [
            context.Process(target=_work, args=(self._jobs, self._results), daemon=True)
            for _ in range(workers)
        ]
        for process in self.processes:
            process.start()

    @property
    def complete(self) -> bool:
        return self.done == self.total

    def arrived(self, *, wait: bool = False) -> list[Chunk]:
        """Chunks rendered since the last call; with `wait` at least one."""
        if not self.processes:
            found, self._ready = self._ready, []
        else:
            found = []
            while not self.complete and self.done + len(found) < self.total and len(found) < 4:
                try:
                    found.append(self._results.get(block=wait and not found, timeout=120))
                except queue.Empty:
                    break
        self.done += len(found)
        return found


# --- what the frozen encoders say of it, on the device --------------------------------------------------------------


@dataclass
class Encoders:
    """The frozen parts of a finished model."""

    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    image_encoder: Any
    tokenizer: Any
    tokenizer_2: Any
    device: str

    def latents(self, pictures: np.ndarray) -> Tensor:
        """uint8 [..., 3, H, W] to scaled latents, as they are and mirrored, [..., 2, C, h, w] float16."""
        flat = torch.from_numpy(pictures.reshape(-1, *pictures.shape[-3:])).to(self.device)
        pixels = flat.float() / 127.5 - 1.0
        views = [
            self.vae.encode(p).latent_dist.mean * self.vae.config.scaling_factor
            for p in (pixels, pixels.flip(-1))
        ]
        joined = torch.stack(views, dim=1).half()
        return joined.view(*pictures.shape[:-3], *joined.shape[1:])

    def embeds(self, pictures: np.ndarray) -> Tensor:
        flat = torch.from_numpy(pictures.reshape(-1, *pictures.shape[-3:])).to(self.device)
        embeds = self.image_encoder(clip_pixels(flat)).image_embeds.half()
        return embeds.view(*pictures.shape[:-3], -1)

    def text(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token states [n, T, D] and pooled text [n, E], float16."""
        first, second = (
            t(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(self.device)
            for t in (self.tokenizer, self.tokenizer_2)
        )
        states = self.text_encoder(first, output_hidden_states=True).hidden_states[-2]
        other = self.text_encoder_2(second, output_hidden_states=True)
        return torch.cat([states, other.hidden_states[-2]], dim=-1).half(), other.text_embeds.half()


@dataclass
class Table:
    """One kind of picture on the device; rows that have not arrived yet are never chosen."""

    latents: Tensor  # [n, V, 2, C, h, w]
    references: Tensor  # [n, V, D]
    toned_latents: Tensor  # [n, K, 2, C, h, w], of subjects
    toned_references: Tensor  # [n, K, D], of scenes
    states: Tensor  # [n, 1 + V, T, D]
    pooled: Tensor  # [n, 1 + V, E]
    edges: Tensor  # [n, H, W] bool
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # style -> (row, drawing)
    toned_places: dict[tuple[int, int], list[tuple[int, int, int]]] = field(default_factory=dict)


class PoolOnDevice:
    """Everything a step gathers from, growing while the pool is rendered."""

    def __init__(self, plan: PoolPlan, encoders: Encoders):
        self.plan, self.encoders = plan, encoders
        self.tables: dict[str, Table] = {}
        self.weights: dict[str, tuple[list[int], list[float]]] = {}
        self.shared_looks: list[tuple[int, int]] = []
        with torch.no_grad():
            self.empty_states, self.empty_pooled = encoders.text([""])

    @torch.no_grad()
    def add(self, chunk: Chunk) -> None:
        said = self.encoders
        latents, references = said.latents(chunk.pictures), said.embeds(chunk.references)
        subjects = chunk.kind == "subject"
        toned_latents = said.latents(chunk.toned) if subjects else latents[:, :0]
        toned_references = references[:, :0] if subjects else said.embeds(chunk.toned)
        per = len(chunk.texts[0])
        states, pooled = said.text([text for row in chunk.texts for text in row])
        values = {
            "latents": latents,
            "references": references,
            "toned_latents": toned_latents,
            "toned_references": toned_references,
            "states": states.view(-1, per, *states.shape[1:]),
            "pooled": pooled.view(-1, per, pooled.shape[-1]),
            "edges": torch.from_numpy(chunk.edges).to(latents.device),
        }
        if chunk.kind not in self.tables:
            count = (
                self.plan.num_identities * self.plan.poses_per_identity if subjects else self.plan.num_scenes
            )
            self.tables[chunk.kind] = Table(
                **{k: v.new_zeros(count, *v.shape[1:]) for k, v in values.items()}
            )
        table = self.tables[chunk.kind]
        rows = torch.from_numpy(chunk.rows).to(latents.device)
        for name, value in values.items():
            getattr(table, name)[rows] = value
        for n, row in enumerate(chunk.rows):
            for v, style in enumerate(chunk.styles[n]):
                table.places.setdefault(int(style), []).append((int(row), v))
            for k, (v, look) in enumerate(zip(chunk.toned_drawing[n], chunk.look[n], strict=True)):
                key = int(chunk.styles[n][v]), int(look)
                table.toned_places.setdefault(key, []).append((int(row), k, int(v)))
        self._count()

    def batch(
        self, rng: np.random.Generator, size: int, *, adapter: bool, edges: bool = False
    ) -> dict[str, Tensor]:
        """`size` rows; latents, token states, pooled text, style embedding, timesteps (and edges), on the device."""
        kinds = np.searchsorted(
            _shares(WITH_ADAPTER if adapter else WORDS_ONLY), rng.random(size), side="right"
        )
        mixture = WITH_ADAPTER if adapter else WORDS_ONLY
        chances, numbers = rng.random((size, 4)).tolist(), rng.integers(0, 2**31, (size, 4)).tolist()
        picks = [
            self._row(mixture[k], u, n, edges)
            for k, u, n in zip(kinds.tolist(), chances, numbers, strict=True)
        ]
        parts: dict[str, list[Tensor]] = {"latents": [], "states": [], "pooled": [], "edges": []}
        order: list[int] = []
        # Grouped by table, so that each is gathered once.
        for kind, toned in (("subject", False), ("subject", True), ("scene", False)):
            chosen = [n for n, p in enumerate(picks) if (p[0], p[1]) == (kind, toned)]
            if not chosen:
                continue
            order += chosen
            table = self.tables[kind]
            row, drawing, flip, slot, slot_pooled = self._on_device([picks[n][2:7] for n in chosen]).unbind(1)
            parts["latents"].append((table.toned_latents if toned else table.latents)[row, drawing, flip])
            blank = slot < 0
            states = table.states[row, slot.clamp(min=0)]
            parts["states"].append(torch.where(blank[:, None, None], self.empty_states, states))
            parts["pooled"].append(
                torch.where(blank[:, None], self.empty_pooled, table.pooled[row, slot_pooled])
            )
            if edges:
                plain = table.edges[row]
                parts["edges"].append(torch.where(flip.bool()[:, None, None], plain.flip(-1), plain))
        inverse = self._on_device(np.argsort(order).tolist())
        batch = {k: torch.cat(v)[inverse].float() for k, v in parts.items() if v}
        batch["style"] = self._style([p[7] for p in picks])
        middle = rng.random(size) < MIDDLE_SHARE
        steps = np.where(middle, rng.integers(*MIDDLE, size), rng.integers(0, 1000, size))
        batch["timesteps"] = self._on_device(steps.tolist())
        return batch

    def _on_device(self, values: Any) -> Tensor:
        device = self.empty_states.device
        numbers = torch.tensor(values)
        return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers

    def _style(self, wanted: list[tuple[str, int, int] | None]) -> Tensor:
        width = self.tables["scene"].references.shape[-1]
        result = torch.zeros(len(wanted), width, device=self.empty_states.device)
        for source in ("subject", "scene", "toned"):
            rows = [(n, w[1], w[2]) for n, w in enumerate(wanted) if w is not None and w[0] == source]
            if rows:
                table = self.tables["subject" if source == "subject" else "scene"]
                values = table.toned_references if source == "toned" else table.references
                n, i, v = self._on_device(rows).unbind(1)
                result[n] = values[i, v].float()
        return result

    def _row(self, rows: Rows, u: list[float], n: list[int], edges: bool) -> tuple[Any, ...]:
        """(kind, toned, row, drawing, flip, text slot or -1, pooled slot, style reference or None)."""
        a, b, c, d = n
        kind = "subject" if edges or u[0] < SUBJECT_SHARE else "scene"
        table, scenes = self.tables[kind], self.tables["scene"]
        flip = d & 1
        if (
            kind == "subject"
            and rows.picture
            and rows.text != "styled"
            and u[1] < LOOK_SHARE
            and self.shared_looks
        ):
            key = self.shared_looks[a % len(self.shared_looks)]
            row, k, _ = table.toned_places[key][b % len(table.toned_places[key])]
            said = scenes.toned_places[key][c % len(scenes.toned_places[key])]
            slot = 0 if rows.text == "caption" else -1
            return "subject", True, row, k, flip, slot, 0, ("toned", said[0], said[1])
        present, shares = self.weights[kind]
        style = present[bisect.bisect(shares, u[2])]
        row, drawing = table.places[style][b % len(table.places[style])]
        slot = {"caption": 0, "styled": 1 + drawing, "empty": -1}[rows.text]
        pooled = 0 if rows.text != "styled" or u[3] < POOLED_SILENT else slot
        if not rows.picture:
            return kind, False, row, drawing, flip, slot, pooled, None
        # What a target is: a scene without the subject; one time in eight another subject in the style.
        source = (
            "scene"
            if style in scenes.places and ((d >> 4) % 8 or style not in self.tables["subject"].places)
            else "subject"
        )
        places = self.tables[source].places[style]
        return kind, False, row, drawing, flip, slot, pooled, (source, *places[c % len(places)])

    def _count(self) -> None:
        """Which styles can be drawn by now, with what chance, and which looks both subjects and scenes have."""
        for kind, table in self.tables.items():
            present = list(table.places)
            self.weights[kind] = present, _shares([STYLE_WEIGHT.get(TRAIN_STYLES[s], 1.0) for s in present])
        looks = [set(table.toned_places) for table in self.tables.values()]
        self.shared_looks = sorted(looks[0] & looks[1]) if len(looks) == 2 else []


def _shares(weights: Any) -> list[float]:
    """Upper ends of all but the last interval that [0, 1) is cut into."""
    values = np.array([w.share if isinstance(w, Rows) else w for w in weights], float)
    return (np.cumsum(values) / values.sum())[:-1].tolist()


# --- one step ---------------------------------------------------------------------------------------------------------


class Objective(nn.Module):
    """Velocity prediction (Salimans and Ho 2022, eq. 12) by the UNet, with a ControlNet beside it where one is given."""

    def __init__(self, unet: Any, controlnet: Any, scheduler: Any, image_size: int, device: str):
        super().__init__()
        self.unet, self.controlnet = unet, controlnet
        cumulative = scheduler.alphas_cumprod.to(device).float()
        self.register_buffer("signal", cumulative.sqrt(), persistent=False)
        self.register_buffer("sigma", (1 - cumulative).sqrt(), persistent=False)
        size = torch.tensor([image_size, image_size, 0, 0, image_size, image_size], device=device).float()
        self.register_buffer("size", size, persistent=False)

    signal: Tensor
    sigma: Tensor
    size: Tensor

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        clean, noise, steps = batch["latents"], batch["noise"], batch["timesteps"]
        a, s = (table[steps].view(-1, 1, 1, 1) for table in (self.signal, self.sigma))
        noisy = a * clean + s * noise
        added = {
            "text_embeds": batch["pooled"],
            "time_ids": self.size.expand(len(clean), -1),
            "image_embeds": [batch["style"][:, None, :]],
        }
        kwargs: dict[str, Any] = {}
        if self.controlnet is not None:
            down, middle = self.controlnet(
                noisy,
                steps,
                encoder_hidden_states=batch["states"],
                controlnet_cond=batch["edges"][:, None].expand(-1, 3, -1, -1),
                added_cond_kwargs={k: added[k] for k in ("text_embeds", "time_ids")},
                return_dict=False,
            )
            kwargs = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        predicted = self.unet(
            noisy,
            steps,
            encoder_hidden_states=batch["states"],
            added_cond_kwargs=added,
            return_dict=False,
            **kwargs,
        )[0]
        return (predicted.float() - (a * noise - s * clean)).square().mean()


class Stepper:
    """AdamW with clipping and a moving average; on a GPU the whole step is replayed as one graph."""

    def __init__(self, objective: Objective, trained: list[nn.Parameter], plan: JointPlan, places: bool):
        self.objective, self.plan, self.places = objective, plan, places
        self.parameters = trained
        cuda = plan.device == "cuda"
        self.graphed = plan.graph and cuda
        self.lr = torch.tensor(0.0, device=plan.device)
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=self.lr if cuda else 0.0,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=cuda,
            capturable=cuda,
        )
        self.average = [p.detach().clone() for p in trained]
        self.decay = torch.tensor(0.0, device=plan.device)
        self.static: dict[str, Tensor] = {}
        self.graphs: dict[int, tuple[Any, Tensor]] = {}

    def _place(self, turn: int) -> None:
        if self.places:
            act_in(self.objective.unet, PLACES[turn])

    def _step(self) -> Tensor:
        device = self.plan.device
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            loss = self.objective(self.static)
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(self.average, self.decay)
            torch._foreach_add_(self.average, torch._foreach_mul(self.parameters, 1.0 - self.decay))
        return loss.detach()

    def __call__(self, batch: dict[str, Tensor], turn: int, lr: float, decay: float) -> Tensor:
        if self.plan.device == "cuda":
            self.lr.fill_(lr)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        self.decay.fill_(decay)
        if not self.static:
            self.static = {k: v.clone() for k, v in batch.items()}
            self.static["noise"] = torch.empty_like(batch["latents"])
        for name, value in batch.items():
            self.static[name].copy_(value)
        self.static["noise"].normal_()
        self._place(turn)
        if not self.graphed:
            return self._step()
        if turn not in self.graphs:
            self._capture(turn)
        graph, loss = self.graphs[turn]
        graph.replay()
        return loss

    def _capture(self, turn: int) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after another, so they share their memory.
        pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool):
            loss = self._step()
        self.graphs[turn] = graph, loss

    def averaged(self) -> Callable[[], None]:
        """Puts the moving average into the network; the function returned puts the trained weights back."""
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)

        def restore() -> None:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

        return restore


def rate(share: float) -> float:
    """Learning-rate factor over a training's course in [0, 1]: constant for a quarter, then a half cosine to 1 %."""
    if share < 0.25:
        return 1.0
    return 0.01 + 0.99 * 0.5 * (1.0 + float(np.cos(np.pi * min(1.0, (share - 0.25) / 0.75))))


def train(
    stepper: Stepper,
    pool: PoolOnDevice,
    renderer: Renderer,
    *,
    minutes: float,
    batch_size: int,
    edges: bool,
    every: Callable[[int, float], None] = lambda step, share: None,
) -> dict[str, Any]:
    """Steps until `minutes` are over; the pool grows meanwhile. Batches are drawn one step ahead of the device."""
    plan = stepper.plan
    began, step, losses = time.monotonic(), 0, []
    running: list[Tensor] = []
    while step < plan.max_steps:
        share = (time.monotonic() - began) / (60.0 * minutes)
        if share >= 1.0:
            break
        for chunk in renderer.arrived() if not renderer.complete else ():
            pool.add(chunk)
        rng = np.random.default_rng(fold_in(plan.seed, "joint", edges, step))
        turn = TURNS[step % len(TURNS)]
        batch = pool.batch(rng, batch_size, adapter=PLACES[turn] is not None, edges=edges)
        lr = plan.lr * min(1.0, (step + 1) / 300) * rate(share)
        # An average over the whole start would keep the random weights for thousands of steps.
        decay = min(plan.ema_decay, (1 + step) / (10 + step))
        running.append(stepper(batch, turn, lr, decay).clone())
        step += 1
        if step % 100 == 0:
            mean = float(torch.stack(running).mean())
            if not np.isfinite(mean):
                raise RuntimeError(f"loss is {mean} at step {step}; lower the learning rate")
            running = []
            losses.append((step, round(mean, 4)))
            if step % 500 == 0:
                spent = time.monotonic() - began
                print(
                    f"step {step} {spent:.0f} s loss {mean:.4f} pool {renderer.done}/{renderer.total} "
                    f"{1000 * spent / step:.1f} ms/step",
                    flush=True,
                )
            every(step, share)
    return {
        "steps": step,
        "batch_size": batch_size,
        "seconds": round(time.monotonic() - began, 1),
        "loss": losses,
    }


def save_network(network: Any, folder: Path, parts: int = 1) -> None:
    """Half-precision tensors in `parts` files of similar size, and the network's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in network.state_dict().items()}
    names = sorted(tensors, key=lambda k: -tensors[k].numel())
    for n in range(parts):
        save_file({k: tensors[k] for k in names[n::parts]}, folder / f"{n}.safetensors")


def fill(pool: PoolOnDevice, renderer: Renderer, share: float) -> None:
    """Waits until `share` of the pool has been rendered."""
    while renderer.done < share * renderer.total or len(pool.tables) < 2:
        for chunk in renderer.arrived(wait=True):
            pool.add(chunk)


def load_encoders(start: Path, device: str) -> Encoders:
    parts = {
        name: load_part(start / name, name).to(device).eval().requires_grad_(False)
        for name in ("vae", "text_encoder", "text_encoder_2", "image_encoder")
    }
    tokenizer, tokenizer_2 = load_tokenizers(start / "tokenizer")
    return Encoders(**parts, tokenizer=tokenizer, tokenizer_2=tokenizer_2, device=device)


def new_unet(sizes: MicroSizes, plan: JointPlan, *, channels_last: bool) -> Any:
    torch.manual_seed(fold_in(plan.seed, "init", "joint") % 2**32)
    unet = build_unet(sizes).to(plan.device)
    new_adapter(unet, sizes.embed_dim)
    unet = unet.to(plan.device)
    return unet.to(memory_format=torch.channels_last) if channels_last else unet


def milliseconds(sizes: MicroSizes, plan: JointPlan, scheduler: Any, *, channels_last: bool) -> float:
    """A step's time on random numbers."""
    unet = new_unet(sizes, plan, channels_last=channels_last)
    objective = Objective(unet, None, scheduler, sizes.image_size, plan.device)
    stepper = Stepper(objective, [p for p in unet.parameters() if p.requires_grad], plan, places=True)
    b, edge = plan.batch_size, sizes.latent_size
    batch = {
        "latents": torch.randn(b, sizes.latent_channels, edge, edge, device=plan.device),
        "states": torch.randn(b, sizes.context, sizes.cross_dim, device=plan.device),
        "pooled": torch.randn(b, sizes.embed_dim, device=plan.device),
        "style": torch.randn(b, sizes.embed_dim, device=plan.device),
        "timesteps": torch.randint(0, 1000, (b,), device=plan.device),
    }
    for _ in range(8):
        stepper(batch, 0, 1e-4, 0.9)
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(40):
        stepper(batch, 0, 1e-4, 0.9)
    torch.cuda.synchronize()
    return 25.0 * (time.monotonic() - began)


def run_joint(start: Path, out: Path, plan: JointPlan, sizes: MicroSizes) -> dict[str, Any]:
    """Train UNet and adapter, then the ControlNet, on top of the encoders in the model folder `start`."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    renderer = Renderer(plan.pool, plan.workers)
    facts: dict[str, Any] = {"plan": asdict(plan), "sizes": asdict(sizes)}
    scheduler = build_scheduler()
    pool = PoolOnDevice(plan.pool, load_encoders(start, plan.device))
    fill(pool, renderer, plan.start_share)
    print(f"first pictures after {time.monotonic() - began:.0f} s", flush=True)
    if plan.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        facts["device"] = torch.cuda.get_device_name()
        try:
            times = {last: milliseconds(sizes, plan, scheduler, channels_last=last) for last in (False, True)}
            facts["ms_per_step"] = {"contiguous": times[False], "channels_last": times[True]}
            plan = replace(plan, channels_last=times[True] < times[False])
        except RuntimeError as error:
            print(f"no CUDA graph: {error}", flush=True)
            facts["graph_error"] = str(error)[:500]
            torch.cuda.synchronize()
            plan = replace(plan, graph=False)
        print(facts.get("ms_per_step"), flush=True)
    unet = new_unet(sizes, plan, channels_last=plan.channels_last)
    trained = [p for p in unet.parameters() if p.requires_grad]
    facts["unet_parameters"] = sum(p.numel() for p in trained)
    stepper = Stepper(
        Objective(unet, None, scheduler, sizes.image_size, plan.device), trained, plan, places=True
    )
    saved = [0.0]

    def snapshot(step: int, share: float) -> None:
        if share - saved[0] > 0.3:
            saved[0] = share
            restore = stepper.averaged()
            publish_unet(unet, out, sizes)
            restore()
            write_json(out / "joint.json", {**facts, "unet": {"unfinished": step}})

    facts["unet"] = train(
        stepper, pool, renderer, minutes=plan.minutes, batch_size=plan.batch_size, edges=False, every=snapshot
    )
    stepper.averaged()
    publish_unet(unet, out, sizes)
    facts["pool"] = {"chunks": renderer.done, "of": renderer.total}
    write_json(out / "joint.json", facts)
    act_in(unet, "")
    unet.requires_grad_(False)
    del stepper
    network = build_controlnet(without_adapter(unet)).to(plan.device)
    if plan.channels_last:
        network = network.to(memory_format=torch.channels_last)
    objective = Objective(unet, network, scheduler, sizes.image_size, plan.device)
    stepper = Stepper(objective, list(network.parameters()), plan, places=True)
    facts["controlnet"] = train(
        stepper, pool, renderer, minutes=plan.controlnet_minutes, batch_size=plan.batch_size // 2, edges=True
    )
    stepper.averaged()
    save_network(network, out / "controlnet")
    facts["seconds"] = time.monotonic() - began
    write_json(out / "joint.json", facts)
    for process in renderer.processes:
        process.terminate()
    return facts


def assemble(start: Path, joint: Path, target: Path) -> None:
    """A copy of the model folder `start` with the UNet, adapter and ControlNet that `run_joint` wrote into `joint`."""
    shutil.copytree(start, target)
    facts = read_json(joint / "joint.json")
    sizes = replace(MICRO, unet_channels=tuple(facts["sizes"]["unet_channels"]))
    unet = build_unet(sizes)
    network = build_controlnet(unet)
    for module, name in ((unet, "unet"), (network, "controlnet")):
        tensors = {
            k: v
            for path in sorted((joint / name).glob("[0-9].safetensors"))
            for k, v in load_file(path).items()
        }
        module.load_state_dict(tensors)
        module.half().save_pretrained(target / name)
    save_ip_adapter(target, load_file(joint / "unet" / "adapter.safetensors"), torch.float16)


def publish_unet(unet: Any, out: Path, sizes: MicroSizes) -> None:
    save_network(without_adapter(unet), out / "unet", parts=2)
    flat = {k: v.half().cpu().contiguous() for k, v in collect_ip_adapter(unet).items()}
    save_file(flat, out / "unet" / "adapter.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True, help="model folder whose encoders are kept")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--controlnet-minutes", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--identities", type=int, default=4000)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--channels", type=int, nargs=3, default=None)
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    sizes = replace(MICRO, unet_channels=tuple(args.channels)) if args.channels else MICRO
    pool = PoolPlan(seed=args.seed, num_identities=args.identities, num_scenes=args.scenes)
    plan = JointPlan(
        pool=pool, workers=args.workers, batch_size=args.batch_size, lr=args.lr, minutes=args.minutes,
        controlnet_minutes=args.controlnet_minutes, seed=args.seed, device=args.device, max_steps=args.max_steps,
    )  # fmt: skip
    facts = run_joint(args.start, args.out, plan, sizes)
    print({k: v for k, v in facts.items() if k not in ("plan", "sizes")}, flush=True)


if __name__ == "__main__":
    main()
