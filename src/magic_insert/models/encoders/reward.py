"""ImageReward (Xu et al. 2023): how much people would like a picture for a text. Optional: its own package is needed.

The package `image-reward` brings the network, BLIP ViT-L with 35-token prompts; the score is
`(r - 0.16717363) / 1.03333950`. It pins older versions of libraries used here, so it is no extra of this project: it
wants an environment of its own. None of its weights are shipped.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.models.encoders.card import UNKNOWN, EncoderCard

FILES = ("ImageReward.pt", "med_config.json")


class RewardScorer:
    """`score(images, texts)`: one reward per pair; higher is better, about zero mean over people's prompts."""

    def __init__(self, network: Any, card: EncoderCard) -> None:
        self.network = network
        self.card = card

    @torch.inference_mode()
    def score(self, images: Float[Tensor, "B 3 H W"], texts: list[str]) -> Float[Tensor, " B"]:
        """Rewards of pictures in [0, 1], each for its own text."""
        rewards = [
            self.network.score(text, to_pil_image(image.cpu()))
            for image, text in zip(images, texts, strict=True)
        ]
        return torch.tensor(rewards)


def check_reward(root: Path | None) -> Path:
    """The folder with ImageReward.pt and med_config.json, known to hold them.

    Raises:
        UserError: the package or the files are missing.
    """
    if find_spec("ImageReward") is None:
        raise UserError(
            "expected the package image-reward for image_reward, got none; install it (it wants an older transformers: "
            "best in an environment of its own) or leave encoders.image_reward=false"
        )
    if root is None or not all((root / name).is_file() for name in FILES):
        raise UserError(f"expected {' and '.join(FILES)} in {root}, got none; set encoders.root=FOLDER")
    return root


def load_reward(root: Path | None, device: torch.device | str = "cpu") -> RewardScorer:
    """ImageReward from `root`/ImageReward.pt and `root`/med_config.json.

    Raises:
        UserError: see `check_reward`; or the package does not work with the libraries installed.
    """
    root = check_reward(root)
    try:
        import ImageReward
    except ImportError as error:
        raise UserError(
            f"expected a working package image-reward, got {error}; it wants an older transformers: score in an "
            "environment of its own or leave encoders.image_reward=false"
        ) from error
    network = ImageReward.load(str(root / FILES[0]), device=str(device), med_config=str(root / FILES[1]))
    card = EncoderCard(
        name="image-reward-v1.0",
        role="reward",
        weights=f"THUDM/ImageReward ImageReward.pt ({UNKNOWN})",
        weights_sha256=sha256_file(root / FILES[0]),
        resize=224,
        crop=224,
        interpolation="bicubic",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        text_template="{}",
        embedding_dim=1,
        trained_on="137 thousand human comparisons of generated pictures",
    )
    return RewardScorer(network, card)
