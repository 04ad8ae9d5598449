"""Ours: the personalised model takes the target picture through the IP-Adapter and draws the subject in its style.

Several stylizers may share one pipeline: each switches its own LoRA, tokens and blocks on for a call and off after it,
so between calls the pipeline is the base model.

Shape letters: S side of the model's square, B pictures.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.compositing import resize
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.jsonl import read_json
from magic_insert.core.masks import blur_inside
from magic_insert.core.records import Box, Subject
from magic_insert.data.subject_files import CARD_FILE
from magic_insert.data.subject_images import is_cut_out, own_part, spot
from magic_insert.models.ip_adapter import StyleEmbeds, photo_shares
from magic_insert.models.lora import FILE as LORA_FILE
from magic_insert.models.lora import load_lora, remove_lora, use_lora
from magic_insert.models.sampling import Structure, canny_edges, controlnet_of
from magic_insert.models.text import FILE as TOKENS_FILE
from magic_insert.models.text import attached, load_tokens
from magic_insert.stylizers.base import DiffusionStylizer, framed
from magic_insert.stylizers.draws import Draw
from magic_insert.stylizers.tone import (
    FEW,
    MANY_HUES,
    ToneStylizer,
    base_of,
    consists_of_marks,
    even,
    in_its_hue,
    moved_by,
    read_scene,
    shrunk,
    to_lab,
    to_rgb,
)

# Of `style.handover=auto`, where a target does not read as a photograph: the base model knows a subject well by words,
# less well by its learned tokens alone.
AUTO_NAMED, AUTO_UNNAMED = 0.4, 0.6
UNGUIDED_OUTLINE = 0.5  # Structure.unguided of the outline of a picture that is handed over
# Of `style.detail`, see `detailed`: shares of the model's side; Lab, a share of the matte, colours that are read.
SOFT, PHOTO_SOFT = 0.025, 0.15
PATCHES, SOLID, COLOURS = 10.0, 0.7, 4096
VIVID = 1.2  # at most so many times as vivid
# From this share on it does: 29 of 30 photographs of the Toybox, 5 of its 330 drawings in styles that the model knows.
PHOTOGRAPH = 0.12


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
        self.marked = consists_of_marks(*own_part(subject))
        self.read: tuple[StyleEmbeds, list[bool]] | None = None
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
    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B C h w"]:
        """The subject in the style of each scene; row i depends on `draws[i]` only.

        On the model's square; with `style.detail` cut out, at the size of its own picture if that is the larger.
        """
        embeds = self.embeds_of(draws)
        with self.active():
            drawn = self.draw(draws, embeds, on_step, base=self.resting)
        for facts in self.facts.values():
            facts["detail"] = self.style.detail if self.keeps_detail else 0.0
        return self.with_detail(drawn, draws, embeds)

    @property
    def keeps_detail(self) -> bool:
        """Whether `style.detail` acts: on a cut-out in the pose it has, whose own picture is not all marks."""
        asked = self.style.detail > 0 and not self.sampling.prompt_suffix.strip()
        return asked and is_cut_out(self.subject) and not self.marked

    def with_detail(
        self, drawn: Float[Tensor, "B 3 S S"], draws: Sequence[Draw], embeds: StyleEmbeds | None
    ) -> Float[Tensor, "B C h w"]:
        """The drawn pictures with the fine detail of the subject's own one, by `style.detail`; those of drawings with
        the hues and the marks of their scene. As they are where no detail is kept. `embeds` as of `embeds_of`."""
        if not self.keeps_detail:
            return drawn
        subject, side = self.subject, drawn.shape[-1]
        at = spot(subject, (side, side))
        rgb, alpha = own_part(subject)
        if at.h > rgb.shape[-2]:  # what was drawn keeps its resolution
            seen, alpha = resize(rgb * alpha, at.h, at.w), resize(alpha, at.h, at.w)
            rgb = seen / alpha.clamp_min(FEW)
        own = Subject(rgb, alpha, subject.id)
        tone = ToneStylizer(self.settings, None, own, self.style, self.sampling)
        photographs = [False] * len(draws) if embeds is None else self._read(embeds)
        made = []
        for picture, draw, photograph in zip(drawn, draws, photographs, strict=True):
            how: tuple[Any, ...] = (picture, torch.cat([rgb, alpha]), at, self.style.detail)
            if photograph:
                made.append(detailed(*how, photograph=True))
            else:
                look = read_scene(draw.scene)
                hues = np.interp(look.hue.taken_on, (MANY_HUES, 1.0), (0.0, 1.0))
                cut = detailed(*how, hues=float(hues))
                cut[:3] = to_rgb(in_its_hue(to_lab(cut[:3]), look.hue, self.style.detail))
                made.append(tone.marked(cut, look))
        return torch.stack(made)

    def _read(self, embeds: StyleEmbeds) -> list[bool]:
        """Whether each scene reads as a photograph; what was read last is kept, for one call asks twice."""
        if self.read is None or self.read[0] is not embeds:
            shares = photo_shares(self.pipe, embeds) or [0.0] * len(embeds)
            self.read = embeds, [share >= PHOTOGRAPH for share in shares]
        return self.read[1]

    def handover_shares(self, embeds: StyleEmbeds) -> list[float]:
        """For each scene the share of the steps that the personalised model draws."""
        asked = self.style.handover
        if asked != "auto":
            return [float(asked)] * len(embeds)
        drawn = AUTO_NAMED if self.subject.text else AUTO_UNNAMED
        return [1.0 if photograph and not self.marked else drawn for photograph in self._read(embeds)]

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


def detailed(
    drawn: Float[Tensor, "3 S S"],
    own: Float[Tensor, "4 h w"],
    at: Box,
    share: float,
    *,
    photograph: bool = False,
    hues: float = 1.0,
) -> Float[Tensor, "4 h w"]:
    """`own` in the colours and the broad light of `drawn`, whose box `at` it fills; `share` of 0 is `drawn` there.

    Read coarser than SOFT of the model's side: each colour of its own has one shift, the mean of what was drawn there,
    so that what is of one colour stays so, and colours too fine to be drawn keep their differences. What the drawing
    differs by beyond that is its light and shade, and of its colours no more than PATCHES in Lab. Of its hues
    the share `hues` is taken, none in a scene of many: there a model may well draw a red hat brown. Where they are not
    taken, all colours become as vivid as the drawing is in the mean, from no less than before to VIVID times as much.
    In a `photograph` all that is finer than PHOTO_SOFT is its own.
    """
    rgb, alpha = own[:3], own[3:]
    spotted = drawn[at.pixels]
    small, cover = shrunk(rgb, alpha, at.h, at.w)

    def coarse(picture: Float[Tensor, "3 _ _"], soft: float) -> Float[Tensor, "3 _ _"]:
        return blur_inside(picture, cover, soft * drawn.shape[-1], least=FEW)

    def larger(picture: Float[Tensor, "3 _ _"]) -> Float[Tensor, "3 h w"]:
        size = alpha.shape[-2:]
        return functional.interpolate(picture[None], size, mode="bilinear", align_corners=False)[0]

    if photograph:
        made = rgb + larger(coarse(spotted, PHOTO_SOFT) - coarse(small, PHOTO_SOFT))
    else:
        lab, seen, wanted = to_lab(rgb), to_lab(coarse(small, SOFT)), to_lab(coarse(spotted, SOFT))
        solid = cover[0].numpy() > SOLID * float(cover.max())
        colours, shifts = (even(part[solid], COLOURS) for part in (seen, wanted - seen))
        light = torch.from_numpy(wanted - seen - moved_by(seen, colours, shifts)).permute(2, 0, 1)
        patches = light[1:].norm(dim=0, keepdim=True).clamp_min(1e-6)
        light[1:] *= PATCHES * torch.tanh(patches / PATCHES) / patches
        shift = moved_by(base_of(lab), colours, shifts)  # texture keeps its contrast
        shift[..., 1:] *= hues
        light[1:] *= hues
        lab = lab + shift + larger(light).permute(1, 2, 0).numpy()
        own_chroma, chroma = (np.hypot(*part[solid][:, 1:].T).mean() for part in (seen, wanted))
        vivid = np.clip(chroma / max(own_chroma, FEW), 1.0, VIVID)
        lab[..., 1:] *= hues + (1.0 - hues) * vivid
        made = to_rgb(lab)
    return torch.cat([torch.lerp(larger(spotted), made, share).clamp(0.0, 1.0), alpha])
