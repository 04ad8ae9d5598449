"""What a settable value may be and what it means, declared beside the field that holds it.

    @dataclass(frozen=True)
    class StyleConfig:
        \"\"\"How the target's style reaches the subject.\"\"\"

        mode: Annotated[str, OneOf("ip_adapter", "prompt", "none")] = "ip_adapter"
        \"\"\"`ip_adapter` feeds the target picture, `prompt` a phrase, `none` nothing.\"\"\"
        scale: Annotated[float, Range(0, 2)] = 1.0
        \"\"\"Strength of the adapter in those blocks; 0 is exactly the model without it.\"\"\"

        def conflicts(self, at: str) -> Iterator[str]:
            if self.mode == "none" and self.scale > 0:
                yield f"expected {at}scale=0 for {at}mode=none, got {self.scale:g}; set {at}scale=0"

The declarations are read by `check` (validation), by the command line's help and by the key tables of the docs. A rule
applies to a value that is not None; inside `list[...]` and `dict[str, ...]` to every entry. What two fields of one
dataclass must not be together, its `conflicts` yields as messages; `at` is the dataclass's own key ("style."). Nothing
here imports torch.
"""

import ast
import inspect
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING as REQUIRED

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import require_writable
from magic_insert.core.picture_files import SUFFIXES


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy: whether it `holds`, how an error goes on after "expected KEY", and the rule in a table
    of keys."""

    holds: Callable[[Any], bool]
    expected: str
    brief: str


class Range(Rule):
    """A finite number from `low` to `high`, NaN in no case; `open_low` and `open_high` exclude the bound itself."""

    def __init__(
        self, low: float = -math.inf, high: float = math.inf, open_low: bool = False, open_high: bool = False
    ) -> None:
        def holds(value: Any) -> bool:
            above = low < value if open_low else low <= value
            below = value < high if open_high else value <= high
            return above and below and abs(value) < math.inf

        if high == math.inf:
            expected = f"{'above' if open_low else 'to be at least'} {low:g} and finite"
            brief = f"{'>' if open_low else '>='} {low:g}"
        else:
            expected = f"{'above' if open_low else 'from'} {low:g} to {'below ' if open_high else ''}{high:g}"
            brief = f"{'>' if open_low else ''}{low:g} to {'<' if open_high else ''}{high:g}"
        super().__init__(holds, expected, brief)


POSITIVE = Range(0, open_low=True)


class OneOf:
    """One of some words, each of which may be described by a line: `OneOf("auto", rembg="U2-Net through rembg")`."""

    def __init__(self, *choices: str, **described: str) -> None:
        self._choices, self.docs = (*choices, *described), described

    @property
    def choices(self) -> tuple[str, ...]:
        """The words."""
        return self._choices

    def holds(self, value: Any) -> bool:
        return value in self.choices

    @property
    def expected(self) -> str:
        return f"to be one of {', '.join(self.choices)}"

    @property
    def brief(self) -> str:
        return " | ".join(self.choices)


class NotEmpty(Rule):
    """A list, mapping or text with something in it."""

    def __init__(self) -> None:
        super().__init__(bool, "to have at least one entry", "not empty")


class MultipleOf(Rule):
    """A whole multiple of `unit`."""

    def __init__(self, unit: int) -> None:
        super().__init__(
            lambda value: value % unit == 0, f"to be a multiple of {unit}", f"multiple of {unit}"
        )


class Holds(Rule):
    """A text in which `part` stands exactly once."""

    def __init__(self, part: str) -> None:
        super().__init__(lambda value: str(value).count(part) == 1, f"to hold {part} once", f"holds {part}")


class Input(Rule):
    """A path where a "file", a "folder" or either ("path") must lie when a job starts, or one of some `words`."""

    def __init__(self, kind: Literal["file", "folder", "path"], words: tuple[str, ...] = ()) -> None:
        there = {"file": os.path.isfile, "folder": os.path.isdir, "path": os.path.exists}[kind]
        expected = f"to be {' or '.join([*words, f'a {kind}'])} that is there"
        super().__init__(lambda value: value in words or there(value), expected, f"a {kind}")


class Output(Rule):
    """A place that can be written when a job starts: a folder, which is not named like a picture, or a `file`."""

    def __init__(self, file: bool = False) -> None:
        def holds(value: Any) -> bool:
            require_writable(value, suffix="" if file else None)
            return file or not value.lower().endswith(SUFFIXES)

        super().__init__(holds, f"to be a {'file' if file else 'folder and no picture'}", "")


def check(config: Any, prefix: str = "", *, places: bool = False) -> None:
    """That every value of the dataclass `config`, and of the dataclasses in it, satisfies what its field declares.

    Args:
        prefix: the full key of `config` with a dot behind it.
        places: look at inputs and outputs, which only matter where and when a job starts, instead of all the rest.

    Raises:
        UserError: one line with the key, what was expected, what came and what to set.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if is_dataclass(value):
            check(value, f"{key}.", places=places)
        else:
            _check_value(hints[field.name], value, key, places)
    if hasattr(config, "conflicts") and not places:
        for conflict in config.conflicts(prefix):
            raise UserError(conflict)


def _check_value(hint: Any, value: Any, key: str, places: bool) -> None:
    if value is None:
        return
    for rule in _rules(hint):
        if isinstance(rule, Input | Output) == places and not rule.holds(value):
            shown = f"{value:g}" if isinstance(value, float) else repr(value)
            if isinstance(rule, Input):
                shown = f"nothing at {value}"
            raise UserError(f"expected {key} {rule.expected}, got {shown}; set {key}=...")
    plain = _plain(hint)
    if get_origin(plain) in (list, dict):
        entries = value.values() if isinstance(value, dict) else value
        for entry in entries:
            _check_value(get_args(plain)[-1], entry, key, places)


def rules_of(cls: type, name: str) -> tuple[Any, ...]:
    """The rules of the field `name` of a dataclass."""
    return _rules(get_type_hints(cls, include_extras=True)[name])


def _rules(hint: Any) -> tuple[Any, ...]:
    """The rules on a value itself, outside first: of `Annotated[X, ...]` and of X in `X | None`."""
    if get_origin(hint) is Annotated:
        inner, *rules = get_args(hint)
        return (*rules, *_rules(inner))
    if get_origin(hint) in (Union, UnionType):
        return tuple(rule for part in get_args(hint) for rule in _rules(part))
    return ()


def _plain(hint: Any) -> Any:
    """`hint` without its outermost annotation and without None."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        return _plain(parts[0]) if len(parts) == 1 else hint
    return hint


@dataclass(frozen=True)
class Key:
    """A settable value as its dataclass declares it: for help and tables. `default` is None where one is required."""

    name: str
    type: str
    default: Any
    required: bool
    limits: str
    doc: str


def keys_of(cls: type, prefix: str = "") -> Iterator[Key]:
    """Every leaf key of a dataclass and of the dataclasses in its fields, in the order of declaration."""
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    for field in fields(cls):
        hint = hints[field.name]
        if is_dataclass(plain := _plain(hint)):
            yield from keys_of(plain, f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        required = isinstance(default, str) and default == REQUIRED
        inner = _rules(get_args(plain)[-1]) if get_origin(plain) in (list, dict) else ()
        limits = ", ".join(rule.brief for rule in (*_rules(hint), *inner))
        yield Key(
            prefix + field.name, _type_name(hint), None if required else default, required, limits,
            docs.get(field.name, ""),
        )  # fmt: skip


def _type_name(hint: Any) -> str:
    """`hint` as a user reads it: `float`, `list of str`, `str or null`."""
    if get_origin(hint) is Annotated:
        return _type_name(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        names = [_type_name(part) for part in get_args(hint) if part is not NoneType]
        return " or ".join([*names, "null"] if NoneType in get_args(hint) else names)
    if get_origin(hint) is list:
        return f"list of {_type_name(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "mapping"
    return "any" if hint is Any else str(getattr(hint, "__name__", hint))


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and its bases, on one line; none where the source is not there."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not is_dataclass(owner):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):
            continue
        body = tree.body[0].body  # type: ignore[attr-defined]
        for line, after in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr):
                docs[ast.unparse(line.target)] = " ".join(str(ast.literal_eval(after.value)).split())
    return docs
