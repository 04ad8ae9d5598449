"""What an edit UNet is trained from: any UNet of the family, brought to the input [noisy, condition, mask].

C latent channels; an edit UNet takes 2C + 1.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import read_json, write_json


def edit_start(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A new UNet with 2C + 1 input channels in float32 on the CPU, made from `unet`, which stays as it is.

    A text-to-image UNet (C channels) gets the further ones with zero weights, so that it starts as the model it was
    (ObjectDrop, section 4). A UNet of 2C + 1 channels is taken for an edit UNet. An IP-Adapter is left behind.

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
    return _rebuilt(unet, weight)


def edit_start_from_inpainting(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A new edit UNet from an inpainting UNet, whose input is [noisy C, mask 1, masked picture's latent C].

    The masked picture's channels become the condition's, the mask's go last. ObjectDrop's remover starts so; it then
    learns that nothing in the condition is masked out any more.

    Raises:
        UserError: not 2C + 1 input channels.
    """
    taken, given = unet.config["in_channels"], unet.config["out_channels"]
    if taken != 2 * given + 1:
        raise UserError(f"expected an inpainting UNet of {2 * given + 1} input channels, got {taken}")
    noisy, mask, masked = unet.conv_in.weight.detach().cpu().float().split([given, 1, given], dim=1)
    return _rebuilt(unet, torch.cat([noisy, masked, mask], dim=1))


@torch.no_grad()
def blended(start: UNet2DConditionModel, trained: UNet2DConditionModel, share: float) -> UNet2DConditionModel:
    """A new network at `share` of the way from `start` (0) to `trained` (1); both have the same layers."""
    result: UNet2DConditionModel = UNet2DConditionModel.from_config(dict(trained.config))
    first, second = start.state_dict(), trained.state_dict()
    result.load_state_dict({name: first[name].lerp(second[name], share) for name in second})
    return result


def save_unet(folder: Path, unet: UNet2DConditionModel) -> None:
    """Writes `unet` in diffusers' layout, without the note of where it was once read from: the same network has the
    same bytes in any store."""
    unet.save_pretrained(folder)
    config = folder / "config.json"
    write_json(config, {name: value for name, value in read_json(config).items() if name != "_name_or_path"})


def _rebuilt(unet: UNet2DConditionModel, weight: Tensor) -> Any:
    """A UNet of the same configuration and weights, but for the input layer and without an IP-Adapter."""
    settings = {**dict(unet.config), "in_channels": weight.shape[1], "encoder_hid_dim_type": None}
    fresh = UNet2DConditionModel.from_config(settings)
    state = {
        name: tensor.detach().cpu().float()
        for name, tensor in unet.state_dict().items()
        if ".processor." not in name and not name.startswith("encoder_hid_proj")
    }
    fresh.load_state_dict({**state, "conv_in.weight": weight})
    return fresh
