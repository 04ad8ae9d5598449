"""Where a training run stands, one safetensors file per saved step, and how a run is stopped between two steps.

A checkpoint holds the trained values, the optimizer's state and the step; the frozen model is not in it. It is written
beside its target and renamed, and read back bit for bit. Numbers that are not tensors (the
optimizer's groups and counters, the loss scaler) travel as JSON in the header: Python's float text is exact. A checksum
over everything tells a file that a disk or a copy has damaged; for that case the checkpoint before stays beside the
last one. State that an optimizer nests in dicts, as those of 8 bits do, lies flat in the file, its keys joined by "/".

SIGTERM and Ctrl-C wait for the end of a step: what is half written in memory is no checkpoint.
"""

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.models.tensor_file import fits_itself, read_tensors, save_tensors
from magic_insert.training.shards import like, whole

STATE = "optimizer.state."
NEST = "/"
PATTERN = "checkpoint-*.safetensors"
KEPT = 2
SIGNALS = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """`step` updates are done; `values` are the trained tensors by name; `key` says which run this is.

    `scalars` are the numbers of the optimizer's state that are not tensors; `scaler` is that of half precision's loss
    scaler, empty where there is none.
    """

    step: int
    key: str
    values: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    groups: list[dict]
    scalars: Mapping[str, Any] = field(default_factory=dict)
    scaler: Mapping[str, Any] = field(default_factory=dict)

    def restore_optimizer(self, optimizer: Optimizer) -> None:
        """Puts the stored moments and settings into an optimizer built over the same parameters."""
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**self.optimizer, **self.scalars}.items():
            index, path = name.split(".", 1)
            *parents, key = path.split(NEST)
            entries = state.setdefault(int(index), {})
            for parent in parents:
                entries = entries.setdefault(parent, {})
            entries[key] = value
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, moments in state.items():
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    moments[name] = like(value, parameters[number])
        optimizer.load_state_dict({"state": state, "param_groups": self.groups})


class DamagedCheckpoint(Exception):
    """A file that is no checkpoint, or not the one that was written; says why."""


def save_checkpoint(
    folder: Path | None,
    *,
    step: int,
    key: str,
    values: Mapping[str, Tensor],
    optimizer: Optimizer,
    scaler: Mapping[str, Any] | None = None,
) -> None:
    """Writes the checkpoint of a run that finished `step` updates; of the older ones only the last stays.

    Of a network that ranks share each of them must call this; those with `folder` None only hand in their slices.
    """
    state = optimizer.state_dict()
    tensors, scalars = dict(values), {}
    for index, entries in state["state"].items():
        for name, value in _flat(entries):
            if isinstance(value, Tensor):
                full = whole(value.detach())
                if folder is not None:
                    tensors[f"{STATE}{index}.{name}"] = full.cpu()
            else:
                scalars[f"{index}.{name}"] = value
    if folder is None:
        return
    header = {
        "step": str(step),
        "key": key,
        "groups": json.dumps(state["param_groups"]),
        "scalars": json.dumps(scalars),
        "scaler": json.dumps(dict(scaler or {})),
    }
    save_tensors(folder / PATTERN.replace("*", f"{step:08d}"), tensors, header)
    for path in list_checkpoints(folder)[KEPT:]:
        path.unlink(missing_ok=True)


def is_finished(card: Path, key: str, *claims: Path) -> bool:
    """Whether the product that `card` describes is there; it and the `claims` of work in progress hold the run's key.

    Raises:
        UserError: one of them belongs to another run.
    """
    for path in (card, *claims):
        if path.is_file() and (found := read_object(path).get("key")) != key:
            raise UserError(
                f"expected the run {key} or an empty folder at {path.parent}, got the run {found}; "
                "choose another out="
            )
    return card.is_file()


def clear_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run whose product is published, and what a killed writer left of one."""
    for path in (*folder.glob(PATTERN), *folder.glob(f".{PATTERN}.*.tmp")):
        path.unlink()


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the last one first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def read_last_checkpoint(folder: Path, key: str) -> Checkpoint | None:
    """The last sound checkpoint in `folder`, None where none was written; a damaged one is passed over with a warning.

    Raises:
        UserError: all are damaged, or they belong to a run with another `key`.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            checkpoint = _read(path)
        except DamagedCheckpoint as reason:
            log.warning("magic-insert: %s is damaged (%s); the checkpoint before it is used", path, reason)
            continue
        if checkpoint.key != key:
            raise UserError(
                f"expected a checkpoint of this run at {path}, got one of another; choose another out="
            )
        return checkpoint
    if paths:
        raise UserError(
            f"expected a sound checkpoint in {folder}, got {len(paths)} damaged; remove to start anew"
        )
    return None


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, each with its keys joined by NEST."""
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}{NEST}")
        else:
            yield prefix + name, value


def _read(path: Path) -> Checkpoint:
    """The checkpoint at `path`; raises `DamagedCheckpoint`."""
    # Each time anew: what was found sound before may have been written over since.
    if not fits_itself(path, unsealed=False):
        raise DamagedCheckpoint("its checksum does not fit")
    try:
        tensors, header = read_tensors(path)
    except UserError as error:
        raise DamagedCheckpoint(str(error)) from error
    return Checkpoint(
        step=int(header["step"]),
        key=header["key"],
        values={k: v for k, v in tensors.items() if not k.startswith(STATE)},
        optimizer={k.removeprefix(STATE): v for k, v in tensors.items() if k.startswith(STATE)},
        groups=json.loads(header["groups"]),
        scalars=json.loads(header["scalars"]),
        scaler=json.loads(header["scaler"]),
    )


class StopRequest:
    """Whether this process was asked to end, and by which signal; made by `between_steps`."""

    def __init__(self) -> None:
        self.asked = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: remembers. A second Ctrl-C does not wait."""
        if self.asked == number == signal.SIGINT:
            raise Stopped(self, "stopped at once")
        self.asked = number

    def listen(self) -> None:
        """Takes the signals over, from whoever handles them now; only a main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.note)

    def obey(self) -> None:
        """Ends the training if it was asked to."""
        if self.asked:
            raise Stopped(self, "stopped")


class Stopped(BaseException):
    """A training ends because of a signal; `between_steps` turns it into what that signal means elsewhere."""

    def __init__(self, request: StopRequest, message: str) -> None:
        super().__init__(f"{message}; the same command goes on from there")
        self.number = request.asked or signal.SIGTERM


@contextmanager
def between_steps() -> Iterator[StopRequest]:
    """Inside this block SIGTERM and SIGINT only set a flag; afterwards they do what they did before.

    Raises:
        KeyboardInterrupt: SIGINT came; its text says after which step the training stopped.
        SystemExit: SIGTERM came, with code 143.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request.listen()
    try:
        yield request
        request.obey()
    except Stopped as stopped:
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt(str(stopped)) from None
        raise SystemExit(128 + stopped.number) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
