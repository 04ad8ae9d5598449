"""Ours: the personalised model takes the target picture through the IP-Adapter and draws the subject in its style.

Several stylizers may share one pipeline: each switches its own LoRA, tokens and blocks on for a call and off after it,
so between calls the pipeline is the base model.

Shape letters: S side of the model's square, B pictures.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.jsonl import read_json
from magic_insert.core.records import Subject
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.models.ip_adapter import StyleEmbeds, photo_shares
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import load_lora, remove_lora, use_lora
from magic_insert.models.sampling import Structure, canny_edges, controlnet_of
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, load_tokens
from magic_insert.stylizers.base import DiffusionStylizer, framed
from magic_insert.stylizers.draws import Draw

# Of `style.handover=auto`, where a target does not read as a photograph: the base model knows a subject well by words,
# less well by its learned tokens alone.
AUTO_NAMED, AUTO_UNNAMED = 0.4, 0.6
UNGUIDED_OUTLINE = 0.5  # Structure.unguided of the outline of a picture that is handed over
PHOTOGRAPH = 0.1  # from this share on it does: 24 of 30 photographs of the Toybox, 3 of its 96 drawings


class PersonalizedStylizer(DiffusionStylizer):
    """Redraws the subject of one personalisation, `subject.run`, in the style of any scene."""

    def __init__(
        self,
        settings: StylizerConfig,
        pipe: Any,
        subject: Subject,
        style: StyleConfig,
        sampling: SamplingConfig,
    ) -> None:
        """Loads LoRA and tokens of `subject.run` beside whatever `pipe`, on which they were trained, already holds.

        Raises:
            UserError: the subject has no finished personalisation or one of a model of another width; see the base.
        """
        super().__init__(settings, pipe, subject, style, sampling)
        if subject.run is None or not (subject.run / CARD_FILE).is_file():
            raise UserError(
                f"expected a finished personalisation for stylizer={settings.name}, got {subject.run}; "
                "run magic-insert personalize first"
            )
        self.card: dict[str, Any] = read_json(subject.run / CARD_FILE)
        self.tokens = load_tokens(subject.run / TOKENS_FILE)
        self.adapter = f"s{digest([str(subject.run.resolve()), id(self)])}"
        load_lora(pipe, subject.run / LORA_FILE, self.adapter)

    @property
    def words(self) -> str:
        """The training prompt with the learned words."""
        return self.tokens.text(self.card["prompt"])

    @property
    def trained_size(self) -> int | None:
        """As the card of the training says."""
        return int(self.card["image_size"]) if "image_size" in self.card else None

    @torch.no_grad()
    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 3 S S"]:
        """The subject in the style of each scene; row i depends on `draws[i]` only."""
        with self.active():
            return self.draw(draws, on_step, base=self.resting)

    def handover_shares(self, embeds: StyleEmbeds) -> list[float]:
        """For each scene the share of the steps that the personalised model draws."""
        asked = self.style.handover
        if asked != "auto":
            return [float(asked)] * len(embeds)
        photographs = photo_shares(self.pipe, embeds) or [0.0] * len(embeds)
        drawn = AUTO_NAMED if self.subject.text else AUTO_UNNAMED
        return [1.0 if share >= PHOTOGRAPH else drawn for share in photographs]

    def outline(self) -> Structure | None:
        """The structure of a picture that is handed over; words that ask for a pose are left their freedom."""
        if self.structure is not None or self.style.outline == 0 or self.sampling.prompt_suffix.strip():
            return self.structure
        edges = canny_edges(framed(self.pipe, self.subject))[None]
        return Structure(controlnet_of(self.pipe), edges, self.style.outline, UNGUIDED_OUTLINE)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside this block the pipeline is the personalised model."""
        with attached(self.pipe, self.tokens):
            use_lora(self.pipe, self.adapter, self.settings.lora_scale)
            try:
                yield
            finally:
                use_lora(self.pipe, None)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside this block, within `active`, the LoRA is off; the learned words stay, unused by an empty prompt."""
        use_lora(self.pipe, None)
        try:
            yield
        finally:
            use_lora(self.pipe, self.adapter, self.settings.lora_scale)

    def close(self) -> None:
        """Takes the LoRA out of the pipeline; the stylizer cannot be used afterwards."""
        remove_lora(self.pipe, self.adapter)
