"""Which model runs: one SDXL pipeline from a folder in the hub's layout, with its IP-Adapter where there is one.

A folder never touches the network; a hub id does, and only with the revision it is pinned to.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from magic_insert import paths
from magic_insert.config.schema import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.models.quiet import quiet
from magic_insert.models.style import silence
from magic_insert.models.tensor_file import DAMAGED, verify_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OFFICIAL_ADAPTER_FOLDER = "sdxl_models"  # where the IP-Adapter repository keeps those for SDXL
VOCABULARIES = ("tokenizer.json", "vocab.json")  # without one a tokenizer knows no word
LOADED = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "ip_adapter")
ADAPTER_FOLDERS = ("ip_adapter", OFFICIAL_ADAPTER_FOLDER)


def load_pipeline(
    model: ModelConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> StableDiffusionXLPipeline:
    """The pipeline of `model`, frozen, its adapter (if any) loaded and at scale 0, drawing `image_size` pixels.

    Weights stored in half precision arrive in `dtype`. A VAE that overflows in float16 (its card says so) stays in
    float32.

    Args:
        model: the configuration group; `source` null is the shipped micro model.
        device: overrides `model.device`.
        dtype: overrides `model.dtype`.

    Raises:
        UserError: no such folder, not an SDXL model, an unpinned hub id, an adapter that is not there.
    """
    dtype = dtype or PRECISIONS[model.dtype]
    source = find_source(model)
    local = isinstance(source, Path)
    _check_adapter_name(model)
    controlnet_source = _find_controlnet(model, source)
    if isinstance(source, Path):
        verify_folder(source, LOADED)
    try:
        with quiet():
            pipe = StableDiffusionXLPipeline.from_pretrained(
                source,
                revision=None if local else model.revision,
                dtype=dtype,
                local_files_only=local,
                use_safetensors=True,
                add_watermarker=False,
            )
            _load_adapter(pipe, model, source)
        pipe.controlnet_source = controlnet_source
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"expected a complete SDXL model at {source}, got: {str(error).splitlines()[0]}"
        ) from error
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2, pipe.image_encoder):
        if part is not None:
            part.requires_grad_(False).eval()
    if dtype is torch.float16 and pipe.vae.config.force_upcast:
        pipe.vae.to(torch.float32)
    pipe.default_sample_size = model.image_size // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(resolve_device(model.device) if device is None else device)


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU when there is one.

    Raises:
        UserError: `cuda` was asked for and is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("expected a CUDA device for model.device=cuda, got none; set model.device=cpu")
    return torch.device(name)


def find_source(model: ModelConfig) -> Path | str:
    """The folder of the model, or its hub id.

    Raises:
        UserError: neither a folder with an SDXL `model_index.json` nor a pinned hub id.
    """
    if model.source is None:
        if model.name != "micro":
            raise UserError(
                f"expected model.source for the model {model.name!r}, got null; set model.source=FOLDER"
            )
        return _check_layout(paths.micro_dir())
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        return _check_layout(folder)
    if folder.is_absolute() or model.source.startswith((".", "~")) or not HUB_ID.fullmatch(model.source):
        raise UserError(f"expected a model folder or hub id, got {model.source}; set model.source=FOLDER")
    if not model.revision:
        raise UserError(
            f"expected a folder at {model.source}, or a pinned commit to load it from the hub; "
            "set model.revision=COMMIT"
        )
    return model.source


def _check_layout(folder: Path) -> Path:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"expected an SDXL model in {folder}, got no model_index.json there; set model.source=FOLDER"
        )
    parts = read_object(index)
    if (kind := parts.get("_class_name")) != StableDiffusionXLPipeline.__name__:
        raise UserError(f"expected an SDXL model in {folder}, got a {kind}; set model.source=FOLDER")
    for name, library in parts.items():
        if not isinstance(library, list) or None in library:
            continue
        files = VOCABULARIES if name.startswith("tokenizer") else ("*",)
        if not any(any((folder / name).glob(file)) for file in files):
            raise UserError(
                f"expected a complete SDXL model in {folder}, got no {name} there; set model.source=FOLDER"
            )
    return folder


def _check_adapter_name(model: ModelConfig) -> None:
    """That the configuration names a folder, or a file of a hub id with its commit, or no adapter.

    Raises:
        UserError: something else.
    """
    named = model.ip_adapter
    if named is None or Path(named).expanduser().is_dir():
        return
    repository, _, commit = named.partition("@")
    if not (HUB_ID.fullmatch(repository) and commit and model.ip_adapter_weight):
        raise UserError(
            f"expected an IP-Adapter folder or pinned hub id, got {named}; "
            "set model.ip_adapter=FOLDER, or owner/name@COMMIT with model.ip_adapter_weight=FILE"
        )


def _load_adapter(pipe: Any, model: ModelConfig, source: Path | str) -> None:
    """Loads the adapter the configuration names (a folder, or `owner/name@commit`), or the one in a model folder."""
    if model.ip_adapter is None and not (isinstance(source, Path) and (source / "ip_adapter").is_dir()):
        return
    home = Path(model.ip_adapter).expanduser() if model.ip_adapter else Path(source)
    if home.is_dir():
        found = _adapter_file(home, model.ip_adapter_weight)
        subfolder = found.parent.relative_to(home).as_posix()
        pipe.load_ip_adapter(home, subfolder=subfolder, weight_name=found.name, local_files_only=True)
    else:
        repository, _, commit = str(model.ip_adapter).partition("@")
        subfolder, _, weight = str(model.ip_adapter_weight).rpartition("/")
        where = subfolder or OFFICIAL_ADAPTER_FOLDER
        if pipe.image_encoder is None:
            # diffusers would take the encoder from the branch's end, whatever the revision of the adapter.
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                repository,
                subfolder=f"{where}/image_encoder",
                revision=commit,
                dtype=pipe.dtype,
                use_safetensors=True,
            )
            pipe.register_modules(image_encoder=encoder)
        pipe.load_ip_adapter(repository, subfolder=where, weight_name=weight, revision=commit)
    silence(pipe.unet)


def _find_controlnet(model: ModelConfig, source: Path | str) -> Path | str | None:
    """Where the model's Canny ControlNet lies, if anywhere; `models.controlnet` loads it when it is asked for."""
    if model.controlnet is None:
        inside = Path(source) / "controlnet"
        return inside if isinstance(source, Path) and inside.is_dir() else None
    folder = Path(model.controlnet).expanduser()
    repository, _, commit = model.controlnet.partition("@")
    if folder.is_dir():
        return folder
    if HUB_ID.fullmatch(repository) and commit:
        return model.controlnet
    raise UserError(
        f"expected a ControlNet folder or hub id, got {model.controlnet}; "
        "set model.controlnet=FOLDER or owner/name@COMMIT"
    )


def _adapter_file(home: Path, weight: str | None) -> Path:
    """The adapter's safetensors file under `home`: the named one, or the only one there is."""
    if weight is not None:
        candidates = [home / weight, *(home / folder / weight for folder in ADAPTER_FOLDERS)]
        found = [path for path in candidates if path.is_file()]
    else:
        found = sorted(p for folder in (".", *ADAPTER_FOLDERS) for p in (home / folder).glob("*.safetensors"))
    if not found or (weight is None and len(found) > 1):
        raise UserError(
            f"expected one IP-Adapter file {weight or '*.safetensors'} in {home}, got {[p.name for p in found]}; "
            "set model.ip_adapter_weight=FILE"
        )
    if found[0].suffix != ".safetensors":
        raise UserError(f"expected an IP-Adapter as safetensors, got {found[0].name}")
    return found[0]


@torch.no_grad()
def fingerprint(pipe: Any) -> str:
    """16 hex digits that tell two base models apart: names, shapes and the first values of every tensor.

    LoRAs and precision are left out as far as they can be: values are compared in bfloat16, and names as they are
    without an adapter.
    """
    sha = hashlib.sha256()
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        tensors = {
            f"{name}.{k.replace('.base_layer', '')}": v for k, v in getattr(pipe, name).state_dict().items()
        }
        for key, tensor in sorted(tensors.items()):
            if "lora_" not in key:
                sha.update(f"{key}{list(tensor.shape)}".encode())
                sha.update(_head(tensor))
    return sha.hexdigest()[:16]


def _head(tensor: Tensor) -> bytes:
    values = tensor.flatten()[:8].to("cpu", torch.bfloat16)
    return values.view(torch.int16).numpy().tobytes()
