"""Edit UNets: one denoiser that redraws a picture so that a subject belongs in it (or was never there).

ObjectDrop's two tasks share one layout (arXiv 2403.18818, section 4): the UNet sees the noisy latent of its answer, the
latent of the condition picture *with nothing masked out*, and the mask at latent size, and is prompted with the empty
string. This file draws with them, makes them from other UNets of the family, and stores them: whole, or as a LoRA
beside the widened input layer (new input channels cannot be low-rank changes of weights that are zero, so that layer
is trained and kept).

Shape letters: B pictures, H, W rows and columns, C latent channels, h, w latent rows and columns. Pictures and masks
are float32 in [0, 1]; C follows from the UNet, whose input has 2C + 1 channels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.errors import UserError, expecting
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.jsonl import read_json, read_record, write_json
from magic_insert.core.rand import generator
from magic_insert.models.folders import LORA_CARD, LORA_WEIGHTS
from magic_insert.models.lora import ATTENTION, add_lora, lora_state, remove_lora, restore_lora
from magic_insert.models.pipeline import ddim, decode, encode, quiet, signature
from magic_insert.models.sampling import image_size, time_ids
from magic_insert.models.tensor_file import DAMAGED, read_tensors, save_tensors, verify_folder

LORA = "edit"  # name of the adapter in the UNet
INPUT = "conv_in."
# In the configuration of an edit UNet, because an inpainting UNet has as many channels in another order.
ORDER_KEY, ORDER = "input_order", "noisy, condition, mask"
UNITS = (BasicTransformerBlock, ResnetBlock2D)  # what gradient checkpointing computes again and ranks share
FIT_CARD = "fit.json"  # beside what a fit wrote before its configuration told the order


def load_edit_unet(
    folder: Path, *, base: UNet2DConditionModel | None = None, merged: bool = True
) -> UNet2DConditionModel:
    """The remover or inserter saved in `folder`, frozen, in float32 on the CPU.

    Args:
        base: the UNet of the pipeline, from which one that was kept as a LoRA is made.
        merged: a LoRA is merged into it, or stands beside its weights.

    Raises:
        UserError: no such folder, the network in it does not take 2C + 1 channels, or takes them in another order.
    """
    if base is not None and (folder / LORA_WEIGHTS).is_file():
        return load_edit_lora(folder, base, merged=merged).eval().requires_grad_(False)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"expected an inserter (config.json and safetensors) in {folder}, got none; set its folder"
        )
    verify_folder(folder)
    if read_json(folder / "config.json").get(ORDER_KEY) != ORDER and not (folder / FIT_CARD).is_file():
        raise UserError(
            f"expected an edit network of this program in {folder}, got one that does not say the order of its "
            "channels; set inserter=diffusers inserter.run=FOLDER (remover=diffusers run=FOLDER) to draw with an "
            "inpainting pipeline, or train from it with insertion model=sdxl_inpaint model.source=FOLDER"
        )
    with expecting(f"an edit network in {folder}", *DAMAGED), quiet():
        unet, found = UNet2DConditionModel.from_pretrained(
            folder, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
        )
    if strange := [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]:
        raise UserError(
            f"expected the weights of the network in {folder}, got others: {strange[0]} does not fit"
        )
    taken, given = unet.config["in_channels"], unet.config["out_channels"]
    if taken != 2 * given + 1:
        raise UserError(
            f"expected {2 * given + 1} input channels (noisy, condition, mask) in {folder}, got {taken}"
        )
    unet.register_to_config(**{ORDER_KEY: ORDER})
    return unet.eval().requires_grad_(False)


def edit_unet_of(pipe: Any, folder: Path) -> UNet2DConditionModel:
    """The remover or inserter saved in `folder`, ready to draw beside `pipe`: on its device and in its precision.

    Raises:
        UserError: see `load_edit_unet`.
    """
    unet = load_edit_unet(folder, base=pipe.unet)
    with quiet():
        return unet.to(pipe.device, pipe.unet.dtype)


def latent_mask(mask: Float[Tensor, "B 1 H W"], height: int, width: int) -> Float[Tensor, "B 1 h w"]:
    """The mask at latent size: the covered share of each latent cell."""
    return functional.adaptive_avg_pool2d(mask, (height, width))


def empty_prompt(pipe: Any, batch: int, size: int | None = None) -> dict[str, Any]:
    """Keyword arguments for a UNet under the empty prompt, for a batch of whole pictures of `size` pixels.

    None is the size that `pipe` draws; an edit UNet is given the one that it was trained with.
    """
    tokens, _, pooled, _ = pipe.encode_prompt(
        prompt="", device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {
        "encoder_hidden_states": tokens.float().expand(batch, -1, -1),
        "added_cond_kwargs": {
            "text_embeds": pooled.float().expand(batch, -1),
            "time_ids": time_ids(pipe, size or image_size(pipe), batch).float(),
        },
    }


@dataclass(frozen=True)
class EditSampling:
    """How a batch is drawn: the noise of each row is named by `seed` and its own name in `ids`."""

    seed: int
    ids: Sequence[str]
    steps: int

    def noise(self, purpose: str, like: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The start noise; drawn on the CPU, so that a GPU starts from the same."""
        assert len(self.ids) == len(like), f"{len(self.ids)} names for {len(like)} pictures"
        draws = [
            torch.randn(like.shape[1:], generator=generator(self.seed, purpose, name)) for name in self.ids
        ]
        return torch.stack(draws).to(like)


def predict(unet: Any, latents: Tensor, time: Tensor, prompt: dict[str, Any]) -> Tensor:
    """The UNet's answer in float32, whatever its own precision."""
    dtype = unet.conv_in.weight.dtype  # `unet.dtype` takes a walk through all layers
    added = {
        name: [part.to(dtype) for part in value] if isinstance(value, list) else value.to(dtype)
        for name, value in prompt["added_cond_kwargs"].items()
    }
    states = prompt["encoder_hidden_states"].to(dtype)
    answer: Tensor = unet(
        latents.to(dtype), time, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
    )[0]
    return answer.float()


@torch.no_grad()
def edit(
    pipe: Any,
    unet: UNet2DConditionModel,
    image: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    how: EditSampling,
    on_step: OnStep = no_step,
) -> Float[Tensor, "B 3 H W"]:
    """The picture redrawn by an edit UNet: deterministic DDIM from noise named by seed and the row's id.

    A row's picture depends on its own image, mask, id and the seed only, never on its neighbours in the batch.

    Args:
        pipe: the SDXL-format pipeline that lends its autoencoder, text encoders and schedule.
        image: the condition picture; nothing in it is masked out.
    """
    condition = encode(pipe.vae, image)
    cells = latent_mask(mask, *condition.shape[-2:])
    prompt = empty_prompt(pipe, len(image), unet.config["sample_size"] * pipe.vae_scale_factor)
    scheduler = ddim(pipe)
    scheduler.set_timesteps(how.steps, device=condition.device)
    latent = how.noise("edit", condition) * scheduler.init_noise_sigma
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        # In ObjectDrop's order, see ORDER.
        guess = predict(unet, torch.cat([latent, condition, cells], dim=1), timestep, prompt)
        latent = scheduler.step(guess, timestep, latent, eta=0.0, return_dict=False)[0]
        on_step(done, how.steps)
    return decode(pipe.vae, latent)


@torch.no_grad()
def noop(
    pipe: Any,
    unet: UNet2DConditionModel,
    image: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    how: EditSampling,
    *,
    reference: str,
    on_step: OnStep = no_step,
) -> Float[Tensor, "B 3 H W"]:
    """What the same machinery makes of `image` when it is to change nothing; the effect is judged against this.

    "input": the picture itself. "vae": the autoencoder's round trip, which cancels the decoder's errors. "unmasked":
    the edit with an empty mask and the same noise, which also cancels the sampler's; the network was never trained
    on an empty mask, so how still it stays is a measurement and not a promise.
    """
    if reference == "input":
        return image
    if reference == "vae":
        return decode(pipe.vae, encode(pipe.vae, image))
    assert reference == "unmasked", reference
    return edit(pipe, unet, image, torch.zeros_like(mask), how, on_step)


def edit_start(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A new UNet with 2C + 1 input channels in float32 on the CPU, made from `unet`, which stays as it is.

    A text-to-image UNet (C channels) gets the further ones with zero weights, so that it starts as the model it was
    (ObjectDrop, section 4). Of 2C + 1 channels it is an edit UNet where its configuration tells our order, and else an
    inpainting UNet, whose input is [noisy C, mask 1, masked picture's latent C]: the masked picture's channels become
    the condition's, the mask's go last. ObjectDrop's remover starts so; it then learns that nothing in the condition is
    masked out any more. An IP-Adapter is left behind.

    Raises:
        UserError: another number of input channels.
    """
    taken, given = unet.config["in_channels"], unet.config["out_channels"]
    weight = unet.conv_in.weight.detach().cpu().float()
    if taken == given:
        zeros = weight.new_zeros(len(weight), given + 1, *weight.shape[2:])
        return _rebuilt(unet, torch.cat([weight, zeros], dim=1))
    if taken != 2 * given + 1:
        raise UserError(f"expected a UNet of {given} or {2 * given + 1} input channels, got {taken}")
    if unet.config.get(ORDER_KEY) == ORDER:
        return _rebuilt(unet, weight)
    noisy, mask, masked = weight.split([given, 1, given], dim=1)
    return _rebuilt(unet, torch.cat([noisy, masked, mask], dim=1))


@torch.no_grad()
def blended(start: UNet2DConditionModel, trained: UNet2DConditionModel, share: float) -> UNet2DConditionModel:
    """A new network at `share` of the way from `start` (0) to `trained` (1); both have the same layers."""
    first, second = start.state_dict(), trained.state_dict()
    return _configured(dict(trained.config), {name: first[name].lerp(second[name], share) for name in second})


def save_unet(folder: Path, unet: UNet2DConditionModel) -> None:
    """Writes `unet` in diffusers' layout, without the note of where it was once read from: the same network has the
    same bytes in any store."""
    unet.save_pretrained(folder)
    config = folder / "config.json"
    write_json(config, {name: value for name, value in read_json(config).items() if name != "_name_or_path"})


def without_adapter(unet: UNet2DConditionModel) -> Any:
    """A copy of `unet` in float32 on the CPU, without an IP-Adapter: what a pipeline's folder holds."""
    return _rebuilt(unet, unet.conv_in.weight.detach().cpu().float())


def _configured(settings: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """A UNet of that configuration that holds the tensors of `state`; an edit UNet tells the order of its channels."""
    with torch.device("meta"):  # drawing weights that are thrown away takes SDXL minutes
        unet = UNet2DConditionModel.from_config({k: v for k, v in settings.items() if k != ORDER_KEY})
    unet.load_state_dict(state, assign=True)
    if settings["in_channels"] == 2 * settings["out_channels"] + 1:
        unet.register_to_config(**{ORDER_KEY: ORDER})
    return unet


def _rebuilt(unet: UNet2DConditionModel, weight: Tensor) -> Any:
    """A UNet of the same configuration and weights, but for the input layer and without an IP-Adapter."""
    settings = {**dict(unet.config), "in_channels": weight.shape[1], "encoder_hid_dim_type": None}
    state = {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in _plain_state(unet).items()
    }
    return _configured(settings, {**state, "conv_in.weight": weight.clone()})


def _plain_state(unet: nn.Module) -> dict[str, Tensor]:
    """All tensors but those of an IP-Adapter."""
    return {
        name: tensor
        for name, tensor in unet.state_dict().items()
        if ".processor." not in name and not name.startswith("encoder_hid_proj")
    }


@dataclass(frozen=True)
class EditLoraCard:
    """What is to be known before a LoRA is loaded: its rank, the `start_digest` of its start, the size of latents."""

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


def start_digest(unet: nn.Module) -> str:
    """16 hex digits of all but the input layer, the same before and after a LoRA is trained, in any precision, with
    and without an IP-Adapter."""
    return signature({k: v for k, v in _plain_state(unet).items() if not k.startswith(INPUT)}).hex()[:16]


def open_for_lora(unet: Any, *, rank: int, seed: int) -> None:
    """Freezes an edit UNet but for its input layer and the LoRA on its attentions, a new one if it has none."""
    if LORA not in (getattr(unet, "peft_config", None) or {}):
        add_lora(unet, rank=rank, alpha=rank, targets=ATTENTION, seed=seed, name=LORA)
    unet.requires_grad_(False)
    for name, parameter in unet.named_parameters():
        if "lora_" in name or name.startswith(INPUT):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def merge_lora(unet: Any) -> None:
    """Adds the LoRA to the weights it stands beside; the UNet has its plain layers and names again."""
    with quiet():
        unet.fuse_lora(adapter_names=[LORA])
    remove_lora(unet, LORA)


def save_edit_lora(folder: Path, unet: Any, *, rank: int) -> None:
    """Writes LoRA and input layer."""
    own = {INPUT + key: value for key, value in unet.conv_in.state_dict().items()}
    save_tensors(folder / LORA_WEIGHTS, {**lora_state(unet, LORA), **own}, {"format": "pt"})
    card = {"rank": rank, "start": start_digest(unet), "sample_size": unet.config["sample_size"]}
    write_json(folder / LORA_CARD, card)


def load_edit_lora(folder: Path, base: Any, *, merged: bool) -> Any:
    """The edit UNet that `save_edit_lora` described, made from `base`, the UNet of the pipeline; see `load_edit_unet`.

    Raises:
        UserError: `base` is not what the LoRA was trained on.
    """
    card = read_record(folder / LORA_CARD, EditLoraCard)
    unet = edit_start(base)
    if (found := start_digest(unet)) != card.start:
        raise UserError(
            f"expected the model that {folder} was trained on ({card.start}), got another ({found}); "
            "set model= as in its training"
        )
    unet.register_to_config(sample_size=card.sample_size)
    tensors = read_tensors(folder / LORA_WEIGHTS).tensors
    add_lora(unet, rank=card.rank, alpha=card.rank, targets=ATTENTION, seed=0, name=LORA)
    wanted = {k: v.shape for k, v in lora_state(unet, LORA).items()}
    wanted |= {INPUT + k: v.shape for k, v in unet.conv_in.state_dict().items()}
    if {k: v.shape for k, v in tensors.items()} != wanted:
        raise UserError(
            f"expected the LoRA of an edit network in {folder / LORA_WEIGHTS}, got tensors of other names or shapes"
        )
    restore_lora(unet, {k: v for k, v in tensors.items() if not k.startswith(INPUT)}, LORA)
    unet.conv_in.load_state_dict(
        {k.removeprefix(INPUT): v for k, v in tensors.items() if k.startswith(INPUT)}
    )
    if merged:
        merge_lora(unet)
    return unet
