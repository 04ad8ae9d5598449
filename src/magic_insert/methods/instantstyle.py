"""InstantStyle (Wang et al. 2024): the base model is told the subject in words and hears the scene through the adapter.

Nothing is personalised. The adapter speaks in the blocks of `style.blocks`: InstantStyle's own is
`up_blocks.0.attentions.1`, to which `down_blocks.2.attentions.1` adds the layout.

Shape letters: H, W the scene's rows and columns, S side of the model's square, B scenes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import SamplingConfig, StyleConfig
from magic_insert.core.records import Subject
from magic_insert.methods.drawing import (
    draw_numbers,
    draw_styled,
    join_words,
    subject_structure,
    words_of_style,
)


class InstantStyleStylizer:
    """Draws the subject of `subject_text` in the style of any scene with the base model."""

    def __init__(
        self,
        pipe: Any,
        subject: Subject,
        subject_text: str,
        style: StyleConfig,
        sampling: SamplingConfig,
        *,
        structure_scale: float = 0.0,
        progress: bool = False,
    ) -> None:
        """Changes nothing in `pipe`.

        Args:
            pipe: a StableDiffusionXLPipeline.
            subject: the subject's picture: its outlines are the structure, its look the start of `style.degree`.
            subject_text: what it is, such as "a red bunny".
            style: mode, blocks, scale and degree of the style.
            sampling: steps, guidance, root seed and words after the subject's own.
            structure_scale: how strongly the picture follows the subject's outlines; 0 not at all.
            progress: draw a bar per batch.

        Raises:
            UserError: outlines asked of a model without a Canny ControlNet.
        """
        self.pipe, self.subject, self.subject_text = pipe, subject, subject_text
        self.style, self.sampling, self.progress = style, sampling, progress
        self.structure = subject_structure(pipe, subject, structure_scale)

    def prompt(self, style_text: str = "") -> str:
        """The subject in words, `sampling.prompt_suffix` and, with `style.mode=prompt`, the style in words."""
        return join_words(
            self.subject_text, self.sampling.prompt_suffix, words_of_style(self.style, style_text)
        )

    def __call__(
        self, scene_rgb: Float[Tensor, "3 H W"], *, seed: int, id: str, style_text: str = ""
    ) -> Float[Tensor, "3 S S"]:
        """The subject in the scene's style; `id` names the draw, as in a batch."""
        return self.batch([scene_rgb], seeds=[seed], ids=[id], style_texts=[style_text])[0]

    @torch.no_grad()
    def batch(
        self,
        scenes: Sequence[Float[Tensor, "3 _ _"]],
        *,
        seeds: Sequence[int],
        ids: Sequence[str],
        style_texts: Sequence[str] | None = None,
    ) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene; row i equals a call on scene i."""
        return draw_styled(
            self.pipe,
            [self.prompt(text) for text in style_texts or [""] * len(scenes)],
            scenes,
            draw_numbers(seeds, ids, self.sampling),
            subject=self.subject,
            style=self.style,
            sampling=self.sampling,
            structure=self.structure,
            progress=self.progress,
        )

    def close(self) -> None:
        """Nothing was put into the pipeline."""
