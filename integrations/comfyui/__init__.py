"""A ComfyUI custom node: a subject into a scene. Copy this folder into `custom_nodes/`; magic-insert must be installed.

ComfyUI's pictures are `1 H W 3` in [0, 1], its masks `1 H W`. Models stay loaded between runs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from magic_insert import MagicInsert

AS_PLACED = 0  # width and height of 0 take the placement prior


class MagicInsertNode:
    """Cuts the subject out, gives it the scene's style, and places it with its shadow."""

    CATEGORY = "image/magic insert"
    FUNCTION = "insert"
    RETURN_TYPES = ("IMAGE", "MASK", "IMAGE", "IMAGE", "IMAGE")
    RETURN_NAMES = ("picture", "mask", "subject", "shade", "light")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What ComfyUI asks for."""
        side = {"default": AS_PLACED, "min": 0, "max": 16384}
        return {
            "required": {
                "subject": ("IMAGE",),
                "scene": ("IMAGE",),
                "x": ("INT", side),
                "y": ("INT", side),
                "width": ("INT", side),
                "height": ("INT", side),
                "mode": (["preview", "full"],),
                "model": ("STRING", {"default": "micro"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
            },
            # 1 where the subject is; the mask of LoadImage is the other way round (InvertMask).
            "optional": {"subject_mask": ("MASK",)},
        }

    @torch.inference_mode(False)  # in which ComfyUI runs its nodes; a subject is learned with gradients
    def insert(
        self,
        subject: Tensor,
        scene: Tensor,
        x: int,
        y: int,
        width: int,
        height: int,
        mode: str,
        model: str,
        seed: int,
        subject_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The picture, where the subject covers it, and the layers: picture = (scene * shade + light) below subject."""
        cutout = planes(subject)
        if subject_mask is not None:
            cutout = torch.cat([cutout, alpha(subject_mask, cutout.shape[-2:])])
        box = None if width == height == AS_PLACED else (x, y, width, height)
        drop = loaded(model, mode).insert(cutout, planes(scene), box, seed=seed)
        rgb = drop.scene.rgb
        layers = {
            "subject": torch.zeros_like(rgb),
            "shade": torch.ones_like(rgb),
            "light": torch.zeros_like(rgb),
        }
        for name, layer in drop.layers.items():
            h, w = layer.pixels.shape[-2:]
            layers[name][:, layer.y : layer.y + h, layer.x : layer.x + w] = layer.pixels[:3]
        pictures = [rgb, *layers.values()]
        picture, *rest = [image.permute(1, 2, 0)[None] for image in pictures]
        return picture, drop.plane(drop.layers["subject"]), *rest


@cache
def loaded(model: str, mode: str) -> MagicInsert:
    """The model, once."""
    return MagicInsert.from_pretrained(model, mode=mode)


def planes(image: Tensor) -> Tensor:
    """The first of ComfyUI's pictures as 3 H W."""
    return image[0, ..., :3].permute(2, 0, 1).float().clamp(0, 1).contiguous()


def alpha(mask: Tensor, size: torch.Size) -> Tensor:
    """The first of ComfyUI's masks as 1 H W; that of LoadImage for a file without alpha is empty, of 64 x 64."""
    first = mask.reshape(-1, 1, *mask.shape[-2:])[:1].float().clamp(0, 1)
    return interpolate(first, tuple(size), mode="bilinear")[0]


NODE_CLASS_MAPPINGS = {"MagicInsert": MagicInsertNode}
NODE_DISPLAY_NAME_MAPPINGS = {"MagicInsert": "Magic Insert"}
