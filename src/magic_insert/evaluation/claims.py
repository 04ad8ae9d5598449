"""What a method's pictures depend on: its settings, and the mark in their folder that keeps two of them from mixing."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from magic_insert.config.freeze import overridden
from magic_insert.config.schema import (
    EvaluateConfig,
    EvaluatedStylizer,
    PersonalizationConfig,
    SamplingConfig,
    StyleConfig,
)
from magic_insert.core.digest import digest
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.stylizers import needs_personalization

CLAIM = "method.json"
JUDGES = "encoders"


def recipe(cfg: EvaluateConfig, stylizer: EvaluatedStylizer) -> PersonalizationConfig:
    """The job's personalisation with the method's own keys in it."""
    return overridden(cfg.personalization, stylizer.personalization, "personalization")


def style_of(cfg: EvaluateConfig, stylizer: EvaluatedStylizer) -> StyleConfig:
    """The job's style with the method's own keys in it."""
    return overridden(cfg.style, stylizer.style, "style")


def sampling_of(cfg: EvaluateConfig, stylizer: EvaluatedStylizer) -> SamplingConfig:
    """The job's sampling with the method's own keys in it."""
    return overridden(cfg.sampling, stylizer.sampling, "sampling")


def settings_key(cfg: EvaluateConfig, stylizer: EvaluatedStylizer) -> list[Any]:
    """All settings of a method as JSON values."""
    trained = asdict(recipe(cfg, stylizer)) if needs_personalization(stylizer) else None
    return [asdict(stylizer), trained, asdict(style_of(cfg, stylizer)), asdict(sampling_of(cfg, stylizer))]


def model_marks(folder: Path | None) -> list[Any]:
    """What tells one folder of weights from another without reading it all: sizes and the last 64 KiB of each file."""
    if folder is None:
        return []
    marks: list[Any] = []
    for path in sorted(folder.rglob("*.safetensors")):
        if JUDGES in path.relative_to(folder).parts:
            continue  # they look at pictures and make none
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(0, size - (1 << 16)))
            marks.append([path.relative_to(folder).as_posix(), size, digest(file.read().hex())])
    return marks


def claim(folder: Path, contents: Any) -> None:
    """Writes `contents` into a folder of pictures, which the same contents may claim again.

    Raises:
        UserError: the folder holds pictures of other settings.
    """
    key = digest(contents)
    path = folder / CLAIM
    if path.is_file() and read_json(path).get("key") != key:
        raise UserError(
            f"expected pictures of the same settings in {folder}, got those of others; set out=FOLDER, or delete it"
        )
    write_json(path, {"key": key, "made_with": contents})
