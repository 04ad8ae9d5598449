"""Functions by name: a target is the text "package.module:function"."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def load_function(target: str) -> Callable[[Any], Any]:
    """The function that `target` names; its module is imported here, which is when torch comes in."""
    module, _, function = target.partition(":")
    loaded: Callable[[Any], Any] = getattr(import_module(module), function)
    return loaded
