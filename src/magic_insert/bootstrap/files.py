"""The files of a stage by name: an index that says what its pictures are, layers of PNG files, rows of numbers.

Torch-free, so that the parent of a run can look without paying for it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json

INDEX = "index.json"
SKIPPED = "skipped.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
NETWORK_FILES = ("config.json", WEIGHTS)  # of a trained inserter or remover
LPIPS_FILE = "alexnet_imagenet_features.safetensors"
WITH, WITHOUT, MASK = "with", "without", "mask"


@dataclass(frozen=True)
class Item:
    """One picture with a subject. `facts` are plain JSON values: seeds, template, prompt."""

    id: str
    style: str
    facts: dict[str, Any] = field(default_factory=dict)


def write_index(folder: Path, items: Sequence[Item], *, truth: bool) -> None:
    """Puts down what the stage is made of; `truth`: whether the pictures are also known without their subject."""
    write_json(folder / INDEX, {"truth": truth, "items": [asdict(item) for item in items]})


def read_index(folder: Path) -> list[Item]:
    """The items of a stage in order, those without a mask left out."""
    items = [Item(**stored) for stored in read_json(folder / INDEX)["items"]]
    return [item for item in items if place(folder, MASK, item.id).is_file()]


def has_truth(folder: Path) -> bool:
    """Whether the pictures are also known without their subject."""
    return bool(read_json(folder / INDEX)["truth"])


def skipped_of(folder: Path) -> list[str]:
    """What was wrong with each picture of the user that is not in the stage, by name; empty for other stages."""
    return list(read_json(folder / SKIPPED)) if (folder / SKIPPED).is_file() else []


def ids_of(items: Sequence[Item]) -> list[str]:
    """Their ids."""
    return [item.id for item in items]


def place(folder: Path, layer: str, name: str) -> Path:
    """The file of one layer of one item."""
    return folder / layer / f"{name}.png"


def values_file(folder: Path, name: str) -> Path:
    """Where the numbers about one item lie."""
    return folder / "values" / f"{name}.json"


def read_values(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """The numbers about the items `ids`, by id."""
    return {name: read_json(values_file(folder, name)) for name in ids}


def require_room(out: Path) -> None:
    """That the networks would replace nothing but networks of an earlier run.

    Raises:
        UserError: names a file of something else.
    """
    for name in ("inserter", "remover"):
        for file in sorted(path for path in (out / name).rglob("*") if path.is_file()):
            if file.relative_to(out / name).as_posix() not in NETWORK_FILES:
                raise UserError(
                    f"expected {out / name} to be free for the trained network, got {file.name} there, which is no "
                    "part of one; set out=FOLDER"
                )
