"""The methods that redraw a subject in a scene's style. Importing this costs no torch.

A method is registered by its name in config/registry.py, one of another package by an entry point."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic_insert.config.registry import STYLIZERS
from magic_insert.config.schema.shared import (
    ADAIN_FILES,
    ModelConfig,
    SamplingConfig,
    StyleConfig,
    StylizerConfig,
)
from magic_insert.core.errors import UserError

if TYPE_CHECKING:
    from magic_insert.core.records import Subject
    from magic_insert.stylizers.draws import Stylizer


def build_stylizer(
    cfg: StylizerConfig, pipe: Any, subject: "Subject", style: StyleConfig, sampling: SamplingConfig
) -> "Stylizer":
    """The stylizer that `cfg` names, for this subject; AdaIN draws without `pipe`.

    Raises:
        UserError: the subject has no personalisation where one is needed, or weights that are not there.
    """
    return STYLIZERS.get(cfg.name)(cfg, pipe, subject, style, sampling)


def needs_personalization(cfg: StylizerConfig) -> bool:
    """Whether the method wants the run folder of a personalisation; the others know the subject by its words."""
    return cfg.name == "personalized"


def check_stylizer(
    cfg: StylizerConfig, model: ModelConfig, model_folder: Path | None, *, subject_text: str | None
) -> None:
    """What can be known to be missing before a model is loaded.

    Args:
        model_folder: the model's local folder, None for one from the hub.
        subject_text: what the subject is; None where it will be known later.

    Raises:
        UserError: AdaIN's weights, the ControlNet that `structure=canny` needs, or the subject's words are not there.
    """
    by_words = cfg.name in ("instantstyle", "style_aligned")
    if by_words and subject_text is not None and not subject_text.strip():
        raise UserError(
            f"expected the subject in words for stylizer={cfg.name}, got none; set subject_text='a red bunny'"
        )
    weights = Path(cfg.weights or "").expanduser()
    if cfg.name == "adain" and not (cfg.weights and all((weights / name).is_file() for name in ADAIN_FILES)):
        raise UserError(
            f"expected {' and '.join(ADAIN_FILES)} in a folder for stylizer=adain, got {cfg.weights}; "
            "set stylizer.weights=FOLDER"
        )
    if cfg.structure == "canny" and model.controlnet is None:
        folder = None if model_folder is None else model_folder / "controlnet"
        if folder is None or not (folder / "config.json").is_file():
            raise UserError(
                f"expected a Canny ControlNet for stylizer.structure=canny, got none in {folder or model.source}; "
                "set stylizer.structure=none or model.controlnet=FOLDER"
            )
