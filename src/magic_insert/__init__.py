"""Magic Insert: style-aware drag-and-drop, an open implementation (arXiv 2407.02489).

`from magic_insert import MagicInsert` is where to begin. Importing the package costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magic_insert.core.errors import UserError as UserError
    from magic_insert.core.records import Subject as Subject
    from magic_insert.drops import Drop as Drop
    from magic_insert.drops import Redrawn as Redrawn
    from magic_insert.magic import MagicInsert as MagicInsert

__version__ = "0.1.0"
_HOMES = {
    "MagicInsert": "magic_insert.magic",
    "Subject": "magic_insert.core.records",
    "Redrawn": "magic_insert.drops",
    "Drop": "magic_insert.drops",
    "UserError": "magic_insert.core.errors",
}
__all__ = ["Drop", "MagicInsert", "Redrawn", "Subject", "UserError"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
