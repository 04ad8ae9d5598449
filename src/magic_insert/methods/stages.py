"""How long each step of a job took, and the bars that show it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """The wall-clock seconds of each named stage, and a listener that is told when one begins."""

    announce: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times its body under `name`; a stage entered again adds up."""
        self.announce(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)


@contextmanager
def step_bar(console: Console, name: str, total: int) -> Iterator[Any]:
    """A progress bar that appears with the first step; yields the function that advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task(name, total=total)

    def on_step(step: int) -> None:
        # Other stages draw bars of their own, and a terminal has room for one at a time.
        if not progress.live.is_started:
            progress.start()
        progress.advance(task)

    try:
        yield on_step
    finally:
        progress.stop()
