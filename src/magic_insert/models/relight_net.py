"""The relighting network: the shade that a scene's light leaves on the subject that is put into it, in one pass.

A subject is lit by its own picture, most often from the front; the scene has another sun. The network is shown the
scene, the paste and what the effect network (`models.effect_net`) has found about the light there: the shadow that the
subject casts, and the sun, which also steers every block. Its output is one factor, at most 1, at half of the effect
network's side: shading, not detail. What would make a subject brighter than its own picture is learned and left out in
use: measured, it washed colours out (experiments/LOG.md).

Shape letters: B pictures, H, W the effect network's rows and columns, h, w half of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.masks import blur_inside
from magic_insert.core.silhouettes import foot_frame, frame_coordinates
from magic_insert.models.effect_net import SUN, Effect, LightUNet, load_light_net

SHOWN = 3 + 3 + 1 + 2 + 3 + 3 + 1  # scene, subject, mask, place, log shade, light, gate


@dataclass(frozen=True)
class RelightNetConfig:
    """widths: channels at 1/4, 1/8 and 1/16 of the effect network's side; blocks: residual ones a level and way."""

    widths: tuple[int, ...] = (32, 48, 72)
    blocks: int = 2


class RelightNet(LightUNet):
    """A U-Net, all of whose blocks are steered by the sun; untrained it leaves the subject as it is.

    Its last layer is linear in the sun, as the light on a matte surface is: one map for each of its numbers and one
    for what does not depend on it. Without this the sun hardly counted after as long a training.
    """

    def __init__(self, config: RelightNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RelightNetConfig()
        widths, blocks = config.widths, config.blocks
        self.make_way_down(SHOWN, widths, blocks, steered=True)
        self.make_way_up(widths, blocks)
        self.last = nn.Conv2d(widths[0], 4 * (1 + SUN), 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, 0.0)  # type: ignore[arg-type]

    def forward(
        self,
        scene: Float[Tensor, "B 3 H W"],
        pasted: Float[Tensor, "B 3 H W"],
        mask: Float[Tensor, "B 1 H W"],
        effect: Effect,
    ) -> Float[Tensor, "B 1 h w"]:
        """The log gain, a shade where it is below 0; it means something under the mask alone."""
        subject = pasted - (1.0 - mask) * scene
        place = frame_coordinates(foot_frame(mask), *mask.shape[-2:]).clamp(-2.0, 2.0)
        gate = torch.sigmoid(effect.gate_logit)
        shown = [2 * scene - 1, 2 * subject - 1, mask, place, effect.log_shade, effect.light, gate]
        small = functional.avg_pool2d(torch.cat(shown, 1), 2)
        steer = self.sun(effect.sun)
        kept = self.encode(self.stem(functional.pixel_unshuffle(small, 2)), steer)
        x = self.decode(self.middle(kept[-1], steer), kept, steer)
        maps = functional.pixel_shuffle(self.last(x), 2).float()
        share = effect.sun[:, 4:]
        numbers = torch.cat([effect.sun[:, :3] * share, effect.sun[:, 3:]], 1)[:, :, None, None]
        return maps[:, :1] + (maps[:, 1:] * numbers).sum(1, keepdim=True)


def predict_shade(
    net: RelightNet,
    scene: Float[Tensor, "B 3 H W"],
    pasted: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    effect: Effect,
) -> Float[Tensor, "B 1 h w"]:
    """The shade as it is used, a factor in [0, 1]: the mean over each picture and its mirror image, continued beyond
    the subject."""
    ahead = net(scene, pasted, mask, effect)
    back = net(scene.flip(-1), pasted.flip(-1), mask.flip(-1), effect.mirrored).flip(-1)
    inside = functional.interpolate(mask, ahead.shape[-2:], mode="area")
    rows = zip(torch.exp((0.5 * (ahead + back)).clamp_max(0.0)), inside, strict=True)
    return torch.stack([blur_inside(shade - 1.0, cover, 1.0) + 1.0 for shade, cover in rows])


def load_relight_net(path: Path) -> RelightNet:
    """The network in a weights file, in float32, ready for use.

    Raises:
        UserError: the file is missing, broken, or not a relighting network's.
    """

    def build(about: Mapping[str, str], widths: tuple[int, ...]) -> RelightNet:
        return RelightNet(RelightNetConfig(widths, int(about["blocks"])))

    return load_light_net(path, "a relighting network", build)
