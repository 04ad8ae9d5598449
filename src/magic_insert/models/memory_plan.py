"""What a job holds in a GPU's memory, counted from the sizes of its networks: no weight is loaded, no GPU is needed.

Weights, gradients, moments and the running mean are counted on meta tensors; what a step keeps for its backward pass is
counted by running it on fake tensors, which have shapes, devices and a precision but no values. A model in a folder is
counted by its own configurations, one from the hub as SDXL's base. Not counted: the GPU's own context (about half a
gigabyte) and what the allocator leaves unused, so a job fits when it takes no more than NEARLY_FULL of the memory.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from magic_insert.config.fields import check
from magic_insert.config.schema.jobs import PlanConfig
from magic_insert.config.schema.shared import ModelConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_object
from magic_insert.models.edit_unet import UNITS
from magic_insert.models.folders import EDIT_INSERTERS
from magic_insert.models.lora import ATTENTION, TEXT_ATTENTION
from magic_insert.models.pipeline import ENCODERS, HALF, PRECISIONS, find_source, quiet
from magic_insert.models.sampling import SAMPLE_BATCH, drawn_together

GIGABYTE, NEARLY_FULL = 1e9, 0.92  # the share from which a training warns
GPUS = (12, 24, 48, 80)  # GB of common cards
CONTEXT = 77  # words of a prompt
ROWS = ("weights", "gradients", "optimizer", "mean", "activations")

UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
WORDS = {"vocab_size": 49408, "max_position_embeddings": CONTEXT}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "projection_dim": 768, "hidden_act": "quick_gelu"}  # fmt: skip
TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
          "projection_dim": 1280, "hidden_act": "gelu"}  # fmt: skip
BIG_G = {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16,
         "projection_dim": 1280, "image_size": 224, "patch_size": 14, "hidden_act": "gelu"}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Configurations of a pipeline's networks; `image_encoder` is None without an adapter."""

    unet: dict[str, Any] = field(default_factory=lambda: dict(UNET))
    vae: dict[str, Any] = field(default_factory=lambda: dict(VAE))
    text: dict[str, Any] = field(default_factory=lambda: {**TEXT, **WORDS})
    text_2: dict[str, Any] = field(default_factory=lambda: {**TEXT_2, **WORDS})
    image_encoder: dict[str, Any] | None = field(default_factory=lambda: dict(BIG_G))

    @classmethod
    def of(cls, model: ModelConfig) -> "Sizes":
        """Those of `model`: of its folder, judged as the job would judge it, or SDXL's own; the hub is not asked."""
        if (folder := find_source(model).folder) is None:
            own = cls()
            return own if model.ip_adapter else replace(own, image_encoder=None)
        unet, vae, text, text_2 = (
            read_object(folder / name / "config.json")
            for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        )
        home = Path(model.ip_adapter).expanduser() if model.ip_adapter else folder
        places = [home / part / "image_encoder" for part in (".", "sdxl_models", "models")]
        found = next((place for place in places if (place / "config.json").is_file()), None)
        return cls(unet, vae, text, text_2, None if found is None else read_object(found / "config.json"))

    @property
    def context(self) -> int:
        """Words of a prompt."""
        return int(self.text.get("max_position_embeddings", CONTEXT))

    @property
    def edit_channels(self) -> int:
        """Input channels of an edit UNet."""
        return int(2 * self.unet["out_channels"] + 1)

    def build_unet(self, *, in_channels: int | None = None, layers: int | None = None) -> Any:
        """The UNet on meta tensors, with `layers` blocks in each of its transformers if that is asked for."""
        changes: dict[str, Any] = {} if in_channels is None else {"in_channels": in_channels}
        if layers is not None:
            changes["transformer_layers_per_block"] = layers
        with torch.device("meta"):
            return UNet2DConditionModel.from_config({**self.unet, **changes})

    def build_others(self) -> dict[str, Any]:
        """The other networks on meta tensors, by their names in a pipeline."""
        with torch.device("meta"):
            parts = {
                "vae": AutoencoderKL.from_config(self.vae),
                "text_encoder": CLIPTextModel(CLIPTextConfig.from_dict(self.text)),
                "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig.from_dict(self.text_2)),
            }
            if self.image_encoder is not None:
                config = CLIPVisionConfig.from_dict(self.image_encoder)
                parts["image_encoder"] = CLIPVisionModelWithProjection(config)
        return parts


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all `tensors`."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count_saved(
    network: nn.Module,
    inputs: Sequence[Any],
    options: dict[str, Any],
    *,
    arithmetic: torch.dtype | None,
    device: str,
    depths: Callable[[str], int] = lambda name: 1,
) -> "Saved":
    """What `network`, on meta tensors or real ones, keeps of a forward pass of one row.

    Args:
        inputs: shapes of its positional inputs, numbers or tensors for what has none.
        options: its keyword arguments, shapes likewise.
        arithmetic: precision of autocast; None for none.
        device: where the fake tensors are said to lie.
        depths: how many units a unit, named by its path, stands for.
    """
    counted = Saved(network, depths)
    handles: list[Any] = [unit.register_forward_pre_hook(counted.enter) for unit in counted.units]
    handles += [unit.register_forward_hook(counted.leave) for unit in counted.units]
    try:
        with faked(network, inputs, options, device) as (own, run):
            counted.own.update(own)
            with (
                autocast(device, arithmetic),
                counted,
                torch.autograd.graph.saved_tensors_hooks(counted.pack, lambda x: x),
            ):
                loss = first(run()).float().square().mean()  # noqa: F841 - holds the graph
    finally:
        for handle in handles:
            handle.remove()
    return counted


class Saved(TorchDispatchMode):
    """Bytes that a forward pass of one row keeps for its backward pass, each storage once.

    `rows`: what grows with the batch, for one row. `casts`: copies of weights in the precision of the arithmetic.
    `checkpointed`: as `rows`, where the units keep their inputs only. `outside`: casts outside the units.
    `inner`: rows and casts of each unit, the largest of which the backward pass computes again.
    `own`: the network's storages.
    """

    def __init__(self, network: nn.Module, depths: Callable[[str], int]) -> None:
        super().__init__()
        self.rows = self.casts = self.checkpointed = self.outside = 0
        self.depths = depths
        self.own, self.seen, self.cast, self.kept = (set[int]() for _ in range(4))
        self.entered: list[nn.Module] = []
        self.units = {module: name for name, module in network.named_modules() if isinstance(module, UNITS)}
        self.inner = dict.fromkeys(self.units, (0, 0))

    def total(self, batch: int, *, checkpointing: bool) -> int:
        """Of a batch."""
        if not checkpointing:
            return batch * self.rows + self.casts
        rows, casts = max(self.inner.values(), key=sum, default=(0, 0))
        return batch * (self.checkpointed + rows) + self.outside + casts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and _storage(args[0]) in self.own:
            _remember(self.cast, out)
        return out

    def pack(self, tensor: Tensor) -> Tensor:
        """Counts a tensor that autograd keeps."""
        storage = _storage(tensor)
        if storage in self.own or storage in self.seen:
            return tensor
        _remember(self.seen, tensor)
        size, unit = tensor.untyped_storage().nbytes(), self.entered[-1] if self.entered else None
        times = 1 if unit is None else self.depths(self.units[unit])
        if cast := storage in self.cast:
            self.casts += times * size
        else:
            self.rows += times * size
        if unit is not None and storage not in self.kept:
            rows, cast_bytes = self.inner[unit]
            self.inner[unit] = (rows, cast_bytes + size) if cast else (rows + size, cast_bytes)
        elif unit is None:
            self.outside += size if cast else 0
            self.checkpointed += 0 if cast or storage in self.kept else size
        return tensor

    def enter(self, module: nn.Module, args: Any) -> None:
        """Counts what a checkpointed unit keeps: its inputs."""
        self.entered.append(module)
        for tensor in args:
            if isinstance(tensor, Tensor) and _storage(tensor) not in self.kept:
                _remember(self.kept, tensor)
                self.checkpointed += self.depths(self.units[module]) * tensor.untyped_storage().nbytes()

    def leave(self, module: nn.Module, args: Any, out: Any) -> None:
        """Its unit is done."""
        self.entered.pop()


def peak(network: nn.Module, inputs: Sequence[Any], options: dict[str, Any], *, device: str) -> int:
    """The most bytes that a pass without gradients holds at once beside the weights, its inputs included."""
    live, most, known = 0, 0, set()

    def gone(storage: int, size: int) -> None:
        nonlocal live
        live -= size
        known.discard(storage)

    class Live(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal live, most
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, Tensor) and _storage(tensor) not in own | known:
                    storage = tensor.untyped_storage()
                    known.add(_storage(tensor))
                    live += storage.nbytes()
                    most = max(most, live)
                    weakref.finalize(storage, gone, _storage(tensor), storage.nbytes())
            return out

    with faked(network, inputs, options, device) as (own, run), torch.no_grad(), Live():
        run()
    return most


@contextmanager
def faked(
    network: nn.Module, inputs: Sequence[Any], options: dict[str, Any], device: str
) -> Iterator[tuple[set[int], Callable[[], Any]]]:
    """Storages of fake tensors for all that `network` holds, and what runs it with them on fake inputs of its
    precision, made of shapes."""
    precision = next(network.parameters()).dtype
    with FakeTensorMode():

        def make(value: Any) -> Any:
            if isinstance(value, torch.Size):
                return torch.empty(value, dtype=precision, device=device)
            if isinstance(value, dict):
                return {name: make(part) for name, part in value.items()}
            if isinstance(value, Tensor):
                return torch.empty(value.shape, dtype=value.dtype, device=device)
            return value

        state = {
            name: torch.empty(p.shape, dtype=p.dtype, device=device, requires_grad=p.requires_grad)
            for name, p in network.named_parameters()
        }
        state |= {n: torch.empty(b.shape, dtype=b.dtype, device=device) for n, b in network.named_buffers()}

        def run() -> Any:
            return torch.func.functional_call(network, state, tuple(map(make, inputs)), make(options))

        yield {_storage(tensor) for tensor in state.values()}, run


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """`torch.autocast`, also for a GPU that is not there."""
    if dtype is None or device != "cuda":
        with nullcontext() if dtype is None else torch.autocast(device, dtype):
            yield
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def first(out: Any) -> Tensor:
    """The first tensor of a network's answer."""
    parts = out.values() if isinstance(out, dict) else out
    return out if isinstance(out, Tensor) else first(next(iter(parts)))


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _remember(places: set[int], tensor: Tensor) -> None:
    """Adds the place of the tensor's storage for as long as that lives; afterwards another may lie there."""
    places.add(place := _storage(tensor))
    weakref.finalize(tensor.untyped_storage(), places.discard, place)


def asked_of(sizes: Sizes, batch: int, channels: int, side: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a UNet is given, as shapes: latents and times, and by name what stands beside them."""
    embed = sizes.text_2["projection_dim"]
    times = torch.empty(batch, dtype=torch.long, device="meta")
    return (torch.Size((batch, channels, side, side)), times), {
        "encoder_hidden_states": torch.Size((batch, sizes.context, sizes.unet["cross_attention_dim"])),
        "added_cond_kwargs": {"text_embeds": torch.Size((batch, embed)), "time_ids": torch.Size((batch, 6))},
        "return_dict": False,
    }


def fits(parts: dict[str, int], gigabytes: float) -> bool:
    """Whether a card of that size can hold a job of so many bytes by ROWS."""
    return sum(parts.values()) <= NEARLY_FULL * gigabytes * GIGABYTE


def adapted(unet: Any, rank: int, targets: Sequence[str]) -> None:
    """Freezes a network but for a new LoRA in float32."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets)))
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def trained_bytes(network: nn.Module, optimizer: str) -> tuple[int, int]:
    """Bytes of all trained parameters, and of what the optimizer keeps for them."""
    trained = [p for p in network.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    moments = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}[optimizer]
    return nbytes(trained), moments * count


def step_of(
    sizes: Sizes,
    build: Callable[..., Any],
    channels: int,
    side: int,
    arithmetic: torch.dtype | None,
    device: str,
) -> Saved:
    """What a training step of the UNet keeps; `build` makes it, with fewer layers if asked to.

    Blocks of one transformer are alike: one is run, and counted as often as there are blocks.
    """
    full = build()
    depth = {
        name: len(module.transformer_blocks)
        for name, module in full.named_modules()
        if hasattr(module, "transformer_blocks")
    }

    def depths(name: str) -> int:
        return depth.get(name.partition(".transformer_blocks")[0], 1)

    asked = asked_of(sizes, 1, channels, side)
    return count_saved(build(layers=1), *asked, arithmetic=arithmetic, device=device, depths=depths)


def ip_adapter_bytes(sizes: Sizes, unet: Any, dtype: torch.dtype) -> int:
    """Of an image adapter's keys, values and projection to four tokens."""
    if sizes.image_encoder is None:
        return 0
    cross, embed = sizes.unet["cross_attention_dim"], sizes.image_encoder["projection_dim"]
    keys = [m.to_k for name, m in unet.named_modules() if name.endswith("attn2")]
    layers = sum(2 * layer.out_features * cross for layer in keys)
    return (layers + 4 * cross * (embed + 1)) * dtype.itemsize


def count_personalize(cfg: PlanConfig, *, device: str = "cuda") -> dict[str, int]:
    """The largest phase of `personalize`."""
    return max(personalize_phases(cfg, device=device).values(), key=lambda parts: sum(parts.values()))


def personalize_phases(cfg: PlanConfig, *, device: str = "cuda") -> dict[str, dict[str, int]]:
    """What `personalize` does on a GPU, one after the other: it encodes the pictures, learns, and draws samples."""
    validation, sizes = cfg.personalization.validation, Sizes.of(cfg.model)
    dtype = PRECISIONS[cfg.model.dtype]
    learning = count_learning(cfg, device=device)
    unet, others = loaded(sizes, dtype)
    taken = {name: nbytes(part.parameters()) for name, part in others.items()}
    visiting = {name: taken.pop(name) for name in ENCODERS if cfg.model.offload and name in taken}
    side = latent_side(cfg.model, sizes)
    encoded = picture_peak(others["vae"], sizes, side, encoding=True, device=device)
    frozen = nbytes(unet.parameters()) + ip_adapter_bytes(sizes, unet, dtype)
    encoding = {"weights": frozen + sum(taken.values()), "activations": max(encoded, *visiting.values(), 0)}
    phases = {"encode": {**dict.fromkeys(ROWS, 0), **encoding}, "learn": learning}
    if validation.every:
        rows = 2 * drawn_together(cfg.model.image_size, min(validation.seeds, SAMPLE_BATCH))
        drawn = drawing_peak(sizes, others["vae"], side, rows, dtype, device=device)
        judge = taken.get("image_encoder", 0) if validation.scorer == "model" else 0
        away = sum(size for name, size in visiting.items() if name != "image_encoder")
        weights = learning["weights"] + taken["vae"] + judge - away
        phases["sample"] = {**learning, "weights": weights, "activations": max(drawn, *visiting.values(), 0)}
    return phases


def count_learning(cfg: PlanConfig, *, device: str) -> dict[str, int]:
    """A step of `personalize`: frozen networks, LoRA and tokens; VAE and image encoder wait on the CPU."""
    recipe, sizes, dtype = cfg.personalization, Sizes.of(cfg.model), PRECISIONS[cfg.model.dtype]

    def build(layers: int | None = None) -> Any:
        with quiet():
            unet = sizes.build_unet(layers=layers).to(dtype)
        adapted(unet, recipe.rank, recipe.targets)
        return unet

    unet, others = build(), sizes.build_others()
    encoders = [others[name].to(dtype).requires_grad_(False) for name in ("text_encoder", "text_encoder_2")]
    if recipe.text_rank:
        for encoder in encoders:
            adapted(encoder, recipe.text_rank, TEXT_ATTENTION)
    for encoder in encoders:  # the tokens' rows: gradients pass through every layer
        encoder.get_input_embeddings().requires_grad_(True)
    arithmetic = HALF.get(recipe.precision)
    step = step_of(sizes, build, sizes.unet["in_channels"], latent_side(cfg.model, sizes), arithmetic, device)
    prompts = torch.empty(2 if recipe.prior_images else 1, sizes.context, dtype=torch.long, device="meta")
    options = {"output_hidden_states": True}
    texts = [count_saved(e, (prompts,), options, arithmetic=arithmetic, device=device) for e in encoders]
    for encoder in encoders:
        encoder.get_input_embeddings().requires_grad_(False)
    networks = nn.ModuleList([unet, *encoders])
    trained, moments = trained_bytes(networks, recipe.optimizer)
    frozen = nbytes(networks.parameters())
    rows = recipe.batch_size * (2 if recipe.prior_images else 1)
    kept = step.total(rows, checkpointing=recipe.gradient_checkpointing)
    return {
        "weights": frozen + ip_adapter_bytes(sizes, sizes.build_unet(), dtype),
        "gradients": trained,
        "optimizer": moments,
        "mean": 0 if recipe.ema_decay is None else trained,
        "activations": kept + sum(text.total(1, checkpointing=False) for text in texts),
    }


def count_bootstrap(cfg: PlanConfig, *, device: str = "cuda") -> dict[str, int]:
    """The larger of what a round does on a GPU: the harvest, and a step of its fit."""
    return max(
        count_drawing(cfg, device=device), count_insertion(cfg, device=device), key=lambda n: sum(n.values())
    )


def count_insertion(cfg: PlanConfig, *, device: str = "cuda") -> dict[str, int]:
    """A step of `insertion`, or of a fit of `bootstrap`: the edit UNet alone.

    The pipeline waits on the CPU, pictures are latents already.
    """
    fit, sizes = cfg.fit if cfg.job == "bootstrap" else cfg.train, Sizes.of(cfg.model)
    channels, arithmetic = sizes.edit_channels, HALF.get(fit.precision)

    def build(layers: int | None = None) -> Any:
        unet = sizes.build_unet(in_channels=channels, layers=layers)
        if fit.lora_rank:
            with quiet():
                adapted(unet.to(arithmetic or torch.float32), fit.lora_rank, ATTENTION)
            unet.conv_in.float().requires_grad_(True)
        return unet

    unet = build()
    step = step_of(sizes, build, channels, latent_side(cfg.model, sizes), arithmetic, device)
    trained, moments = trained_bytes(unet, fit.optimizer)
    shares = cfg.gpus if fit is cfg.train and cfg.train.strategy == "fsdp2" else 1
    rows = -(-fit.batch_size // cfg.gpus)
    gathered = 0
    if shares > 1:
        # Whole at once, of what ranks share: weights and gradients of the layers outside the units, weights of the
        # largest unit and of the next one, and a gradient.
        units = [nbytes(unit.parameters()) for unit in unet.modules() if isinstance(unit, UNITS)]
        gathered = 2 * (nbytes(unet.parameters()) - sum(units)) + 3 * max(units)
    return {
        "weights": nbytes(unet.parameters()) // shares,
        "gradients": trained // shares,
        "optimizer": moments // shares,
        "mean": trained // shares if fit.ema_decay else 0,
        "activations": step.total(rows, checkpointing=fit.gradient_checkpointing) + gathered,
    }


def count_drawing(cfg: PlanConfig, *, device: str = "cuda") -> dict[str, int]:
    """`insert` into `backgrounds`, of which some are drawn together: weights and peak.

    An edit UNet as inserter lies beside the pipeline; its one row without guidance holds less than the subject's rows.
    In `remove` and in the harvest of `bootstrap`, whose pictures are drawn without guidance, an edit UNet draws and
    what only the pipeline draws with stays on the CPU.
    """
    sizes, dtype = Sizes.of(cfg.model), PRECISIONS[cfg.model.dtype]
    channels = sizes.unet["in_channels"] if cfg.job == "insert" else sizes.edit_channels
    unet, others = loaded(sizes, dtype, in_channels=channels)
    taken = {name: nbytes(part.parameters()) for name, part in others.items()}
    if cfg.job != "insert":
        taken.pop("image_encoder", None)
    visiting = [taken.pop(name) for name in ENCODERS if cfg.model.offload and name in taken]
    rows = {"bootstrap": cfg.harvest.batch_size, "remove": 1}.get(
        cfg.job, 2 * drawn_together(cfg.model.image_size, cfg.backgrounds)
    )
    side = latent_side(cfg.model, sizes)
    drawn = drawing_peak(sizes, others["vae"], side, rows, dtype, channels=channels, device=device)
    weights = nbytes(unet.parameters()) + sum(taken.values())
    if cfg.job == "insert":
        weights += ip_adapter_bytes(sizes, unet, dtype)
        if cfg.inserter.name in EDIT_INSERTERS:
            edit_unet = sizes.build_unet(in_channels=sizes.edit_channels)
            weights += sum(p.numel() for p in edit_unet.parameters()) * dtype.itemsize
    return {
        **dict.fromkeys(ROWS, 0),
        "weights": weights,
        "activations": max(drawn, *visiting, 0),
    }


def loaded(sizes: Sizes, dtype: torch.dtype, *, in_channels: int | None = None) -> tuple[Any, dict[str, Any]]:
    """The UNet and the other networks as they are loaded: a VAE that half precision spoils is in float32."""
    others, whole = sizes.build_others(), dtype is torch.bfloat16 or sizes.vae.get("force_upcast", True)
    with quiet():
        for name, part in others.items():
            part.to(torch.float32 if name == "vae" and whole else dtype)
        return sizes.build_unet(in_channels=in_channels).to(dtype), others


def scale_of(sizes: Sizes) -> int:
    """Pixels along the side of a latent cell."""
    return int(2 ** (len(sizes.vae["block_out_channels"]) - 1))


def latent_side(model: ModelConfig, sizes: Sizes) -> int:
    """Latent cells along the side of a picture of the model."""
    return model.image_size // scale_of(sizes)


def picture_peak(vae: Any, sizes: Sizes, side: int, *, encoding: bool, device: str) -> int:
    """What the autoencoder holds at most: sliced and tiled it sees one picture, and of a large one a tile."""
    scale = scale_of(sizes)
    tile = min(side, sizes.vae["sample_size"] // scale)
    pixels, latents = (1, 3, tile * scale, tile * scale), (1, sizes.vae["latent_channels"], tile, tile)
    vae.forward = vae.encode if encoding else vae.decode
    return peak(vae, (torch.Size(pixels if encoding else latents),), {}, device=device)


def drawing_peak(
    sizes: Sizes,
    vae: Any,
    side: int,
    rows: int,
    dtype: torch.dtype,
    *,
    channels: int | None = None,
    device: str,
) -> int:
    """What a step of drawing `rows` rows holds at most, or the decoding of a picture."""
    with quiet():
        small = sizes.build_unet(in_channels=channels, layers=1).to(dtype)
    asked = asked_of(sizes, rows, channels or sizes.unet["in_channels"], side)
    drawn = peak(small, *asked, device=device)
    return max(drawn, picture_peak(vae, sizes, side, encoding=False, device=device))


COUNTS = {
    "personalize": count_personalize,
    "insertion": count_insertion,
    "bootstrap": count_bootstrap,
    "insert": count_drawing,
    "remove": count_drawing,
}


def memory_options(cfg: PlanConfig) -> Iterator[tuple[str, PlanConfig]]:
    """`cfg` as it is, then with one setting after the other that saves memory, the cheapest first."""
    yield "as it is", cfg
    part = {"personalize": "personalization", "insertion": "train", "bootstrap": "fit"}.get(cfg.job)
    rungs: list[tuple[str, str, Any]] = []
    if part is not None:
        recipe = getattr(cfg, part)
        rungs += [(part, "gradient_checkpointing", True)]
        if cfg.job == "personalize" and recipe.precision == "bf16-mixed":
            rungs += [("model", "dtype", "bfloat16")]
        if cfg.job == "personalize":
            rungs += [("model", "offload", True)]
        if cfg.job == "bootstrap":
            rungs += [("harvest", "batch_size", 1)]
        rungs += [(part, "batch_size", 1 if cfg.job == "personalize" else cfg.gpus)]  # a row for each
        rungs += [(part, "optimizer", "adamw8bit")]
        rank, least = ("rank", 16) if cfg.job == "personalize" else ("lora_rank", 64)
        if not 0 < getattr(recipe, rank) <= least:
            rungs += [(part, rank, least)]
    if cfg.job in ("bootstrap", "insert", "remove"):
        half = [] if cfg.model.dtype != "float32" else [("model", "dtype", "float16")]
        rungs += [*half, ("model", "offload", True)]
    if cfg.job == "insert" and cfg.inserter.name in EDIT_INSERTERS:
        rungs += [("inserter", "name", "effect")]
    rungs += [("model", "image_size", size) for size in (768, 512) if size < cfg.model.image_size]
    for group, key, value in rungs:
        old = getattr(cfg, group)
        changes = {key: value}
        if key == "batch_size" and group == part:
            changes["accumulate"] = old.accumulate * old.batch_size // value
        changed = replace(cfg, **{group: replace(old, **changes)})
        if changed == cfg or not _allowed(changed):
            continue
        cfg = changed
        yield " ".join(_word(group, *change) for change in changes.items()), cfg


def _allowed(cfg: PlanConfig) -> bool:
    """Whether a job takes these settings; with FSDP2 for one it takes neither a LoRA nor states of eight bits."""
    try:
        check(cfg)
    except UserError:
        return False
    return True


def _word(group: str, key: str, value: Any) -> str:
    """A setting as the command line takes it."""
    return f"{f'{group}.{key}'.removesuffix('.name')}={str(value).lower() if value is True else value}"


def run_plan(cfg: PlanConfig) -> None:
    """Prints what the job takes as it is and with what saves memory, and what fits the asked-for card.

    Raises:
        UserError: a model that is not there.
    """
    bills: list[tuple[str, dict[str, int]]] = []
    print(
        f"{cfg.job}, model {cfg.model.name}, {cfg.model.image_size} pixels; in GB (10^9 bytes), line by line added"
    )
    print(f"{'':<58}" + "".join(f"{name:>13}" for name in (*ROWS, "total")) + "  fits into")
    for setting, changed in memory_options(cfg):
        bills.append((setting, COUNTS[cfg.job](changed)))
        print(line(*bills[-1], cfg.gpu), flush=True)
        if fits(bills[-1][1], min(*GPUS, cfg.gpu)):
            break
    enough = next((number for number, (_, parts) in enumerate(bills) if fits(parts, cfg.gpu)), None)
    if enough is None:
        shared = cfg.job == "insertion"
        more = "gpus=N train.strategy=fsdp2 shares it" if shared else "more GPUs do not change that"
        print(f"{cfg.gpu:g} GB: does not fit; {more}")
    else:
        words = " ".join(setting for setting, _ in bills[1 : enough + 1])
        print(f"{cfg.gpu:g} GB: fits {'with ' + words if words else 'as it is'}")


def line(setting: str, parts: dict[str, int], gpu: float) -> str:
    """A line of the table; `setting` says what was changed to come to it."""
    fitting = [f"{size:g}" for size in sorted({*GPUS, gpu}) if fits(parts, size)]
    numbers = [*(parts[name] for name in ROWS), sum(parts.values())]
    cells = "".join(f"{number / GIGABYTE:13.1f}" for number in numbers)
    return f"{setting:<58}{cells}  {', '.join(fitting) or 'none'}"
