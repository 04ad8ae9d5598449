"""What a stage of a bootstrap is given and what it writes, by name.

A stage reads one JSON file: its settings (a dataclass below, part of the stage's key), the folders of its inputs, the
folder to write to, and the model. It writes an index that says what its pictures are, layers of PNG files
(`LAYER/ID.png`) and rows of numbers (`values/ID.json`). Every rank of a stage reads the same file.

Importing this costs no torch: the parent of a run plans with it.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from magic_insert.config.schema.bootstrap import AdaptConfig
from magic_insert.config.schema.shared import ModelConfig, SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import as_record, read_json, read_record, write_json
from magic_insert.core.picture_files import SUFFIXES, is_picture_file, require_pictures
from magic_insert.core.ranks import shard
from magic_insert.models.folders import NETWORK_FILES

T = TypeVar("T")
Settings = TypeVar("Settings")
Task = Literal["insert", "remove"]

INDEX = "index.json"
SKIPPED = "skipped.json"
SELECTION = "selection.json"
LOSSES = "train.jsonl"  # what a fit leaves in its work folder
NETWORKS: dict[Task, str] = {"insert": "inserter", "remove": "remover"}
LPIPS_FILE = "alexnet_imagenet_features.safetensors"
WITH, WITHOUT, MASK = "with", "without", "mask"


@dataclass(frozen=True)
class RenderSettings:
    """Pictures from the Toybox: the pool, photographs that are not to be forgotten, or the held-out test."""

    use: Literal["pool", "photos", "heldout"]
    seed: int
    num_samples: int
    size: int
    styles: list[str] = field(default_factory=list)
    occlusion: float = 0.0


@dataclass(frozen=True)
class FolderSettings:
    """A user's pictures. `pairs`: pictures with and without their subject; else stylised pictures with masks.

    `heldout`: each is named by its group, as those of the held-out test are.
    """

    pairs: bool
    seed: int
    num_samples: int
    size: int
    on_error: str
    segment: bool = False
    segmenter: SegmenterConfig | None = None
    heldout: bool = False


@dataclass(frozen=True)
class ImagineSettings:
    """Pictures that the model itself draws; without prompts, of the Toybox's captions."""

    seed: int
    num_samples: int
    size: int
    styles: list[str]
    prompts: list[str]
    steps: int
    guidance: float
    segmenter: SegmenterConfig


@dataclass(frozen=True)
class EditSettings:
    """How an edit network draws. `batch_size` pictures together: fixed by this, so any number of ranks agree."""

    steps: int
    batch_size: int
    seed: int


@dataclass(frozen=True)
class MeasureSettings:
    """`cycle`: whether the subjects are put back, the only measurement that draws."""

    edit: EditSettings
    cycle: bool


@dataclass(frozen=True)
class EvaluateSettings:
    """Which network is measured on the held-out test."""

    edit: EditSettings
    task: Task


@dataclass(frozen=True)
class FitSettings:
    """One network's training. Of `recipe`, what decides on data and checkpoints is no part of the key."""

    task: Task
    seed: int
    recipe: AdaptConfig


@dataclass(frozen=True)
class BlendSettings:
    """`share`: how far from the network that was started from to the trained one, in (0, 1)."""

    task: Task
    share: float


@dataclass(frozen=True)
class Payload(Generic[Settings]):
    """`out` is the stage's staging folder, `work` a folder in it that is never published.

    `model` says where the weights lie and what computes, and is not part of the key.
    """

    settings: Settings
    inputs: dict[str, Path]
    model: ModelConfig
    out: Path
    work: Path
    progress: bool = True

    def write(self, path: Path) -> None:
        """Puts the payload at `path`."""
        write_json(path, json.loads(json.dumps(asdict(self), default=str)))


def read_payload(path: Path, settings: type[Settings]) -> Payload[Settings]:
    """The payload with `settings` that `write` put at `path`."""
    stored = read_record(path, Payload)
    return replace(stored, settings=as_record(stored.settings, settings, path))


@dataclass(frozen=True)
class Item:
    """One picture with a subject. `facts` are plain JSON values: seeds, template, prompt."""

    id: str
    style: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """What a stage's pictures are. `truth`: whether they are also known without their subject."""

    truth: bool
    items: list[Item]


@dataclass(frozen=True)
class Selected:
    """What a selection holds on disk: the ids kept, the filter that refused each of the others, the worst scores."""

    accepted: list[str]
    rejected: dict[str, str]
    scores: dict[str, float]


def write_index(folder: Path, items: Sequence[Item], *, truth: bool) -> None:
    """Puts down what the stage is made of."""
    write_json(folder / INDEX, asdict(Index(truth, list(items))))


def read_index(folder: Path) -> list[Item]:
    """The items of a stage in order, those without a mask left out."""
    items = read_record(folder / INDEX, Index).items
    return [item for item in items if picture_file(folder, MASK, item.id).is_file()]


def has_truth(folder: Path) -> bool:
    """Whether the pictures are also known without their subject."""
    return read_record(folder / INDEX, Index).truth


def skipped_of(folder: Path) -> list[str]:
    """What was wrong with each picture of the user that is not in the stage, by name; empty for other stages."""
    return list(read_json(folder / SKIPPED)) if (folder / SKIPPED).is_file() else []


def ids_of(items: Sequence[Item]) -> list[str]:
    """Their ids."""
    return [item.id for item in items]


def picture_file(folder: Path, layer: str, name: str) -> Path:
    """The file of one layer of one item."""
    return folder / layer / f"{name}.png"


def values_file(folder: Path, name: str) -> Path:
    """Where the numbers about one item lie."""
    return folder / "values" / f"{name}.json"


def read_values(folder: Path, ids: Sequence[str]) -> dict[str, Any]:
    """The numbers about the items `ids`, by id."""
    return {name: read_json(values_file(folder, name)) for name in ids}


def groups_left(items: Sequence[T], size: int, files_of: Callable[[T], Iterable[Path]]) -> list[list[T]]:
    """This rank's groups of `size` items that an earlier, killed attempt left undone: without one of their files.

    What is computed together is fixed by `size` and not by the number of ranks, so that one rank and several write the
    same bytes. Shared first and sifted then: what other ranks have finished meanwhile must not move the shares.
    """
    groups = shard([list(items[start : start + size]) for start in range(0, len(items), size)])
    return [g for g in groups if not all(file.is_file() for item in g for file in files_of(item))]


def picture_files(folder: Path, masks: Path) -> list[Path]:
    """A user's pictures in `folder` and in its folders of styles, masks left out, sorted.

    Raises:
        UserError: there are none.
    """
    apart = masks.absolute()  # either may be given as relative
    found = filter(is_picture_file, (*folder.glob("*"), *folder.glob("*/*")))
    inside = sorted(path for path in found if apart not in path.absolute().parents)
    require_pictures(inside, folder, "pool.dir=DIR")
    return inside


def partner_of(folder: Path, inner: Path, what: str) -> Path:
    """The file in `folder` that belongs to the picture `inner`: the same name, any suffix.

    Raises:
        UserError: there is none; `what` says what it would be.
    """
    for suffix in SUFFIXES:
        if (file := (folder / inner).with_suffix(suffix)).is_file():
            return file
    raise UserError(f"no {what} in {folder}; add {inner.with_suffix('.png')} there")


def require_partners(folder: Path, masks: Path) -> None:
    """That there are pictures in `folder` and that each has a mask of its name; looks at names only.

    Raises:
        UserError: names the pictures without one.
    """
    files = picture_files(folder, masks)
    there = {
        path.relative_to(masks).with_suffix("")
        for path in masks.rglob("*")
        if path.suffix.lower() in SUFFIXES
    }
    bare = [name for file in files if (name := file.relative_to(folder)).with_suffix("") not in there]
    if bare:
        raise UserError(
            f"expected a mask in {masks} for every picture, got none for {', '.join(map(str, bare[:20]))}; add them, "
            "or set pool.segment=true or data.on_error=skip"
        )


def require_room(out: Path) -> None:
    """That the networks would replace nothing but networks of an earlier run.

    Raises:
        UserError: names a file of something else.
    """
    for name in NETWORKS.values():
        for file in sorted(path for path in (out / name).rglob("*") if path.is_file()):
            if file.relative_to(out / name).as_posix() not in {*NETWORK_FILES, *NETWORK_FILES.values()}:
                raise UserError(
                    f"expected {out / name} to be free for the trained network, got {file.name} there, which is no "
                    "part of one; set out=FOLDER"
                )
