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
from magic_insert.core.rand import fold_in
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import load_lora, remove_lora, use_lora
from magic_insert.models.sampling import sample
from magic_insert.models.style import StyleEmbeds, listening, style_embeds
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, load_tokens

BATCH = 8  # pictures drawn together; the rows do not depend on it
CARD_FILE = "card.json"


def add_words(phrase: str, suffix: str, style_words: str = "") -> str:
    """`phrase` with `suffix` after it and, behind a comma as in captions, the words of a style; one full stop."""
    words = " ".join([phrase.rstrip().rstrip("."), suffix.strip()]).strip()
    return f"{words}, {style_words.strip()}." if style_words.strip() else f"{words}."


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
        lora_scale: float = 1.0,
        progress: bool = False,
    ) -> None:
        """Loads the product in `run_dir` beside whatever `pipe` already holds.

        Args:
            pipe: the StableDiffusionXLPipeline that the run was trained on.
            run_dir: folder with `pytorch_lora_weights.safetensors`, `learned_embeds.safetensors` and `card.json`.
            style: mode, blocks and scale of the style.
            sampling: steps, guidance, root seed and words after the subject's own.
            lora_scale: strength of the personalisation; 0 leaves only the tokens.
            progress: draw a bar per batch.

        Raises:
            UserError: the folder is not a finished personalisation run, or was trained on a model of another width.
        """
        run_dir = Path(run_dir)
        card_file = run_dir / CARD_FILE
        if not card_file.is_file():
            raise UserError(f"expected a finished personalisation at {run_dir}, got no {CARD_FILE} there")
        self.card: dict[str, Any] = json.loads(card_file.read_text())
        self.pipe, self.style, self.sampling = pipe, style, sampling
        self.lora_scale, self.progress = lora_scale, progress
        self.tokens = load_tokens(run_dir / TOKENS_FILE)
        self.adapter = f"s{digest([str(run_dir.resolve()), id(self)])}"
        load_lora(pipe, run_dir / LORA_FILE, self.adapter)

    def prompt(self, style_text: str = "") -> str:
        """The training prompt with the learned words, then `sampling.prompt_suffix` and, asked for, words of the style.

        With `style.mode=prompt` those are `style_text`, or `style.prompt` where the scene brings none.
        """
        phrase = self.tokens.text(self.card["prompt"]).rstrip()
        style_words = (style_text or self.style.prompt) if self.style.mode == "prompt" else ""
        return add_words(phrase, self.sampling.prompt_suffix, style_words)

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
        """The subject in the style of each scene; each scene is encoded once and row i equals a call on scene i."""
        prompts = [self.prompt(text) for text in style_texts or [""] * len(scenes)]
        numbers = [
            fold_in(seed, "stylise", name, self.sampling.seed) for seed, name in zip(seeds, ids, strict=True)
        ]
        adapter = self.style.mode == "ip_adapter" and self.style.scale != 0
        pictures = []
        with self.active():
            embeds = style_embeds(self.pipe, scenes) if adapter else None
            for start in range(0, len(scenes), BATCH):
                rows = slice(start, start + BATCH)
                pictures.append(
                    sample(
                        self.pipe,
                        prompts[rows],
                        numbers[rows],
                        steps=self.sampling.steps,
                        guidance=self.sampling.guidance,
                        style=None
                        if embeds is None
                        else StyleEmbeds(embeds.positive[rows], embeds.negative[rows]),
                        progress=self.progress,
                    ).cpu()
                )
        return torch.cat(pictures)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside this block the pipeline is the personalised, listening model."""
        scale = self.style.scale if self.style.mode == "ip_adapter" else 0.0
        with attached(self.pipe, self.tokens), listening(self.pipe, self.style.blocks, scale):
            use_lora(self.pipe, self.adapter, self.lora_scale)
            try:
                yield
            finally:
                use_lora(self.pipe, None)

    def close(self) -> None:
        """Takes the LoRA out of the pipeline; the stylizer cannot be used afterwards."""
        remove_lora(self.pipe, self.adapter)
