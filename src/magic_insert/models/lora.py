"""LoRA on the UNet: low-rank changes beside frozen weights, in the file format of diffusers.

PEFT does the work; what is ours is that the start depends on a seed and the layer's name only, that the file is the
same bytes for the same numbers, and that a removed LoRA leaves the UNet as it was.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.models.quiet import quiet
from magic_insert.models.tensor_file import save_tensors

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FILE = "pytorch_lora_weights.safetensors"


def add_lora(
    unet: Any,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = ATTENTION,
    seed: int,
    name: str = "subject",
) -> list[nn.Parameter]:
    """Puts a LoRA called `name` on every layer whose name ends in one of `targets`; its parameters, in a fixed order.

    The up matrices start at zero, so the UNet's output is unchanged; the down matrices are drawn uniformly within
    1 / sqrt(fan in) (PEFT's own start), each from `seed` and its layer's name. Parameters are float32 whatever the
    UNet's precision.

    Raises:
        UserError: rank below 1, or no layer matches `targets`.
    """
    if rank < 1:
        raise UserError(f"expected a LoRA rank of at least 1, got {rank}; set personalization.rank")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
    try:
        with torch.random.fork_rng(), quiet():
            unet.add_adapter(config, adapter_name=name)
    except ValueError as error:
        raise UserError(
            f"expected LoRA targets that exist in the UNet, got {list(targets)}: {error}"
        ) from error
    use_lora(unet, name)
    trained = []
    for key, parameter in sorted(unet.named_parameters()):
        if f".{name}." not in key or "lora_" not in key:
            continue
        parameter.data = parameter.data.float()
        if "lora_A" in key:
            bound = 1 / math.sqrt(parameter[0].numel())
            layer = key.replace(f".{name}.", ".")
            noise = torch.rand(parameter.shape, generator=generator(seed, "lora", layer))
            parameter.data.copy_((2 * noise - 1) * bound)
        trained.append(parameter.requires_grad_(True))
    return trained


def lora_state(unet: Any, name: str = "subject") -> dict[str, Tensor]:
    """A copy of the LoRA's tensors, float32 on the CPU, under the names of diffusers' files."""
    state = get_peft_model_state_dict(unet, adapter_name=name)
    return {f"unet.{key}": value.detach().cpu().float().clone() for key, value in sorted(state.items())}


def restore_lora(unet: Any, state: Mapping[str, Tensor], name: str = "subject") -> None:
    """Sets the values of a LoRA that `add_lora` made to those of `lora_state`."""
    set_peft_model_state_dict(unet, {k.removeprefix("unet."): v for k, v in state.items()}, adapter_name=name)


def save_lora(path: Path, unet: Any, name: str = "subject") -> None:
    """Writes a file that diffusers reads with `load_lora_weights`, its scale (alpha / rank) included."""
    config = unet.peft_config[name]
    scale = {
        "unet.r": config.r,
        "unet.lora_alpha": config.lora_alpha,
        # PEFT keeps the targets as a set; its order would change from run to run.
        "unet.target_modules": sorted(config.target_modules),
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(scale, sort_keys=True)}
    save_tensors(path, lora_state(unet, name), metadata)


def load_lora(pipe: Any, path: Path, name: str) -> None:
    """Loads a diffusers LoRA file into `pipe` as `name` and leaves it switched off.

    Raises:
        UserError: no such file.
    """
    if not path.is_file():
        raise UserError(f"expected a LoRA at {path}, got no such file; run magic-insert personalize first")
    with torch.random.fork_rng(), quiet():
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name, local_files_only=True)
    use_lora(pipe.unet, None)


def use_lora(unet: Any, name: str | None, scale: float = 1.0) -> None:
    """Switches on the LoRA `name` alone, its product multiplied by `scale`; None switches every LoRA off."""
    if not getattr(unet, "peft_config", None):
        return
    if name is None:
        unet.disable_lora()
    else:
        unet.set_adapters([name], [scale])
        unet.enable_lora()
    unet.requires_grad_(False)


def remove_lora(unet: Any, name: str) -> None:
    """Takes the LoRA out; others stay, switched off. With the last one the UNet has its own layers and names again."""
    with quiet():
        unet.delete_adapters(name)
    if not getattr(unet, "peft_config", None):
        unet.unload_lora()
        return
    unet.disable_lora()
    unet.requires_grad_(False)
