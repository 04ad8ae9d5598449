"""Range checks that speak to the user: the key, what was expected, what came."""

from collections.abc import Iterable, Sequence
from typing import Any

from magic_insert.core.errors import UserError


def within(key: str, value: float, low: float, high: float) -> None:
    """`low <= value <= high`; NaN is never within.

    Raises:
        UserError: names `key`, the range and the value.
    """
    if not low <= value <= high:
        raise UserError(f"expected {key} from {low:g} to {high:g}, got {value:g}; set {key}=...")


def at_least(key: str, value: float, low: float) -> None:
    """`low <= value < infinity`; raises `UserError` otherwise."""
    if not low <= value < float("inf"):
        raise UserError(f"expected {key} to be at least {low:g} and finite, got {value:g}; set {key}=...")


def positive(key: str, value: float) -> None:
    """`0 < value < infinity`; raises `UserError` otherwise."""
    if not 0 < value < float("inf"):
        raise UserError(f"expected {key} above 0 and finite, got {value:g}; set {key}=...")


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """`value` is one of `choices`; raises `UserError` otherwise."""
    if value not in choices:
        raise UserError(f"expected {key} to be one of {', '.join(choices)}, got {value!r}; set {key}=...")


def not_empty(key: str, value: Iterable[Any]) -> None:
    """`value` has at least one element; raises `UserError` otherwise."""
    if not list(value):
        raise UserError(f"expected at least one entry in {key}, got none; set {key}=[...]")
