"""LPIPS: the formula of Zhang et al. 2018 written out again, and what it says of pictures when AlexNet is at hand."""

import math
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import alexnet

from magic_insert.core.errors import UserError
from magic_insert.models.encoders.paper import ALEXNET, Located, Lpips, load_lpips, new_lpips


def noise(seed: int, size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def trunk() -> dict[str, torch.Tensor]:
    """AlexNet's convolutions with weights from a formula, under torchvision's names."""
    tensors = {}
    for name, values in alexnet(weights=None).features.state_dict().items():
        wave = torch.sin(torch.arange(values.numel()) * 1.3).view(values.shape)
        tensors[f"features.{name}"] = wave * math.sqrt(2 * len(values) / values.numel())
    return tensors


@pytest.fixture(scope="module")
def distance() -> Lpips:
    return new_lpips(trunk(), Located(Path("formula"), "0" * 64, "a formula"))


def by_hand(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`sum_l mean_hw (w_l . (u_l - v_l)^2)` of unit features after each ReLU, inputs in [-1, 1] standardised."""
    network = alexnet(weights=None).features
    network.load_state_dict({key.removeprefix("features."): value for key, value in trunk().items()})
    heads = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", weights_only=True, map_location="cpu"
    )
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    states = [((2 * image - 1) - shift) / scale for image in (first, second)]
    total, level = torch.zeros(len(first)), 0
    with torch.no_grad():
        for layer in network:
            states = [layer(state) for state in states]
            if isinstance(layer, nn.ReLU):
                units = [state / (state.square().sum(1, keepdim=True).sqrt() + 1e-10) for state in states]
                head = heads[f"lin{level}.model.1.weight"]
                total += (head * (units[0] - units[1]).square()).sum(1).mean(dim=(1, 2))
                level += 1
    assert level == 5
    return total


def test_the_distance_is_the_papers_formula(distance: Lpips) -> None:
    first, second = noise(1), noise(2)
    torch.testing.assert_close(distance(first, second), by_hand(first, second), atol=1e-5, rtol=1e-4)


def test_a_picture_is_no_way_from_itself_and_the_distance_is_symmetric(distance: Lpips) -> None:
    first, second = noise(1), noise(2)
    assert distance(first, first).abs().max() == 0
    torch.testing.assert_close(distance(first, second), distance(second, first))


def test_a_picture_too_small_for_alexnet_is_refused(distance: Lpips) -> None:
    with pytest.raises(UserError, match="32 pixels"):
        distance(noise(1, 16), noise(2, 16))


def test_tensors_that_are_not_alexnets_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / ALEXNET.file)
    with pytest.raises(UserError, match="sha256"):
        load_lpips(tmp_path)
    with pytest.raises(UserError, match="AlexNet's features"):
        load_lpips(tmp_path, accept_unknown=True)
