"""An edit model as a small difference from the model it started from: a LoRA and the widened input layer.

The new input channels cannot be low-rank changes of weights that are zero, so the input layer is trained and kept.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_record, write_json
from magic_insert.models.edit_start import edit_start
from magic_insert.models.lora import ATTENTION, add_lora, lora_state, remove_lora, restore_lora
from magic_insert.models.quiet import quiet
from magic_insert.models.tensor_file import read_tensors, save_tensors

FILE = "edit_lora.safetensors"
CARD = "edit_lora.json"
NAME = "edit"
INPUT = "conv_in."


@dataclass(frozen=True)
class EditLoraCard:
    """What is to be known before a LoRA is loaded: its rank, the `weights_digest` of its start, the size of latents."""

    rank: int
    start: str
    sample_size: int


def weights_digest(module: nn.Module) -> str:
    """16 hex digits of names, shapes and 64 evenly spread values of every tensor, compared in float32."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().flatten()
        picked = flat[:: max(1, len(flat) // 64)].to("cpu", torch.float32)
        sha.update(f"{name}{list(tensor.shape)}".encode())
        sha.update(picked.numpy().tobytes())
    return sha.hexdigest()[:16]


def open_for_lora(unet: Any, *, rank: int, seed: int) -> None:
    """Freezes an edit UNet but for a new LoRA on its attentions and its input layer."""
    add_lora(unet, rank=rank, alpha=rank, targets=ATTENTION, seed=seed, name=NAME)
    unet.conv_in.requires_grad_(True)


def merge_lora(unet: Any) -> None:
    """Adds the LoRA to the weights it stands beside; the UNet has its plain layers and names again."""
    with quiet():
        unet.fuse_lora(adapter_names=[NAME])
    remove_lora(unet, NAME)


def save_edit_lora(folder: Path, unet: Any, *, rank: int, start: str) -> None:
    """Writes LoRA and input layer; `start` is the `weights_digest` of the UNet before training."""
    tensors = lora_state(unet, NAME)
    for key, value in unet.conv_in.state_dict().items():
        tensors[INPUT + key] = value
    save_tensors(folder / FILE, tensors, {"format": "pt"})
    write_json(folder / CARD, {"rank": rank, "start": start, "sample_size": unet.config["sample_size"]})


def load_edit_lora(folder: Path, base: Any) -> Any:
    """The edit UNet that `save_edit_lora` described, merged, made from `base`, the UNet of the pipeline.

    Raises:
        UserError: `base` is not what the LoRA was trained on.
    """
    card = read_record(folder / CARD, EditLoraCard)
    unet = edit_start(base)
    if (found := weights_digest(unet)) != card.start:
        raise UserError(
            f"expected the model that {folder} was trained on ({card.start}), got another ({found}); set model="
        )
    unet.register_to_config(sample_size=card.sample_size)
    tensors = read_tensors(folder / FILE).tensors
    add_lora(unet, rank=card.rank, alpha=card.rank, targets=ATTENTION, seed=0, name=NAME)
    wanted = {k: v.shape for k, v in lora_state(unet, NAME).items()}
    wanted |= {INPUT + k: v.shape for k, v in unet.conv_in.state_dict().items()}
    if {k: v.shape for k, v in tensors.items()} != wanted:
        raise UserError(
            f"expected the LoRA of an edit network in {folder / FILE}, got tensors of other names or shapes"
        )
    restore_lora(unet, {k: v for k, v in tensors.items() if not k.startswith(INPUT)}, NAME)
    unet.conv_in.load_state_dict(
        {k.removeprefix(INPUT): v for k, v in tensors.items() if k.startswith(INPUT)}
    )
    merge_lora(unet)
    return unet
