"""Structure from a picture's outlines: a Canny ControlNet beside the UNet (Zhang et al. 2023, section 3).

The network is a stock `ControlNetModel` in the folder `controlnet` of a model, or on the hub. At strength 0, or
without a structure, it is not asked at all: that is exactly the model without it.

Shape letters: B pictures, S side of the model's square. Edges are float32, 0 or 1, white on black.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from jaxtyping import Float
from torch import Tensor

from magic_insert.core.errors import UserError
from magic_insert.models.hub import UNREACHABLE, Place
from magic_insert.models.pipeline import quiet
from magic_insert.models.tensor_file import DAMAGED, verify_folder

CANNY = (50, 200)  # thresholds of InstantStyle's own script, in grey levels of 8 bits
PLAIN, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
SCALE = 0.6  # conditioning strength of InstantStyle's own script


def canny_edges(picture: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """The outlines of a picture in [0, 1], the same in three channels, as Canny ControlNets read them."""
    levels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    edges = cv2.Canny(np.ascontiguousarray(levels), *CANNY) > 0
    return torch.from_numpy(edges).float().expand(3, -1, -1).contiguous()


@dataclass(frozen=True)
class Structure:
    """Edges for every row of a batch (or one for all), the network that reads them, and how strongly each row obeys."""

    network: Any
    edges: Float[Tensor, "B 3 S S"]
    scale: float | Sequence[float] = SCALE

    def expand(self, count: int) -> "Structure":
        """The one structure repeated for `count` pictures; `count` structures are returned as they are."""
        edges = self.edges.expand(count, -1, -1, -1) if len(self.edges) == 1 else self.edges
        scales = [self.scale] * count if isinstance(self.scale, int | float) else list(self.scale)
        assert len(edges) == len(scales) == count
        return Structure(self.network, edges, scales)

    def residuals(
        self, inputs: Float[Tensor, "B C h w"], time: Tensor, text: Tensor, added: dict[str, Any]
    ) -> dict[str, Any]:
        """What the UNet's skip connections and middle block receive, as keyword arguments of its call.

        A batch that is twice as long as the edges holds both halves of classifier-free guidance.
        """
        halves = len(inputs) // len(self.edges)
        scale = torch.as_tensor(self.scale, dtype=inputs.dtype, device=inputs.device).repeat(halves)
        if not scale.any():
            return {}
        down, middle = self.network(
            inputs,
            time,
            encoder_hidden_states=text,
            controlnet_cond=self.edges.to(inputs.device, inputs.dtype).repeat(halves, 1, 1, 1),
            added_cond_kwargs={key: added[key] for key in ("text_embeds", "time_ids")},
            return_dict=False,
        )
        rows = scale.view(-1, 1, 1, 1)
        return {
            "down_block_additional_residuals": [rows * residual for residual in down],
            "mid_block_additional_residual": rows * middle,
        }


def controlnet_of(pipe: Any) -> Any:
    """The Canny ControlNet that belongs to `pipe`, frozen; loaded on the first call and kept beside it.

    `load_pipeline` says where it lies (`pipe.controlnet_source`).

    Raises:
        UserError: the model has none, or it does not fit the model's UNet.
    """
    kept = getattr(pipe, "loaded_controlnet", None)
    if kept is not None:
        return kept
    source: Place | None = getattr(pipe, "controlnet_source", None)
    if source is None:
        raise UserError(
            "expected a model with a Canny ControlNet for structure=canny, got none; "
            "set stylizer.structure=none or model.controlnet=FOLDER"
        )
    network = _load(source, pipe.unet.dtype)
    ours, theirs = network.config, pipe.unet.config
    for key in ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim"):
        if _plain(ours[key]) != _plain(theirs[key]):
            raise UserError(
                f"expected a ControlNet with {key}={theirs[key]} as the model's UNet, got {ours[key]} in "
                f"{source.name}; set model.controlnet=FOLDER"
            )
    pipe.loaded_controlnet = network.to(pipe.device).requires_grad_(False).eval()
    return pipe.loaded_controlnet


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _load(source: Place, dtype: torch.dtype) -> Any:
    if source.folder is not None:
        verify_folder(source.folder)
    try:
        # From the hub half the download where half the precision is wanted; in a folder what is there.
        plain = dtype is torch.float32 if source.folder is None else source.file(PLAIN) is not None
        half = not plain and source.file(HALF) is not None
        with quiet():
            return ControlNetModel.from_pretrained(
                source.name, torch_dtype=dtype, variant="fp16" if half else None, **source.options
            )
    except (*DAMAGED, *UNREACHABLE) as error:
        raise source.refusal(error, "a ControlNet", "model.controlnet") from error
