"""One SDXL pipeline from a folder in the hub's layout, with its IP-Adapter where there is one; its latents.

A folder never touches the network; a hub id does, and only with the revision it is pinned to.
Shape letters: B pictures of 3HW in [0, 1]; latents B x C x h x w with h = H / 8 for SDXL's and the micro VAE.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.ranks import local_rank, world_size
from magic_insert.models.folders import find_model, variant_of
from magic_insert.models.hub import (
    UNREACHABLE,
    Place,
    adapter_file,
    find_adapter,
    find_part,
    load_image_encoder,
    load_vae,
    wanted_encoder,
)
from magic_insert.models.ip_adapter import adapter_state, disable_adapter
from magic_insert.models.tensor_file import DAMAGED, verify_folder

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of the arithmetic of a training
ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder")
DRAWING = ("unet", "image_encoder")  # what an edit UNet that draws in the pipeline's place does not need
PARTS = ("unet", "vae", *ENCODERS)
LOADED = (*PARTS, "ip_adapter")
SLICED = 512  # pixels from which pictures are decoded one by one
TILE = 1024  # pixels of a tile's side
SIGNS = 256  # of each tensor in a fingerprint


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
    model: ModelConfig,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    draws: bool = True,
) -> StableDiffusionXLPipeline:
    """The pipeline of `model`, frozen, its adapter (if any) loaded and at scale 0, drawing `image_size` pixels.

    Weights arrive in `dtype`, whatever they are stored in. A VAE that overflows in float16 (its card says so) stays in
    float32, and any does in bfloat16, whose eight bits are too few for a picture.

    Args:
        model: the configuration group; `source` null is the shipped micro model.
        device: overrides `model.device`.
        dtype: overrides `model.dtype`.
        draws: False where an edit UNet draws in the pipeline's place; DRAWING then stays on the CPU.

    Raises:
        UserError: no such device, no such folder, not an SDXL model, an unpinned hub id, an adapter that is not there,
            a download that fails.
    """
    device = own_device(model.device) if device is None else device
    dtype = dtype or PRECISIONS[model.dtype]
    source = find_source(model)
    adapter = find_adapter(model, source)
    vae = find_part(model.vae, "model.vae", "a VAE")
    controlnet = find_part(model.controlnet, "model.controlnet", "a ControlNet")
    if controlnet is None and source.folder is not None and (source.folder / "controlnet").is_dir():
        controlnet = Place(str(source.folder / "controlnet"))
    if source.folder is not None:
        verify_folder(source.folder, LOADED)
    try:
        with quiet():
            pipe = StableDiffusionXLPipeline.from_pretrained(
                source.name,
                dtype=dtype,
                variant=variant_of(model, source.folder),
                add_watermarker=False,
                **source.options,
            )
            if vae is not None:
                pipe.register_modules(vae=load_vae(vae, dtype))
    except (*DAMAGED, *UNREACHABLE) as error:
        raise source.refusal(error, "a complete SDXL model") from error
    if adapter is not None:
        try:
            with quiet():
                _load_adapter(pipe, adapter_file(adapter, model.ip_adapter_weight), adapter, source)
        except UserError:
            raise
        except (*DAMAGED, *UNREACHABLE) as error:
            raise adapter.refusal(error, "an IP-Adapter", "model.ip_adapter") from error
    pipe.controlnet_source, pipe.offloads = controlnet, model.offload
    return _ready(pipe, model, torch.device(device), dtype, draws=draws)


def _ready(pipe: Any, model: ModelConfig, device: torch.device, dtype: torch.dtype, *, draws: bool) -> Any:
    """The pipeline frozen and on its device, with the VAE's precision and tiles and the encoders as `model` wants."""
    for part in (getattr(pipe, name) for name in PARTS):
        if part is not None:
            part.requires_grad_(False).eval()
    if dtype is torch.bfloat16 or (dtype is torch.float16 and pipe.vae.config.force_upcast):
        with quiet():
            pipe.vae.to(torch.float32)
    if model.image_size >= SLICED:
        # One picture at a time, and a large one in overlapping tiles: eight at 1024 pixels would take 26 GB.
        pipe.vae.enable_slicing()
        pipe.vae.enable_tiling()
        pipe.vae.tile_sample_min_size = TILE
        pipe.vae.tile_latent_min_size = TILE // pipe.vae_scale_factor
    pipe.default_sample_size = model.image_size // pipe.vae_scale_factor
    pipe.set_progress_bar_config(disable=True)
    waiting = ENCODERS if model.offload else ()
    resting = (*waiting, *(() if draws else DRAWING))
    for name in PARTS:
        if (part := getattr(pipe, name)) is None:
            continue
        if name not in resting:  # what waits is never there, not even while it loads
            with quiet():
                part.to(device)
        elif name in waiting:
            _wait_on_cpu(part, device)
    return pipe


def _wait_on_cpu(encoder: Any, device: torch.device) -> None:
    """From now on the encoder is on `device` only while it encodes; while something is trained through it, it stays."""

    def come(module: nn.Module, args: Any, options: Any) -> tuple[Any, Any]:
        module.to(device)
        return send_to_device(args, device), send_to_device(options, device)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if not torch.is_grad_enabled():
            module.to("cpu")

    encoder.register_forward_pre_hook(come, with_kwargs=True)
    encoder.register_forward_hook(leave)


@contextmanager
def parts_on(pipe: Any, device: torch.device | str, names: Sequence[str] = PARTS) -> Iterator[None]:
    """Inside this block the named networks of `pipe` are on `device`; afterwards where they were."""
    before = {name: part.device for name in names if (part := getattr(pipe, name)) is not None}
    with quiet():
        for name in before:
            getattr(pipe, name).to(device)
    try:
        yield
    finally:
        with quiet():
            for name, home in before.items():
                getattr(pipe, name).to(home)


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


def own_device(name: str) -> torch.device:
    """`resolve_device`; in a group of processes the GPU of this one."""
    device = resolve_device(name)
    return torch.device("cuda", local_rank()) if device.type == "cuda" and world_size() > 1 else device


def require_drawing(pipe: Any) -> None:
    """That the UNet of `pipe` draws: it takes noisy latents of the VAE and nothing beside them.

    Raises:
        UserError: it takes more, as that of an inpainting model.
    """
    takes, drawn = pipe.unet.config.in_channels, pipe.vae.config.latent_channels
    if takes != drawn:
        raise UserError(
            f"expected a model whose UNet takes {drawn} channels and draws, got one of {takes} channels, as those that "
            "inpaint have; set model.source=FOLDER of a base model"
        )


def find_source(model: ModelConfig) -> Place:
    """Where the model lies; raises `UserError` as `find_model`."""
    folder = find_model(model)
    return Place(str(model.source), model.revision) if folder is None else Place(str(folder))


def _load_adapter(pipe: Any, file: Path, place: Place, source: Place) -> None:
    """Loads the adapter and, unless the pipeline has it, the image encoder that it was trained with."""
    key, width = wanted_encoder(file)
    if pipe.image_encoder is None or getattr(pipe.image_encoder.config, key) != width:
        encoder = load_image_encoder(file, [place] if place == source else [place, source], pipe.dtype)
        pipe.register_modules(image_encoder=encoder, feature_extractor=None)
    pipe.load_ip_adapter(adapter_state(file), subfolder="", weight_name=file.name)
    disable_adapter(pipe.unet)


@torch.no_grad()
def fingerprint(pipe: Any) -> str:
    """16 hex digits that tell two base models apart: names and shapes of every tensor, and the signs of its values.

    No precision changes a sign, so a model is the same in float32, in half precision, and stored in either. LoRAs and
    an image adapter are left out.
    """
    sha = hashlib.sha256()
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        sha.update(signature({f"{name}.{k}": v for k, v in getattr(pipe, name).state_dict().items()}))
    return sha.hexdigest()[:16]


def signature(tensors: Mapping[str, Tensor]) -> bytes:
    """A digest of names, shapes and up to SIGNS evenly spread signs of each tensor, without those of a LoRA."""
    sha = hashlib.sha256()
    own = {k.replace(".base_layer", ""): v for k, v in tensors.items() if "lora_" not in k}
    for key, tensor in sorted(own.items()):
        flat = tensor.detach().flatten()
        picked = torch.signbit(flat[:: max(1, len(flat) // SIGNS)]).cpu()
        sha.update(f"{key}{list(tensor.shape)}".encode())
        sha.update(np.packbits(picked.numpy()).tobytes())
    return sha.digest()


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


def size_ids(count: int, size: int | tuple[int, int], device: torch.device) -> Float[Tensor, "B 6"]:
    """SDXL's size conditioning for uncropped pictures of `size` (height and width, or the side of a square): original
    size, crop corner, target size."""
    sides = (size, size) if isinstance(size, int) else size
    return torch.tensor([[*sides, 0, 0, *sides]], device=device).float().repeat(count, 1)


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
