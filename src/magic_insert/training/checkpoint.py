"""Where a training run stands, in one safetensors file: trained values, optimizer state, step.

Written by an atomic rename, read back bit for bit. The frozen model is not in it. Numbers that are not tensors (the
optimizer's groups) travel as JSON in the header: Python's float text is exact.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from magic_insert.core.errors import UserError
from magic_insert.models.tensor_file import save_tensors

STATE = "optimizer.state."


@dataclass(frozen=True)
class Checkpoint:
    """`step` updates are done; `values` are the trained tensors by name; `key` says which run this is."""

    step: int
    key: str
    values: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    groups: list[dict]

    def restore_optimizer(self, optimizer: Optimizer) -> None:
        """Puts the stored moments and settings into an optimizer built over the same parameters."""
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.optimizer.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": self.groups})


def save_checkpoint(
    path: Path, *, step: int, key: str, values: Mapping[str, Tensor], optimizer: Optimizer
) -> None:
    """Writes the checkpoint of a run that finished `step` updates."""
    state = optimizer.state_dict()
    tensors = dict(values)
    for index, entries in state["state"].items():
        for name, value in entries.items():
            tensors[f"{STATE}{index}.{name}"] = value
    header = {"step": str(step), "key": key, "groups": json.dumps(state["param_groups"])}
    save_tensors(path, tensors, header)


def read_checkpoint(path: Path, key: str) -> Checkpoint:
    """The checkpoint at `path`.

    Raises:
        UserError: the file is damaged, or belongs to a run with another `key`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise UserError(
            f"expected a sound checkpoint at {path}, got: {error}; remove it to start anew"
        ) from error
    if header["key"] != key:
        raise UserError(
            f"expected a checkpoint of this run at {path}, got one of another; choose another out="
        )
    return Checkpoint(
        step=int(header["step"]),
        key=key,
        values={k: v for k, v in tensors.items() if not k.startswith(STATE)},
        optimizer={k.removeprefix(STATE): v for k, v in tensors.items() if k.startswith(STATE)},
        groups=json.loads(header["groups"]),
    )
