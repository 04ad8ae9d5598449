"""The micro model's IP-Adapter in the standard file layout: made fresh, collected from a UNet, saved."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

IP_ADAPTER_FILE = "ip_adapter_micro.safetensors"
IMAGE_TOKENS = 4  # length of the image prompt, as in the standard SDXL IP-Adapter


def ip_adapter_state(unet: UNet2DConditionModel, embed_dim: int) -> dict[str, dict[str, Tensor]]:
    """A fresh image-prompt adapter for `unet` in the standard layout; its values start small."""
    cross = unet.config["cross_attention_dim"]
    proj, norm = nn.Linear(embed_dim, IMAGE_TOKENS * cross), nn.LayerNorm(cross)
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, module in (("proj", proj), ("norm", norm)):
        for key, value in module.state_dict().items():
            state["image_proj"][f"{name}.{key}"] = value
    for key_id, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            attention = unet.get_submodule(name.removesuffix(".processor"))
            for ours, theirs in (("to_k_ip", attention.to_k), ("to_v_ip", attention.to_v)):
                # Keys start as the text keys, values near zero: the adapter begins as a whisper, not as noise.
                weight = theirs.weight.detach().clone()
                state["ip_adapter"][f"{key_id}.{ours}.weight"] = weight * (0.1 if ours == "to_v_ip" else 1.0)
    return state


def collect_ip_adapter(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The adapter loaded in `unet`, flattened to the keys of the standard IP-Adapter file."""
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    flat = {
        "image_proj.proj.weight": projection.image_embeds.weight,
        "image_proj.proj.bias": projection.image_embeds.bias,
        "image_proj.norm.weight": projection.norm.weight,
        "image_proj.norm.bias": projection.norm.bias,
    }
    for key_id, (name, processor) in enumerate(unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            flat[f"ip_adapter.{key_id}.to_k_ip.weight"] = processor.to_k_ip[0].weight
            flat[f"ip_adapter.{key_id}.to_v_ip.weight"] = processor.to_v_ip[0].weight
    return {key: value.detach().clone().contiguous() for key, value in flat.items()}


def save_ip_adapter(folder: Path, flat: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    path = folder / "ip_adapter" / IP_ADAPTER_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().to("cpu", dtype).contiguous() for k, v in flat.items()}, path)
    return path
