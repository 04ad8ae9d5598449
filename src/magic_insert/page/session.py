"""What the page knows of one browser: its pictures, what it asked for, what it got; and that as a command line and as
Python, which make the same bytes from the same files."""

import re
import shlex
import shutil
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image
from torch import Tensor

from magic_insert.config.compose import compose_job
from magic_insert.config.freeze import freeze
from magic_insert.core.box import Box
from magic_insert.core.errors import UserError
from magic_insert.core.events import Preview
from magic_insert.magic import Settings
from magic_insert.page.shelf import Item, Verdict, view_of

LIGHT_KNOBS = (
    "inserter.sun",
    "inserter.strength",
    "inserter.softness",
    "inserter.relight",
)  # nothing is drawn again
MOST_BYTES = 400_000_000  # of what was made, of a kind; a result in a scene of 24 million pixels has as many
PAUSE = 1.0  # seconds between two pictures of one that is being drawn
# A text that Hydra's grammar reads as it is, and as a text where one is expected.
PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_/][\w./-]*|0|-?[1-9]\d*", re.ASCII | re.IGNORECASE)
LONGEST_PART = 100  # bytes of a name within the name of a picture that is made of two
Kept = TypeVar("Kept")


def picture_bytes(kept: Any) -> int:
    """The bytes of all tensors in a record."""
    if isinstance(kept, Mapping):
        return sum(map(picture_bytes, kept.values()))
    if is_dataclass(kept):
        return sum(picture_bytes(getattr(kept, part.name)) for part in fields(kept))
    return kept.nbytes if isinstance(kept, Tensor) else 0


class Recent(Generic[Kept]):
    """The last `most` things that were made, by key, or as many of the last as MOST_BYTES hold, but one."""

    def __init__(self, most: int) -> None:
        self.most, self.made = most, OrderedDict[Any, Kept]()

    def __contains__(self, key: Any) -> bool:
        return key in self.made

    def get(self, key: Any, make: Callable[[], Kept]) -> Kept:
        """What was made under `key`, or is made now."""
        if key not in self.made:
            self.made[key] = make()
        self.made.move_to_end(key)
        while len(self.made) > 1 and (len(self.made) > self.most or picture_bytes(self.made) > MOST_BYTES):
            self.made.popitem(last=False)
        return self.made[key]


class Turns(Generic[Kept]):
    """A queue in which owners take turns; what belongs to one comes out in the order in which it went in."""

    def __init__(self) -> None:
        self.lines: dict[str, deque[Kept]] = {}

    def __bool__(self) -> bool:
        return bool(self.lines)

    def put(self, owner: str, entry: Kept) -> None:
        """Adds to the owner's entries; a new owner is the last to have a turn."""
        self.lines.setdefault(owner, deque()).append(entry)

    def take(self) -> Kept:
        """The first entry of the owner whose turn it is, who is last in line afterwards; only where there is one."""
        owner = next(iter(self.lines))
        line = self.lines.pop(owner)
        entry = line.popleft()
        if line:
            self.lines[owner] = line
        return entry


@dataclass
class Wish:
    """What a picture is to be made of. `kind`: "preview" or "full"; `knobs`: settings that differ, by their keys."""

    kind: str
    subject: Item
    scene: Item
    box: Box
    knobs: Mapping[str, Any]

    @property
    def drawing(self) -> tuple[Any, ...]:
        """What the redrawn picture depends on."""
        knobs = sorted((key, value) for key, value in self.knobs.items() if key not in LIGHT_KNOBS)
        return (self.kind, self.subject.id, self.scene.id, *knobs)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        of = {"subject": self.subject.id, "scene": self.scene.id}
        return {"kind": self.kind, **of, "box": list(astuple(self.box)), "knobs": dict(self.knobs)}


@dataclass
class Task:
    """One picture that was asked for. `state`: waiting, running, done, failed or cancelled. `began`: when step `first`
    of the stage was seen. `drafted`: the box of a smaller picture that is the `view` meanwhile. `placed`: too late for
    another box, which takes another task."""

    id: str
    wish: Wish
    quick: bool
    state: str = "waiting"
    stage: str = ""
    step: int = 0
    total: int = 1
    began: float = 0.0
    first: int = 0
    seen: int = 0
    seconds_left: float | None = None
    trouble: str = ""
    view: tuple[bytes, str] | None = None
    views: int = 0
    next_view: float = 0.0
    drafted: list[int] | None = None
    placed: bool = False

    @property
    def live(self) -> bool:
        """Whether something is still to come."""
        return self.state in ("waiting", "running")

    def progress(self, stage: str, step: int, total: int) -> None:
        """Notes where the work is, and how long the stage still takes by its steps so far."""
        now = time.monotonic()
        # The first two steps that are seen of a stage also warm up; after a resume they are not the first of all.
        self.seen = min(step, self.seen + 1 if stage == self.stage and step > self.step else 1)
        if self.seen <= 2:
            self.stage, self.began, self.first = stage, now, step
        self.step, self.total = step, total
        known = self.first < step < total
        spent = (now - self.began) / max(1, step - self.first)
        self.seconds_left = round(spent * (total - step), 1) if known else None

    def show(self, preview: Preview, *, last: bool) -> None:
        """Draws what there is at the stage's end, and before at intervals, in at most a twentieth of the time."""
        began = time.monotonic()
        if last or began >= self.next_view:
            self.view, self.views = view_of(preview()), self.views + 1
            now = time.monotonic()
            self.next_view = now + max(PAUSE, 19 * (now - began))

    def draft(self, image: Image.Image, box: Box) -> None:
        """Has a smaller one of what is asked for, at this box."""
        self.view, self.views, self.drafted = view_of(image), self.views + 1, list(astuple(box))

    def told(self) -> dict[str, Any]:
        """As JSON."""
        names = ("id", "state", "drafted", "stage", "step", "total", "seconds_left", "trouble", "views")
        return {**self.wish.told(), **{name: getattr(self, name) for name in names}}


@dataclass
class Result:
    """A finished picture: its file, with the JSON beside it, what it was made of, and the boxes of its layers."""

    id: str
    wish: Wish
    file: Path
    view: tuple[bytes, str]
    seconds: float
    command: str
    code: str
    places: Mapping[str, Sequence[int]]
    verdict: Verdict | None = None

    def told(self) -> dict[str, Any]:
        """As JSON."""
        names = ("id", "seconds", "command", "code", "places")
        verdict = None if self.verdict is None else self.verdict.line
        return {**self.wish.told(), **{name: getattr(self, name) for name in names}, "verdict": verdict}


@dataclass
class Session:
    """One browser. `changed`: what is called, from any thread, when there is something new."""

    id: str
    items: dict[str, Item] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    changed: set[Callable[[], None]] = field(default_factory=set)
    used: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether a picture is still to come."""
        return any(task.live for task in self.tasks.values())

    def forget_oldest(self) -> None:
        """Makes room for another picture: that of the user's own goes which came first and is in no result or task.

        Raises:
            UserError: all of them are.
        """
        wishes = [task.wish for task in self.tasks.values()] + [made.wish for made in self.results.values()]
        used = {item.id for wish in wishes for item in (wish.subject, wish.scene)}
        free = [item for item in self.items.values() if item.id not in used and (item.size or item.trouble)]
        if not free:
            raise UserError(
                f"expected at most {len(self.items)} pictures of your own that are in use, got one more; "
                "go on in another browser, or start the page again"
            )
        gone = next((item for item in free if item.trouble or item.hidden), free[0])
        del self.items[gone.id]
        shutil.rmtree(gone.path.parent, ignore_errors=True)


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
    """A value as Hydra's grammar reads it: in a text a backslash is one, but where a quote or the end follows."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if not isinstance(value, str) or PLAIN.fullmatch(value):
        return str(value)
    escaped = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value).replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def joined_name(first: Item, word: str, second: Item) -> str:
    """The name of a picture made of two; of long names the beginning."""
    parts = (item.path.stem.encode()[:LONGEST_PART].decode(errors="ignore") for item in (first, second))
    return f"{f'-{word}-'.join(parts)}.png"


def file_name(wish: Wish) -> str:
    """The name of the picture that is made."""
    return joined_name(wish.subject, "in", wish.scene)


def recipes(wish: Wish, words: Sequence[str]) -> tuple[str, str]:
    """The command, to be run beside the two pictures, and the same in Python."""
    subject, scene, text, box = wish.subject.path.name, wish.scene.path.name, wish.subject.text, wish.box
    lines, out = [], file_name(wish)
    if subject == scene:
        subject, scene = f"subject/{subject}", f"scene/{scene}"
        lines = ["# both pictures have one name: put each into a folder"]
    words = [*words, *(f"{key}={_value(value)}" for key, value in sorted(wish.knobs.items()))]
    given = {"subject": subject, "background": scene, "box": astuple(box)}
    said = [f"{key}={_value(value)}" for key, value in given.items()]
    said += [f"subject_text={text}"] if text else []
    said += [f"out={_value(out)}", f"mode={wish.kind}"]
    command = "\n".join([*lines, shlex.join(["magic-insert", "insert", *said, *words])])
    name = next((word.removeprefix("model=") for word in words if word.startswith("model=")), "micro")
    own = [word for word in words if not word.startswith("model=")]
    cut = f"magic.subject({subject!r}, text={text!r})" if text else repr(subject)
    lines += [
        "from magic_insert import MagicInsert",
        "",
        f"magic = MagicInsert.from_pretrained({name!r}, mode={wish.kind!r}, overrides={own!r})",
        f"drop = magic.insert({cut}, {scene!r}, box={astuple(box)})",
        f"drop.save({out!r})",
    ]
    return command, "\n".join(lines)
