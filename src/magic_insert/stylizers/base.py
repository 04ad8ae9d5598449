"""What the stylizers that draw with the diffusion model share.

Shape letters: S side of the model's square, B pictures, h, w of a picture. Values are float32 in [0, 1].
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.images import to_pil
from magic_insert.core.rand import fold_in
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.ip_adapter import StyleEmbeds, adapter_at, style_embeds
from magic_insert.models.sampling import (
    Features,
    Handover,
    Structure,
    StyleContrast,
    canny_edges,
    controlnet_of,
    drawn_together,
    image_size,
    sample,
)
from magic_insert.stylizers.draws import Draw


class DiffusionStylizer:
    """Draws the subject of `subject.text` in the style of any scene with the base model; as it stands InstantStyle
    (Wang et al. 2024), whose own block is `up_blocks.0.attentions.1`."""

    def __init__(
        self,
        settings: StylizerConfig,
        pipe: Any,
        subject: Subject,
        style: StyleConfig,
        sampling: SamplingConfig,
    ) -> None:
        """Changes nothing in `pipe`.

        Args:
            settings: the method's own; its `style_mode` overrides `style.mode`.
            pipe: a StableDiffusionXLPipeline, which several stylizers may share.
            subject: its picture gives the outlines of `structure` and the look from which `style.degree` starts.
            style: mode, blocks, scale and degree of the style.
            sampling: steps, guidance, root seed and words after the subject's own.

        Raises:
            UserError: `structure=canny` with a model without a Canny ControlNet.
        """
        self.settings, self.pipe, self.subject, self.sampling = settings, pipe, subject, sampling
        self.style = replace(style, mode=settings.style_mode or style.mode)
        self.facts: dict[str, dict[str, Any]] = {}  # how each picture was drawn, by its id
        self.structure: Structure | None = None
        if settings.structure == "canny" and settings.structure_scale > 0:
            edges = canny_edges(framed(pipe, subject))[None]
            self.structure = Structure(controlnet_of(pipe), edges, settings.structure_scale)

    @property
    def words(self) -> str:
        """The subject in words."""
        return self.subject.text

    @property
    def trained_size(self) -> int | None:
        """The side of the pictures that the model learned the subject from; None where it learned none."""
        return None

    def prompt(self, style_text: str = "", words: str = "") -> str:
        """The subject, `sampling.prompt_suffix` and, with `style.mode=prompt`, the style in words.

        A scene that brings no words takes those of `style.prompt`. `words` stand in for the subject's.
        """
        style_words = (style_text or self.style.prompt) if self.style.mode == "prompt" else ""
        return join_words(words or self.words, self.sampling.prompt_suffix, style_words)

    @torch.no_grad()
    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene; row i depends on `draws[i]` only."""
        return self.draw(draws, self.embeds_of(draws), on_step)

    def draw(
        self,
        draws: Sequence[Draw],
        embeds: StyleEmbeds | None,
        on_step: OnStep,
        base: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> Float[Tensor, "B 3 S S"]:
        """One picture per draw by the pipeline as it is; `embeds` as of `embeds_of`.

        With `base`, inside whose context the pipeline is the model without personalisation, `style.guidance` and
        `style.handover` act too. Pictures of one share are drawn together.
        """
        style, steps = self.style, self.sampling.steps
        shares = [1.0] * len(draws)
        contrast = None
        if base is not None and embeds is not None:
            shares = self.handover_shares(embeds)
            if style.guidance > 0 and style.degree > 0:
                own = style_embeds(self.pipe, [framed(self.pipe, self.subject)])
                contrast = StyleContrast(own, style.guidance, base)
        self.facts = {draw.id: {"handover": share} for draw, share in zip(draws, shares, strict=True)}
        batches = batches_of(shares, drawn_together(image_size(self.pipe)))
        pictures: dict[int, Tensor] = {}
        with adapter_at(self.pipe, style.blocks, 0.0 if embeds is None else style.scale):
            for number, (share, rows) in enumerate(batches):
                texts = [draws[i].style_text for i in rows]
                prompts, known = ([self.prompt(t, w) for t in texts] for w in ("", self.subject.text))
                drawn = sample(
                    self.pipe,
                    prompts,
                    draw_seeds([draws[i] for i in rows], self.sampling),
                    steps=steps,
                    guidance=self.sampling.guidance,
                    style=None
                    if embeds is None
                    else StyleEmbeds(embeds.positive[rows], embeds.negative[rows]),
                    features=Features(
                        structure=self.structure if share == 1 else self.outline(),
                        contrast=contrast,
                        handover=None if base is None or share == 1 else Handover(share, base, known),
                        size=self.trained_size,
                    ),
                    on_step=counted(on_step, number * steps, len(batches) * steps),
                )
                pictures.update(zip(rows, drawn.cpu(), strict=True))
        return torch.stack([pictures[i] for i in range(len(draws))])

    def handover_shares(self, embeds: StyleEmbeds) -> list[float]:
        """For each scene the share of the steps that the personalised model draws; a base model has all of them."""
        return [1.0] * len(embeds)

    def outline(self) -> Structure | None:
        """The structure of a picture that is handed over."""
        return self.structure

    def embeds_of(self, draws: Sequence[Draw]) -> StyleEmbeds | None:
        """The adapter's input for each scene; below `style.degree` 1 mixed with that of the subject's own picture."""
        if self.style.mode != "ip_adapter" or self.style.scale == 0:
            return None
        target = style_embeds(self.pipe, [draw.scene for draw in draws])
        if self.style.degree == 1:
            return target
        own = style_embeds(self.pipe, [framed(self.pipe, self.subject)]).expand(len(target))
        return StyleEmbeds(torch.lerp(own.positive, target.positive, self.style.degree), target.negative)

    def close(self) -> None:
        """Nothing was put into the pipeline."""


def batches_of(shares: Sequence[float], most: int) -> list[tuple[float, list[int]]]:
    """The numbers of the pictures in batches of at most `most`, each with the one hand-over of its pictures."""
    found = []
    for share in sorted(set(shares), reverse=True):
        rows = [i for i, own in enumerate(shares) if own == share]
        found += [(share, rows[start : start + most]) for start in range(0, len(rows), most)]
    return found


def counted(on_step: OnStep, before: int, total: int) -> Callable[[int, Callable[[], Tensor]], None]:
    """A callback for the steps of one batch, which come after `before` steps of others, `total` in all."""
    return lambda done, so_far: on_step(before + done, total, lambda: to_pil(so_far()))


def draw_seeds(draws: Sequence[Draw], sampling: SamplingConfig) -> list[int]:
    """The seed of each picture's start noise: every stylizer draws a pair from the same noise."""
    return [fold_in(draw.seed, "stylise", draw.id, sampling.seed) for draw in draws]


def join_words(phrase: str, suffix: str, style_words: str) -> str:
    """`phrase`, `suffix` after it and, behind a comma as in captions, the words of a style; a full stop stays last."""
    stop = "." if phrase.rstrip().endswith(".") else ""
    words = " ".join(part for part in (phrase.strip().rstrip("."), suffix.strip()) if part)
    return ", ".join(part for part in (words, style_words.strip()) if part) + stop


def framed(pipe: Any, subject: Subject) -> Float[Tensor, "3 S S"]:
    """The subject's own picture, framed as in training."""
    return place(subject, image_size(pipe))[0]
