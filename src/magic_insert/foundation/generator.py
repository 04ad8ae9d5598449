"""The generator: UNet and image adapter together, then the Canny ControlNet beside them.

Both learn on the denoising loss itself, from pictures whose style only another picture in that style shows. An adapter
trained beside a finished UNet can only move what cross-attention moves already, and in a UNet that always had the style
in its prompt that is little (style cosine to the truth 0.38 where words reach 0.66). The encoders stay as they are.

Shapes: N pictures in V drawings each, C h w latents, D width of an image embedding, B rows of a batch.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from magic_insert.config.schema.training import PartConfig
from magic_insert.core.rand import generator
from magic_insert.data.renders import ToyboxPool
from magic_insert.foundation.parts import BatchAt, Context, Recipe
from magic_insert.models import micro
from magic_insert.models.edit_unet import without_adapter
from magic_insert.models.pipeline import size_ids
from magic_insert.models.sampling import Structure, canny_edges
from magic_insert.models.text import conditioning, tokenize
from magic_insert.toybox.styles import style_phrase
from magic_insert.toybox.styles.view import LOOK_NAMES, apply_look
from magic_insert.training.trainer import TrainingModule


@dataclass(frozen=True)
class Rows:
    """A share of the rows of a batch: the words of the prompt, and whether a picture shows the style."""

    share: float
    text: str  # "caption", "styled" (caption and style), "empty"
    picture: bool


# These tables may be changed; the shares of one table add up to 1. Guidance needs the empty prompts.
WITH_ADAPTER = (
    Rows(0.58, "caption", True),
    Rows(0.07, "styled", True),
    Rows(0.13, "styled", False),
    Rows(0.07, "caption", False),
    Rows(0.06, "empty", True),
    Rows(0.09, "empty", False),
)
WORDS_ONLY = (Rows(0.65, "styled", False), Rows(0.25, "caption", False), Rows(0.10, "empty", False))
# Where the adapter acts, by turns of the step: everywhere, in the paper's block ("adjacent to the midblock", section
# 3.2), in InstantStyle's, nowhere. Each use is trained for.
EVERYWHERE, NOWHERE = "", None
PLACES: tuple[str | None, ...] = (
    *[EVERYWHERE] * 3, "up_blocks.0.", EVERYWHERE, "up_blocks.0.", "up_blocks.0.attentions.1.", NOWHERE,
)  # fmt: skip
SUBJECT_SHARE = 0.75  # of the rows; the others are scenes with their subject
LOOK_SHARE = 0.3  # of the subjects whose style a picture shows are in a colour look
# Of the rows with the style in the prompt, this share has it in the token states alone: told in both places, it came
# to be read from the pooled text only, which an image prompt, acting in cross-attention, could not move.
POOLED_WITHOUT_STYLE = 0.5
LOOKS_PER_PICTURE = 3
# Line drawings are the hardest: how often a style is chosen, relative to 1.
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
PHOTO = 0  # drawing 0 of a pool
EDGES = "edges"


def set_adapter_blocks(unet: Any, place: str | None) -> None:
    """Turns the adapter on in the layers whose names start with `place` and off elsewhere; None: off everywhere."""
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            processor.scale = [1.0 if place is not None and name.startswith(place) else 0.0]


class GeneratorModule(TrainingModule):
    """Velocity prediction with SDXL's text conditioning and a style picture; trains the UNet and its adapter."""

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        text_encoder_2: nn.Module,
        scheduler: Any,
        *,
        image_size: int,
        lr: float,
        steps: int,
    ):
        super().__init__(lr=lr, steps=steps)
        self.unet: Any = unet
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2
        self.scheduler, self.image_size = scheduler, image_size
        self.requires_grad_(False)
        self.unet.requires_grad_(True)

    def rate(self, step: int, group: str) -> float:
        """A rise over 300 steps, constant for a quarter of the training, then half a cosine to 1 %."""
        share = max(0.0, (step / self.steps - 0.25) / 0.75)
        return min(1.0, (step + 1) / 300) * float(0.01 + 0.495 * (1.0 + np.cos(np.pi * min(1.0, share))))

    @torch.no_grad()
    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Token states (B T D) and SDXL's added conditions, the style picture's embedding among them."""
        states, _ = conditioning((self.text_encoder, self.text_encoder_2), (batch["ids"], batch["ids_2"]))
        pooled = self.text_encoder_2(batch["pooled_ids"]).text_embeds
        ids = size_ids(len(pooled), self.image_size, pooled.device)
        return states, {"text_embeds": pooled, "time_ids": ids, "image_embeds": [batch["style"][:, None, :]]}

    def network(self) -> Any:
        """The UNet with its adapter."""
        return self.unet

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        set_adapter_blocks(self.network(), PLACES[int(batch["step"]) % len(PLACES)])
        states, added = self.conditioning(batch)
        parts = (batch[name] for name in ("latents", "noise", "timesteps"))
        loss = velocity_loss(self.unet, self.scheduler, *parts, states=states, added=added)
        self.log("loss", loss)
        return loss


class SteeredUNet(nn.Module):
    """The frozen UNet and the ControlNet as one network; the edges come with the added conditions."""

    def __init__(self, unet: nn.Module, controlnet: nn.Module) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Any],
        return_dict: bool,
    ) -> Any:
        structure = Structure(self.controlnet, added_cond_kwargs[EDGES], [1.0] * len(inputs))
        others = {key: value for key, value in added_cond_kwargs.items() if key != EDGES}
        return self.unet(
            inputs,
            timesteps,
            encoder_hidden_states=encoder_hidden_states,
            added_cond_kwargs=others,
            return_dict=return_dict,
            **structure.residuals(inputs, timesteps, encoder_hidden_states, others),
        )


class ControlNetModule(GeneratorModule):
    """The Canny ControlNet (Zhang et al. 2023, section 3) beside the frozen generator."""

    def __init__(self, unet: nn.Module, controlnet: nn.Module, *others: Any, **settings: Any):
        super().__init__(SteeredUNet(unet, controlnet), *others, **settings)
        self.unet.unet.requires_grad_(False)

    def network(self) -> Any:
        return self.unet.unet

    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        states, added = super().conditioning(batch)
        return states, {**added, EDGES: batch[EDGES]}


@dataclass(frozen=True)
class Drawings:
    """Pictures through an encoder, and how each is drawn.

    `values` [N, V, ...]; `style` [N, V] indexes the pool's style names; `look` [N, V] LOOK_NAMES, -1 for none.
    """

    values: np.ndarray
    style: np.ndarray
    look: np.ndarray

    def places(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Where each style in each look is to be found."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for place, style in np.ndenumerate(self.style):
            found[int(style), int(self.look[place])].append(place)
        return found


def plain(values: np.ndarray, style: np.ndarray) -> Drawings:
    """Drawings in their own colours."""
    return Drawings(values, style, np.full_like(style, -1))


@dataclass(frozen=True)
class Toning:
    """Which drawings of a pool are shown in which look: `drawing`, `style`, `look`, each [N, LOOKS_PER_PICTURE]."""

    drawing: np.ndarray
    style: np.ndarray
    look: np.ndarray

    def pictures(self, source: np.ndarray) -> np.ndarray:
        """The toned pictures of `source` uint8 [N, V, 3, H, W], uint8 [N, LOOKS_PER_PICTURE, 3, H, W]."""
        toned = np.empty((*self.look.shape, *source.shape[2:]), np.uint8)
        for (i, t), k in np.ndenumerate(self.look):
            picture = torch.from_numpy(source[i, self.drawing[i, t]].copy())
            toned[i, t] = apply_look(picture, LOOK_NAMES[k]).numpy()
        return toned


def toning(style: np.ndarray, seed: int) -> Toning:
    """LOOKS_PER_PICTURE drawings of each picture in a look of their own; `style` [N, V] of the drawings there are."""
    draw = generator(seed, "looks", *style.shape)
    shape = len(style), LOOKS_PER_PICTURE
    drawing = torch.randint(style.shape[1], shape, generator=draw).numpy()
    look = torch.randint(len(LOOK_NAMES), shape, generator=draw).numpy()
    return Toning(drawing, np.take_along_axis(style, drawing, 1), look)


@dataclass(frozen=True)
class Sources:
    """Latents [N, V, 2, C, h, w], as they are and mirrored, and embeddings [N, V, D] of what may show their style."""

    subjects: Drawings
    scenes: Drawings
    toned_subjects: Drawings
    style_of_scenes: Drawings  # without their subject, as a target scene is
    style_of_subjects: Drawings
    style_of_toned_scenes: Drawings
    edges: np.ndarray  # bool [N, H, W], outlines of the subjects' photographs


def sources(context: Context) -> Sources:
    """The pool through the frozen encoders."""
    pool, seed = context.pool, context.seed
    subjects, scenes = toning(pool.subject_styles, seed), toning(pool.scene_styles, seed)

    def latents(name: str, source: Any) -> np.ndarray:
        return np.stack([context.latents(name, source, flip=flip) for flip in (False, True)], axis=2)

    def toned(kept: Toning, source: np.ndarray) -> Any:
        return lambda: kept.pictures(source), kept.look.shape

    return Sources(
        subjects=plain(latents("subjects", pool.subjects), pool.subject_styles),
        scenes=plain(latents("scenes_with", pool.scenes_with), pool.scene_styles),
        toned_subjects=Drawings(
            latents("toned_subjects", toned(subjects, pool.subjects)), subjects.style, subjects.look
        ),
        style_of_scenes=plain(context.embeds("scenes_without", pool.scenes_without), pool.scene_styles),
        style_of_subjects=plain(context.embeds("subjects", pool.subjects), pool.subject_styles),
        style_of_toned_scenes=Drawings(
            context.embeds("toned_scenes_without", toned(scenes, pool.scenes_without)),
            scenes.style,
            scenes.look,
        ),
        edges=np.stack([photo_edges(picture[PHOTO]) for picture in pool.subjects]),
    )


def photo_edges(picture: np.ndarray) -> np.ndarray:
    """The outlines of a uint8 picture [3, H, W] as bool [H, W]."""
    return canny_edges(torch.from_numpy(picture.astype(np.float32) / 255.0))[0].numpy() > 0


class Batches:
    """Batch k as a function of k: latents, noise, timesteps, token ids, the style picture's embedding, edges."""

    def __init__(
        self,
        pool: ToyboxPool,
        found: Sources,
        tokenizers: tuple[Any, Any],
        *,
        seed: int,
        batch_size: int,
        edges: bool = False,
    ) -> None:
        self.pool, self.found, self.tokenizers = pool, found, tokenizers
        self.seed, self.batch_size, self.edges = seed, batch_size, edges
        self.phrases = [style_phrase(name) for name in pool.style_names]
        drawn = {name: value for name, value in vars(found).items() if isinstance(value, Drawings)}
        self.places = {name: value.places() for name, value in drawn.items()}
        toned = self.places["toned_subjects"].keys() & self.places["style_of_toned_scenes"].keys()
        self.looks = sorted(toned)
        self.none = np.zeros_like(found.style_of_scenes.values[0, 0])

    def __call__(self, step: int) -> dict[str, Tensor]:
        draw = generator(self.seed, "controlnet" if self.edges else "generator", step)
        table = WORDS_ONLY if PLACES[step % len(PLACES)] is NOWHERE else WITH_ADAPTER
        chances = torch.rand((self.batch_size, 5), generator=draw).tolist()
        numbers = torch.randint(0, 2**31, (self.batch_size, 4), generator=draw).tolist()
        rows = [self._row(table, u, n) for u, n in zip(chances, numbers, strict=True)]
        latents, texts, pooled, style, edges = zip(*rows, strict=True)
        clean = torch.from_numpy(np.stack(latents).astype(np.float32))
        batch = {
            "latents": clean,
            "noise": torch.randn(clean.shape, generator=draw),
            "timesteps": timesteps(self.batch_size, draw),
            "style": torch.from_numpy(np.stack(style).astype(np.float32)),
            "ids": tokenize(self.tokenizers[0], texts),
            "ids_2": tokenize(self.tokenizers[1], texts),
            "pooled_ids": tokenize(self.tokenizers[1], pooled),
            "step": torch.tensor(step),
        }
        if self.edges:
            batch[EDGES] = torch.from_numpy(np.stack(edges)).float()[:, None].expand(-1, 3, -1, -1)
        return batch

    def _row(self, table: Sequence[Rows], u: Sequence[float], n: Sequence[int]) -> tuple[Any, ...]:
        """Latents, text, pooled text, style embedding and edges of one row."""
        rows = table[_chosen([r.share for r in table], u[0])]
        kind = "subjects" if self.edges or u[1] < SUBJECT_SHARE else "scenes"
        looks = rows.picture and rows.text != "styled" and kind == "subjects" and self.looks
        if looks and u[2] < LOOK_SHARE:
            kind = "toned_subjects"
            wanted = looks[n[0] % len(looks)]
        else:
            present = sorted(self.places[kind])
            weights = [STYLE_WEIGHT.get(self.pool.style_names[style], 1.0) for style, _ in present]
            wanted = present[_chosen(weights, u[3])]
        i, v = _one(self.places[kind][wanted], n[1])
        flip = n[3] % 2
        caption = (self.pool.scene_captions if kind == "scenes" else self.pool.captions)[i]
        styled = f"{caption}, {self.phrases[wanted[0]]}"
        text = {"caption": caption, "styled": styled, "empty": ""}[rows.text]
        pooled = caption if rows.text == "styled" and u[4] < POOLED_WITHOUT_STYLE else text
        style = self._style(wanted, n[2], n[3] >> 1) if rows.picture else self.none
        edges = self.found.edges[i] if self.edges else None
        if edges is not None and flip:
            edges = edges[:, ::-1]
        return getattr(self.found, kind).values[i, v, flip], text, pooled, style, edges

    def _style(self, wanted: tuple[int, int], number: int, turn: int) -> np.ndarray:
        """The embedding of another picture in the style and look: a scene; one time in eight a subject."""
        kind = "style_of_toned_scenes" if wanted[1] >= 0 else "style_of_scenes"
        if wanted not in self.places[kind] or (turn % 8 == 0 and wanted in self.places["style_of_subjects"]):
            kind = "style_of_subjects"
        return getattr(self.found, kind).values[_one(self.places[kind][wanted], number)]


def timesteps(count: int, draw: torch.Generator) -> Tensor:
    """A share of MIDDLE_SHARE from the middle of the schedule, the others from all of it."""
    middle = torch.rand(count, generator=draw) < MIDDLE_SHARE
    return torch.where(
        middle,
        torch.randint(*MIDDLE, (count,), generator=draw),
        torch.randint(0, 1000, (count,), generator=draw),
    )


def _chosen(weights: Sequence[float], chance: float) -> int:
    """Which of the weights a number in [0, 1) falls on."""
    ends = list(itertools.accumulate(weights))
    return min(bisect.bisect(ends, chance * ends[-1]), len(ends) - 1)


def _one(found: Sequence[tuple[int, int]], number: int) -> tuple[int, int]:
    return found[number % len(found)]


def generator_part(context: Context, part: PartConfig) -> Recipe:
    """UNet and adapter from random weights."""
    unet = context.trainable(micro.build_unet(context.sizes))
    micro.new_adapter(unet, context.sizes.embed_dim)
    module = GeneratorModule(
        unet, *context.text_encoders(), micro.build_scheduler(), **_settings(context, part)
    )

    def publish(folder: Any) -> None:
        micro.save_ip_adapter(folder, micro.collect_ip_adapter(unet))
        without_adapter(unet).save_pretrained(folder / "unet")

    return Recipe(module, _batches(context, part, edges=False), publish, 0.9995)


def controlnet_part(context: Context, part: PartConfig) -> Recipe:
    """The ControlNet, from the encoder half of the UNet."""
    unet = context.trainable(context.load("generator", "unet"))
    network = context.trainable(micro.build_controlnet(unet))
    micro.load_adapter(unet, context.part("generator"))
    module = ControlNetModule(
        unet, network, *context.text_encoders(), micro.build_scheduler(), **_settings(context, part)
    )
    batches = _batches(context, part, edges=True)
    return Recipe(module, batches, lambda folder: network.save_pretrained(folder / "controlnet"), 0.995)


def _settings(context: Context, part: PartConfig) -> dict[str, Any]:
    return {"image_size": context.sizes.image_size, "lr": part.lr, "steps": part.steps}


def _batches(context: Context, part: PartConfig, *, edges: bool) -> BatchAt:
    return Batches(
        context.pool,
        sources(context),
        (context.tokenizer, context.tokenizer_2),
        seed=context.seed,
        batch_size=part.batch_size,
        edges=edges,
    )


def velocity_loss(
    unet: nn.Module,
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    *,
    states: Tensor,
    added: dict[str, Any],
) -> Tensor:
    """Mean squared error of the predicted velocity (Salimans and Ho 2022, eq. 12), unweighted.

    Args:
        latents: clean, scaled latents, B C h w.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    predicted = unet(
        noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
    )[0]
    return (predicted.float() - target.float()).square().mean()
