"""What gives a pasted subject its shadow, and what takes an object out. Importing this costs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic_insert.config.registry import INSERTERS
from magic_insert.config.schema.shared import InserterConfig

if TYPE_CHECKING:
    from magic_insert.inserters.base import Inserter


def build_inserter(cfg: InserterConfig, pipe: Any, folder: Path | None) -> "Inserter":
    """The inserter that `cfg` names, with the weights in `folder` and the other parts of `pipe`.

    Raises:
        UserError: the weights do not fit.
    """
    made: Inserter = INSERTERS.get(cfg.name)(cfg, pipe, folder)
    return made
