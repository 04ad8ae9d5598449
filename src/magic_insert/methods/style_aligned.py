"""StyleAligned (Hertz et al. 2024): the subject is drawn beside the scene's own picture, found back by DDIM inversion.

The scene is the reference of a shared batch: it retraces its inverted path while the subject, told in words, looks at
it through shared attention. Nothing is personalised and no adapter speaks.

Shape letters: H, W the scene's rows and columns, S side of the model's square, B scenes, K steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import SamplingConfig, StyleConfig
from magic_insert.core.compositing import area_resize
from magic_insert.core.records import Subject
from magic_insert.methods.drawing import draw_numbers, join_words, subject_structure
from magic_insert.models.controlnet import Structure
from magic_insert.models.inversion import ddim, invert
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.shared_attention import aligned
from magic_insert.models.style import square_style_image

BATCH = 4  # scenes drawn together, each with its reference


class StyleAlignedStylizer:
    """Draws the subject of `subject_text` aligned with any scene, by the base model."""

    def __init__(
        self,
        pipe: Any,
        subject: Subject,
        subject_text: str,
        style: StyleConfig,
        sampling: SamplingConfig,
        *,
        structure_scale: float = 0.0,
        score_shift: float,
        share_norms: bool,
        progress: bool = False,
    ) -> None:
        """Changes nothing in `pipe`.

        Args:
            pipe: a StableDiffusionXLPipeline; DDIM on its own noise schedule draws, whatever its sampler.
            subject: the subject's picture, whose outlines are the structure.
            subject_text: what it is, such as "a red bunny".
            style: of it only `prompt`, the words of a scene that brings none.
            sampling: steps, guidance, root seed and words after the subject's own.
            structure_scale: how strongly the picture follows the subject's outlines; 0 not at all.
            score_shift: added to the attention scores of the scene's tokens.
            share_norms: group norms pool the statistics of scene and subject.
            progress: draw a bar per batch.

        Raises:
            UserError: outlines asked of a model without a Canny ControlNet.
        """
        self.pipe, self.subject_text, self.style, self.sampling = pipe, subject_text, style, sampling
        self.score_shift, self.share_norms, self.progress = score_shift, share_norms, progress
        self.structure, self.structure_scale = (
            subject_structure(pipe, subject, structure_scale),
            structure_scale,
        )

    def prompts(self, style_text: str = "") -> tuple[str, str]:
        """What the reference shows, its style in words, and what is drawn: the subject in those words."""
        words = style_text or self.style.prompt
        return words, join_words(self.subject_text, self.sampling.prompt_suffix, words)

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
        prompts = [self.prompts(text) for text in style_texts or [""] * len(scenes)]
        numbers = draw_numbers(seeds, ids, self.sampling)
        size = image_size(self.pipe)
        squares = [area_resize(square_style_image(scene), size, size) for scene in scenes]
        pictures = []
        for start in range(0, len(scenes), BATCH):
            rows = slice(start, start + BATCH)
            pictures.append(self._draw(torch.stack(squares[rows]), prompts[rows], numbers[rows]))
        return torch.cat(pictures)

    def _draw(
        self, squares: Float[Tensor, "B 3 S S"], prompts: Sequence[tuple[str, str]], numbers: Sequence[int]
    ) -> Float[Tensor, "B 3 S S"]:
        count = len(squares)
        shown, drawn = zip(*prompts, strict=True)
        trail = invert(self.pipe, squares, shown, steps=self.sampling.steps)

        def retrace(done: int, latents: Tensor) -> Tensor:
            return torch.cat([trail[done].to(latents.dtype), latents[count:]])

        structure = None
        if self.structure is not None:
            # The scene is its own structure.
            scales = [0.0] * count + [self.structure_scale] * count
            edges = self.structure.edges.expand(2 * count, -1, -1, -1)
            structure = Structure(self.structure.network, edges, scales)
        with aligned(
            self.pipe.unet,
            halves=2 if self.sampling.guidance > 1 else 1,
            score_shift=self.score_shift,
            share_norms=self.share_norms,
        ):
            pictures = sample(
                self.pipe,
                [*shown, *drawn],
                [*numbers, *numbers],
                steps=self.sampling.steps,
                guidance=self.sampling.guidance,
                scheduler=ddim(self.pipe),
                structure=structure,
                replace=retrace,
                progress=self.progress,
            )
        return pictures[count:].cpu()

    def close(self) -> None:
        """Nothing was put into the pipeline."""
