"""The micro model's Canny ControlNet: a stock `ControlNetModel`, small enough to ship beside the UNet it steers."""

from typing import Any

from diffusers import ControlNetModel, UNet2DConditionModel

# The edges' own encoder, one stage per halving of the picture (f8): a third of the usual widths.
EDGE_CHANNELS = (16, 24, 48, 64)
# The UNet hears the text in its lower stages. Here no stage does: outlines need no words, and attention would be a
# third of the file.
BLOCKS = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D"}


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that starts as the encoder half of `unet` and, by its zero convolutions, changes nothing yet.

    Args:
        unet: a micro UNet, with or without an adapter loaded.
    """
    config: dict[str, Any] = dict(
        ControlNetModel.from_unet(
            UNet2DConditionModel.from_config({**unet.config, "encoder_hid_dim_type": None}),
            conditioning_embedding_out_channels=EDGE_CHANNELS,
            load_weights_from_unet=False,
        ).config
    )
    network: ControlNetModel = ControlNetModel.from_config({**config, **BLOCKS})
    own = network.state_dict()
    shared = {key: value for key, value in unet.state_dict().items() if key in own}
    network.load_state_dict({**own, **shared})
    # Two layers of zeros in a row learn nothing until the outer one has moved. The outer ones alone keep the start
    # silent, so the edges may enter at once.
    network.controlnet_cond_embedding.conv_out.reset_parameters()
    return network
