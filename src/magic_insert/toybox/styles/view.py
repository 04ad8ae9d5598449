"""One motif on an easel: a single G-buffer row with what every hand needs (light, shadow, paper, filters).

Shape letters: H rows, W columns; every map is 1 C H W in [0, 1] unless said otherwise. Lengths are in units:
one unit is 1/128 of the picture's height, so a drawing has the same proportions at every size. All operations
look at a bounded neighbourhood only: a pixel far from a change is bit-equal before and after it.

Colour looks change a finished drawing's colours as a whole, so that an adapter learns palettes that no drawing style
has: the same look over a picture and over its style reference is a further style, known exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from magic_insert.core import masks
from magic_insert.core.compositing import luminance
from magic_insert.core.rand import generator
from magic_insert.toybox.records import FIRST_PROP_ID, GROUND_ID, SKY_ID, GBuffer, Vec3

UNITS = 128.0  # units per picture height
PAPER_WHITE = 0.95  # a sky this white in every channel is the blank paper of a studio picture


@dataclass(frozen=True)
class Style:
    """A drawing style: its function, the words for it ("as a woodcut print"), and whether training never sees it."""

    draw: Callable[["View"], Tensor]
    phrase: str
    held_out: bool

    def __call__(self, v: "View") -> Tensor:
        return self.draw(v)


def style(phrase: str, *, held_out: bool = False) -> Callable[[Callable[["View"], Tensor]], Style]:
    """Makes a function of a `View` that returns a picture 1 3 H W in [0, 1] a style, described by `phrase`."""
    return lambda draw: Style(draw, phrase, held_out)


@dataclass(frozen=True)
class View:
    """A one-image G-buffer and the light read off it."""

    g: GBuffer  # batch of one
    style: str
    c: float  # complexity in [0, 1]
    seed: int
    sky: Tensor  # 1 1 H W, 1 in the sky
    paper: Tensor  # 1 1 H W, 1 where the sky is blank studio paper
    ground: Tensor  # 1 1 H W, 1 on the ground
    things: Tensor  # 1 1 H W, 1 on props and subject
    lit: Tensor  # 1 3 H W >= 0, physically lit colour without reflections; the sky as painted
    shade: Tensor  # 1 1 H W, soft tone of the light alone; 1 in the sky
    light: Tensor  # 1 1 H W, hard-edged: 1 where the sun falls (and in the sky), 0 in form or cast shadow
    cast: Tensor  # 1 1 H W, soft cast shadow on surfaces that face the sun
    hard_cast: Tensor  # 1 1 H W, the same with a hard edge
    wet: Tensor  # 1 1 H W, mirror strength a hand draws: in full on ground and walls, little on things
    x: Tensor  # 1 1 1 W, units from the left edge
    y: Tensor  # 1 1 H 1, units from the top edge

    @property
    def height(self) -> int:
        return self.sky.shape[-2]

    @property
    def width(self) -> int:
        return self.sky.shape[-1]

    @property
    def scale(self) -> float:
        """Pixels per unit."""
        return self.height / UNITS

    def colour(self, rgb: Vec3) -> Tensor:
        """A constant colour, 1 3 1 1, on the picture's device."""
        return torch.tensor(rgb, device=self.sky.device).view(1, 3, 1, 1)

    def blur(self, image: Tensor, sigma: float) -> Tensor:
        """Gaussian blur, `sigma` in units; wide ones work on a reduced picture, as a glow needs no detail."""
        sigma_px = sigma * self.scale
        if sigma_px <= 3.0:
            return gaussian(image, sigma_px)
        step = 2 ** math.ceil(math.log2(sigma_px / 3.0))
        size = (math.ceil(self.height / step), math.ceil(self.width / step))
        small = gaussian(F.interpolate(image, size, mode="area"), sigma_px / step)
        return F.interpolate(small, (self.height, self.width), mode="bilinear", align_corners=False)

    def noise(self, name: str, period: float, period_x: float | None = None) -> Tensor:
        """Smooth noise in [-1, 1] with features of about `period` units; fixed by seed, style and name."""
        periods = (period, period if period_x is None else period_x)
        extent = (UNITS, UNITS * self.width / self.height)
        cells = [max(2, math.ceil(e / p)) for e, p in zip(extent, periods, strict=True)]
        rng = generator(self.seed, "style", self.style, name)
        grid = torch.rand(cells, generator=rng).to(self.sky.device) * 2.0 - 1.0
        smooth = min(periods) >= 2.0
        up = spline(self.height, cells[0], smooth).to(grid)
        across = spline(self.width, cells[1], smooth).to(grid)
        # A cubic spline averages its knots; the gain gives the noise its range back.
        return (up @ grid @ across.T * (1.5 if smooth else 1.0)).clamp(-1.0, 1.0)[None, None]

    def warp(self, image: Tensor, name: str, amount: float, period: float = 9.0) -> Tensor:
        """Moves the picture by smooth noise of at most `amount` units: a trembling hand."""
        dx, dy = self.noise(name + "-x", period), self.noise(name + "-y", period)
        u = (self.x + amount * dx) * (2.0 * self.scale / self.width) - 1.0
        v = (self.y + amount * dy) * (2.0 * self.scale / self.height) - 1.0
        grid = torch.stack((u[:, 0], v[:, 0]), dim=-1)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def shift(self, image: Tensor, right: float, down: float) -> Tensor:
        """The picture moved by whole pixels nearest to the given units, edges repeated."""
        dx, dy = round(right * self.scale), round(down * self.scale)
        rows = (torch.arange(self.height, device=image.device) - dy).clamp(0, self.height - 1)
        cols = (torch.arange(self.width, device=image.device) - dx).clamp(0, self.width - 1)
        return image.index_select(-2, rows).index_select(-1, cols)


def view_of(g: GBuffer, style: str, complexity: float, seed: int) -> View:
    """Reads light and shadow off a batch-of-one G-buffer."""
    sky = (g.object_id == SKY_ID).float()
    solid = 1.0 - sky
    facing = ramp(g.sun, 0.06, 0.18)
    things = (g.object_id >= FIRST_PROP_ID).float()
    rgb = (1, 3, 1, 1)
    illumination = g.sky_colour.view(rgb) * g.occlusion + g.sun_colour.view(rgb) * (g.sun * g.visibility)
    shade = (0.22 * g.occlusion + 0.78 * (g.sun * g.visibility * 1.2).clamp(max=1.0)).clamp(0.0, 1.0)
    height, width = sky.shape[-2:]
    unit = UNITS / height
    return View(
        g=g,
        style=style,
        c=complexity,
        seed=seed,
        sky=sky,
        paper=sky * (g.albedo.amin(1, keepdim=True) > PAPER_WHITE).float(),
        ground=(g.object_id == GROUND_ID).float(),
        things=things,
        lit=torch.where(sky > 0, g.albedo, g.albedo * illumination),
        shade=torch.where(sky > 0, 1.0, shade),
        light=torch.where(sky > 0, 1.0, facing * g.hard_visibility),
        cast=solid * facing * (1.0 - g.visibility),
        hard_cast=solid * facing * (1.0 - g.hard_visibility),
        wet=g.gloss * solid * (1.0 - 0.75 * things),
        x=((torch.arange(width, device=sky.device) + 0.5) * unit).view(1, 1, 1, width),
        y=((torch.arange(height, device=sky.device) + 0.5) * unit).view(1, 1, height, 1),
    )


@lru_cache(maxsize=256)
def spline(pixels: int, knots: int, smooth: bool) -> Tensor:
    """Weights, pixels x knots, of a cubic (not `smooth`: linear) B-spline with evenly spread knots."""
    place = (torch.arange(pixels, dtype=torch.float32) + 0.5) * (knots / pixels) - 0.5
    distance = (place[:, None] - torch.arange(knots, dtype=torch.float32)).abs()
    near, far = (1.0 - distance).clamp(min=0.0), (2.0 - distance).clamp(min=0.0)
    weights = (far**3 - 4.0 * near**3) / 6.0 if smooth else near
    return weights / weights.sum(1, keepdim=True)


def gaussian(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur cut at two and a half sigma, edges repeated."""
    reach = max(1, math.ceil(2.5 * sigma_px))
    kernel = masks.gaussian(sigma_px, reach, image)
    # Channels as a batch: a grouped convolution is ten times slower on a CPU.
    planes = image.flatten(0, 1)[:, None]
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return planes.view(image.shape)


ramp = masks.smoothstep


def mix(a: Tensor, b: Tensor, weight: Tensor | float) -> Tensor:
    """`a` where the weight is 0, `b` where it is 1."""
    return a + (b - a) * weight


def value_of(v: View) -> Tensor:
    """The tone a black-and-white hand aims at, 1 1 H W in [0, 1]: paint, light and mirror image together."""
    own = luminance(v.g.albedo).clamp(min=0.0) ** 0.7
    tone = own * (0.18 + 0.82 * v.shade)
    tone = mix(tone, luminance(v.g.mirror).clamp(0.0, 1.0), v.wet * (1.0 - v.sky))
    return torch.where(v.sky > 0, 0.55 + 0.45 * ramp(luminance(v.g.albedo), 0.1, 0.9), tone).clamp(0.0, 1.0)


def saturate(rgb: Tensor, amount: float) -> Tensor:
    """Chroma times `amount` about the luma."""
    grey = luminance(rgb)
    return (grey + (rgb - grey) * amount).clamp(0.0, 1.0)


def posterise(rgb: Tensor, levels: float) -> Tensor:
    """Flattens the value to fixed steps; hue and saturation stay; no palette is read off the picture."""
    value = rgb.amax(1, keepdim=True).clamp(min=1e-3)
    flat = ((value * levels).round() / levels).clamp(min=0.5 / levels, max=1.0)
    return rgb * (flat / value)


Look = Callable[[Tensor], Tensor]


def _duotone(dark: tuple[float, float, float], light: tuple[float, float, float]) -> Look:
    start, end = (torch.tensor(colour).view(3, 1, 1) for colour in (dark, light))
    return lambda image: start.to(image.device) + (end - start).to(image.device) * luminance(image)


def _channels(*order: int) -> Look:
    return lambda image: image[..., list(order), :, :]


def _grey(image: Tensor) -> Tensor:
    return luminance(image).expand_as(image)


def _night(image: Tensor) -> Tensor:
    return image * torch.tensor([0.35, 0.4, 0.75], device=image.device).view(3, 1, 1)


LOOKS: dict[str, Look] = {
    "grey": _grey,
    "dark grey": lambda image: 0.85 * _grey(image) ** 1.6,
    "soot": _duotone((0.10, 0.10, 0.10), (0.72, 0.69, 0.64)),
    "sepia": _duotone((0.16, 0.09, 0.04), (0.96, 0.88, 0.72)),
    "night": _night,
    "dusk": _duotone((0.12, 0.05, 0.25), (1.0, 0.75, 0.55)),
    "forest": _duotone((0.03, 0.16, 0.10), (0.88, 0.95, 0.75)),
    "wine": _duotone((0.25, 0.02, 0.08), (0.98, 0.90, 0.86)),
    "ice": _duotone((0.05, 0.12, 0.30), (0.90, 0.97, 1.0)),
    "faded": lambda image: 0.25 + 0.3 * image + 0.3 * luminance(image),
    "vivid": lambda image: saturate(image, 1.6),
    "inverted": lambda image: 1 - image,
    "negative": lambda image: 1 - _grey(image),
    "blue for red": _channels(2, 0, 1),
    "green for red": _channels(1, 2, 0),
    "stark": lambda image: 0.5 + 1.8 * (image - 0.5),
}
LOOK_NAMES = tuple(LOOKS)


def apply_look(pixels: Tensor, name: str) -> Tensor:
    """uint8 pictures ... 3 H W in the look `name`, as uint8."""
    changed = LOOKS[name](pixels.float() / 255.0).clamp(0, 1)
    return (changed * 255.0 + 0.5).to(torch.uint8)
