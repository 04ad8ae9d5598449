"""LoRA beside frozen weights, on the UNet and where wanted on the text encoders, in the file format of diffusers.

PEFT does the work; what is ours is that the start depends on a seed and the layer's name only, that the file is the
same bytes for the same numbers, and that a removed LoRA leaves the networks as they were. `model` below is a
StableDiffusionXLPipeline (its UNet and both text encoders are looked at) or a UNet alone.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import (
    delete_adapter_layers,
    recurse_remove_peft_layers,
    set_adapter_layers,
    set_weights_and_activate_adapters,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.errors import UserError, expecting
from magic_insert.core.rand import generator
from magic_insert.models.pipeline import quiet
from magic_insert.models.tensor_file import read_tensors, save_tensors

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
FILE = "pytorch_lora_weights.safetensors"
# Older transformers nested the first text encoder one level deeper, and files keep that name.
NESTED = "text_model."


def networks(model: Any) -> dict[str, Any]:
    """The networks that may carry a LoRA, under their names in files."""
    if not hasattr(model, "unet"):
        return {"unet": model}
    return {name: getattr(model, name) for name in ("unet", *TEXT_ENCODERS)}


def carriers(model: Any, name: str) -> dict[str, Any]:
    """Those of `networks` that carry the LoRA `name`."""
    return {
        k: part for k, part in networks(model).items() if name in (getattr(part, "peft_config", None) or {})
    }


def add_lora(
    unet: Any,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str] = ATTENTION,
    seed: int,
    name: str = "subject",
    dora: bool = False,
) -> list[nn.Parameter]:
    """Puts a LoRA called `name` on every layer whose name ends in one of `targets`; its parameters, in a fixed order.

    The up matrices start at zero, so the output is unchanged; the down matrices are drawn uniformly within
    1 / sqrt(fan in) (PEFT's own start), each from `seed` and its layer's name. Parameters are float32 whatever the
    network's precision.

    Args:
        unet: the network, a UNet or a text encoder.
        rank: rank of the change.
        alpha: the change is multiplied by alpha / rank.
        targets: endings of layer names.
        seed: root of the start.
        name: what the LoRA is called from now on.
        dora: weight-decomposed, with a trained magnitude per output channel (Liu et al. 2024, arXiv 2402.09353).

    Raises:
        UserError: no layer matches `targets`.
    """
    assert rank >= 1
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), use_dora=dora)
    wanted = f"LoRA targets that exist in the model for {list(targets)}"
    with expecting(wanted, ValueError), torch.random.fork_rng(), quiet():
        unet.add_adapter(config, adapter_name=name)
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


def refuse_unknown_layers(unet: Any, targets: Sequence[str]) -> None:
    """That every ending in `targets` is that of some layer.

    Raises:
        UserError: names those that are not.
    """
    layers = [f".{name}" for name, _ in unet.named_modules()]
    if unknown := [t for t in targets if not any(layer.endswith(f".{t}") for layer in layers)]:
        raise UserError(
            f"expected LoRA targets that exist in the model, got {unknown}; set personalization.targets=[to_q,to_v]"
        )


def lora_state(model: Any, name: str = "subject") -> dict[str, Tensor]:
    """A copy of the LoRA's tensors, float32 on the CPU, under the names of diffusers' files."""
    found = _tensors(model, name)
    return {key: value.detach().cpu().float().clone() for key, value in sorted(found.items())}


def _tensors(model: Any, name: str) -> dict[str, Tensor]:
    """The LoRA's own tensors under the names of diffusers' files."""
    return {
        f"{part_name}.{_nesting(part_name, part)}{key}": value
        for part_name, part in carriers(model, name).items()
        for key, value in get_peft_model_state_dict(part, adapter_name=name).items()
    }


def restore_lora(model: Any, state: Mapping[str, Tensor], name: str = "subject") -> None:
    """Sets the values of a LoRA that `add_lora` made to those of `lora_state`."""
    for part_name, part in carriers(model, name).items():
        prefix = f"{part_name}.{_nesting(part_name, part)}"
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        set_peft_model_state_dict(part, own, adapter_name=name)


def _nesting(part_name: str, part: Any) -> str:
    return NESTED if part_name in TEXT_ENCODERS and not hasattr(part, "text_model") else ""


def save_lora(path: Path, model: Any, dtype: torch.dtype = torch.float32, name: str = "subject") -> None:
    """Writes a file that diffusers reads with `load_lora_weights`, its scale (alpha / rank) included.

    `dtype` is the precision of its values.
    """
    scale: dict[str, Any] = {}
    for part_name, part in carriers(model, name).items():
        config = part.peft_config[name]
        scale[f"{part_name}.r"] = config.r
        scale[f"{part_name}.lora_alpha"] = config.lora_alpha
        # PEFT keeps the targets as a set; its order would change from run to run.
        scale[f"{part_name}.target_modules"] = sorted(config.target_modules)
        if config.use_dora:
            scale[f"{part_name}.use_dora"] = True
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(scale, sort_keys=True)}
    values = lora_state(model, name)
    save_tensors(path, {key: value.to(dtype) for key, value in values.items()}, metadata)


def load_lora(pipe: Any, path: Path, name: str) -> None:
    """Loads a diffusers LoRA file into `pipe` as `name` and leaves it switched off.

    Raises:
        UserError: no such file, a damaged one, or a LoRA of another model.
    """
    stored = {key: value.shape for key, value in read_tensors(path).tensors.items()}
    wrong = (ValueError, KeyError, RuntimeError, IndexError)
    with expecting(f"a LoRA of this model in {path}", *wrong), torch.random.fork_rng(), quiet():
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name, local_files_only=True)
    # The library passes over what it knows no place for, and leaves without values what the file does not hold.
    loaded = _tensors(pipe, name)
    if {key: value.shape for key, value in loaded.items()} != stored or any(
        value.is_meta for value in loaded.values()
    ):
        remove_lora(pipe, name)
        raise UserError(
            f"expected the LoRA that was written to {path}, got tensors of other names or shapes; make it again"
        )
    use_lora(pipe, None)


def use_lora(model: Any, name: str | None, scale: float = 1.0) -> None:
    """Switches on the LoRA `name` alone, its product multiplied by `scale`; None or scale 0 switches every LoRA off.

    At scale 0 a LoRA is off and not multiplied by 0, because a trained magnitude (DoRA) would still be heard.
    """
    for part in networks(model).values():
        loaded = getattr(part, "peft_config", None) or {}
        if not loaded:
            continue
        heard = name in loaded and scale != 0
        if heard:
            set_weights_and_activate_adapters(part, [name], [scale])
        set_adapter_layers(part, enabled=heard)
        part.requires_grad_(False)


def remove_lora(model: Any, name: str) -> None:
    """Takes the LoRA out; others stay, switched off. With the last one a network has its own layers and names again."""
    for part in carriers(model, name).values():
        with quiet():
            delete_adapter_layers(part, name)
        if not getattr(part, "peft_config", None):
            recurse_remove_peft_layers(part)
            continue
        set_adapter_layers(part, enabled=False)
        part.requires_grad_(False)


@contextmanager
def as_one_weight(unet: Any, name: str = "subject") -> Iterator[None]:
    """Inside this block a layer adds the LoRA's change to its weight and computes once, not on two paths.

    The same function and gradients up to rounding, in fewer operations: their number is what small layers cost on a
    CPU. For each weight a gradient of its size is made on the way. Layers with a trained magnitude (DoRA) stay.
    """
    layers = [
        layer
        for layer in unet.modules()
        if name in getattr(layer, "lora_A", {}) and name not in layer.lora_variant
    ]
    for layer in layers:
        layer.forward = _one_weight(layer, name)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _one_weight(layer: Any, name: str) -> Callable[..., Tensor]:
    """The forward pass of a PEFT layer with one weight, where the LoRA `name` alone is on."""
    base, usual = layer.base_layer, layer.forward
    down, up = layer.lora_A[name], layer.lora_B[name]

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if layer.disable_adapters or list(layer.active_adapters) != [name]:
            return usual(x, *args, **kwargs)
        own, low, high = (part.weight.flatten(1) for part in (base, down, up))
        weight = torch.addmm(own, high, low, alpha=layer.scaling[name]).view_as(base.weight)
        if isinstance(base, nn.Conv2d):
            return functional.conv2d(
                x, weight, base.bias, base.stride, base.padding, base.dilation, base.groups
            )
        return functional.linear(x, weight, base.bias)

    return forward
