"""StyleAligned (Hertz et al. 2024): the subject is drawn beside the scene's own picture, found back by DDIM inversion.

The scene is the reference of a shared batch: it retraces its inverted path while the subject, given in words, attends
to it through shared attention. Nothing is personalised and no adapter acts.

Shape letters: S side of the model's square, B scenes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.compositing import area_resize
from magic_insert.core.events import OnStep, no_step
from magic_insert.models.inversion import ddim, invert
from magic_insert.models.sampling import image_size, sample
from magic_insert.models.shared_attention import aligned
from magic_insert.models.style import square_style_image
from magic_insert.stylizers.base import DiffusionStylizer, Draw, counted, draw_seeds, join_words

BATCH = 4  # scenes drawn together, each with its reference


class StyleAlignedStylizer(DiffusionStylizer):
    """Draws the subject of `subject.text` aligned with any scene; DDIM on the model's noise schedule is the sampler."""

    def prompts(self, style_text: str = "") -> tuple[str, str]:
        """What the reference shows, its style in words, and what is drawn: the subject in those words."""
        words = style_text or self.style.prompt
        return words, join_words(self.words, self.sampling.prompt_suffix, words)

    @torch.no_grad()
    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene; row i depends on `draws[i]` only."""
        steps = self.sampling.steps
        total = steps * -(-len(draws) // BATCH)
        pictures = []
        for start in range(0, len(draws), BATCH):
            done = start // BATCH * steps
            pictures.append(self._draw(draws[start : start + BATCH], counted(on_step, done, total)))
        return torch.cat(pictures)

    def _draw(self, draws: Sequence[Draw], on_step: Callable[[int], None]) -> Float[Tensor, "B 3 S S"]:
        count, size = len(draws), image_size(self.pipe)
        shown, drawn = zip(*(self.prompts(draw.style_text) for draw in draws), strict=True)
        squares = [area_resize(square_style_image(draw.scene), size, size) for draw in draws]
        trail = invert(self.pipe, torch.stack(squares), shown, steps=self.sampling.steps)

        def retrace(done: int, latents: Tensor) -> Tensor:
            return torch.cat([trail[done].to(latents.dtype), latents[count:]])

        structure = None
        if self.structure is not None:
            # The scene is its own structure.
            scales = [0.0] * count + [self.settings.structure_scale] * count
            edges = self.structure.edges.expand(2 * count, -1, -1, -1)
            structure = replace(self.structure, edges=edges, scale=scales)
        with aligned(
            self.pipe.unet,
            halves=2 if self.sampling.guidance > 1 else 1,
            score_shift=self.settings.score_shift,
            share_norms=self.settings.share_norms,
        ):
            pictures = sample(
                self.pipe,
                [*shown, *drawn],
                draw_seeds(draws, self.sampling) * 2,
                steps=self.sampling.steps,
                guidance=self.sampling.guidance,
                scheduler=ddim(self.pipe),
                structure=structure,
                replace=retrace,
                on_step=on_step,
            )
        return pictures[count:].cpu()
