"""One SDXL pipeline from a folder in the hub's layout, with its IP-Adapter where there is one; its latents.

A folder never touches the network; a hub id does, and only with the revision it is pinned to.
Shape letters: B pictures of 3HW in [0, 1]; latents B x C x h x w with h = H / 8 for SDXL's and the micro VAE.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from magic_insert import paths
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.models.style import silence
from magic_insert.models.tensor_file import DAMAGED, verify_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OFFICIAL_ADAPTER_FOLDER = "sdxl_models"  # where the IP-Adapter repository keeps those for SDXL
VOCABULARIES = ("tokenizer.json", "vocab.json")  # without one a tokenizer knows no word
LOADED = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "ip_adapter")
ADAPTER_FOLDERS = ("ip_adapter", OFFICIAL_ADAPTER_FOLDER)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside this block diffusers and transformers report errors only and draw no bars, and PEFT does not warn."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        with warnings.catch_warnings():
            # Several adapters in one model are meant here; PEFT wants to be sure we know.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
            yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


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


def _units(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's raw latents per channel, from its card."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return like.new_zeros(1), like.new_full((1,), 1 / vae.config.scaling_factor)
    shape = (1, -1, 1, 1)
    return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape) / vae.config.scaling_factor


@torch.no_grad()
def encode(vae: Any, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
    """The mode of the VAE's posterior: no random number, so a cached latent is the latent."""
    raw = vae.encode((2 * images - 1).to(vae.device, vae.dtype)).latent_dist.mode().float()
    mean, std = _units(vae, raw)
    return (raw - mean) / std


@torch.no_grad()
def decode(vae: Any, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
    """The pictures of `latents`, clamped to [0, 1], float32."""
    mean, std = _units(vae, latents)
    images = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()
    return (images / 2 + 0.5).clamp(0, 1)


def ddim(pipe: Any) -> DDIMScheduler:
    """A deterministic scheduler on the model's own noise schedule."""
    with quiet():
        return DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, thresholding=False)


def size_ids(count: int, size: int, device: torch.device) -> Float[Tensor, "B 6"]:
    """SDXL's size conditioning for uncropped square pictures: original size, crop corner, target size."""
    return torch.tensor([[size, size, 0, 0, size, size]], device=device).float().repeat(count, 1)


def plain_attention(unet: Any) -> None:
    """Replace torch's fused attention by three matrix products wherever `unet` has no adapter.

    At the micro model's lengths (16 to 256 positions, heads of 20) the fused kernel's backward pass on a CPU takes 40 %
    of a training step; without it a step of batch 32 in bfloat16 took 0.64 of the time. The numbers are the same to
    float tolerance. On a GPU the fused kernel is the better one: call this for the CPU only.
    """
    processors = dict(unet.attn_processors)
    for name, processor in processors.items():
        if type(processor) is AttnProcessor2_0:
            processors[name] = AttnProcessor()
    unet.set_attn_processor(processors)
