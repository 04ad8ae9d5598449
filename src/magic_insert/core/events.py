"""One stream of events for all work that takes time; terminal bars, pages and loggers are callbacks on it.

A callback is called as `on_event(stage, step, total, preview)`: with step 0 when a stage begins, after each step, and
with `step == total` when it ends. `preview` is None, or a function that draws what the stage has so far as a PIL
picture: only a callback that calls it pays for it, and it changes nothing of the result. Raising in the callback
cancels the work: the exception leaves through the caller, and no file is half-written.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from magic_insert.core.ranks import rank

Item = TypeVar("Item")
Preview = Callable[[], Image.Image]
OnEvent = Callable[[str, int, int, Any], None]
OnStep = Callable[..., None]  # called with (steps done, steps in all), and a Preview where there is one


def no_event(stage: str, step: int, total: int, preview: Any = None) -> None:
    """The default of `on_event`."""


def no_step(done: int, total: int, preview: Preview | None = None) -> None:
    """The default of `on_step`."""


class Stage:
    """The stage that runs: calling it reports a step; `preview` draws its end."""

    def __init__(self, name: str, on_event: OnEvent) -> None:
        self.name, self.on_event = name, on_event
        self.total = 1
        self.preview: Preview | None = None

    def __call__(self, done: int, total: int, preview: Preview | None = None) -> None:
        """Reports `done` of `total` steps; the last one is reported when the stage ends."""
        self.total = total
        if done < total:
            self.on_event(self.name, done, total, preview)


@contextmanager
def stage(on_event: OnEvent, name: str) -> Iterator[Stage]:
    """Reports the beginning and the end of its body as a stage; yields what reports its steps."""
    running = Stage(name, on_event)
    on_event(name, 0, 1, None)
    yield running
    on_event(name, running.total, running.total, running.preview)


@dataclass
class Clock:
    """An `on_event` that keeps the wall-clock seconds of each stage by name and passes every event on."""

    on_event: OnEvent = no_event
    seconds: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)

    def __call__(self, stage: str, step: int, total: int, preview: Any = None) -> None:
        """A stage entered again adds up."""
        self.began.setdefault(stage, time.perf_counter())
        if step >= total:
            spent = time.perf_counter() - self.began.pop(stage)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 3)
        self.on_event(stage, step, total, preview)


@contextmanager
def tallied(on_event: OnEvent, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A stage of `total` things; yields what reports how many more are done."""
    done = 0
    with stage(on_event, name) as running:
        running(0, total)

        def more(count: int) -> None:
            nonlocal done
            done += count
            running(done, total)

        yield more


@contextmanager
def terminal_bars(lines: Container[str] | None = None, *, shown: bool = True) -> Iterator[OnEvent]:
    """A callback that shows a bar for each stage that runs and prints a line when one has ended: any, or of `lines`.

    Nothing unless `shown`, and on every rank but the first.
    """
    if not shown or rank() != 0:
        yield no_event
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, tuple[TaskID, float]] = {}
    logged = not console.is_terminal  # a log gets the lines alone
    with Progress(*columns, console=console, transient=True, disable=logged) as progress:

        def on_event(stage: str, step: int, total: int, preview: Any = None) -> None:
            if stage not in tasks:
                tasks[stage] = (progress.add_task(stage, total=total), time.perf_counter())
            task, began = tasks[stage]
            progress.update(task, completed=step, total=total)
            if step >= total:
                progress.remove_task(task)
                del tasks[stage]
                if lines is None or stage in lines:
                    console.print(f"[dim]{stage} {time.perf_counter() - began:.1f} s[/dim]")

        yield on_event


def tracked(items: Sequence[Item], title: str, *, shown: bool = True) -> Iterator[Item]:
    """`items`, each a step of the stage `title`, with a bar on the terminal where `shown`."""
    with terminal_bars(shown=shown) as on_event, stage(on_event, title) as on_step:
        for number, item in enumerate(items, start=1):
            yield item
            on_step(number, len(items))
