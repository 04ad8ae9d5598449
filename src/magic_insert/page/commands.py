"""What the page did, as a command line and as Python: each makes the same bytes from the same files."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.magic import Settings
from magic_insert.page.session import Wish


def words_of(settings: Settings) -> list[str]:
    """The settings as words of `magic-insert insert`: the model, and what differs from its recipe."""
    model = f"model={settings.model.name}"
    plain = Settings.of(freeze(compose_job("insert", ["subject=-", "background=-", "out=-", model])))
    return [*([] if model == "model=micro" else [model]), *_changes(asdict(plain), asdict(settings))]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    words: list[str] = []
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            words += _changes(old[key], value, f"{prefix}{key}.")
        elif key not in ("subjects", "mode") and value != old.get(key):
            words.append(f"{prefix}{key}={_value(value)}")
    return words


def _value(value: Any) -> str:
    """A value as Hydra's grammar reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return str(value)


def _words(wish: Wish, words: Sequence[str]) -> list[str]:
    return [*words, *(f"{key}={_value(value)}" for key, value in sorted(wish.knobs.items()))]


def file_name(wish: Wish) -> str:
    """The name of the picture that is made."""
    return f"{wish.subject.path.stem}-in-{wish.scene.path.stem}.png"


def command_line(wish: Wish, words: Sequence[str]) -> str:
    """The command, to be run beside the two pictures."""
    box = f"box=[{wish.box.x},{wish.box.y},{wish.box.w},{wish.box.h}]"
    given = [f"subject={wish.subject.path.name}", f"background={wish.scene.path.name}", box]
    given += [f"out={file_name(wish)}", f"mode={wish.kind}"]
    return shlex.join(["magic-insert", "insert", *given, *_words(wish, words)])


def python_code(wish: Wish, words: Sequence[str]) -> str:
    """The same in Python."""
    name = next((word.removeprefix("model=") for word in words if word.startswith("model=")), "micro")
    own = [word for word in _words(wish, words) if not word.startswith("model=")]
    box = (wish.box.x, wish.box.y, wish.box.w, wish.box.h)
    return "\n".join(
        [
            "from magic_insert import MagicInsert",
            "",
            f"magic = MagicInsert.from_pretrained({name!r}, mode={wish.kind!r}, overrides={own!r})",
            f"drop = magic.insert({wish.subject.path.name!r}, {wish.scene.path.name!r}, box={box})",
            f"drop.save({file_name(wish)!r})",
        ]
    )
