"""What the drawing stylizers share: prompts, edges of the subject, and pictures drawn in the style of their scenes.

Shape letters: S side of the model's square, B scenes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import SamplingConfig, StyleConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.controlnet import Structure, canny_edges, controlnet_of
from magic_insert.models.sampling import StyleContrast, image_size, sample
from magic_insert.models.style import StyleEmbeds, listening, style_embeds

BATCH = 8  # pictures drawn together; the rows do not depend on it


def draw_numbers(seeds: Sequence[int], ids: Sequence[str], sampling: SamplingConfig) -> list[int]:
    """The seed of each picture's start noise: every stylizer draws a pair from the same noise."""
    return [fold_in(seed, "stylise", name, sampling.seed) for seed, name in zip(seeds, ids, strict=True)]


def words_of_style(style: StyleConfig, style_text: str) -> str:
    """With `style.mode=prompt` the scene's own words, or `style.prompt` where it brings none; else nothing."""
    return (style_text or style.prompt) if style.mode == "prompt" else ""


def join_words(phrase: str, suffix: str, style_words: str) -> str:
    """`phrase`, `suffix` after it and, behind a comma as in captions, the words of a style; a full stop stays last."""
    stop = "." if phrase.rstrip().endswith(".") else ""
    words = " ".join(part for part in (phrase.strip().rstrip("."), suffix.strip()) if part)
    return ", ".join(part for part in (words, style_words.strip()) if part) + stop


def framed(pipe: Any, subject: Subject | None) -> Float[Tensor, "3 S S"]:
    """The subject's own picture, framed as in training.

    Raises:
        UserError: there is none.
    """
    if subject is None:
        raise UserError("expected the subject's picture for its outlines or its own look, got none")
    return place(subject, image_size(pipe))[0]


def subject_structure(pipe: Any, subject: Subject | None, scale: float) -> Structure | None:
    """The outlines of the subject's picture; None at scale 0.

    Raises:
        UserError: no picture, or the model has no Canny ControlNet.
    """
    if scale == 0:
        return None
    return Structure(controlnet_of(pipe), canny_edges(framed(pipe, subject))[None], scale)


@torch.no_grad()
def scene_styles(
    pipe: Any, scenes: Sequence[Float[Tensor, "3 _ _"]], style: StyleConfig, subject: Subject | None
) -> StyleEmbeds | None:
    """What the adapter hears of each scene; below `style.degree` 1 partly the subject's own picture instead."""
    if style.mode != "ip_adapter" or style.scale == 0:
        return None
    heard = style_embeds(pipe, scenes)
    if style.degree == 1:
        return heard
    own = style_embeds(pipe, [framed(pipe, subject)]).expand(len(heard))
    return StyleEmbeds(torch.lerp(own.positive, heard.positive, style.degree), heard.negative)


def draw_styled(
    pipe: Any,
    prompts: Sequence[str],
    scenes: Sequence[Float[Tensor, "3 _ _"]],
    numbers: Sequence[int],
    *,
    subject: Subject | None,
    style: StyleConfig,
    sampling: SamplingConfig,
    structure: Structure | None,
    progress: bool,
    base: Callable[[], AbstractContextManager[None]] | None = None,
) -> Float[Tensor, "B 3 S S"]:
    """One picture per prompt in the style of its scene, by the model as it is; each scene is encoded once.

    With `base`, inside whose context the pipeline is the model without personalisation, `style.guidance` is heard too.
    """
    embeds = scene_styles(pipe, scenes, style, subject)
    contrast = None
    if base is not None and embeds is not None and style.guidance > 0 and style.degree > 0:
        contrast = StyleContrast(style_embeds(pipe, [framed(pipe, subject)]), style.guidance, base)
    pictures = []
    with listening(pipe, style.blocks, 0.0 if embeds is None else style.scale):
        for start in range(0, len(numbers), BATCH):
            rows = slice(start, start + BATCH)
            heard = None if embeds is None else StyleEmbeds(embeds.positive[rows], embeds.negative[rows])
            drawn = sample(
                pipe,
                prompts[rows],
                numbers[rows],
                steps=sampling.steps,
                guidance=sampling.guidance,
                style=heard,
                structure=structure,
                contrast=contrast,
                progress=progress,
            )
            pictures.append(drawn.cpu())
    return torch.cat(pictures)
