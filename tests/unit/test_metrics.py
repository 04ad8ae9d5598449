"""The columns of a row: known answers, laws, and agreement with formulas written out again in numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rectangle

from magic_insert.config.registry import METRICS
from magic_insert.core.errors import UserError
from magic_insert.core.fidelity import CAP_DB
from magic_insert.data.benchmarks import Truth
from magic_insert.evaluation.metrics import MARGIN, Sample, effect_region


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def vectors(seed: int) -> dict[str, torch.Tensor]:
    return {
        name: noise(8, seed=seed * 10 + i) - 0.3
        for i, name in enumerate(("dino", "dinov2", "clip_i", "clip_t", "csd"))
    }


TEXTS = {name: noise(8, seed=90 + i) - 0.3 for i, name in enumerate(("simple", "detailed", "style"))}


def measure(sample: Sample) -> dict[str, float]:
    """Every metric of this package on one sample."""
    metrics = [METRICS.get(name) for name in METRICS.own]
    return {
        key: value for m in metrics if sample.track in m.columns for key, value in m.values(sample).items()
    }


def redrawn(**fields: Any) -> Sample:
    return Sample(**{"track": "stylize", "made": {}, "subject": {}, "scene": {}, **fields})


def square(top: int, left: int, side: int, size: int = 40) -> torch.Tensor:
    return rectangle(size, size, (top, top + side), (left, left + side))


def paste(background: torch.Tensor, mask: torch.Tensor, value: float = 0.9) -> torch.Tensor:
    return torch.where(mask > 0, torch.full_like(background, value), background)


def grey(size: int = 40) -> torch.Tensor:
    return (noise(3, size, size, seed=7) * 255).round() / 255


def inserted(
    picture: torch.Tensor, background: torch.Tensor, mask: torch.Tensor, **fields: Any
) -> dict[str, float]:
    """The columns of a composite."""
    embeddings = {"made": {}, "subject": {}, "scene": {}} | fields
    return measure(Sample("insert", picture=picture, background=background, mask=mask, **embeddings))


class Scorer:
    def score(self, pictures: torch.Tensor, texts: list[str]) -> torch.Tensor:
        assert (pictures.shape[0], texts) == (1, ["a bunny"])
        return torch.tensor([-0.25])


def test_every_column_is_the_cosine_its_name_says_and_the_means_are_plain() -> None:
    s, r, b = vectors(1), vectors(2), vectors(3)
    values = measure(
        redrawn(
            made=s, subject=r, scene=b, texts=TEXTS, words={"simple": "a bunny"}, picture=grey(),
            encoders={"image_reward": Scorer()},
        )
    )  # fmt: skip

    def cos(x: torch.Tensor, y: torch.Tensor) -> float:
        u, v = x.double().numpy(), y.double().numpy()
        return float(np.dot(u, v) / np.sqrt(np.dot(u, u) * np.dot(v, v)))

    subject = {
        "subject_dino": cos(s["dino"], r["dino"]),
        "subject_clip_i": cos(s["clip_i"], r["clip_i"]),
        "subject_clip_t_simple": cos(s["clip_t"], TEXTS["simple"]),
        "subject_clip_t_detailed": cos(s["clip_t"], TEXTS["detailed"]),
    }
    style = {
        "style_clip_i": cos(s["clip_i"], b["clip_i"]),
        "style_csd": cos(s["csd"], b["csd"]),
        "style_clip_t": cos(s["clip_t"], TEXTS["style"]),
    }
    means = {
        "subject_mean": np.mean([*subject.values()]), "style_mean": np.mean([*style.values()]),
        "subject_dinov2": cos(s["dinov2"], r["dinov2"]), "image_reward": -0.25,
    }  # fmt: skip
    assert values == pytest.approx(subject | style | means, abs=1e-9)


@pytest.mark.parametrize("broken", [torch.full((8,), torch.nan), torch.zeros(8)])
def test_an_embedding_that_cannot_be_compared_names_its_column(broken: torch.Tensor) -> None:
    with pytest.raises(UserError, match="subject_dino"):
        measure(redrawn(made={"dino": broken}, subject=vectors(1)))


def test_a_paste_leaves_the_outside_perfect_and_a_colour_cast_is_the_shift() -> None:
    background, mask = grey(), square(15, 15, 6)
    assert inserted(paste(background, mask), background, mask) == {
        "outside_psnr": CAP_DB, "outside_equal": 1.0, "outside_shift": 0.0, "effect_area": 0.0
    }  # fmt: skip
    background, mask = grey() * 0.5, square(15, 15, 6)
    cast = torch.tensor([0.03, -0.01, 0.02]).view(3, 1, 1)
    values = inserted(paste(background + cast + 0.02, mask), background, mask)
    expected = float(np.mean(np.array([0.05, 0.01, 0.04]) ** 2))
    assert values["outside_shift"] == pytest.approx(math.sqrt(expected), abs=1e-6)
    assert values["outside_psnr"] == pytest.approx(-10 * math.log10(expected), abs=1e-3)
    assert values["outside_equal"] == 0.0


def test_the_region_reaches_half_the_subject_and_with_a_truth_it_is_subject_and_true_effect() -> None:
    assert MARGIN == 0.5
    assert torch.equal(effect_region(square(15, 15, 8)), square(15 - 4, 15 - 4, 16) > 0)
    mask, effect = square(15, 15, 6), square(30, 5, 4)
    assert torch.equal(effect_region(mask, effect), (square(13, 13, 10) + square(28, 3, 8)) > 0)
    with pytest.raises(UserError, match="empty"):
        effect_region(torch.zeros(1, 8, 8))


def test_a_subject_may_stand_elsewhere_than_expected_and_the_expected_place_is_no_outside_either() -> None:
    background, expected, mask = grey(), square(2, 2, 4), square(30, 30, 4)
    composite = paste(paste(background, mask), expected, 0.1)
    assert inserted(composite, background, mask, expected=expected)["outside_equal"] == 1.0
    assert inserted(composite, background, mask)["outside_equal"] < 1.0


def test_identity_is_judged_against_the_subject_and_style_against_the_scene() -> None:
    one, two = torch.eye(2)
    values = inserted(
        grey(), grey(), square(15, 15, 6),
        made={"dino": one, "csd": one}, subject={"dino": one, "csd": two}, scene={"dino": two, "csd": one},
    )  # fmt: skip
    assert (values["inside_identity"], values["inside_style"]) == (1.0, 1.0)


def answer(picture: torch.Tensor, mask: torch.Tensor, effect: torch.Tensor) -> Truth:
    return Truth(picture, picture, mask, effect)


def of_styled(image: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    nothing = torch.zeros_like(truth[:1])
    return measure(redrawn(picture=image, truth=answer(truth, nothing, nothing)))


def test_ssim_and_psnr_have_known_answers_and_the_truth_scores_the_ceiling() -> None:
    """Of plain pictures x and y SSIM is (2 x y + c) / (x^2 + y^2 + c) with c = 1e-4 (Wang et al. 2004, equation 13)."""
    values = of_styled(torch.full((3, 26, 24), 0.4), torch.full((3, 26, 24), 0.6))
    assert values["truth_ssim"] == pytest.approx((2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4), abs=1e-6)
    assert values["truth_psnr"] == pytest.approx(-20 * math.log10(0.2), abs=1e-5)
    truth = noise(3, 26, 24, seed=3)
    assert of_styled(truth, truth) == {"truth_psnr": CAP_DB, "truth_ssim": pytest.approx(1.0)}


def test_the_true_insertion_is_perfect_and_a_bare_paste_has_no_shadow() -> None:
    background = torch.full((3, 40, 40), 0.6)
    mask, effect = square(10, 10, 10), square(20, 12, 6)
    picture = paste(background, mask)
    picture[:, effect[0] > 0] = 0.3
    truth = answer(picture, mask, effect)
    perfect = inserted(picture, background, mask, truth=truth)
    bare = inserted(paste(background, mask), background, mask, truth=truth)
    assert [perfect[f"truth_{name}"] for name in ("effect_psnr", "shadow_iou", "mask_iou")] == [CAP_DB, 1, 1]
    assert bare["truth_shadow_iou"] == 0.0
    assert bare["truth_effect_psnr"] == pytest.approx(-20 * math.log10(0.3), abs=1e-4)


def test_a_shadow_on_the_other_side_is_wrong_and_half_the_contact_is_half() -> None:
    """The subject stands in the middle, its shadow falls to the right; what is drawn beside it costs the rest."""
    background, mask = torch.full((3, 40, 40), 0.6), square(10, 15, 10)
    right, left = (torch.zeros(1, 40, 40) for _ in range(2))
    right[:, 20:24, 15:34], left[:, 20:24, 6:25] = 1.0, 1.0

    def scores(effect: torch.Tensor, depth: float) -> dict[str, float]:
        picture = paste(background - depth * effect, mask)
        truth = answer(paste(background - 0.2 * right, mask), mask, right)
        return inserted(picture, background, mask, truth=truth)

    same, half, wrong = scores(right, 0.2), scores(right, 0.1), scores(left, 0.2)
    assert (same["truth_side"], half["truth_side"], wrong["truth_side"]) == (1, 1, 0)
    assert (same["truth_contact"], half["truth_contact"]) == (pytest.approx(1), pytest.approx(0.5))
    assert same["truth_rest_psnr"] == half["truth_rest_psnr"] == CAP_DB > wrong["truth_rest_psnr"]
    assert scores(torch.zeros_like(left), 0.0)["truth_side"] == 0, "no shadow at all lies on no side"


def test_a_subject_in_the_wrong_place_is_no_shadow_but_a_smaller_overlap() -> None:
    background = torch.full((3, 40, 40), 0.6)
    mask, moved = square(10, 10, 10), square(10, 15, 10)
    truth = answer(paste(background, mask), mask, torch.zeros_like(mask))
    values = inserted(paste(background, moved), background, moved, truth=truth)
    assert "truth_effect_psnr" not in values
    assert (values["truth_shadow_iou"], values["truth_mask_iou"]) == (1.0, pytest.approx(50 / 150))


def test_pictures_of_two_sizes_and_broken_ones_are_refused() -> None:
    background, mask = grey(), square(10, 10, 10)
    with pytest.raises(UserError, match="background 40 x 40"):
        inserted(grey(20), background, mask)
    with pytest.raises(UserError, match="NaN"):
        of_styled(torch.full((3, 16, 16), torch.nan), noise(3, 16, 16))
