"""A finished personalisation for other programs."""

from dataclasses import dataclass

from omegaconf import MISSING

from magic_insert.config.checks import one_of
from magic_insert.core.errors import UserError

EXPORT_FORMATS = ("kohya", "diffusers")


@dataclass(frozen=True)
class ExportConfig:
    """The personalisation in the folder `run` -> a LoRA file and an embedding file in the folder `out`.

    `format`: `kohya` for ComfyUI and A1111, or `diffusers`. `name`: of kohya's files and in the headers (empty: the
    name of the run folder).
    """

    run: str = MISSING
    out: str = MISSING
    format: str = "kohya"
    name: str = ""

    def __post_init__(self) -> None:
        one_of("format", self.format, EXPORT_FORMATS)
        if "/" in self.name or self.name.startswith("."):
            raise UserError(
                f"expected name to be a file name without suffix, got {self.name!r}; set name=cat"
            )
