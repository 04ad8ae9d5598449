"""The door for tensors: no flipped bit, renamed key or missing part of a model goes unnoticed."""

import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import flip, tiny_config
from safetensors.torch import load_file, save_file

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import write_json
from magic_insert.models.edit_unet import load_edit_unet
from magic_insert.models.lora import FILE, add_lora, load_lora, lora_state, remove_lora, save_lora
from magic_insert.models.pipeline import load_pipeline
from magic_insert.models.tensor_file import read_tensors, save_tensors, verify

NETWORK = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found sound is remembered in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_tensors_come_back_with_their_metadata_and_the_file_has_known_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1, dtype=torch.float16)}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, tensors, {"format": "pt", "words": "x"})
    found, metadata = read_tensors(tmp_path / "one")
    assert metadata == {"format": "pt", "words": "x"}
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert set(load_file(tmp_path / "one")) == {"a", "b"}  # the library reads it as any other


def test_no_second_copy_of_a_checkpoint_is_held_to_write_it(tmp_path: Path) -> None:
    shared = torch.rand(2**20)
    tracemalloc.start()
    save_tensors(
        tmp_path / "large", {"a": shared, "b": shared, "c": torch.tensor(True), "d": torch.ones(0)}, {}
    )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < shared.nbytes / 4
    found = read_tensors(tmp_path / "large").tensors
    assert torch.equal(found["b"], shared)
    assert (found["c"].shape, found["d"].shape) == ((), (0,))


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    save_tensors(tmp_path / "whole", {"a": torch.arange(40.0)}, {"format": "pt"})
    size = 8 * (tmp_path / "whole").stat().st_size
    for place in random.Random(0).sample(range(size), 60):
        path = tmp_path / f"flipped-{place}"
        shutil.copyfile(tmp_path / "whole", path)
        flip(path, place)
        with pytest.raises(UserError, match=path.name):
            read_tensors(path)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"text" * 100]
)
def test_what_holds_no_tensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_file_of_another_program_is_compared_with_the_card_above_it(tmp_path: Path) -> None:
    path = tmp_path / "unet" / "w.safetensors"
    path.parent.mkdir()
    save_file({"a": torch.ones(3)}, path)
    verify(path)  # no card speaks of it
    write_json(tmp_path / "card.json", {"weights_sha256": {"unet/w.safetensors": sha256_file(path)}})
    verify(path)
    flip(path, 8 * path.stat().st_size - 3)
    with pytest.raises(UserError, match=r"w\.safetensors, got others"):
        verify(path)


def test_a_sound_file_is_read_for_its_checksum_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from magic_insert.models import tensor_file

    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {})
    read: list[Path] = []
    real = tensor_file.fits_itself
    monkeypatch.setattr(tensor_file, "fits_itself", lambda path: read.append(path) or real(path))
    for _ in range(2):
        verify(path)
        tensor_file._verify.cache_clear()  # another process
    assert len(read) == 1
    os.utime(path, ns=(1, 1))
    verify(path)
    assert len(read) == 2


@pytest.fixture
def model(tmp_path: Path, tiny_micro: Path) -> Path:
    """A copy of the tiny model with a card of its weights."""
    home = tmp_path / "model"
    shutil.copytree(tiny_micro, home)
    sums = {p.relative_to(home).as_posix(): sha256_file(p) for p in home.glob("*/*.safetensors")}
    write_json(home / "card.json", {"weights_sha256": sums})
    return home


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_flipped_bit_in_a_model_is_found_before_it_is_loaded(model: Path, part: str) -> None:
    (path,) = (model / part).glob("*.safetensors")
    flip(path, 8 * (path.stat().st_size // 2))
    with pytest.raises(UserError, match=f"{part}/.*checksum"):
        load_pipeline(tiny_config(model))


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2", "text_encoder", "unet", "vae", "scheduler"])
def test_a_model_without_one_of_its_parts_is_refused(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    with pytest.raises(UserError, match=f"got no {part} there"):
        load_pipeline(tiny_config(model))


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_weights_that_are_no_safetensors_are_refused_by_their_part(model: Path, part: str) -> None:
    (path,) = (model / part).glob("*.safetensors")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(UserError, match=rf"got no \*\.safetensors in {part};"):
        load_pipeline(tiny_config(model))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"in_channels": "x"}'])
def test_a_damaged_configuration_of_a_part_is_one_line(model: Path, content: bytes) -> None:
    (model / "unet" / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="expected a complete SDXL model"):
        load_pipeline(tiny_config(model))


@pytest.mark.parametrize("damage", ["flipped", "renamed", "cut"])
def test_a_damaged_edit_network_is_refused(model: Path, damage: str) -> None:
    path = model / "inserter" / NETWORK
    if damage == "flipped":
        flip(path, 8 * (path.stat().st_size // 2))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        (model / "card.json").unlink()  # nobody vouches for it
        save_file({k.replace("conv_in", "conv_out_of"): v for k, v in load_file(path).items()}, path)
    with pytest.raises(UserError, match="inserter"):
        load_edit_unet(model / "inserter")


def test_a_lora_without_tensors_or_with_renamed_ones_is_refused(tiny_pipe: Any, tmp_path: Path) -> None:
    add_lora(tiny_pipe.unet, rank=2, alpha=2, seed=0)
    save_lora(tmp_path / FILE, tiny_pipe)
    state = lora_state(tiny_pipe)
    remove_lora(tiny_pipe.unet, "subject")
    renamed = {key.replace("to_q", "to_query"): value for key, value in state.items()}
    for number, tensors in enumerate(({}, renamed, dict(list(state.items())[1:]))):
        path = tmp_path / str(number) / FILE
        save_tensors(path, tensors, read_tensors(tmp_path / FILE).metadata)
        with pytest.raises(UserError, match=f"{number}/{FILE}"):
            load_lora(tiny_pipe, path, "wrong")
        assert "wrong" not in getattr(tiny_pipe.unet, "peft_config", {})
    load_lora(tiny_pipe, tmp_path / FILE, "right")
    remove_lora(tiny_pipe.unet, "right")
