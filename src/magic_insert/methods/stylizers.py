"""From a configuration to the method that redraws a subject: the one door of the jobs and of the harness."""

from pathlib import Path
from typing import Any

from magic_insert.config.schema import SamplingConfig, StyleConfig
from magic_insert.config.schema.stylizers import STYLIZERS, StylizerConfig
from magic_insert.core.errors import UserError
from magic_insert.core.records import Subject
from magic_insert.methods.base import BatchStylizer
from magic_insert.methods.personalized import PersonalizedStylizer

__all__ = ["STYLIZERS", "build_stylizer", "needs_personalization"]


def needs_personalization(cfg: StylizerConfig) -> bool:
    """Whether the method wants the run folder of a personalisation; the others know the subject by its words."""
    return cfg.name == "personalized"


def build_stylizer(
    cfg: StylizerConfig,
    *,
    pipe: Any,
    subject: Subject,
    subject_text: str,
    run_dir: Path | None,
    style: StyleConfig,
    sampling: SamplingConfig,
    progress: bool = False,
) -> BatchStylizer:
    """The stylizer that `cfg` names, knowing its subject.

    Args:
        pipe: the StableDiffusionXLPipeline that draws; several stylizers may share it.
        subject: the subject's picture, for the methods that look at it.
        subject_text: what it is ("a red bunny"), for the methods that are told.
        run_dir: folder of the personalisation, where one is needed.
        style: mode, blocks and scale of the style; `cfg.style_mode` goes before its mode.
        sampling: steps, guidance, root seed and words after the subject's own.
        progress: draw a bar per batch.

    Raises:
        UserError: no run folder where one is needed, or weights that are not there.
    """
    if needs_personalization(cfg):
        if run_dir is None:
            raise UserError(
                f"expected the run folder of a personalisation for stylizer={cfg.name}, got none; "
                "run magic-insert personalize first"
            )
        return PersonalizedStylizer(
            pipe, run_dir, style, sampling, lora_scale=cfg.lora_scale, progress=progress
        )
    raise UserError(f"expected stylizer.name to be one of {', '.join(STYLIZERS)}, got {cfg.name!r}")
