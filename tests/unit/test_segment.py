"""Cutting subjects out of pictures on plain ground, against mattes that are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from magic_insert.config.schema.shared import SegmenterConfig
from magic_insert.core.errors import UserError
from magic_insert.core.masks import components
from magic_insert.core.rand import generator
from magic_insert.magic import MagicInsert, Redrawn
from magic_insert.models.folders import find_segmenter
from magic_insert.models.segment import coarse_cut, ground_colour, has_cutout, segment, segment_alike
from magic_insert.toybox.subjects import sample_subject
from magic_insert.toybox.world import render_subjects


def disc(size: int = 96, radius: float = 0.3, hole: float = 0.0) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, size), torch.linspace(-0.5, 0.5, size), indexing="ij")
    away = torch.sqrt(x**2 + y**2)
    inside = ((radius - away) * size + 0.5).clamp(0, 1)
    return (inside * ((away - hole) * size + 0.5).clamp(0, 1) if hole else inside)[None]


def on_ground(alpha: Tensor, ground: Tensor, subject: tuple[float, float, float] = (0.8, 0.3, 0.2)) -> Tensor:
    colour = torch.tensor(subject)[:, None, None]
    return alpha * colour + (1 - alpha) * ground


def gradient(size: int = 96) -> Tensor:
    down = torch.linspace(0.95, 0.75, size)[None, :, None]
    return down * torch.tensor([1.0, 0.98, 0.94])[:, None, None].expand(3, size, size)


def overlap(found: Tensor, truth: Tensor) -> float:
    both, either = torch.minimum(found, truth).sum(), torch.maximum(found, truth).sum()
    return float(both / either)


def test_the_grounds_colour_is_read_through_a_subject_and_taken_out_of_its_outline() -> None:
    picture = gradient()
    picture[:, 60:, 30:60] = torch.tensor([0.1, 0.2, 0.9])[:, None, None]
    assert float((ground_colour(picture) - gradient()).abs().max()) < 0.01
    alpha = disc()
    matte = segment(on_ground(alpha, gradient()))
    seen = (matte.alpha > 0.3).expand(3, -1, -1)
    wanted = torch.tensor([0.8, 0.3, 0.2])[:, None, None].expand(3, 96, 96)
    assert float((matte.rgb - wanted)[seen].abs().max()) < 0.08


@pytest.mark.parametrize("brightness", [1.0, 0.15])
def test_a_disc_on_a_gradient_is_cut_to_its_true_coverage(brightness: float) -> None:
    alpha, ground = disc(), gradient() * brightness
    matte = segment(on_ground(alpha, ground))
    assert overlap(matte.alpha, alpha) > 0.97
    assert float((matte.alpha - alpha).abs().mean()) < 0.006


def test_noise_on_the_ground_is_not_a_subject() -> None:
    ground = gradient() + 0.015 * torch.randn(3, 96, 96, generator=generator(0, "paper"))
    matte = segment(on_ground(disc(), ground.clamp(0, 1)))
    assert overlap(matte.alpha, disc()) > 0.95
    assert float(matte.alpha[:, :10].max()) == 0


def test_a_shaded_spot_like_the_ground_stays_and_a_gap_opens() -> None:
    ring, ground = disc(hole=0.08), gradient()
    shaded = segment(on_ground(ring, ground) * (1 - 0.06 * disc(radius=0.09)))
    assert float(shaded.alpha[:, 44:52, 44:52].min()) > 0.9
    gap = segment(on_ground(ring, ground))
    assert float(gap.alpha[:, 44:52, 44:52].max()) == 0
    assert overlap(gap.alpha, ring) > 0.95
    eye = segment(on_ground(disc(hole=0.012), ground))
    assert float(eye.alpha[:, 47:49, 47:49].min()) > 0.9


def test_a_real_alpha_is_obeyed_and_an_opaque_one_is_not_an_alpha() -> None:
    alpha = disc()
    picture = on_ground(alpha, torch.zeros(3, 96, 96))
    assert torch.equal(segment(picture, alpha).alpha, alpha)
    assert not has_cutout(torch.ones(1, 96, 96))
    cut = segment(on_ground(alpha, gradient()), torch.ones(1, 96, 96))
    assert overlap(cut.alpha, alpha) > 0.97


def test_a_picture_without_a_subject_or_a_segmenter_without_its_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stands out"):
        segment(gradient())
    with pytest.raises(UserError, match="below a half"):
        segment(gradient(), torch.zeros(1, 96, 96))
    with pytest.raises(UserError, match="transparent ground"):
        segment(gradient(), None, segmenter="alpha")
    noise = torch.rand(1, 300, 300, generator=generator(0, "noise")).expand(3, -1, -1).contiguous()
    with pytest.raises(UserError, match="stands out"):
        segment(noise, segmenter="u2net")
    with pytest.raises(UserError, match="rembg"):
        find_segmenter(SegmenterConfig(name="rembg", model_dir=str(tmp_path)))
    with pytest.raises(UserError, match="stands out"):
        segment_alike(torch.full((3, 64, 64), 0.5), torch.ones(1, 9, 9))


Y, X = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")


def ball(y: float, x: float, radius: float) -> Tensor:
    return ((Y - y).square() + (X - x).square() < radius**2).float()[None]


def colour(*rgb: float) -> Tensor:
    return torch.tensor(rgb).view(3, 1, 1)


AWAY = ((Y - 64).square() + (X - 64).square()).sqrt() / 90


@pytest.mark.parametrize("fall", [0.45 * AWAY.square(), 0.95 * ((AWAY - 0.55) / 0.4).clamp(0, 1)])
def test_a_ground_that_is_brighter_in_the_middle_or_falls_off_to_black_is_no_subject(fall: Tensor) -> None:
    body = ball(70, 60, 25)
    picture = body * colour(0.4, 0.2, 0.2) + (1 - body) * colour(0.95, 0.9, 0.8) * (1 - fall)
    assert overlap(segment(picture, segmenter="grabcut").alpha, body) > 0.95


@pytest.mark.parametrize("gap", [0, 3])
def test_the_white_body_of_a_line_drawing_belongs_to_the_subject(gap: int) -> None:
    body = torch.maximum(ball(74, 64, 34), ball(34, 64, 20))
    inner = torch.maximum(ball(74, 64, 31), ball(34, 64, 17))
    eye = ball(32, 58, 4)
    ink = torch.maximum(body - inner, eye)
    ink[:, :, 97 : 97 + gap] = 0  # the line is broken at the side
    found = segment(1 - 0.9 * ink.expand(3, -1, -1), segmenter="grabcut").alpha
    assert overlap(found, body) > 0.9


@pytest.mark.parametrize("paint", [(0.8, 0.1, 0.1), (0.45, 0.45, 0.45), (0.85, 0.82, 0.75)])
@pytest.mark.parametrize("place", ["bust", "corner"])
def test_a_subject_that_stands_in_the_corners_is_not_taken_for_the_ground(
    paint: tuple[float, float, float], place: str
) -> None:
    if place == "bust":  # a head, and shoulders from one bottom corner to the other
        body = torch.maximum(ball(60, 64, 30), (Y > 84).float()[None])
    else:
        body = ((X < 70) & (Y > 50)).float()[None]
    picture = body * colour(*paint) + (1 - body)
    assert overlap(segment(picture, segmenter="grabcut").alpha, body) > 0.97


@pytest.mark.parametrize("pale", [True, False])
def test_a_belly_that_fades_into_the_grounds_white_is_kept_and_a_gap_is_not(pale: bool) -> None:
    body, inner = ball(64, 64, 44), ball(64, 64, 20)
    fade = ((Y - 50) / 40).clamp(0, 0.5)[None] if pale else torch.zeros(1, 128, 128)
    belly = 1 - fade * colour(0.1, 0.2, 0.4)
    picture = body * (inner * belly + (1 - inner) * colour(0.8, 0.2, 0.2)) + (1 - body)
    alpha = segment(picture, segmenter="grabcut").alpha
    assert bool(alpha[0, 50, 64] > 0.5) == pale


def striped(side: int = 320) -> tuple[Tensor, Tensor]:
    """Two discs of one colour on a ground that no plane describes, and where they are."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    ground = torch.stack([0.5 + 0.2 * (7 * x).sin(), 0.6 + 0.1 * (5 * y).cos(), 0.7 + 0.2 * x])
    inside = torch.zeros(side, side)
    for centre in (-0.45, 0.45):
        inside = torch.maximum(inside, (((x - centre) ** 2 + y**2) < 0.1).float())
    colour = torch.tensor([0.9, 0.15, 0.1])[:, None, None]
    return (ground + inside * (colour - ground)).clamp(0, 1), inside[None]


def test_u2net_keeps_several_parts_apart() -> None:
    picture, body = striped()
    matte = segment(picture)
    assert overlap((matte.alpha > 0.5).float(), body) > 0.93
    assert int(components(matte.alpha).unique().numel()) == 3


def test_a_coarse_cut_is_like_the_exact_one_and_made_only_where_u2net_cuts_a_large_picture() -> None:
    alpha = disc(500)
    picture = on_ground(alpha, gradient(500))
    coarse = coarse_cut(picture, None, "auto")
    assert coarse is not None
    assert coarse.alpha.shape == (1, 384, 384)
    grown = torch.nn.functional.interpolate(coarse.alpha[None], (500, 500), mode="bilinear")[0]
    assert overlap(grown, segment(picture, segmenter="u2net").alpha) > 0.95
    small = picture[:, 100:400, 100:400].contiguous()
    others = [(picture, alpha, "auto"), (picture, None, "grabcut"), (small, None, "auto")]
    assert [coarse_cut(*given) for given in others] == [None] * 3


@pytest.mark.slow
def test_of_two_cuts_the_one_more_like_the_subjects_own_outline_is_taken() -> None:
    """A Toybox subject of which GrabCut loses the body as a drawing; its outline is known from its own picture."""
    spec = sample_subject(1002, "heldout")
    magic = MagicInsert.from_pretrained("micro", mode="preview")
    made = render_subjects([spec], ["pencil"], [0.5], [2])
    picture, truth = made.rgb[0], made.alpha[0]
    assert overlap(segment(picture, segmenter="grabcut").alpha, truth) < 0.7
    moved = torch.nn.functional.pad(truth, (40, 3, 7, 30))  # where it stands and how large does not matter
    found = segment_alike(picture, moved)
    assert overlap(found.alpha, truth) > 0.8
    redrawn = Redrawn(picture, "cactus", "cactus__scene", {}, {}, outline=moved)
    assert torch.equal(magic.cut(redrawn).alpha, found.alpha)
    assert magic.cut(redrawn) is magic.using(mode="full").cut(redrawn)  # another place cuts nothing again
