"""The commands of docs/launch.md for several processes, on two CPU ranks and a folder as it comes from the hub."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import save_pair
from hub_model import Hub
from processes import PATIENCE, finish, launch

from magic_insert.core.jsonl import read_jsonl
from magic_insert.models.folders import WEIGHTS
from magic_insert.paths import CHECKOUT

pytestmark = pytest.mark.slow
PAGE = (CHECKOUT / "docs" / "launch.md").read_text()
SMALL = ("debug=fast", "train.precision=32-true", "train.batch_size=2", "data.held_out=1", "task=insert")


def block(heading: str) -> str:
    """The first commands below a heading."""
    return PAGE.split(heading)[1].split("```")[1].strip()


def test_one_command_trains_an_edit_unet_in_shards(hub: Hub, tmp_path: Path) -> None:
    for name in "abc":
        layers = {"with": "input", "without": "gt", "mask": "mask"}
        save_pair({k: tmp_path / "OBER" / f"{v}_{name}.png" for k, v in layers.items()}, name)
    command, _ = block("### FSDP2").splitlines()
    _, *words = shlex.split(command)
    own = hub.words(ip_adapter="null", controlnet="null")[1:]
    finish(launch([*words, *own, *SMALL, "exec.devices=2"], tmp_path))
    assert (tmp_path / "runs/sdxl/inserter" / WEIGHTS).is_file()
    books = sorted((tmp_path / "runs/sdxl").glob("latents-*/encoded-*.jsonl"))
    encoded = [[number for row in read_jsonl(book) for number in row["pairs"]] for book in books]
    assert encoded == [[0], [1]], "every rank encodes its share of the two pairs that are not held out"


def test_several_machines_run_what_one_composed(tiny_micro: Path, tmp_path: Path) -> None:
    """Here two processes of one machine."""
    for name in "abc":
        save_pair({k: tmp_path / "pairs" / k / f"{name}.png" for k in ("with", "without", "mask")}, name)
    words = " ".join((*SMALL, f"model.source={tiny_micro}", "model.image_size=64", "model.device=cpu"))
    commands = block("### Several machines without Slurm")
    for ours, here in {
        "/shared/": f"{tmp_path}/", " --cfg job": f" {words} --cfg job", "--nnodes=2": "--nnodes=1",
        "--nproc-per-node=8": "--nproc-per-node=2", "HOST:29500": "localhost:0",
    }.items():  # fmt: skip
        assert ours in commands
        commands = commands.replace(ours, here)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/inserter" / WEIGHTS).is_file()
