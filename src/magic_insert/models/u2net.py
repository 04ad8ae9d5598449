"""U2-Net in its small form (Qin et al. 2020, "U2-Net: Going deeper with nested U-structure"): what stands out.

Each stage is itself a small U, a residual U-block (RSU); six sides are fused into one map. The published weights
(xuebinqin/U-2-Net, Apache-2.0) come with batch norms folded into the convolutions; modules are declared in the order
of their use, in which `tools/convert_u2net` fills them.
Shape letters: B pictures, C channels, H W pixels.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.compositing import area_resize
from magic_insert.core.errors import expecting
from magic_insert.models.tensor_file import read_tensors
from magic_insert.paths import cut_weights

SIDE = 320  # of the square that it was trained on
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAINTEST = 0.1  # probability below which nothing in a picture stands out
MID, OUT = 16, 64  # channels inside a block and between blocks


class Layer(nn.Conv2d):
    """A convolution of 3 x 3 and a ReLU."""

    def __init__(self, channels: int, out: int, dilation: int = 1) -> None:
        super().__init__(channels, out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return functional.relu(super().forward(x))


class Block(nn.Module):
    """An RSU of `depth` layers down and up; `flat` dilates instead of halving, where little is left to halve."""

    def __init__(self, channels: int, depth: int, *, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        dilations = [2**i if flat else 1 for i in range(depth - 1)]
        self.enter = Layer(channels, OUT)
        self.down = nn.ModuleList(Layer(MID if i else OUT, MID, d) for i, d in enumerate(dilations))
        self.deepest = Layer(MID, MID, 2 ** (depth - 1) if flat else 2)
        self.up = nn.ModuleList(
            Layer(2 * MID, MID if d else OUT, dilations[d]) for d in reversed(range(depth - 1))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        entered = x = self.enter(x)
        sides = []
        for number, layer in enumerate(self.down):
            x = layer(x if number == 0 or self.flat else halved(x))
            sides.append(x)
        x = self.deepest(x)
        for layer in self.up:
            side = sides.pop()
            x = layer(torch.cat([like(x, side), side], dim=1))
        return x + entered


class U2NetP(nn.Module):
    """The fused map of all sides, a probability for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        depths = [(7, False), (6, False), (5, False), (4, False), (4, True), (4, True)]
        self.encode = nn.ModuleList(Block(OUT if i else 3, d, flat=f) for i, (d, f) in enumerate(depths))
        self.decode = nn.ModuleList(Block(2 * OUT, d, flat=f) for d, f in reversed(depths[:-1]))
        self.sides = nn.ModuleList(nn.Conv2d(OUT, 1, 3, padding=1) for _ in depths)
        self.fuse = nn.Conv2d(len(depths), 1, 1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        size, kept = x, []
        for number, block in enumerate(self.encode):
            x = block(x if number == 0 else halved(x))
            kept.append(x)
        found = [kept.pop()]
        for block in self.decode:
            side = kept.pop()
            found.insert(0, block(torch.cat([like(found[0], side), side], dim=1)))
        maps = [like(layer(x), size) for layer, x in zip(self.sides, found, strict=True)]
        return torch.sigmoid(self.fuse(torch.cat(maps, dim=1)))


def halved(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """The largest of each 2 x 2 pixels; an odd side is rounded up."""
    return functional.max_pool2d(x, 2, stride=2, ceil_mode=True)


def like(x: Float[Tensor, "B C h w"], other: Float[Tensor, "B D H W"]) -> Float[Tensor, "B C H W"]:
    """`x` at the size of `other`."""
    return functional.interpolate(x, other.shape[-2:], mode="bilinear", align_corners=False)


@cache
def load_u2net() -> U2NetP:
    """The network with the weights that ship with the package.

    Raises:
        UserError: they are missing, damaged or another network's.
    """
    net, path = U2NetP(), cut_weights()
    with expecting(f"the weights of U2-Net at {path}", RuntimeError):
        net.load_state_dict({name: value.float() for name, value in read_tensors(path).tensors.items()})
    return net.requires_grad_(False).eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def salient(rgb: Float[Tensor, "3 h w"], net: U2NetP) -> Float[Tensor, "1 S S"]:
    """How likely each part of the picture is its subject, stretched from 0 to 1, at SIDE x SIDE; 0 where nothing is."""
    small = area_resize(rgb, SIDE, SIDE)
    small = small / small.max().clamp_min(1e-6)
    mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
    found = net(((small - mean) / spread)[None])[0]
    low, high = found.min(), found.max()
    return (found - low) / (high - low) if high > FAINTEST else torch.zeros_like(found)
