"""What every page is made of: templates with one style sheet, pictures inside; no other file and no network needed.

Templates end in `.html.j2` and extend `base.html.j2`. Every value is escaped: a name from outside stays text.
"""

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

Item = TypeVar("Item")


def render(template: str, **values: Any) -> str:
    """The page `templates/TEMPLATE.html.j2` with `values` in it; a value that the template misses is an error."""
    return _environment().get_template(f"{template}.html.j2").render(values)


def png_address(content: bytes) -> str:
    """The bytes of a PNG as an address that needs no file."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of them, evenly spaced, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("magic_insert.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"png": png_address, "fixed": lambda value, digits: f"{value:.{digits}f}"}
    made.filters["percent"] = lambda value: f"{value:.0%}"
    return made
