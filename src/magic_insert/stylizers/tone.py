"""Tone: the subject's own pixels in the scene's palette, with its lines and its grain. No weights, no diffusion.

Colours are moved by sliced optimal transport (Pitie et al. 2007, Bonneel et al. 2015) in CIE Lab from the subject's to
the scene's, where scene colours that are like the subject's own count more; all the way in a scene of one hue, a third
of it in a scene of many. The map is a smooth function of colour, so edges and texture stay where they are, at the full
resolution of the subject's picture. Where the scene is drawn with lines, the subject gets lines (XDoG, Winnemoeller et
al. 2012) and an outline; where the sharpest edges of a scene are soft (Zhuo and Sim 2011), so are the subject's; where
it has grain, grain; where it is pixel art, its blocks.

Shape letters: h, w of the cut-out, N samples of colour. Lab is L in [0, 100], a and b around 0; alpha in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.compositing import FAINT, area_resize, size_within
from magic_insert.core.events import OnStep, no_step
from magic_insert.core.masks import blur, blur_inside, bounding_box
from magic_insert.core.records import Subject
from magic_insert.models.segment import clean_border
from magic_insert.stylizers.draws import Draw

Plane = NDArray[np.float32]  # h w
Lab = NDArray[np.float32]  # h w 3

FEW = 1e-4  # of a matte: so far outside the subject its colours are continued
SAMPLES = 2048  # colours of each side that are matched
SCENE_SIDE = 1024  # marks and grain are measured at this size
PALETTE_SIDE = 64
HUE_SAMPLES = 8192
ROTATIONS = 24
# Lab distance of colours that are alike; what a scene colour counts that is like none.
ALIKE, ANY = 22.0, 0.25
KERNEL = 9.0  # Lab distance over which the map of colours is smooth
GRID = (11, 17, 17)
MAP_SIDE = 512
LIMIT = 110.0  # of a and b in the grid
# A line is this much darker than both sides, and at most so wide, as a share of the longer side; or brighter, where
# such lines cover MANY_LINES and so many times as much and the middle of a scene's L is below this.
LINE_DEPTH, LINE_REACH = 20.0, 1 / 40
BRIGHT_LINES, DARK_GROUND = 1.6, 50.0
# Thin dark things are in photographs, too. A scene is drawn with lines where so many more of the borders between its
# regions run along a dark line than along a bright one, from none to all of it (see `bordered`); where half of its
# lines differ in L by at most so much, all of it to none: one ink, of a scene of many hues and of one; or where it has
# one hue on paper as bright as this.
LINED_BORDERS, ONE_INK, ONE_INK_AND_HUE, PAPER = (0.12, 0.2), (2.0, 5.0), (6.0, 12.0), 65.0
# A border is a step of at least so much in Lab; a line on it is so much darker, or brighter, than both of its sides.
# It counts where borders are longer than this share of a side.
BORDER, ON_BORDER, FEW_BORDERS = 30.0, 10.0, 0.25
# Lab distance of a scene's colours from one hue up to which they are one, and how far the colours of a scene of many
# are taken on.
ONE_HUE, MANY_HUES = 1.5, 0.35
GRAIN_SIGMA, PIECE = 1.5, 96
GRAIN_REACH = 4.0  # spreads beyond which a residual is no grain but an edge
# A scene's edges are read at this blur and at twice it: of its steepest ones, this percentile of how soft they are is
# its softness, in pixels of the scene at no more than SCENE_SIDE. None of it is taken at the first and from the last of
# SOFT on, all between the others: a scene that is softer has no edges (fog, a plain wall) or is out of focus, which a
# subject in it need not be.
EDGE_SIGMA, STEEPEST, SHARPEST, SOFT = 1.0, 98, 25, (0.2, 0.5, 2.0, 3.0)
SOBEL = 0.5  # variance of the blur that is part of a Sobel filter
SHARPNESS, LINE_STEP = 8.0, 12.0
ROOM = 8  # no more than one part of so many of a subject's shorter side makes room for an outline
# Share of a picture that its lines cover: none, and drawn with lines throughout.
FEW_LINES, MANY_LINES = 0.02, 0.04
# Pixel art: steps of this many levels lie in evenly spaced rows and columns alone, at least so many, no more than
# this share of all, and no more than that share of the steps elsewhere.
STEP, FEWEST_BLOCKS, BUSY, STRAY = 8 / 255, 8, 0.65, 0.02
# A subject's own picture is all marks where, at this side, what is finer than GRAIN_SIGMA spreads by so many L; or
# where it is a drawing of one hue (so much of the way of `Hue.taken_on`) and of lines.
MARKED_SIDE, MARKED, COLOURLESS, OF_LINES = 256, 8.0, 0.8, 0.5


@dataclass(frozen=True)
class Marks:
    """How a scene is drawn: `lines` from 0 to 1 with their width and Lab (`ink`); spread and a piece of its grain.

    `softness` is the sigma of the blur over its edges, 0 where they are sharp, and `block` the side of the squares of
    pixel art, else 0; both, `width` and the piece are in pixels of the scene at no more than SCENE_SIDE. `bright` lines
    are chalk on a dark ground.
    """

    lines: float
    width: float
    ink: tuple[float, float, float]
    bright: bool
    softness: float
    grain: float
    piece: Plane
    block: float


class ToneStylizer:
    """Gives the subject's own picture the tone of any scene; knows no randomness and needs no model."""

    def __init__(
        self,
        settings: StylizerConfig,
        pipe: Any,
        subject: Subject,
        style: StyleConfig,
        sampling: SamplingConfig,
    ) -> None:
        """Only `settings` and `subject` are used.

        Raises:
            UserError: the subject's matte is empty.
        """
        self.settings = settings
        box = bounding_box(subject.alpha, FAINT)
        self.alpha = subject.alpha[box.pixels].contiguous()
        # What lies around the subject, too, gets colours from inside: else its edge is smoothed with the ground's.
        self.lab = clean_border(to_lab(subject.rgb[box.pixels]), np.maximum(self.alpha[0].numpy(), 2 * FAINT))

    def __call__(self, draws: Sequence[Draw], *, on_step: OnStep = no_step) -> Float[Tensor, "B 4 h w"]:
        """The subject, cropped, in the tone of each scene, with its own matte."""
        pictures = []
        for done, draw in enumerate(draws, start=1):
            scene = read_scene(draw.scene)
            lab = in_colours(self.lab, self.alpha[0].numpy(), scene, self.settings.strength)
            pictures.append(self.marked(torch.cat([to_rgb(lab), self.alpha]), scene))
            on_step(done, len(draws))
        return torch.stack(pictures)

    def marked(self, cut_out: Float[Tensor, "4 h w"], scene: "SceneLook") -> Float[Tensor, "4 h w"]:
        """The subject, in whatever colours, with a scene's softness, lines, grain and blocks."""
        marks = scene.marks
        scale = scene.standing(self.settings.height, cut_out.shape[-2], cut_out.shape[-1])
        if self.settings.softness > 0 and marks.softness > 0:
            cut_out = blurred(cut_out, self.settings.softness * marks.softness / scale)
        result, alpha = to_lab(cut_out[:3]), cut_out[3].numpy()
        if self.settings.lines > 0 and marks.lines > 0:
            result, alpha = with_lines(result, self.lab[..., 0], alpha, marks, scale, self.settings.lines)
        if self.settings.grain > 0 and marks.grain > 0:
            result = with_grain(result, alpha, marks, scale, self.settings.grain)
        return in_blocks(torch.cat([to_rgb(result), torch.from_numpy(alpha)[None]]), marks.block / scale)

    def close(self) -> None:
        """Nothing is shared with others."""


@dataclass(frozen=True)
class Hue:
    """How far the colours of a scene are one hue: a and b as a cubic `curve` of L / 100, read at L within `lights`.

    `taken_on` is the share of the way to its colours that a subject goes: all of it where they are one hue. A pencil
    drawing or a blueprint has no other colours; a scene of many hues leaves a subject its own.
    """

    taken_on: float
    curve: NDArray[np.float64]
    lights: tuple[float, float]


@dataclass(frozen=True)
class SceneLook:
    """A scene in Lab, its longer side at most SCENE_SIDE, its hue and how it is drawn."""

    lab: Lab
    hue: Hue
    marks: Marks

    def standing(self, share: float, height: int, width: int) -> float:
        """Pixels of the scene to one of a picture that will fill `share` of its height, no wider than the scene."""
        return min(share * self.lab.shape[0] / height, self.lab.shape[1] / width)


def read_scene(scene: Float[Tensor, "3 _ _"]) -> SceneLook:
    """Colours and marks of a scene."""
    lab = to_lab(fitted(scene))
    block = block_side(scene) * lab.shape[0] / scene.shape[-2]
    return SceneLook(lab, hue_of(lab), replace(measure_marks(lab), block=block))


def in_colours(lab: Lab, alpha: Plane, scene: SceneLook, strength: float) -> Lab:
    """The cut-out `lab` in the colours of `scene`, `strength` of the way."""
    solid = lab[alpha > 0.9] if bool((alpha > 0.9).any()) else lab[alpha >= alpha.max()]
    own, target = even(solid, SAMPLES), palette(scene.lab, solid)
    moved = sliced_transport(own, target)
    rows, columns = size_within(alpha.shape, MAP_SIDE)  # shifts are smooth: the map is read at a smaller size
    small = cv2.resize(lab, (columns, rows), interpolation=cv2.INTER_AREA)
    shift = moved_by(base_of(small), own, moved - own)
    moved_lab: Lab = lab + strength * scene.hue.taken_on * cv2.resize(shift, alpha.shape[::-1])
    return in_its_hue(moved_lab, scene.hue, min(strength, 1.0))


def hue_of(scene: Lab) -> Hue:
    """The hue of a scene, read at some of its colours."""
    lab = cv2.GaussianBlur(scene, (0, 0), 1.0).reshape(-1, 3)
    lab = lab[:: max(1, len(lab) // HUE_SAMPLES)]
    powers = (lab[:, :1] / 100) ** np.arange(4)
    curve = np.linalg.lstsq(powers, lab[:, 1:], rcond=None)[0]
    off = float(np.hypot(*(lab[:, 1:] - powers @ curve).T).mean())
    dark, bright = np.percentile(lab[:, 0], (1, 99))
    return Hue(
        float(np.clip(ONE_HUE / max(off, ONE_HUE), MANY_HUES, 1.0)), curve, (float(dark), float(bright))
    )


def in_its_hue(lab: Lab, hue: Hue, strength: float) -> Lab:
    """`lab` with a and b as the scene has them at the same L, `strength` of the way, where the scene is of one hue."""
    share = strength * float(np.interp(hue.taken_on, (COLOURLESS, 1.0), (0.0, 1.0)))
    if share == 0:
        return lab
    light = np.clip(lab[..., :1], *hue.lights)
    wanted = (light / 100) ** np.arange(len(hue.curve)) @ hue.curve
    return np.concatenate([lab[..., :1], (1 - share) * lab[..., 1:] + share * wanted], axis=-1).astype(
        np.float32
    )


def fitted(scene: Float[Tensor, "3 _ _"]) -> Float[Tensor, "3 h w"]:
    """The scene with its longer side at most SCENE_SIDE."""
    return area_resize(scene, *size_within(scene.shape[-2:], SCENE_SIDE))


def shrunk(
    rgb: Float[Tensor, "3 _ _"], alpha: Float[Tensor, "1 _ _"], height: int, width: int
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    """A cut-out and its matte at a smaller size; colours from beyond the matte do not count."""
    cover = area_resize(alpha, height, width)
    return area_resize(rgb * alpha, height, width) / cover.clamp_min(FEW), cover


def to_lab(rgb: Float[Tensor, "3 h w"]) -> Lab:
    """RGB in [0, 1] as Lab."""
    return cv2.cvtColor(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2Lab)


def to_rgb(lab: Lab) -> Float[Tensor, "3 h w"]:
    """Lab as RGB in [0, 1]."""
    return torch.from_numpy(np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)).permute(2, 0, 1)


def even(colours: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`count` of the colours, evenly from the first to the last."""
    return colours[np.linspace(0, len(colours) - 1, count).round().astype(int)]


def palette(scene: Lab, subject: NDArray[np.float32]) -> NDArray[np.float32]:
    """SAMPLES colours of the scene; those like the subject's own are drawn more often."""
    rows, columns = size_within(scene.shape[:2], PALETTE_SIDE)
    colours = cv2.resize(scene, (columns, rows), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    own = even(subject, 256)
    distance = ((colours[:, None] - own[None]) ** 2).sum(-1)
    like = np.exp(-distance / (2 * ALIKE**2)).mean(1)
    weight = like / max(like.max(), 1e-6) + ANY
    # Colours in the order of the scene, each as often as it weighs: no draw of chance.
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES * weight.sum()
    return colours[np.searchsorted(np.cumsum(weight), steps).clip(0, len(colours) - 1)]


def sliced_transport(own: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where `own` colours go when their distribution becomes that of `target`, along axes in many directions."""
    rng = np.random.default_rng(0)
    moved = own.astype(np.float64)
    for _ in range(ROTATIONS):
        axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        along, wanted = moved @ axes, np.sort(target @ axes, axis=0)
        order = np.argsort(along, axis=0, kind="stable")
        shift = np.empty_like(along)
        for axis in range(3):
            shift[order[:, axis], axis] = wanted[:, axis] - along[order[:, axis], axis]
        moved = moved + shift @ axes.T
    return moved.astype(np.float32)


def moved_by(lab: Lab, at: NDArray[np.float32], shifts: NDArray[np.float32]) -> Lab:
    """The shift of every pixel by its colour: a smooth map through `shifts` at the colours `at`."""
    axes = [
        torch.linspace(low, high, n)
        for (low, high), n in zip([(0, 100), (-LIMIT, LIMIT), (-LIMIT, LIMIT)], GRID, strict=True)
    ]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    distance = torch.cdist(nodes, torch.from_numpy(at)).square()
    table = torch.softmax(-distance / (2 * KERNEL**2), dim=1) @ torch.from_numpy(shifts)
    volume = table.reshape(*GRID, 3).permute(3, 0, 1, 2)[None]
    spans = torch.tensor([LIMIT, LIMIT, 50.0])
    place = torch.from_numpy(lab).flip(-1) / spans - torch.tensor([0.0, 0.0, 1.0])
    found = functional.grid_sample(volume, place[None, None], padding_mode="border", align_corners=True)
    return found[0, :, 0].permute(1, 2, 0).contiguous().numpy()


def base_of(lab: Lab) -> Lab:
    """The picture without its texture, edges kept: a guided filter by itself (He et al. 2010)."""
    radius = max(2, max(lab.shape[:2]) // 64)
    return np.stack([guided(lab[..., i], lab[..., i], radius, 60.0) for i in range(3)], axis=-1)


def guided(guide: Plane, picture: Plane, radius: int, smooth: float) -> Plane:
    """`picture` smoothed within `radius` along the edges of `guide` whose variance is above `smooth`."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean_g, mean_p = cv2.blur(guide, size), cv2.blur(picture, size)
    slope = (cv2.blur(guide * picture, size) - mean_g * mean_p) / (
        cv2.blur(guide * guide, size) - mean_g * mean_g + smooth
    )
    return cv2.blur(slope, size) * guide + cv2.blur(mean_p - slope * mean_g, size)


def measure_marks(lab: Lab) -> Marks:
    """Lines, softness and grain of a scene."""
    light = np.ascontiguousarray(lab[..., 0])
    dark, bright = line_depth(light), line_depth(100 - light)
    chalk = float(np.median(light)) < DARK_GROUND and covered(bright) > max(
        MANY_LINES, BRIGHT_LINES * covered(dark)
    )
    lines = (bright if chalk else dark) > LINE_DEPTH
    ink = np.zeros(3)
    if lines.any():
        ink[0] = np.percentile(light[lines], 75 if chalk else 25)
        ink[1:] = np.median(lab[lines & ((light >= ink[0]) if chalk else (light <= ink[0]))][:, 1:], axis=0)
    residual, spread = texture(light)
    piece = flattest(residual, light, spread)
    return Marks(
        lined(inverted(lab) if chalk else lab, lines), line_width(lines), (ink[0], ink[1], ink[2]), chalk,
        edge_softness(light), spread, piece, 0.0,
    )  # fmt: skip


def edge_softness(light: Plane) -> float:
    """The sigma of the blur over the sharpest of the steepest edges; 0 where they are sharp or there are none.

    An edge blurred by s and then by r has a slope in proportion to (s^2 + r^2)^-1/2, so two such r give s (Zhuo and
    Sim 2011, Defocus map estimation from a single image).
    """
    steep, less = (slope(cv2.GaussianBlur(light, (0, 0), k * EDGE_SIGMA)) for k in (1, 2))
    fine, coarse = EDGE_SIGMA**2 + SOBEL, (2 * EDGE_SIGMA) ** 2 + SOBEL
    there = steep >= max(float(np.percentile(steep, STEEPEST)), FEW)
    if not there.any():
        return 0.0
    ratio = np.square(steep[there] / np.maximum(less[there], FEW))
    soft = np.sqrt(np.maximum(coarse - ratio * fine, 0.0) / np.maximum(ratio - 1.0, FEW))
    found = float(np.percentile(soft, SHARPEST))
    return found * float(np.interp(found, SOFT, (0.0, 1.0, 1.0, 0.0)))


def slope(light: Plane) -> Plane:
    """How steep the picture is."""
    return np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))


def blurred(cut_out: Float[Tensor, "4 h w"], sigma: float) -> Float[Tensor, "4 h w"]:
    """The cut-out and its matte under a blur; colours from beyond the matte do not count."""
    alpha = cut_out[3:]
    return torch.cat([blur_inside(cut_out[:3], alpha, sigma, least=FEW), blur(alpha, sigma)])


def line_depth(light: Plane) -> Plane:
    """How much darker each pixel is than what lies within LINE_REACH on both sides."""
    side = max(3, 2 * round(LINE_REACH * max(light.shape) / 2) + 1)
    return cv2.morphologyEx(light, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8)) - light


def inverted(lab: Lab) -> Lab:
    """The picture with L upside down: bright lines become dark ones."""
    return np.concatenate([100 - lab[..., :1], lab[..., 1:]], axis=-1)


def covered(depth: Plane) -> float:
    """The share of the picture that lines cover."""
    return float((depth > LINE_DEPTH).mean())


def lined(lab: Lab, lines: NDArray[np.bool_], where: NDArray[np.bool_] | None = None) -> float:
    """How much a picture, or what lies `where`, is drawn with its dark lines `lines`, from 0 to 1."""
    if not lines.any():
        return 0.0
    where = np.ones_like(lines) if where is None else where
    light = lab[..., 0]
    darkest = light[lines & (light <= cv2.erode(light, np.ones((3, 3), np.uint8)))]
    differ = float(np.subtract(*np.percentile(darkest, (75, 25)))) if darkest.size else np.inf
    one_hue = hue_of(lab[where][None]).taken_on > COLOURLESS
    drawn = float(np.interp(differ, ONE_INK_AND_HUE if one_hue else ONE_INK, (1, 0)))
    if one_hue and np.median(light[where]) > PAPER:
        drawn = 1.0
    elif drawn < 1:
        along = bordered(lab, line_width(lines), where)
        drawn = max(drawn, float(np.interp(along, LINED_BORDERS, (0, 1))))
    return drawn * float(np.interp(lines[where].mean(), (FEW_LINES, MANY_LINES), (0, 1)))


def bordered(lab: Lab, width: float, where: NDArray[np.bool_]) -> float:
    """The share of the borders between regions, `where` they lie, that run along a dark line of `width`, less the
    share of those that run along a bright one.

    A plain step has neither and texture as many of one as of the other, so that a photograph is near 0.
    """
    half = max(2.0, 1.2 * width)
    smooth, sides = (cv2.GaussianBlur(lab, (0, 0), times * half) for times in (1.5, 0.5))
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    xx, xy, yy = ((a * b).sum(-1) for a, b in ((across, across), (across, down), (down, down)))
    steep, angle = xx + yy + np.hypot(xx - yy, 2 * xy), 0.5 * np.arctan2(2 * xy, xx - yy)  # Di Zenzo 1986
    normal = np.stack([np.sin(angle), np.cos(angle)])

    def beside(plane: Plane, at: NDArray[np.intp], away: float) -> Plane:
        return map_coordinates(plane, at + away * normal[:, at[0], at[1]], order=1, mode="nearest")

    at = np.stack(np.nonzero(where))
    ridge = steep[where] >= np.maximum(beside(steep, at, 1), beside(steep, at, -1))
    at = at[:, ridge]
    one, other = (
        np.stack([beside(plane, at, away) for plane in np.moveaxis(sides, -1, 0)])
        for away in (2.5 * half, -2.5 * half)
    )
    apart = np.linalg.norm(one - other, axis=0) > BORDER
    at, both = at[:, apart], np.stack([one[0, apart], other[0, apart]])
    if at.shape[1] < FEW_BORDERS * sum(steep.shape) / 2:
        return 0.0
    light = cv2.GaussianBlur(lab[..., 0], (0, 0), half / 6)
    profile = np.stack([beside(light, at, away * half) for away in np.linspace(-0.8, 0.8, 9)])
    dark, bright = both.min(0) - profile.min(0), profile.max(0) - both.max(0)
    return float((dark > ON_BORDER).mean() - (bright > ON_BORDER).mean())


def line_width(lines: NDArray[np.bool_]) -> float:
    """The mean width of lines in pixels: twice their area by the length of both their sides."""
    sides, _ = cv2.findContours(lines.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return 2 * float(lines.sum()) / max(sum(cv2.arcLength(side, True) for side in sides), 1.0)


def block_side(scene: Float[Tensor, "3 _ _"]) -> float:
    """The side of the squares that a picture is made of, in its pixels; 0 where it is not pixel art."""
    if min(scene.shape[-2:]) < FEWEST_BLOCKS:
        return 0.0
    sides = []
    for axis in (1, 2):
        steps = (scene.diff(dim=axis).abs().amax(dim=0) > STEP).sum(dim=2 - axis)
        edges = (steps > 0.05 * steps.max()).nonzero()[:, 0]
        starts = edges[torch.cat([torch.tensor([True]), edges.diff() > 1])] if len(edges) else edges
        gaps = starts.diff().float()  # an edge may be smoothed over two pixels
        between = float(steps.sum() - steps[edges].sum()) / max(float(steps.sum()), 1.0)
        if len(gaps) < FEWEST_BLOCKS or len(edges) > BUSY * len(steps) or between > STRAY:
            return 0.0
        single = gaps[gaps <= 1.5 * gaps.median()]  # the others lie across a plain stretch
        if len(single) < 0.8 * len(gaps) or single.mean() < 2:
            return 0.0
        sides.append(float(single.mean()))
    return sum(sides) / 2 if max(sides) < 1.3 * min(sides) else 0.0


def in_blocks(cut_out: Float[Tensor, "4 h w"], side: float) -> Float[Tensor, "4 h w"]:
    """The cut-out in squares of `side` pixels, its matte 0 or 1; as it is where they are too small or too few."""
    height, width = cut_out.shape[-2:]
    rows, cols = (max(1, round(length / max(side, 1.0))) for length in (height, width))
    if side <= 1 or max(rows, cols) < FEWEST_BLOCKS:
        return cut_out
    colours, cover = shrunk(cut_out[:3], cut_out[3:], rows, cols)
    small = torch.cat([colours, (cover > 0.5).float()]).clamp(0, 1)
    return functional.interpolate(small[None], (height, width), mode="nearest-exact")[0]


def consists_of_marks(rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"]) -> bool:
    """Whether a subject's own picture consists of dots, hatching, tiles or lines of one ink.

    Such marks are as fine as eyes and patterns are, and would stay in every style.
    """
    small, cover = shrunk(rgb, alpha, *size_within(rgb.shape[-2:], MARKED_SIDE, 8))
    lab = to_lab(small)
    solid = cv2.erode((cover[0] > 0.9).numpy().astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not solid.any():
        return False
    light = np.ascontiguousarray(lab[..., 0])
    if texture(light, solid)[1] > MARKED:
        return True
    drawn = (
        lined(seen, (line_depth(seen[..., 0]) > LINE_DEPTH) & solid, solid) for seen in (lab, inverted(lab))
    )
    return hue_of(lab[solid][None]).taken_on > COLOURLESS and max(drawn) > OF_LINES


def texture(light: Plane, where: NDArray[np.bool_] | None = None) -> tuple[Plane, float]:
    """What is finer than GRAIN_SIGMA, and its spread where nothing else is, of what lies `where`."""
    smooth = cv2.GaussianBlur(light, (0, 0), GRAIN_SIGMA)
    steep = slope(smooth)
    where = np.ones_like(steep, dtype=bool) if where is None else where
    flat = where & (steep <= np.percentile(steep[where], 40))
    residual = light - smooth
    return residual, float(np.sqrt(np.mean(residual[flat] ** 2)))


def flattest(residual: Plane, light: Plane, spread: float) -> Plane:
    """The square of `residual` under which the picture has the fewest edges, neither black nor white.

    What is left of edges is cut to what grain of this `spread` reaches: a bright line would be repeated as stripes.
    """
    side = max(8, min(PIECE, *light.shape))
    best, found = np.inf, residual[:side, :side]
    for y in range(0, light.shape[0] - side + 1, max(1, side // 2)):
        for x in range(0, light.shape[1] - side + 1, max(1, side // 2)):
            there = (slice(y, y + side), slice(x, x + side))
            contrast, mean = float(light[there].std()), float(light[there].mean())
            edges = float((np.abs(residual[there]) > GRAIN_REACH * spread).mean())
            cost = contrast + 0.5 * abs(mean - 60) + 200 * edges
            if cost < best:
                best, found = cost, residual[there]
    return np.clip(found, -GRAIN_REACH * spread, GRAIN_REACH * spread)


def with_lines(
    lab: Lab, own: Plane, alpha: Plane, marks: Marks, scale: float, strength: float
) -> tuple[Lab, Plane]:
    """The picture and its matte with the scene's lines along its edges (XDoG) and around it, as wide as they are there.

    Half of the outline lies outside the subject, which is drawn so much smaller that it has room.
    """
    width = max(1.0, marks.width / scale)
    room = min(round(width / 2), min(alpha.shape) // ROOM)
    lab, own = (with_room(plane, room, cv2.BORDER_REPLICATE) for plane in (lab, own))
    alpha = with_room(alpha, room, cv2.BORDER_CONSTANT)
    near, far = (cv2.GaussianBlur(own, (0, 0), s) for s in (0.4 * width, 0.64 * width))
    sharp = near + SHARPNESS * (near - far)
    edges = np.clip((near - sharp) / LINE_STEP - 0.3, 0, 1)
    body = (alpha > 0.5).astype(np.uint8)
    away = [cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (body, 1 - body)]
    outline = np.clip(width / 2 + 1 - np.maximum(*away), 0, 1)
    amount = marks.lines * min(strength, 1.0)
    matte = alpha + amount * outline * (1 - alpha)
    share = np.maximum(amount * edges, amount * outline / np.maximum(matte, FAINT))
    ink = np.broadcast_to(np.array(marks.ink, np.float32), lab.shape).copy()
    further = np.maximum if marks.bright else np.minimum
    further(ink[..., 0], lab[..., 0], out=ink[..., 0], where=body > 0)
    return lab + share[..., None] * (ink - lab), matte


def with_room(plane: NDArray[np.float32], room: int, border: int) -> NDArray[np.float32]:
    """The plane drawn smaller, with `room` pixels on every side."""
    height, width = plane.shape[:2]
    small = cv2.resize(plane, (width - 2 * room, height - 2 * room), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(small, room, room, room, room, border)


def with_grain(lab: Lab, alpha: Plane, marks: Marks, scale: float, strength: float) -> Lab:
    """The picture with the scene's own grain, as much as it lacks."""
    height, width = (max(8, round(side * scale)) for side in alpha.shape)
    small = cv2.resize(lab[..., 0], (width, height), interpolation=cv2.INTER_AREA)
    lack = marks.grain**2 - texture(small)[1] ** 2
    spread = float(marks.piece.std())
    if lack <= 0 or spread == 0:
        return lab
    tile = np.concatenate([marks.piece, marks.piece[:, ::-1]], axis=1)
    tile = np.concatenate([tile, tile[::-1]], axis=0)
    times = (-(-height // tile.shape[0]), -(-width // tile.shape[1]))
    grain = np.tile(tile, times)[:height, :width] * (strength * lack**0.5 / spread)
    made = lab.copy()
    made[..., 0] += cv2.resize(grain, alpha.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return made
