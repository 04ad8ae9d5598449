"""The trained parts of the micro model: read back, adapted, and assembled into one half-precision SDXL folder."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, ModelMixin, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from magic_insert.core.jsonl import read_json, write_json
from magic_insert.models.micro import (
    MicroSizes,
    save_pipeline,
)
from magic_insert.models.micro_adapter import collect_ip_adapter, ip_adapter_state, save_ip_adapter
from magic_insert.models.tensor_file import read_tensors

CLASSES: dict[str, Any] = {
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "remover": UNet2DConditionModel,
    "inserter": UNet2DConditionModel,
    "controlnet": ControlNetModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "image_encoder": CLIPVisionModelWithProjection,
}


def load_part(folder: Path, name: str) -> Any:
    """The network `name` saved in `folder`, float32 on the CPU."""
    kind = CLASSES[name]
    dtype = "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"
    return kind.from_pretrained(folder, **{dtype: torch.float32})


def new_adapter(unet: UNet2DConditionModel, embed_dim: int) -> None:
    """Loads a fresh IP-Adapter into `unet`, ready to be trained."""
    unet._load_ip_adapter_weights([ip_adapter_state(unet, embed_dim)], low_cpu_mem_usage=False)


def load_adapter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Loads the adapter published in `folder` into `unet`, float32, ready to be trained on."""
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in read_tensors(_adapter_file(folder)).tensors.items():
        part, _, name = key.partition(".")
        state[part][name] = value.float()
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)


def without_adapter(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of `unet` with its weights and without the adapter loaded into it: what a pipeline's folder holds."""
    config = {k: v for k, v in dict(unet.config).items() if k != "encoder_hid_dim_type"}
    bare = UNet2DConditionModel.from_config(config)
    own = bare.state_dict()
    bare.load_state_dict({k: v for k, v in unet.state_dict().items() if k in own})
    return bare


def _adapter_file(folder: Path) -> Path:
    return next((folder / "ip_adapter").glob("*.safetensors"))


def publish_adapter(folder: Path, unet: UNet2DConditionModel) -> None:
    save_ip_adapter(folder, collect_ip_adapter(unet))


def assemble_micro(folder: Path, parts: Path, tokenizer: Any, tokenizer_2: Any, sizes: MicroSizes) -> None:
    """Write the trained parts below `parts` as one SDXL folder in float16, its additions beside the pipeline."""
    half = torch.float16
    save_pipeline(
        folder,
        vae=load_part(parts / "vae" / "vae", "vae").to(half),
        text_encoder=load_part(parts / "clip" / "text_encoder", "text_encoder").to(half),
        text_encoder_2=load_part(parts / "clip" / "text_encoder_2", "text_encoder_2").to(half),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=load_part(parts / "generator" / "unet", "unet").to(half),
        image_encoder=load_part(parts / "clip" / "image_encoder", "image_encoder").to(half),
        sizes=sizes,
    )
    save_ip_adapter(folder, read_tensors(_adapter_file(parts / "generator")).tensors, half)
    for name in ("controlnet", "remover", "inserter"):
        load_part(parts / name / name, name).to(half).save_pretrained(folder / name)
    for path in folder.rglob("config.json"):
        config = read_json(path)
        # diffusers notes where a part was loaded from: a place on the machine that trained it, no business of others.
        config.pop("_name_or_path", None)
        # Stored in half, meant for float32: transformers would keep the stored type where diffusers does not, and a
        # pipeline of mixed types cannot run.
        if "dtype" in config:
            config["dtype"] = "float32"
        write_json(path, config)
