"""What a stylizer needs and whether it is there, known before torch or a model is loaded."""

from pathlib import Path

from magic_insert.config.schema import ADAIN_FILES, ModelConfig, StylizerConfig
from magic_insert.core.errors import UserError


def needs_personalization(cfg: StylizerConfig) -> bool:
    """Whether the method wants the run folder of a personalisation; the others know the subject by its words."""
    return cfg.name == "personalized"


def needs_words(cfg: StylizerConfig) -> bool:
    """Whether the method knows the subject only by what it is told."""
    return cfg.name in ("instantstyle", "style_aligned")


def adain_weights(cfg: StylizerConfig) -> Path:
    """The folder of AdaIN's weights.

    Raises:
        UserError: none is named, or a file is missing there.
    """
    folder = Path(cfg.weights or "").expanduser()
    missing = [name for name in ADAIN_FILES if cfg.weights is None or not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"expected {' and '.join(missing)} in a folder for stylizer=adain, got {cfg.weights}; "
            "set stylizer.weights=FOLDER"
        )
    return folder


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
    if needs_words(cfg) and subject_text is not None and not subject_text.strip():
        raise UserError(
            f"expected the subject in words for stylizer={cfg.name}, got none; set subject_text='a red bunny'"
        )
    if cfg.name == "adain":
        adain_weights(cfg)
    if cfg.structure == "canny" and model.controlnet is None:
        folder = None if model_folder is None else model_folder / "controlnet"
        if folder is None or not (folder / "config.json").is_file():
            raise UserError(
                f"expected a Canny ControlNet for stylizer.structure=canny, got none in {folder or model.source}; "
                "set stylizer.structure=none or model.controlnet=FOLDER"
            )
