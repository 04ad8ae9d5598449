"""Cutting a subject out of its picture: the file's own alpha, U2-Net, GrabCut seeded from the border, or rembg.

U2-Net finds what stands out of any picture. A subject's own picture has a plain ground (paper.md: "one subject image on
a plain background"; generated pictures are the same): there the ground's colour is read along the border, as a plane
over the picture, which also follows a soft gradient; GrabCut decides between the two, and the outline's true mixture
and colour are recovered from both. The ground is a plane, or a vignette, faint or dark. Shape letters h, w; pictures
are float32 RGB in [0, 1], mattes 1hw in [0, 1]; in the network B pictures, C channels.

U2-Net is here in its small form (Qin et al. 2020, "U2-Net: Going deeper with nested U-structure"). Each stage is itself
a small U, a residual U-block (RSU); six sides are fused into one map. The published weights (xuebinqin/U-2-Net,
Apache-2.0) come with batch norms folded into the convolutions; modules are declared in the order of their use, in which
`tools/convert_u2net` fills them.
"""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from magic_insert.config.registry import SEGMENTERS
from magic_insert.core import masks
from magic_insert.core.compositing import FAINT, area_resize, resize, size_within
from magic_insert.core.errors import UserError, expecting
from magic_insert.core.fidelity import iou
from magic_insert.core.images import on_white, to_pil
from magic_insert.core.records import Box, Subject
from magic_insert.models.tensor_file import read_tensors
from magic_insert.paths import cut_weights

WORKING_SIDE = 384  # GrabCut decides at this size; the outline is refined at full size
SMALLEST = 8  # pixels a side of what is worked on
COARSE_SIDE = 384  # of a first cut, for which U2-Net sees a quarter of its pixels
SEE_THROUGH = 0.005  # share of clear pixels that makes a file's alpha a cut-out and not an artefact
SUBJECT_STEP = 0.16  # distance from the ground's colour from which it is subject; below GROUND_STEP ground
# This share of the body around a hole this near to the ground's colour: no gap.
PALE, EDGELESS_SHARE = 0.12, 0.08
# The lines of a drawing cover less than this share of what they enclose, and less than that share of them is left when
# a 64th of the side is taken off on both sides (Toybox: ink and woodcut 0.50 to 0.82 and 0.13 to 0.63, others 0.81 on).
LINE_COVER, LINE_THICK = 0.83, 0.7
SMALL_HOLE = 0.004  # share of the body below which a hole of the ground's colour is a detail
REMBG_MODEL = "u2netp"
# Around what was found, where that is less than this share of the picture.
LOOK_MARGIN, LOOK_AGAIN = 0.12, 0.7
FIT_REACH, FIT_SMOOTH, FIT_LOW = 3, 1e-3, 0.1
OUTLINE = 96  # pixels a side at which two outlines are compared
SMALL_SIDE = 256  # pictures up to this side are drawn by the micro model or the Toybox, on plain ground


class NothingFound(UserError):
    """A sound picture in which the segmenter sees no subject."""


@dataclass(frozen=True)
class Matte:
    """The subject's own colour (ground removed from its outline) and its coverage."""

    rgb: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "1 h w"]


def has_cutout(alpha: Float[Tensor, "1 h w"] | None) -> bool:
    """Whether the file's alpha really cuts something out: a visible share of clear pixels."""
    return alpha is not None and float((alpha < 0.5).float().mean()) > SEE_THROUGH


def segment(
    rgb: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"] | None = None,
    *,
    segmenter: str = "auto",
    model_folder: Path | None = None,
) -> Matte:
    """The subject of a picture on plain ground, by one of the registered segmenters.

    Raises:
        UserError: the alpha is zero everywhere or not there, nothing stands out from the ground, or rembg is missing.
    """
    if alpha is not None and float(alpha.max()) < 0.5:
        raise UserError(
            "expected a subject with visible pixels, got alpha below a half everywhere; use an opaque picture"
        )
    made: Matte = SEGMENTERS.get(segmenter)(rgb, alpha, model_folder)
    return made


def segment_auto(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, folder: Path | None
) -> Matte:
    """The file's alpha where it cuts something out; elsewhere U2-Net, and GrabCut for small pictures."""
    if alpha is not None and has_cutout(alpha):
        return Matte(rgb, alpha)
    small = max(rgb.shape[-2:]) <= SMALL_SIDE
    return segment_grabcut(rgb, alpha, folder) if small else segment_u2net(rgb, alpha, folder)


def segment_alike(rgb: Float[Tensor, "3 h w"], outline: Float[Tensor, "1 r c"]) -> Matte:
    """Of the cuts by GrabCut and by U2-Net, the one that is more like the `outline` the subject had before.

    A redrawn subject keeps its outline. GrabCut loses a body as white as the ground and parts that stand apart, and
    keeps a ground of paper; U2-Net loses thin and pale parts.

    Raises:
        UserError: neither finds a subject.
    """
    found: list[Matte] = []
    for cut in (segment_grabcut, segment_u2net):
        try:
            found.append(cut(rgb, None, None))
        except NothingFound as error:
            nothing = error
    if not found:
        raise nothing
    return max(found, key=lambda matte: likeness(matte.alpha, outline))


def likeness(one: Float[Tensor, "1 h w"], other: Float[Tensor, "1 r c"]) -> float:
    """Intersection over union of two outlines in boxes of one size: where they lie, and how large, does not matter."""
    shapes = []
    for alpha in (one, other):
        if not bool((alpha >= masks.INSIDE).any()):
            return 0.0
        at = masks.bounding_box(alpha, masks.INSIDE)
        shapes.append(resize(alpha[at.pixels], OUTLINE, OUTLINE) >= masks.INSIDE)
    return iou(*shapes)


def segment_alpha(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, folder: Path | None
) -> Matte:
    """The file's alpha; raises `UserError` where it cuts nothing out."""
    if alpha is None or not has_cutout(alpha):
        raise UserError(
            "expected a picture with a transparent ground, got an opaque one; set segmenter=grabcut"
        )
    return Matte(rgb, alpha)


def redraw_segmenter(name: str) -> str:
    """How a model's own picture is cut: it is opaque, so where the file's alpha was wanted, GrabCut decides."""
    return "auto" if name == "alpha" else name


def cut_subject(
    rgb: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"] | None,
    name: str,
    *,
    segmenter: str = "auto",
    model_folder: Path | None = None,
) -> Subject:
    """`segment`, as a Subject called `name`; raises the same."""
    matte = segment(rgb, alpha, segmenter=segmenter, model_folder=model_folder)
    return Subject(matte.rgb, matte.alpha, name)


def segment_grabcut(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, folder: Path | None
) -> Matte:
    """GrabCut on the colours, seeded from the border."""
    rgb = on_white(rgb, alpha)
    height, width = rgb.shape[-2:]
    scale = min(1.0, WORKING_SIDE / max(height, width))
    h, w = size_within((height, width), WORKING_SIDE, SMALLEST)
    small = resize(rgb, h, w)
    ground = ground_of(rgb, small)
    small_ground = resize(ground, h, w)
    distance = (small - small_ground).norm(dim=0, keepdim=True)
    sure = masks.erode((masks.blur(distance, 0.7) > SUBJECT_STEP).float(), 1)
    likely = (distance > SUBJECT_STEP / 2).float()
    if masks.area(likely) < 1e-3:
        raise NothingFound("expected a subject that stands out from its ground, got an almost uniform picture; "
                        "give a picture with alpha or set segmenter=rembg")  # fmt: skip
    trimap = np.full((h, w), cv2.GC_PR_BGD, dtype=np.uint8)
    trimap[_flat(distance) < GROUND_STEP] = cv2.GC_BGD
    trimap[_flat(likely) > 0] = cv2.GC_PR_FGD
    trimap[_flat(sure) > 0] = cv2.GC_FGD
    decided = _run_grabcut(small, trimap)
    strokes = masks.largest_component(decided)
    body = _line_art(strokes)
    body = _fill_own_holes(strokes, distance) if body is None else body
    body = (resize(body, height, width) >= 0.5).float()
    return _refine(rgb, ground, body, max(1, round(0.006 / scale * WORKING_SIDE)))


def _line_art(strokes: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"] | None:
    """What the lines of a line drawing enclose; None where the picture is none.

    A body left as white as the paper is decided for ground, and only its lines remain: thin, and covering little of
    what they enclose. Small breaks in a line are closed first. What shows through between two legs is then lost to
    the body, which is the smaller loss.
    """
    step = max(1, min(strokes.shape[-2:]) // 64)
    enclosed = torch.maximum(
        masks.erode(masks.fill_holes(masks.dilate(strokes, step)), step), masks.fill_holes(strokes)
    )
    thick = float(masks.erode(strokes, step).sum()) / float(strokes.sum().clamp_min(1))
    return (
        enclosed if masks.area(strokes) < LINE_COVER * masks.area(enclosed) and thick < LINE_THICK else None
    )


def _fill_own_holes(body: Float[Tensor, "1 h w"], distance: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """The body without its holes, but for those the ground shows through: large, of exactly its colour, with an edge.

    The white of an eye or a shaded belly belongs to the subject; the gap between two legs does not. Where the body
    beside a hole has almost the ground's colour too, the hole's edge runs through one surface: a pale belly, no gap.
    """
    holes = masks.fill_holes(body) - body
    step = max(1, min(body.shape[-2:]) // 128)  # about the width of an outline
    labels = masks.components(holes)
    filled = body.clone()
    for label in labels.unique().tolist():
        hole = (labels == label)[None]
        small = float(hole.sum()) < SMALL_HOLE * float(body.sum())
        beside = (masks.dilate(hole.float(), 3 * step) - masks.dilate(hole.float(), step)) * body > 0
        edgeless = bool(beside.any()) and float((distance[beside] < PALE).float().mean()) > EDGELESS_SHARE
        if label and (small or edgeless or float(distance[hole].median()) > GROUND_STEP / 2):
            filled[hole] = 1.0
    return filled


def _flat(plane: Float[Tensor, "1 h w"]) -> NDArray[np.float32]:
    return plane[0].cpu().numpy()


def _run_grabcut(rgb: Float[Tensor, "3 h w"], trimap: NDArray[np.uint8]) -> Float[Tensor, "1 h w"]:
    """GrabCut (Rother et al. 2004) from the trimap; where it holds only one side, the trimap already decides."""
    subject = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if subject.any() and not subject.all():
        levels = np.array(to_pil(rgb))[..., ::-1]
        cv2.setRNGSeed(0)  # its colour clusters start from OpenCV's own random numbers
        cv2.grabCut(
            np.ascontiguousarray(levels),
            trimap,
            None,
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            3,
            cv2.GC_INIT_WITH_MASK,
        )
    found = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return torch.from_numpy(found.astype(np.float32))[None]


def _refine(
    rgb: Float[Tensor, "3 h w"], ground: Float[Tensor, "3 h w"], body: Float[Tensor, "1 h w"], band: int
) -> Matte:
    """Alpha and colour on the outline: a pixel there is a mixture of the ground and of the subject next to it.

    alpha = (pixel - ground) . (subject - ground) / |subject - ground|^2 where both differ, else the decided mask.
    """
    inner, outer = masks.erode(body, band), masks.dilate(body, band)
    near = masks.blur(inner, band)
    own = torch.where(near > 1e-3, masks.blur(rgb * inner, band) / near.clamp_min(1e-3), rgb)
    span = own - ground
    length = span.square().sum(dim=0, keepdim=True)
    mixture = ((rgb - ground) * span).sum(dim=0, keepdim=True) / length.clamp_min(1e-4)
    # A thin part has no inner body to take a colour from; there, and where both colours agree, the mask stands.
    known = (near > 1e-3) & (length > 0.02)
    edge = torch.where(known, mixture.clamp(0.0, 1.0), masks.blur(body, 0.5))
    share = torch.where(inner > 0, torch.ones_like(edge), edge * outer)
    clean = ((rgb - (1 - share) * ground) / share.clamp_min(0.1)).clamp(0.0, 1.0)
    colour = torch.where(share > 0.97, rgb, torch.where(share > 0.3, clean, own))
    # Inside the decided body a mixture close to one is only the subject's own shading.
    solid = (body > 0) & (share > 0.85)
    alpha = torch.where(
        solid, torch.ones_like(share), torch.where(share < 0.03, torch.zeros_like(share), share)
    )
    return Matte(colour.clamp(0.0, 1.0), alpha)


def segment_u2net(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, folder: Path | None
) -> Matte:
    """What stands out, by U2-Net in two looks: at the whole picture, then at the part around what it found.

    Parts stay apart and gaps open: nothing is filled or dropped.
    """
    rgb, net = on_white(rgb, alpha), load_u2net()
    likely = resize(salient(rgb, net), *rgb.shape[-2:])
    require_found(likely)
    near = around(masks.bounding_box(likely), LOOK_MARGIN, rgb)
    if near.w * near.h < LOOK_AGAIN * likely.numel():
        closer = torch.zeros_like(likely)
        closer[near.pixels] = resize(salient(rgb[near.pixels], net), near.h, near.w)
        likely = closer
    return _fitted(rgb, likely)


def coarse_cut(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, segmenter: str
) -> Matte | None:
    """A first cut, at most COARSE_SIDE pixels a side, in a fraction of the time; None where the cut takes none itself.

    Raises:
        NothingFound: nothing stands out.
    """
    by_u2net = segmenter == "u2net" or (segmenter == "auto" and not has_cutout(alpha))
    if not by_u2net or max(rgb.shape[-2:]) <= COARSE_SIDE:
        return None
    small = area_resize(on_white(rgb, alpha), *size_within(rgb.shape[-2:], COARSE_SIDE, SMALLEST))
    likely = resize(salient(small, load_u2net(), U2NET_SIDE // 2), *small.shape[-2:])
    require_found(likely)
    return _fitted(small, likely)


def _fitted(rgb: Float[Tensor, "3 h w"], likely: Float[Tensor, "1 h w"]) -> Matte:
    """What is likely the subject, with the picture's own edges and without the ground's colour."""
    matte = fit_to_edges(rgb, likely)
    require_found(matte)
    colours = clean_border(np.ascontiguousarray(rgb.permute(1, 2, 0).numpy()), _flat(matte))
    return Matte(torch.from_numpy(colours).permute(2, 0, 1).contiguous(), matte)


def require_found(matte: Float[Tensor, "1 h w"]) -> None:
    """Raises `NothingFound` where there is next to nothing, or nothing that is more subject than ground."""
    if masks.area(matte) < 1e-3 or float(matte.max()) < masks.INSIDE:
        raise NothingFound("expected a subject that stands out, got a picture in which nothing does; "
                           "give a picture with alpha or set segmenter=grabcut")  # fmt: skip


def around(box: Box, margin: float, picture: Float[Tensor, "3 h w"]) -> Box:
    """`box` grown by a share of its longer side, cut to the picture."""
    step = round(margin * max(box.w, box.h))
    grown = Box(box.x - step, box.y - step, box.w + 2 * step, box.h + 2 * step)
    return grown.within(*picture.shape[-2:])


def fit_to_edges(rgb: Float[Tensor, "3 h w"], likely: Float[Tensor, "1 h w"]) -> Float[Tensor, "1 h w"]:
    """A coarse map moved to the picture's own edges nearby, at full size: the fast guided filter (He and Sun 2015)."""
    height, width = rgb.shape[-2:]
    small = resize(rgb, *size_within((height, width), WORKING_SIDE, SMALLEST))
    guide = np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    coarse = np.ascontiguousarray(_flat(resize(likely, *small.shape[-2:])))
    size = (2 * FIT_REACH + 1, 2 * FIT_REACH + 1)
    mean, mean_map = cv2.blur(guide, size), cv2.blur(coarse, size)
    shared = cv2.blur(guide * coarse[..., None], size) - mean * mean_map[..., None]
    products = cv2.blur((guide[..., :, None] * guide[..., None, :]).reshape(*coarse.shape, 9), size)
    spread = products.reshape(*coarse.shape, 3, 3) - mean[..., :, None] * mean[..., None, :]
    slope = np.linalg.solve(spread + FIT_SMOOTH * np.eye(3, dtype=np.float32), shared[..., None])[..., 0]
    level = mean_map - (slope * mean).sum(-1)
    fit = [cv2.resize(cv2.blur(part, size), (width, height)) for part in (slope, level)]
    found = (torch.from_numpy(fit[0]).permute(2, 0, 1) * rgb).sum(dim=0, keepdim=True) + torch.from_numpy(
        fit[1]
    )
    return ((found - FIT_LOW) / (1 - 2 * FIT_LOW)).clamp(0.0, 1.0)


def clean_border(picture: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """A cut-out, h w 3, with colours from inside where it is not solid: what lay behind it shines through there.

    Colours flow outwards from the solid pixels, from coarse to fine (pull-push, Gortler et al. 1996).
    """
    solid = (alpha > 0.95).astype(np.float32)
    wanted = (alpha > FAINT) & (solid == 0)
    if not solid.any() or not wanted.any():
        return picture
    # The outermost solid pixels may still be mixed; thin parts have no others.
    core = cv2.erode(solid, np.ones((3, 3), np.uint8))
    core = core if core.any() else solid
    levels = [(picture * core[..., None], core)]
    while max(levels[-1][1].shape) > 1:
        size = tuple(max(1, side // 2) for side in levels[-1][1].shape[::-1])
        colours, weight = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in levels[-1])
        levels.append((colours, weight))
    colours, weight = levels.pop()
    filled = np.broadcast_to(colours / weight, (1, 1, 3)).astype(np.float32)
    for colours, weight in reversed(levels):
        coarse = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        filled = colours + (1 - weight[..., None]) * coarse.reshape(colours.shape)
    return np.where(wanted[..., None], filled, picture)


def segment_rembg(
    rgb: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"] | None, folder: Path | None
) -> Matte:
    """U2-Net through rembg, with the model's file in `folder`."""
    assert folder is not None, "judged by find_segmenter"
    rgb = on_white(rgb, alpha)
    os.environ["U2NET_HOME"] = str(folder.resolve())
    import rembg

    session = rembg.new_session(REMBG_MODEL)
    mask = np.asarray(rembg.remove(np.array(to_pil(rgb)), session=session, only_mask=True))
    found = torch.from_numpy(mask.astype(np.float32) / 255.0)[None]
    if masks.area(found) < 1e-3:
        raise NothingFound("expected rembg to find a subject, got an empty mask; set segmenter=grabcut")
    return Matte(rgb, found)


GROUND_STEP = 0.035  # distance from the ground's colour below which a pixel is ground
WALK = (3, 3, 3)  # levels of 255 between neighbours that count as one ground
VIGNETTE_SHARE = 0.1  # share of the walked ground off the plane from which a vignette is thought of
NO_PLANE = 0.08  # median distance of the border from which a plane does not describe it
DARKER = 0.02  # by which a ring of ground may be darker than the one around it
# Rings around the centre, and how far half of a ring of ground may be from its own median.
RINGS, RING_SPREAD = 24, 0.12


def ground_of(rgb: Float[Tensor, "3 H W"], small: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 H W"]:
    """The ground's colour at every pixel of `rgb`; `small` is the same picture at the size to search for a vignette."""
    plane = ground_colour(rgb)
    small_plane = resize(plane, *small.shape[-2:])
    if (surface := _vignette(small, small_plane)) is not None:
        return _evaluated(surface, rgb)
    if float(_off_border(small, small_plane)) > NO_PLANE and (rings := _dark_vignette(small)) is not None:
        place = (_radius(*rgb.shape[-2:]) * (RINGS - 1)).clamp(max=RINGS - 1 - 1e-4)
        inner = place.long()
        return torch.lerp(rings[inner], rings[inner + 1], (place - inner)[..., None]).to(rgb).permute(2, 0, 1)
    return plane


def ground_colour(rgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The colour of the plain ground at every pixel: a plane per channel, fitted robustly to the border.

    A subject that touches the border is an outlier.
    """
    height, width = rgb.shape[-2:]
    y, x = _places(height, width)
    basis = torch.stack([torch.ones_like(x), x, y], dim=-1).to(rgb)
    ring = torch.zeros(height, width, dtype=torch.bool)
    rim = max(1, min(height, width) // 50)
    ring[:rim], ring[-rim:], ring[:, :rim], ring[:, -rim:] = True, True, True, True
    rows, colours = basis[ring].double(), rgb.permute(1, 2, 0)[ring].double()
    median = colours.median(dim=0).values
    distance = (colours - median).norm(dim=1)
    plane = _robust_fit(rows, colours, distance <= 2.5 * distance.median() + 0.02)
    return (basis.double() @ plane).clamp(0.0, 1.0).to(rgb).permute(2, 0, 1)


def _vignette(small: Float[Tensor, "3 h w"], plane: Float[Tensor, "3 h w"]) -> Float[Tensor, "6 3"] | None:
    """The ground where it is brighter or darker towards the middle, as in an old photograph: a surface's coefficients.

    What can be walked to from the corners in small steps of colour is ground; if it leaves the border's plane, a
    quadratic surface is fitted to it, robustly, because the walk may have crossed a soft outline. A corner may also
    be the subject's own: the surface counts only if it describes the border no worse than the plane does.
    """
    smooth = masks.blur(small, 1.5)
    levels = np.array(to_pil(smooth))
    height, width = levels.shape[:2]
    walked = np.zeros((height + 2, width + 2), np.uint8)
    for seed in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        cv2.floodFill(levels, walked, seed, 0, WALK, WALK, cv2.FLOODFILL_MASK_ONLY | 4)
    reached = torch.from_numpy(walked[1:-1, 1:-1] > 0)
    away = (smooth - plane).norm(dim=0)[reached] > GROUND_STEP
    if float(away.float().mean()) < VIGNETTE_SHARE:
        return None
    basis, picture = _quadratic(height, width), small.permute(1, 2, 0).double()
    surface = _robust_fit(basis[reached], picture[reached], torch.ones(int(reached.sum()), dtype=torch.bool))
    described = _evaluated(surface, small)
    return surface if _off_border(small, described) <= _off_border(small, plane) else None


def _robust_fit(
    rows: Float[Tensor, "N K"], colours: Float[Tensor, "N 3"], keep: Bool[Tensor, " N"]
) -> Float[Tensor, "K 3"]:
    """Least squares over the pixels in `keep`; three rounds leave out those more than 2.5 spreads away."""
    for _ in range(3):
        fitted = torch.linalg.lstsq(rows[keep], colours[keep], driver="gelsd").solution
        distance = (colours - rows @ fitted).norm(dim=1)
        keep = distance <= 2.5 * distance[keep].median() + 0.01
    return fitted


def _evaluated(surface: Float[Tensor, "6 3"], like: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    return (_quadratic(*like.shape[-2:]) @ surface).clamp(0.0, 1.0).to(like).permute(2, 0, 1)


def _dark_vignette(small: Float[Tensor, "3 h w"]) -> Float[Tensor, "R 3"] | None:
    """Colours of a ground that falls off steeply around the centre, from there to the corner; None where it does not.

    From the corners inwards, a ring is ground while most of it has one colour, no darker than the ring around it. Where
    the subject fills the rings, the ground goes on as it was seen last.
    """
    place = (_radius(*small.shape[-2:]) * (RINGS - 1)).round().long()
    pixels = small.permute(1, 2, 0)
    rings = small.new_zeros(RINGS, 3)
    last = RINGS  # the innermost ring that is ground
    while last > 0 and len(ring := pixels[place == last - 1]):
        median = ring.median(dim=0).values
        mixed = float((ring - median).norm(dim=1).median()) > RING_SPREAD
        if mixed or (last < RINGS and float((rings[last] - median).mean()) > DARKER):
            break
        last -= 1
        rings[last] = median
    if last > 0.75 * RINGS:  # hardly more than the corners
        return None
    rings[:last] = rings[last]
    return rings


def _radius(height: int, width: int) -> Float[Tensor, "H W"]:
    """Distance from the centre, 1 in the corners."""
    y, x = _places(height, width)
    return (x * x + y * y).sqrt() / 2**0.5


def _off_border(picture: Float[Tensor, "3 h w"], ground: Float[Tensor, "3 h w"]) -> Float[Tensor, ""]:
    """Median distance between the two along the border, one pixel wide."""
    ring = torch.ones(picture.shape[-2:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    return (picture - ground).norm(dim=0)[ring].median()


def _quadratic(height: int, width: int) -> Float[Tensor, "H W 6"]:
    y, x = _places(height, width)
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).double()


def _places(height: int, width: int) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Rows and columns of the pixels, from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return y, x


U2NET_SIDE = 320  # of the square that it was trained on
U2NET_MEAN, U2NET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
def salient(rgb: Float[Tensor, "3 h w"], net: U2NetP, side: int = U2NET_SIDE) -> Float[Tensor, "1 S S"]:
    """How likely each part of the picture is its subject, stretched from 0 to 1; 0 where nothing is."""
    small = area_resize(rgb, side, side)
    small = small / small.max().clamp_min(1e-6)
    mean, spread = (torch.tensor(values)[:, None, None] for values in (U2NET_MEAN, U2NET_SPREAD))
    found = net(((small - mean) / spread)[None])[0]
    low, high = found.min(), found.max()
    return (found - low) / (high - low) if high > FAINTEST else torch.zeros_like(found)
