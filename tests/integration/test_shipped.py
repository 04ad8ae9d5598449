"""The weights in data/micro: they load and draw in plain diffusers, and are what their card says."""

import json
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from PIL import Image

from magic_insert import MagicInsert
from magic_insert.core.digest import sha256_file
from magic_insert.core.masks import bounding_box
from magic_insert.page.shelf import toy_items
from magic_insert.paths import CHECKOUT, effect_weights, micro_dir, subjects_dir

CARD = micro_dir() / "card.json"
pytestmark = pytest.mark.skipif(
    not CARD.is_file(), reason="no weights in data/micro; run `make foundation` and `make ship`"
)


def test_every_weight_file_is_the_one_the_card_names() -> None:
    found = {str(p.relative_to(micro_dir())): sha256_file(p) for p in micro_dir().rglob("*.safetensors")}
    assert found == json.loads(CARD.read_text())["weights_sha256"]


def test_the_networks_of_the_inserter_are_those_their_card_names() -> None:
    folder = effect_weights().parent
    found = {path.name: sha256_file(path) for path in folder.glob("*.safetensors")}
    assert found == json.loads((folder / "card.json").read_text())["sha256"]


@pytest.mark.slow
def test_subjects_ship_already_learned_by_these_weights_and_are_drawn_at_once(tmp_path: Path) -> None:
    magic = MagicInsert.from_pretrained("micro", mode="full", overrides=["sampling.steps=1"])
    magic = magic.using(subjects=tmp_path)
    folders = sorted(subjects_dir().iterdir())
    assert folders
    for folder in folders:
        known = magic.personalize(folder / f"{folder.name}.png")
        assert known.run == folder, "of another model or recipe; run `python tools/ship.py`"
    drawn = magic.redraw(known, torch.rand(3, 64, 64))[0]
    assert drawn.alpha is not None  # cut out, with its own detail
    box = bounding_box(known.alpha)
    assert drawn.alpha.shape == (1, box.h, box.w)
    assert not list(tmp_path.glob("subject"))


def test_the_shelf_ships_what_the_toybox_renders(tmp_path: Path) -> None:
    ship, toys = run_path(str(CHECKOUT / "tools" / "ship.py")), toy_items()
    assert all(toy.item.path.is_file() for toy in toys.values())
    for name in ("desert-08", "owl-01", "bunny-01"):
        made, shipped = (
            np.asarray(Image.open(path), dtype=np.int16)
            for path in (ship["rendered"](toys[name], tmp_path), toys[name].item.path)
        )
        # Another processor may round otherwise, and a ray at an edge may then meet what lies behind it.
        assert (np.abs(made - shipped) > 1).mean() < 1e-3


def test_plain_diffusers_loads_and_draws_without_any_hint() -> None:
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(micro_dir(), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipe(
        "a red bunny, as a photo",
        num_inference_steps=8,
        guidance_scale=2.0,
        generator=generator,
        output_type="np",
    ).images[0]
    assert image.shape == (128, 128, 3)
    # Studio paper around a subject: a light border and something darker in the middle.
    assert np.median(image[:8]) > 0.8
    assert image[32:96, 32:96].min() < 0.5


def test_the_autoencoder_keeps_its_promise_on_a_held_out_photo() -> None:
    from diffusers import AutoencoderKL

    from magic_insert.models.pipeline import decode, encode
    from magic_insert.toybox.subjects import sample_subject
    from magic_insert.toybox.world import render_subjects

    vae = AutoencoderKL.from_pretrained(micro_dir() / "vae", local_files_only=True).float().eval()
    images = render_subjects(
        [sample_subject(i, "heldout") for i in range(3)], ["photo"] * 3, [0.5] * 3, [0, 1, 2]
    ).rgb
    error = (decode(vae, encode(vae, images)) - images).square().mean()
    assert -10 * torch.log10(error) > 24.0
