"""The only place where a configuration names a constructor: `_target_` nodes of an allow-list, bound before use."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from magic_insert.core.errors import UserError

# A `_target_` is code chosen by text. These prefixes are what configurations have a reason to name.
ALLOWED_TARGETS = (
    "magic_insert.",
    "torch.optim.",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.strategies.",
)


def check_target(node: Mapping[str, Any], key: str) -> None:
    """That `node`, found at `key`, names an allowed callable and that its other keys fit the callable's signature.

    Raises:
        UserError: names `key` and what does not fit.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or not target.startswith(ALLOWED_TARGETS):
        raise UserError(
            f"expected {key}._target_ to start with {' or '.join(ALLOWED_TARGETS)}, got {target!r}"
        )
    nested = [
        (name, value) for name, value in node.items() if isinstance(value, Mapping) and "_target_" in value
    ]
    for name, value in nested:
        check_target(value, f"{key}.{name}")
    try:
        signature = inspect.signature(get_object(target))
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(f"expected {key}._target_ to name a callable, got {target!r}") from error
    arguments = {name: value for name, value in node.items() if not name.startswith("_")}
    # A partial node is completed by its consumer, so its required arguments may still be absent.
    bind = signature.bind_partial if node.get("_partial_") else signature.bind
    try:
        bind(*node.get("_args_", ()), **arguments)
    except TypeError as error:
        raise UserError(f"expected keys at {key} that fit {target}, got: {error}") from error


def build(node: Mapping[str, Any], key: str) -> Any:
    """The object that `node`, found at `key`, describes.

    Raises:
        UserError: the target is not allowed or its keys do not fit.
    """
    check_target(node, key)
    try:
        return instantiate(dict(node))
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
