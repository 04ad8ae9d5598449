"""LPIPS (Zhang et al. 2018), AlexNet, version 0.1: how far apart two pictures look, 0 for equal ones.

The linear heads come with the `lpips` package; the AlexNet trunk is a file under torchvision's key names.
"""

import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from lpips import LPIPS
from safetensors.torch import load_file
from torch import Tensor, nn

from magic_insert.core.errors import UserError
from magic_insert.models.encoders.card import EncoderCard
from magic_insert.models.encoders.weights import Located, WeightsFile, locate

SMALLEST = 32  # pixels; AlexNet pools a smaller picture away
ALEXNET = WeightsFile(
    file="alexnet_imagenet_features.safetensors",
    sha256="2417cb8c45f6cf984d9483f515360397da2d8f54d135bae3b481927696cfe1d0",
    advice="save the convolutional trunk of torchvision's AlexNet (keys features.N.weight) there as safetensors",
)


class Lpips(nn.Module):
    """The distance with its card; gradients are off."""

    def __init__(self, network: LPIPS, card: EncoderCard) -> None:
        super().__init__()
        self.network = network
        self.card = card

    @torch.inference_mode()
    def forward(
        self, first: Float[Tensor, "B 3 H W"], second: Float[Tensor, "B 3 H W"]
    ) -> Float[Tensor, " B"]:
        """Distances of picture pairs in [0, 1] at their own size.

        Raises:
            UserError: pictures too small for the network.
        """
        if min(first.shape[-2:]) < SMALLEST:
            raise UserError(
                f"expected pictures of at least {SMALLEST} pixels for LPIPS, got {tuple(first.shape[-2:])}"
            )
        device = next(self.parameters()).device
        return self.network(first.to(device), second.to(device), normalize=True).flatten()


def new_lpips(trunk: dict[str, Tensor], source: Located) -> Lpips:
    """LPIPS on an AlexNet trunk with torchvision's keys `features.N.weight` and `.bias`.

    Raises:
        UserError: the tensors are not AlexNet's.
    """
    with warnings.catch_warnings():
        # lpips asks torchvision for its trunk in a way that torchvision has renamed.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torchvision\.models")
        network = LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    # lpips cuts torchvision's sequence into five slices but keeps the numbers: slice2.3.weight is features.3.weight.
    named = {key: f"features.{key.split('.', 1)[1]}" for key in network.net.state_dict()}
    if missing := sorted(set(named.values()) - set(trunk)):
        raise UserError(
            f"expected AlexNet's {missing[0]} in {source.path}, got other tensors; is it another file?"
        )
    network.net.load_state_dict({key: trunk[name].float() for key, name in named.items()})
    card = EncoderCard(
        name="lpips-alex-v0.1",
        role="distance",
        weights=source.label,
        weights_sha256=source.sha256,
        resize=0,
        crop=0,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        text_template=None,
        embedding_dim=1,
        trained_on="ImageNet; linear heads on BAPPS human judgements",
    )
    return Lpips(network.eval(), card)


def check_lpips(root: Path, *, accept_unknown: bool = False) -> Located:
    """Where `load_lpips` will find its trunk; raises as it does."""
    return locate(ALEXNET, root=root, accept_unknown=accept_unknown)


def load_lpips(root: Path, *, accept_unknown: bool = False, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS with the AlexNet trunk `alexnet_imagenet_features.safetensors` in `root`.

    Raises:
        UserError: the file is not there, or not the known one and `accept_unknown` is not set.
    """
    source = check_lpips(root, accept_unknown=accept_unknown)
    return new_lpips(load_file(source.path), source).to(device)
