"""Checkpoints come back bit for bit, or are known to be damaged; the one before the last is kept for that case."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import flip

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.training.checkpoint import list_checkpoints, read_last_checkpoint, save_checkpoint


def train_one_step() -> tuple[torch.Tensor, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.randn(2, 3, generator=generator(0, "weight")))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    return weight, optimizer


def write(folder: Path, *steps: int, key: str = "mine") -> None:
    weight, optimizer = train_one_step()
    for step in steps:
        save_checkpoint(folder, step=step, key=key, values={"w": weight + step}, optimizer=optimizer)


def test_values_and_optimizer_come_back_bit_for_bit_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert read_last_checkpoint(tmp_path, "mine") is None
    write(tmp_path, 5, 90, 100, 1000)
    assert len(list_checkpoints(tmp_path)) == 2
    weight, optimizer = train_one_step()
    found = read_last_checkpoint(tmp_path, "mine")
    assert found is not None
    assert found.step == 1000
    assert torch.equal(found.values["w"], weight + 1000)
    fresh = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 3))], lr=9.0)
    found.restore_optimizer(fresh)
    old, new = optimizer.state_dict(), fresh.state_dict()
    assert json.dumps(old["param_groups"]) == json.dumps(new["param_groups"])
    assert all(torch.equal(old["state"][0][name], new["state"][0][name]) for name in old["state"][0])


class Nesting(torch.optim.SGD):
    """Keeps its state as bitsandbytes does since 0.50: tensors in a dict of their own, one of them shared by all."""

    HIDDEN = "__quant_state__"
    levels = torch.linspace(0, 1, 4)

    def remember(self, parameter: torch.nn.Parameter, number: int) -> None:
        moments = torch.arange(6, dtype=torch.uint8) + number
        self.state[parameter] = {"step": number, "state1": moments, "levels": self.levels}

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        found["state"] = {
            index: {"step": own["step"], self.HIDDEN: {k: v for k, v in own.items() if k != "step"}}
            for index, own in found["state"].items()
        }
        return found

    def load_state_dict(self, given: dict[str, Any]) -> None:
        own = {index: {"step": v["step"], **v[self.HIDDEN]} for index, v in given["state"].items()}
        super().load_state_dict({**given, "state": own})


def test_state_that_an_optimizer_nests_comes_back_bit_for_bit(tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(6)) for _ in range(2)]
    optimizer = Nesting(parameters, lr=0.1)
    for number, parameter in enumerate(parameters):
        optimizer.remember(parameter, number)
    scaler = {"scale": 2.0**16}
    save_checkpoint(tmp_path, step=1, key="mine", values={}, optimizer=optimizer, scaler=scaler)
    found = read_last_checkpoint(tmp_path, "mine")
    assert found is not None
    assert found.scaler == scaler
    fresh = Nesting(parameters, lr=9.0)
    found.restore_optimizer(fresh)
    for number, parameter in enumerate(parameters):
        own = fresh.state[parameter]
        assert own.keys() == {"step", "state1", "levels"}
        assert own["step"] == number
        assert torch.equal(own["state1"].byte(), torch.arange(6, dtype=torch.uint8) + number)
        assert torch.equal(own["levels"], Nesting.levels)


def test_a_changed_bit_or_a_cut_anywhere_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 1, 2)
    last = list_checkpoints(tmp_path)[0]
    for position in range(0, last.stat().st_size, 11):
        caplog.clear()
        flip(last, 8 * position)
        found = read_last_checkpoint(tmp_path, "mine")
        flip(last, 8 * position)  # the bit flips back
        assert found is not None
        assert found.step == 1, f"byte {position}"
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert last.name in record.getMessage()
        assert "\n" not in record.getMessage()
    content = last.read_bytes()
    for length in (0, 7, 100, -1):
        last.write_bytes(content[:length])
        found = read_last_checkpoint(tmp_path, "mine")
        assert found is not None
        assert found.step == 1, f"{length} bytes"


def test_checkpoints_that_are_all_damaged_or_of_another_run_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, key="other")
    with pytest.raises(UserError, match="another out"):
        read_last_checkpoint(tmp_path, "mine")
    for path in list_checkpoints(tmp_path):
        flip(path)
    with pytest.raises(UserError, match="2 damaged"):
        read_last_checkpoint(tmp_path, "mine")
