"""What gives a pasted subject its shadow, and what takes an object out. Importing this costs no torch."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic_insert.config.schema import InserterConfig

if TYPE_CHECKING:
    from magic_insert.inserters.base import Inserter

CLASSES = {
    "real_only": "magic_insert.inserters.edit:EditInserter",
    "bootstrapped": "magic_insert.inserters.edit:EditInserter",
    "inpaint": "magic_insert.inserters.inpaint:InpaintInserter",
    "effect": "magic_insert.inserters.effect:EffectInserter",
    "contact_shadow": "magic_insert.inserters.contact_shadow:ContactShadow",
    "copy_paste": "magic_insert.inserters.copy_paste:CopyPaste",
}


def build_inserter(cfg: InserterConfig, pipe: Any, folder: Path | None) -> "Inserter":
    """The inserter that `cfg` names, with the weights in `folder` and the other parts of `pipe`.

    Raises:
        UserError: the weights do not fit.
    """
    module, _, name = CLASSES[cfg.name].partition(":")
    return getattr(import_module(module), name)(cfg, pipe, folder)
