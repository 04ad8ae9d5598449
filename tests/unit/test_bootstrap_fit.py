"""What a round trains on: backgrounds from removals."""

from typing import Any

import pytest
import torch

from magic_insert.bootstrap import fit
from magic_insert.bootstrap.fit import composited


class Faithful:
    """A pipeline whose autoencoder loses nothing."""

    vae, device = None, "cpu"


def test_hole_and_effect_are_the_removals_and_far_from_them_the_picture_is_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "encode", lambda vae, images: images)
    monkeypatch.setattr(fit, "decode", lambda vae, latents: latents)
    pipe: Any = Faithful()
    truth = torch.full((1, 3, 64, 64), 0.8)
    picture, mask = truth.clone(), torch.zeros(1, 1, 64, 64)
    picture[..., 30:40, 30:44] = 0.4  # a shadow
    picture[..., 20:40, 20:30], mask[..., 20:40, 20:30] = 0.1, 1.0
    removed = truth - 0.01
    found = composited(pipe, picture, removed, mask)
    for rows, columns in ((slice(20, 40), slice(20, 30)), (slice(32, 38), slice(32, 42))):
        assert torch.allclose(found[..., rows, columns], removed[..., rows, columns], atol=1e-3)
    assert torch.equal(found[..., :8, :], picture[..., :8, :])
    assert torch.equal(found[..., :, 56:], picture[..., :, 56:])
