"""Ours: the personalised model hears the target picture through the IP-Adapter and draws the subject in its style.

Several stylizers may share one pipeline: each switches its own LoRA, tokens and blocks on for a call and off after it,
so between calls the pipeline is the base model.

Shape letters: H, W the scene's rows and columns, S side of the model's square, B scenes.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import SamplingConfig, StyleConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.methods.drawing import (
    draw_numbers,
    draw_styled,
    join_words,
    subject_structure,
    words_of_style,
)
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import load_lora, remove_lora, use_lora
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, load_tokens


class PersonalizedStylizer:
    """Redraws the subject of one personalisation run in the style of any scene."""

    name = "personalized"

    def __init__(
        self,
        pipe: Any,
        run_dir: Path,
        style: StyleConfig,
        sampling: SamplingConfig,
        *,
        subject: Subject | None = None,
        structure_scale: float = 0.0,
        lora_scale: float = 1.0,
        progress: bool = False,
    ) -> None:
        """Loads the product in `run_dir` beside whatever `pipe` already holds.

        Args:
            pipe: the StableDiffusionXLPipeline that the run was trained on.
            run_dir: folder with `pytorch_lora_weights.safetensors`, `learned_embeds.safetensors` and `card.json`.
            style: mode, blocks, scale and degree of the style.
            sampling: steps, guidance, root seed and words after the subject's own.
            subject: the subject's picture: its outlines are the structure, its look the start of `style.degree` and of
                `style.guidance`; may be left out where none of them is asked for.
            structure_scale: how strongly the picture follows the subject's outlines; 0 not at all.
            lora_scale: strength of the personalisation; 0 leaves only the tokens.
            progress: draw a bar per batch.

        Raises:
            UserError: the folder is not a finished personalisation run, was trained on a model of another width, or
                outlines, a degree below 1 or a guidance are asked for without a subject or a Canny ControlNet.
        """
        run_dir = Path(run_dir)
        card_file = run_dir / CARD_FILE
        if not card_file.is_file():
            raise UserError(f"expected a finished personalisation at {run_dir}, got no {CARD_FILE} there")
        self.card: dict[str, Any] = json.loads(card_file.read_text())
        self.pipe, self.style, self.sampling = pipe, style, sampling
        self.subject, self.lora_scale, self.progress = subject, lora_scale, progress
        self.structure = subject_structure(pipe, subject, structure_scale)
        self.tokens = load_tokens(run_dir / TOKENS_FILE)
        self.adapter = f"s{digest([str(run_dir.resolve()), id(self)])}"
        load_lora(pipe, run_dir / LORA_FILE, self.adapter)

    def prompt(self, style_text: str = "") -> str:
        """The training prompt with the learned words, `sampling.prompt_suffix` and, asked for, words of the style."""
        phrase = self.tokens.text(self.card["prompt"])
        return join_words(phrase, self.sampling.prompt_suffix, words_of_style(self.style, style_text))

    def __call__(
        self, scene_rgb: Float[Tensor, "3 H W"], *, seed: int, id: str = "", style_text: str = ""
    ) -> Float[Tensor, "3 S S"]:
        """The subject in the scene's style on plain ground; `id` names the draw, as in a batch."""
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
        with self.active():
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
                base=self.resting,
            )

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside this block, within `active`, the LoRA is off; the learned words stay, unused by an empty prompt."""
        use_lora(self.pipe, None)
        try:
            yield
        finally:
            use_lora(self.pipe, self.adapter, self.lora_scale)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside this block the pipeline is the personalised model."""
        with attached(self.pipe, self.tokens):
            use_lora(self.pipe, self.adapter, self.lora_scale)
            try:
                yield
            finally:
                use_lora(self.pipe, None)

    def close(self) -> None:
        """Takes the LoRA out of the pipeline; the stylizer cannot be used afterwards."""
        remove_lora(self.pipe, self.adapter)
