"""How a look at a run is set up: the subject as it is trained on, a style to try, a judge, the texts of the edits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from magic_insert.config.schema import PersonalizationConfig
from magic_insert.core.images import load_rgb
from magic_insert.core.records import Subject
from magic_insert.data.subject_images import place
from magic_insert.models.sampling import image_size
from magic_insert.models.text import LearnedTokens
from magic_insert.toybox.scenes import sample_scene, scene_world
from magic_insert.toybox.styles import draw
from magic_insert.toybox.tracer import trace
from magic_insert.training.sample_scores import build_scorer, edit_texts
from magic_insert.training.validation import Validation

STYLE, STYLE_SEED, STYLE_SIZE = "watercolour", 4, 128


def toybox_style() -> Float[Tensor, "3 S S"]:
    """A small landscape in watercolour: a style that no photograph has."""
    buffer = trace([scene_world(sample_scene(STYLE_SEED))], STYLE_SIZE)
    return draw(buffer, [STYLE], [0.5], [STYLE_SEED])[0]


def open_validation(
    pipe: Any,
    subjects: Sequence[Subject],
    tokens: LearnedTokens,
    cfg: PersonalizationConfig,
    *,
    seed: int,
    out: Path,
    facts: Mapping[str, Any],
) -> Validation | None:
    """The looks of a run as `cfg.validation` asks for them; None for none. `pipe` carries no LoRA yet.

    The card of every saved step will say `facts`.

    Raises:
        UserError: the style picture cannot be read, or the judge does not fit the model.
    """
    asked = cfg.validation
    if not asked.every:
        return None
    pictures = torch.stack([place(subject, image_size(pipe))[0] for subject in subjects])
    return Validation(
        pipe,
        cfg,
        words=tokens.text(cfg.prompt),
        picture=pictures[0],
        style_picture=toybox_style() if asked.style is None else load_rgb(asked.style),
        scorer=build_scorer(asked.scorer, pipe, pictures, edit_texts(cfg.class_noun, asked.edits)),
        seed=seed,
        out=out,
        facts=facts,
    )
