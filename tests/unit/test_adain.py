"""AdaIN on random networks of the published shape, and on real pictures where real weights are at hand."""

from pathlib import Path

import pytest
import torch
from helpers import rectangle
from torch import Tensor

from magic_insert.config.schema.shared import SamplingConfig, StyleConfig, StylizerConfig
from magic_insert.core.errors import UserError
from magic_insert.core.rand import generator
from magic_insert.core.records import Subject
from magic_insert.stylizers.adain import DECODER_FILE, ENCODER_FILE, AdainStylizer, load_adain, spread_colours
from magic_insert.stylizers.draws import Draw


def adain(weights: Path, who: Subject, *, size: int, weight: float = 1.0) -> AdainStylizer:
    cfg = StylizerConfig(name="adain", weights=str(weights), size=size, style_weight=weight)
    return AdainStylizer(cfg, None, who, StyleConfig(), SamplingConfig(steps=1, guidance=1.0))


def picture(seed: int, height: int = 64, width: int = 80) -> Tensor:
    return torch.rand(3, height, width, generator=generator(seed, "picture"))


def subject() -> Subject:
    alpha = rectangle(60, 60, (10, 50), (20, 40))
    return Subject(picture(0, 60, 60), alpha, "block")


def test_a_picture_in_its_own_style_is_what_the_networks_make_of_it_untouched(adain_weights: Path) -> None:
    networks, image = load_adain(adain_weights), picture(1)[None]
    torch.testing.assert_close(
        networks(image, image), networks(image, picture(2)[None], 0.0), atol=1e-3, rtol=0
    )
    assert networks(image, image).shape == image.shape


def test_the_weight_leads_to_the_scenes_look_and_the_ground_stays_white(adain_weights: Path) -> None:
    scene = picture(3) ** 3
    drawn = [
        adain(adain_weights, subject(), size=64, weight=w)([Draw(scene, 0, "x")])[0] for w in (0.0, 0.5, 1.0)
    ]
    near, far = ((image - drawn[0]).abs().mean() for image in drawn[1:])
    assert 1e-4 < near < far
    stylizer = adain(adain_weights, subject(), size=64)
    drawn = stylizer([Draw(picture(4, 100, 50), 0, "x")])[0]
    assert drawn.shape == (3, 64, 64)
    assert (drawn[:, :, :8] == 1).all()
    assert (drawn[:, 28:36, 30:34] < 1).any()


def test_spread_colours_keep_the_subject_and_fill_the_ground_with_its_own() -> None:
    cover = rectangle(32, 32, (8, 24), (8, 24))
    colour = torch.tensor([0.8, 0.1, 0.3])[:, None, None]
    image = torch.where(cover > 0, colour, 1.0)
    filled = spread_colours(image, cover)
    torch.testing.assert_close(filled, colour.expand(3, 32, 32), atol=1e-5, rtol=0)
    busy = picture(5, 32, 32)
    assert torch.equal(spread_colours(busy, torch.ones(1, 32, 32)), busy)


@pytest.mark.parametrize("what", ["missing", "damaged", "another"])
def test_weights_that_do_not_fit_are_refused(adain_weights: Path, tmp_path: Path, what: str) -> None:
    (tmp_path / ENCODER_FILE).write_bytes((adain_weights / ENCODER_FILE).read_bytes())
    if what == "damaged":
        (tmp_path / DECODER_FILE).write_bytes(b"not safetensors")
    if what == "another":
        (tmp_path / DECODER_FILE).write_bytes((adain_weights / ENCODER_FILE).read_bytes())
    with pytest.raises(UserError, match=DECODER_FILE):
        load_adain(tmp_path)
