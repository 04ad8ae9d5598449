"""The effect network: what light a pasted subject takes from a scene, in one forward pass at 128 pixels.

It is shown the scene without and with the subject, the mask, where each pixel lies from the subject's foot, and what
the mask alone suggests: a contact shadow, shadows cast to both sides, a mirror image. It starts as that contact shadow
and learns to refine it. Its output is a layer: log shade (at most 0), light (at least 0), both gated by an effect mask,
so that "nothing" is exactly nothing. A sun read from the picture, or given, steers the decoder. A last number says
whether the picture tells its light at all, as those of the training do; where not, a contact shadow is drawn.

Shape letters: B pictures, H, W the network's rows and columns (multiples of 16).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.core.errors import expecting
from magic_insert.core.masks import smoothstep
from magic_insert.core.silhouettes import cast, contact, foot_frame, frame_coordinates, sample_at
from magic_insert.models.tensor_file import read_tensors

NetT = TypeVar("NetT", bound=nn.Module)
SIDE = 128
CASTS = tuple(
    (sign * across, along)
    for across, along in ((0.5, -0.12), (0.5, -0.3), (1.0, -0.1), (1.0, -0.3), (1.7, -0.15), (0.6, 0.2))
    for sign in (-1.0, 1.0)
)  # right and down per unit of height; along < 0 falls behind the subject
SUN = 5  # unit direction towards the sun (right, up, towards the camera), softness, share of the sun in the light
BROAD, TIGHT = 0.33, 0.34  # darkening by the squashed silhouette and by its lowest tenth
NO_LIGHT = 0.4  # below this a light is next to nothing: where the network starts
UNSURE, SURE = 0.08, 0.25  # horizontal length of a sun that was read as nowhere and as somewhere
# A mean of two readings is short: how much longer it is made, and how long at most.
LONGER, LEVEL = 1.2, 0.98
DOUBTED, TRUSTED = 0.6, 0.88  # chance that a picture tells its light, followed not at all and wholly
FAINT = 0.05  # a brighter ground than by this is an effect; less is a guess
STRONGER = 1.2  # of the contact shadow that stands in
EDGE = (0.35, 0.65)  # chance of an effect between which a shadow begins
LEFT, DRAWN = 0.45, 1.2  # what is drawn of the predicted darkening on either side of that edge
MOST_SHADE = 0.95  # the most that a shadow darkens
FOLLOWED = 4.0  # log odds that a picture tells its light, as long as nothing else was learned
SHARP = 20.0  # of the softplus that keeps shade and light on their side of nothing
GATE_MARGIN = 0.1  # a gate within this of 0 or 1 is exactly 0 or 1


@dataclass(frozen=True)
class EffectNetConfig:
    """widths: channels at 1/2, 1/4, 1/8 and 1/16 of the picture's side; blocks: residual blocks a level and way."""

    widths: tuple[int, ...] = (48, 72, 96, 136)
    blocks: int = 2
    fine: int = 16


@dataclass(frozen=True)
class Effect:
    """What the network says of one batch; the layer is `scene * exp(log_shade) + light`.

    `tells`: log odds that the picture tells where its light comes from.
    """

    log_shade: Float[Tensor, "B 3 H W"]
    light: Float[Tensor, "B 3 H W"]
    gate_logit: Float[Tensor, "B 1 H W"]
    sun: Float[Tensor, "B 5"]
    tells: Float[Tensor, " B"]

    @property
    def gate(self) -> Float[Tensor, "B 1 H W"]:
        """How sure the network is that something happens, in [0, 1]."""
        return open_gate(self.gate_logit)

    @property
    def told(self) -> Float[Tensor, " B"]:
        """How far what the network says of the light is followed, in [0, 1]."""
        return smoothstep(torch.sigmoid(self.tells), DOUBTED, TRUSTED)

    @property
    def mirrored(self) -> "Effect":
        """The effect in the mirror image of the picture."""
        log_shade, light, gate = (x.flip(-1) for x in (self.log_shade, self.light, self.gate_logit))
        return Effect(log_shade, light, gate, on_the_other_side(self.sun), self.tells)


def on_the_other_side(sun: Float[Tensor, "B 5"]) -> Float[Tensor, "B 5"]:
    """The sun of the mirror image."""
    return sun * sun.new_tensor([-1.0, 1.0, 1.0, 1.0, 1.0])


def contact_shade(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The factor in (0, 1] by which a plain contact shadow darkens the ground."""
    frame = foot_frame(mask)
    return _darkened(*contact(mask, frame, frame_coordinates(frame, *mask.shape[-2:])))


def _darkened(broad: Tensor, tight: Tensor) -> Tensor:
    return (1.0 - BROAD * broad) * (1.0 - TIGHT * tight)


def open_gate(logit: Tensor) -> Tensor:
    """A sigmoid that reaches exactly 0 and 1."""
    return (torch.sigmoid(logit) * (1.0 + 2.0 * GATE_MARGIN) - GATE_MARGIN).clamp(0.0, 1.0)


def suggestions(
    scene: Float[Tensor, "B 3 H W"], pasted: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B 1 H W"]]:
    """Everything the network is shown, and the log shade of the plain contact shadow."""
    frame = foot_frame(mask)
    points = frame_coordinates(frame, *mask.shape[-2:])
    broad, tight = contact(mask, frame, points)
    casts = [cast(mask, frame, points, across, along) for across, along in CASTS]
    upside_down = torch.stack([points[:, 0], -points[:, 1]], 1)
    mirror = sample_at(torch.cat([pasted * mask, mask], 1), frame, upside_down)
    mirror = mirror * (points[:, 1:2] > 0).to(mask.dtype)
    shown = [2 * scene - 1, 2 * pasted - 1, mask, points.clamp(-2, 2), broad, tight, *casts, mirror]
    start = torch.log(_darkened(broad, tight))
    return torch.cat(shown, 1), start


SHOWN = 3 + 3 + 1 + 2 + 2 + len(CASTS) + 4


class Block(nn.Module):
    """Two convolutions beside an identity; the second starts at zero, the first is steered by the sun."""

    def __init__(self, width: int, steered: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)
        self.steer = nn.Linear(64, 2 * width) if steered else None
        for layer in (self.second, self.steer):
            if layer is not None:
                nn.init.constant_(layer.weight, 0.0)
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor, sun: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.first(x))
        if self.steer is not None and sun is not None:
            scale, shift = self.steer(sun)[:, :, None, None].chunk(2, 1)
            hidden = hidden * (1 + scale) + shift
        return x + self.second(functional.silu(hidden))


class Level(nn.Module):
    """Blocks of one width in a row."""

    def __init__(self, width: int, blocks: int, steered: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, steered) for _ in range(blocks))

    def forward(self, x: Tensor, sun: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, sun)
        return x


class LightUNet(nn.Module):
    """A U-Net whose decoder is steered by the sun; `down` and `up` lie between its levels.

    A subclass makes its way down and its way up in this order, because first weights depend on it.
    """

    def make_way_down(self, shown: int, widths: Sequence[int], blocks: int, steered: bool) -> None:
        """From `shown` channels at twice the first level's side to the lowest level."""
        self.stem = nn.Conv2d(4 * shown, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(Level(w, blocks, steered) for w in widths)

    def make_way_up(self, widths: Sequence[int], blocks: int) -> None:
        """The embedding of the sun, the middle, and the way back to the first level."""
        self.sun = nn.Sequential(nn.Linear(SUN, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.middle = Level(widths[-1], blocks, True)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(Level(w, blocks, True) for w in widths[:-1])

    def encode(self, x: Tensor, sun: Tensor | None = None) -> list[Tensor]:
        """What each level makes of the one above, the first of `x`."""
        kept: list[Tensor] = []
        for level, encode in enumerate(self.encoder):
            kept.append(encode(x if level == 0 else self.down[level - 1](kept[-1]), sun))
        return kept

    def decode(self, x: Tensor, kept: list[Tensor], sun: Tensor) -> Tensor:
        """From the lowest level's `x` up to the first, each with what was kept on the way down."""
        for level in reversed(range(len(self.decoder))):
            x = functional.interpolate(self.up[level](x), scale_factor=2.0) + kept[level]
            x = self.decoder[level](x, sun)
        return x


@dataclass(frozen=True)
class Seen:
    """What the network sees before it draws: what it is shown, what each level makes of it, and what it reads there."""

    shown: Float[Tensor, "B C H W"]
    start: Float[Tensor, "B 1 H W"]
    kept: list[Tensor]
    sun: Float[Tensor, "B 5"]

    @property
    def summary(self) -> Float[Tensor, "B F"]:
        """Mean and spread of every channel of every level."""
        levels = [level.float() for level in self.kept]
        return torch.cat([x.mean((2, 3)) for x in levels] + [x.std((2, 3)) for x in levels], 1)


class EffectNet(LightUNet):
    """A U-Net from 1/2 to 1/16 of the picture's side, and a thin last layer at its full side."""

    def __init__(self, config: EffectNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EffectNetConfig()
        widths, blocks = config.widths, config.blocks
        self.make_way_down(SHOWN, widths, blocks, steered=False)
        self.read_sun = nn.Sequential(nn.Linear(2 * widths[-1], 128), nn.SiLU(), nn.Linear(128, SUN))
        self.make_way_up(widths, blocks)
        self.open = nn.Conv2d(widths[0], 4 * config.fine, 1)
        self.fine = nn.Conv2d(config.fine + SHOWN, 2 * config.fine, 3, padding=1)
        self.last = nn.Conv2d(2 * config.fine, 7, 3, padding=1)
        self.tells = nn.Linear(2 * sum(widths), 1)
        for layer in (self.last, self.tells):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        nn.init.constant_(self.tells.bias, FOLLOWED)

    def forward(
        self,
        scene: Float[Tensor, "B 3 H W"],
        pasted: Float[Tensor, "B 3 H W"],
        mask: Float[Tensor, "B 1 H W"],
        sun: Float[Tensor, "B 5"] | None = None,
        given: Float[Tensor, " B"] | None = None,
    ) -> Effect:
        """The effect; rows with `given` = 1 are steered by `sun`, the others by the sun the network reads."""
        seen = self.look(scene, pasted, mask)
        if sun is None or given is None:
            return self.draw(seen, seen.sun)
        return self.draw(seen, torch.where(given[:, None] > 0, sun, seen.sun))

    def look(
        self,
        scene: Float[Tensor, "B 3 H W"],
        pasted: Float[Tensor, "B 3 H W"],
        mask: Float[Tensor, "B 1 H W"],
    ) -> Seen:
        """What the network sees, with the sun that it reads."""
        with torch.autocast(scene.device.type, enabled=False):
            shown, start = suggestions(scene, pasted, mask)
        kept = self.encode(self.stem(functional.pixel_unshuffle(shown, 2)))
        lowest = kept[-1]
        return Seen(
            shown, start, kept, self.read_sun(torch.cat([lowest.mean((2, 3)), lowest.amax((2, 3))], 1))
        )

    def draw(self, seen: Seen, sun: Float[Tensor, "B 5"]) -> Effect:
        """The effect under `sun`; its own `sun` is the one that was read."""
        steer = self.sun(sun)
        x = self.decode(self.middle(seen.kept[-1], steer), seen.kept, steer)
        fine = torch.cat([functional.pixel_shuffle(self.open(x), 2), seen.shown], 1)
        last, start = self.last(functional.silu(self.fine(fine))).float(), seen.start.float()
        dark = functional.softplus(last[:, :3] - start, beta=SHARP)
        logit = last[:, 6:] + 40.0 * (-start - 0.08)
        gate = open_gate(logit)
        light = functional.softplus(last[:, 3:6] - NO_LIGHT, beta=SHARP)
        with torch.autocast(sun.device.type, enabled=False):
            tells = self.tells(seen.summary)[:, 0]
        return Effect(-dark * gate, light * gate, logit, seen.sun.float(), tells)


def load_effect_net(path: Path) -> EffectNet:
    """The network in a weights file, in float32, ready for use.

    Raises:
        UserError: the file is missing, broken, or not an effect network's.
    """

    def build(about: Mapping[str, str], widths: tuple[int, ...]) -> EffectNet:
        return EffectNet(EffectNetConfig(widths, int(about["blocks"]), int(about["fine"])))

    return load_light_net(path, "an effect network", build)


def load_light_net(
    path: Path, what: str, build: Callable[[Mapping[str, str], tuple[int, ...]], NetT]
) -> NetT:
    """The network that `build` makes of the metadata of a weights file and the widths there, with its weights.

    Raises:
        UserError: the file is missing, broken, or not `what`'s.
    """
    with expecting(f"the weights of {what} at {path}", KeyError, ValueError, RuntimeError):
        tensors, about = read_tensors(path)
        net = build(about, tuple(int(width) for width in about["widths"].split(",")))
        # Older files do not say whether a picture tells its light; all that such a network draws is followed.
        unsaid = {name: value for name, value in net.state_dict().items() if name.startswith("tells.")}
        net.load_state_dict(unsaid | {name: value.float() for name, value in tensors.items()})
    return net.eval().requires_grad_(False)


def likely(effect: Effect) -> Float[Tensor, "B 1 H W"]:
    """What of a darkening or a light is left, weighed by the chance that something happens there.

    Training counts cells with an effect more than once, which draws too much where one is unlikely; the gate is plain.
    """
    return 0.5 + 0.5 * torch.sigmoid(effect.gate_logit)


def sure_light(effect: Effect) -> Float[Tensor, "B 3 H W"]:
    """The light that is no guess: what is brighter by more than FAINT."""
    return (likely(effect) * effect.light - FAINT).clamp_min(0.0)


def hedged(effect: Effect, mask: Float[Tensor, "B 1 H W"]) -> Effect:
    """The effect, and a contact shadow in its place where the network could not tell where the light comes from.

    A sun that was read as the mean of many is short in the horizontal plane. A shadow cast to the wrong side costs more
    than one that only lies under the feet, and so does ground that is brightened a little without a cause.
    """
    flat = effect.sun[:, [0, 2]].norm(dim=1).view(-1, 1, 1, 1)
    sure = smoothstep(flat, UNSURE, SURE)
    under = STRONGER * torch.log(contact_shade(mask))
    drawn = torch.log1p(-likely(effect) * -torch.expm1(effect.log_shade))
    hedge = torch.minimum(0.5 * drawn, under)
    return replace(
        effect,
        log_shade=sure * drawn + (1.0 - sure) * hedge,
        light=sure * sure_light(effect),
    )


def predict(
    net: EffectNet,
    scene: Float[Tensor, "B 3 H W"],
    pasted: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
) -> Effect:
    """The effect as it is used: hedged, and the mean over each picture and its mirror image under one sun.

    That sun is the mean of both readings, LONGER times as long across the ground.
    """
    there = mask.flip(-1)
    ahead, back = net.look(scene, pasted, mask), net.look(scene.flip(-1), pasted.flip(-1), there)
    read = 0.5 * (ahead.sun + on_the_other_side(back.sun))
    flat = read[:, [0, 2]].norm(dim=1, keepdim=True)
    stretch = LONGER * (LEVEL / (LONGER * flat).clamp_min(LEVEL))
    sun = read * torch.cat([stretch, torch.ones_like(flat), stretch, torch.ones_like(read[:, 3:])], 1)
    one = hedged(replace(net.draw(ahead, sun), sun=read), mask)
    other = replace(net.draw(back, on_the_other_side(sun)), sun=on_the_other_side(read))
    other = hedged(other, there).mirrored
    return Effect(
        0.5 * (one.log_shade + other.log_shade),
        0.5 * (one.light + other.light),
        0.5 * (one.gate_logit + other.gate_logit),
        read,
        0.5 * (one.tells + other.tells),
    )


def crisp(effect: Effect, mask: Float[Tensor, "B 1 H W"]) -> Effect:
    """The effect as it is drawn: more of it where one is likely, less where it is not; at most MOST_SHADE.

    What a network predicts that was trained on errors is the mean of all shadows that may be there, a haze. With an
    edge it is nearer to the truth, around the effect and in it (experiments/LOG.md). Where the picture does not tell
    its light, as most that are unlike those of the training, a contact shadow is drawn in its place.
    """
    inside = smoothstep(torch.sigmoid(effect.gate_logit), *EDGE)
    dark = -torch.expm1(effect.log_shade) * (LEFT + (DRAWN - LEFT) * inside)
    told, under = effect.told.view(-1, 1, 1, 1), STRONGER * torch.log(contact_shade(mask))
    log_shade = told * torch.log1p(-dark.clamp_max(MOST_SHADE)) + (1.0 - told) * under
    return replace(effect, log_shade=log_shade, light=told * effect.light)


def sun_from(read: Float[Tensor, "B 5"], azimuth: float) -> Float[Tensor, "B 5"]:
    """The sun that was read, turned to `azimuth` in radians: 0 behind the camera, pi / 2 on the right."""
    up = read[:, 1].clamp(0.35, 0.9)
    flat = (1.0 - up.square()).sqrt()
    share = read[:, 4].clamp_min(0.5)
    turned = [flat * math.sin(azimuth), up, flat * math.cos(azimuth), read[:, 3].clamp(0.0, 1.0), share]
    return torch.stack(turned, 1)
