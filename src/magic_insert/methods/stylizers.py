"""From a configuration to the method that redraws a subject: the one door of the jobs and of the harness."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from magic_insert.config.schema import STYLIZERS, SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.errors import UserError
from magic_insert.core.records import Subject
from magic_insert.methods.adain import AdainStylizer
from magic_insert.methods.base import BatchStylizer
from magic_insert.methods.instantstyle import InstantStyleStylizer
from magic_insert.methods.personalized import PersonalizedStylizer
from magic_insert.methods.style_aligned import StyleAlignedStylizer
from magic_insert.methods.stylizer_checks import adain_weights, check_stylizer, needs_personalization

__all__ = ["STYLIZERS", "build_stylizer", "check_stylizer", "needs_personalization"]


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
        pipe: the StableDiffusionXLPipeline that draws; several stylizers may share it; AdaIN draws without.
        subject: the subject's picture, for the methods that look at it.
        subject_text: what it is ("a red bunny"), for the methods that are told.
        run_dir: folder of the personalisation, where one is needed.
        style: mode, blocks and scale of the style; `cfg.style_mode` goes before its mode.
        sampling: steps, guidance, root seed and words after the subject's own.
        progress: draw a bar per batch.

    Raises:
        UserError: no run folder where one is needed, or weights that are not there.
    """
    if cfg.name == "adain":
        return AdainStylizer(adain_weights(cfg), subject, size=cfg.size, weight=cfg.style_weight)
    style = replace(style, mode=cfg.style_mode or style.mode)
    structure_scale = cfg.structure_scale if cfg.structure == "canny" else 0.0
    if cfg.name == "instantstyle":
        return InstantStyleStylizer(
            pipe,
            subject,
            subject_text,
            style,
            sampling,
            structure_scale=structure_scale,
            progress=progress,
        )
    if cfg.name == "style_aligned":
        return StyleAlignedStylizer(
            pipe,
            subject,
            subject_text,
            style,
            sampling,
            structure_scale=structure_scale,
            score_shift=cfg.score_shift,
            share_norms=cfg.share_norms,
            progress=progress,
        )
    if cfg.name == "personalized":
        if run_dir is None:
            raise UserError(
                f"expected the run folder of a personalisation for stylizer={cfg.name}, got none; "
                "run magic-insert personalize first"
            )
        return PersonalizedStylizer(
            pipe,
            run_dir,
            style,
            sampling,
            subject=subject,
            structure_scale=structure_scale,
            lora_scale=cfg.lora_scale,
            progress=progress,
        )
    raise UserError(f"expected stylizer.name to be one of {', '.join(STYLIZERS)}, got {cfg.name!r}")
