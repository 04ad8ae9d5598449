"""UNet and image adapter together: the model learns to take the style from a picture where words keep silent.

An adapter beside a frozen UNet can only move what cross-attention moves already, and in a UNet that was always told
the style in words that is little (style cosine to the truth 0.38 where words reach 0.66). Here both learn on the
denoising loss itself, from pictures whose style only another picture in that style gives away. The text encoders
stay as they are.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.core.rand import generator
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.toybox.styles import style_phrase
from magic_insert.training.foundation.adapter import act_in
from magic_insert.training.foundation.denoiser import DenoiserModule, tokenize, with_noise
from magic_insert.training.foundation.looks import LOOK_NAMES, apply_look

# Where the adapter acts, by turns: everywhere, in the block of the paper, in InstantStyle's, and nowhere (then words).
TURNS: tuple[str | None, ...] = (
    "",
    "",
    "",
    "",
    "up_blocks.0.",
    "up_blocks.0.",
    "up_blocks.0.attentions.1.",
    None,
)


class StyledModule(DenoiserModule):
    """Trains the UNet with the adapter in it; the text encoders, to which other parts listen too, are frozen."""

    def __init__(self, *networks: Any, **settings: Any):
        super().__init__(*networks, **settings)
        for frozen in (self.text_encoder, self.text_encoder_2):
            frozen.requires_grad_(False)
        self.unet.requires_grad_(True)

    def conditioning(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        act_in(self.unet, TURNS[int(batch["step"]) % len(TURNS)])
        with torch.no_grad():
            states, added = super().conditioning(batch)
        return states, {**added, "image_embeds": [batch["style"][:, None, :]]}


@dataclass(frozen=True)
class Seen:
    """Pictures through an encoder, N pictures in V drawings: what became of them, their style and their look.

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


def plain(values: np.ndarray, style: np.ndarray) -> Seen:
    """Drawings in their own colours."""
    return Seen(values, style, np.full_like(style, -1))


@dataclass(frozen=True)
class Tonings:
    """Which drawing of each picture is shown in which look, N pictures P times: `drawing`, `style`, `look` [N, P]."""

    drawing: np.ndarray
    style: np.ndarray
    look: np.ndarray

    def pictures(self, source: np.ndarray) -> np.ndarray:
        """The toned pictures of `source` uint8 [N, V, 3, H, W], uint8 [N, P, 3, H, W]."""
        toned = np.empty((*self.look.shape, *source.shape[2:]), np.uint8)
        for (i, t), k in np.ndenumerate(self.look):
            picture = torch.from_numpy(source[i, self.drawing[i, t]].copy())
            toned[i, t] = apply_look(picture, LOOK_NAMES[k]).numpy()
        return toned

    def seen(self, values: np.ndarray) -> Seen:
        return Seen(values, self.style, self.look)


def tonings(style: np.ndarray, per_picture: int, seed: int) -> Tonings:
    """`per_picture` drawings of each picture in a look of their own; `style` [N, V] of the drawings there are."""
    draw = generator(seed, "looks", *style.shape)
    shape = len(style), per_picture
    drawing = torch.randint(style.shape[1], shape, generator=draw).numpy()
    look = torch.randint(len(LOOK_NAMES), shape, generator=draw).numpy()
    return Tonings(drawing, np.take_along_axis(style, drawing, 1), look)


@dataclass(frozen=True)
class StyledSources:
    """Latents to be drawn and embeddings that say how: [N, V, C, h, w] and [N, V, D]."""

    subjects: Seen
    scenes: Seen
    toned_subjects: Seen
    said_by_scenes: Seen  # without their subject, as a target scene is
    said_by_subjects: Seen
    said_by_toned_scenes: Seen


def styled_batches(
    pool: ToyboxPool, sources: StyledSources, tokenizer: Any, tokenizer_2: Any, *, seed: int, batch_size: int
) -> Callable[[int], dict[str, Tensor]]:
    """Three subject pictures to a scene; where the adapter acts, three in twenty of all rows are subjects in a look.

    Where the adapter acts, twelve rows of twenty have their style from a picture alone, drawn at random, three from
    words (the pooled text keeps silent about it in half of them), two from nowhere; three have no words at all, which
    guidance needs, and one of these a picture. In the turn without the adapter the words say what they say to the
    denoiser.
    """
    phrases = [style_phrase(name) for name in pool.style_names]
    by_scene, by_subject, by_toned = (
        seen.places()
        for seen in (sources.said_by_scenes, sources.said_by_subjects, sources.said_by_toned_scenes)
    )
    silent = np.zeros_like(sources.said_by_scenes.values[0, 0])

    def picked(number: int, a: int, b: int, wants_look: bool) -> tuple[np.ndarray, int, int, str]:
        if number % 4 == 3:
            seen, captions = sources.scenes, pool.scene_captions
        else:
            seen = sources.toned_subjects if wants_look else sources.subjects
            captions = pool.captions
        place = a % seen.values.shape[0], b % seen.values.shape[1]
        return seen.values[place], int(seen.style[place]), int(seen.look[place]), captions[place[0]]

    def said(style: int, look: int, c: int, e: int) -> np.ndarray:
        if look >= 0:
            seen, places = sources.said_by_toned_scenes, by_toned
        elif (style, look) not in by_subject or (c % 8 and (style, look) in by_scene):
            seen, places = sources.said_by_scenes, by_scene
        else:
            seen, places = sources.said_by_subjects, by_subject
        found = places[style, look]
        return seen.values[found[e % len(found)]]

    def batch_at(step: int) -> dict[str, Tensor]:
        heard = TURNS[step % len(TURNS)] is not None
        draw = generator(seed, "styled", step)
        picks = torch.randint(0, 2**31, (batch_size, 5), generator=draw).tolist()
        latents, texts, pooled, style_said = [], [], [], []
        for number, (a, b, c, d, e) in enumerate(picks):
            row = d % 20
            by_picture = heard and (row < 12 or row == 19)
            values, style, look, caption = picked(number, a, b, heard and number % 4 == 2 and row < 12)
            if look >= 0 and (style, look) not in by_toned:  # a small pool may have no scene like it
                values, style, look, caption = picked(number, a, b, False)
            worded = f"{caption}, {phrases[style]}"
            if heard:
                text = caption if row < 12 or row in (15, 16) else worded if row < 15 else ""
            else:
                text = "" if row < 2 else caption if row < 7 else worded
            texts.append(text)
            pooled.append(caption if text and c // 8 % 2 else text)
            latents.append(torch.from_numpy(values.astype(np.float32)))
            embed = said(style, look, c, e) if by_picture else silent
            style_said.append(torch.from_numpy(embed.astype(np.float32)))
        return {
            **with_noise(torch.stack(latents), draw),
            "style": torch.stack(style_said),
            "ids": tokenize(tokenizer, texts),
            "ids_2": tokenize(tokenizer_2, texts),
            "pooled_ids": tokenize(tokenizer_2, pooled),
            "step": torch.tensor(step),
        }

    return batch_at
