"""What a stage is told: one JSON file with its settings, the folders of its inputs, and where to write.

`settings` decide the result and are part of the stage's key; `model` and `device` say where the weights lie and what
computes, and are not. Every rank of a stage reads the same file.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from magic_insert.config.schema import ModelConfig
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.core.ranks import rank, shard

Item = TypeVar("Item")


@dataclass(frozen=True)
class Payload:
    """`out` is the stage's staging folder, `work` a folder in it that is never published."""

    out: Path
    work: Path
    settings: dict[str, Any]
    inputs: dict[str, Path]
    model: ModelConfig
    progress: bool = True

    def write(self, path: Path) -> None:
        """Puts the payload at `path`."""
        write_json(
            path,
            {
                "out": str(self.out),
                "work": str(self.work),
                "settings": self.settings,
                "inputs": {name: str(folder) for name, folder in self.inputs.items()},
                "model": asdict(self.model),
                "progress": self.progress,
            },
        )


def read_payload(path: Path) -> Payload:
    """The payload that `write` put at `path`."""
    stored = read_json(path)
    return Payload(
        out=Path(stored["out"]),
        work=Path(stored["work"]),
        settings=stored["settings"],
        inputs={name: Path(folder) for name, folder in stored["inputs"].items()},
        model=ModelConfig(**stored["model"]),
        progress=stored["progress"],
    )


def chunks(items: Sequence[Item], size: int) -> list[list[Item]]:
    """`items` in groups of `size`, the last one shorter.

    What is computed together is fixed by this and not by the number of ranks, so that one rank and several write the
    same bytes.
    """
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def my_share(groups: Sequence[Item], finished: Callable[[Item], bool]) -> list[Item]:
    """This rank's groups that an earlier, killed attempt left undone.

    Shared first and sifted then: what other ranks have finished meanwhile must not move the shares.
    """
    return [group for group in shard(groups) if not finished(group)]


def watched(payload: Payload, groups: Sequence[Item], title: str) -> Iterable[Item]:
    """`groups` with a progress bar on rank 0."""
    quiet = not payload.progress or rank() != 0
    return track(list(groups), title, console=Console(stderr=True), disable=quiet, transient=True)
