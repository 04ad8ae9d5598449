"""What every metric encoder shares: its card, preprocessing by that card, normalised embeddings, half-precision files.

A card holds everything that can change a metric, in one hashable record: two numbers of one metric may be compared only
if their cards have the same digest. Reports print it.
Shapes: B images, H W pixels, D embedding dimensions. Images are RGB in [0, 1]; embeddings have unit length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms import functional as vision

from magic_insert.core.digest import digest, sha256_file
from magic_insert.core.errors import UserError, expecting
from magic_insert.core.jsonl import read_record, whole_folder, write_json
from magic_insert.models.tensor_file import read_tensors, save_tensors

Role = Literal["clip", "identity", "style", "distance", "reward"]
# What `weights` hold of a file that is not known to be the published one.
ACCEPTED, UNKNOWN = "accepted by the user", "digest not known beforehand"
CARD_FILE = "encoder_card.json"


@dataclass(frozen=True)
class EncoderCard:
    """One encoder, complete: weights, preprocessing and provenance.

    `resize` is the shorter side in pixels after an antialiased resize, `crop` the side of the centre crop fed to the
    network; both are 0 for a network that takes pictures as they are. `mean` and `std` are per RGB channel for values
    in [0, 1]. `text_template` has one `{}`; None for encoders without a text side. `weights_sha256` is that of the
    weights file as shipped.
    """

    name: str
    role: Role
    weights: str
    weights_sha256: str
    resize: int
    crop: int
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    text_template: str | None
    embedding_dim: int
    trained_on: str

    def __post_init__(self) -> None:
        assert 0 < self.crop <= self.resize or self.crop == self.resize == 0, "crop larger than resize"
        assert min(self.std) > 0, "a std that is not positive"
        assert self.text_template is None or self.text_template.count("{}") == 1, "not one {} in the template"

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, in the order of declaration."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @property
    def verified(self) -> bool:
        """Whether the weights are those this project knows, and not taken on a user's word."""
        return not any(mark in self.weights for mark in (ACCEPTED, UNKNOWN))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over every field: what result rows carry."""
        return digest(self.to_dict())


def preprocess(images: Float[Tensor, "B 3 _ _"], card: EncoderCard) -> Float[Tensor, "B 3 C C"]:
    """Images B3HW in [0, 1]: resize the shorter side to `card.resize`, crop the centre to `card.crop`, standardise.

    The longer side is rounded down. The resize is antialiased (PIL's filters, without PIL's rounding to eight bits) and
    skipped when the size already fits, so pixels are never resampled needlessly.
    """
    how = vision.InterpolationMode(card.interpolation)
    images = vision.resize(images, [card.resize], how).clamp(0, 1)
    return standardise(vision.center_crop(images, [card.crop]), card)


def standardise(pixels: Float[Tensor, "B 3 C C"], card: EncoderCard) -> Float[Tensor, "B 3 C C"]:
    """`(pixels - mean) / std` per channel, for pixels already at the network's size."""
    return vision.normalize(pixels, list(card.mean), list(card.std))


def unit(vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Rows scaled to length one, in float32."""
    return normalize(vectors.float(), dim=-1)


class MetricEncoder(nn.Module, ABC):
    """A frozen network with its card. Subclasses say how standardised pixels become one vector."""

    network: Any  # a module of open_clip or timm, whose methods the subclass knows

    def __init__(self, network: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.network = network
        self.card = card

    @abstractmethod
    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of standardised pixels, with gradients: what training uses."""

    def prepare(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 C C"]:
        """One picture in [0, 1] as the network wants it; cheap, needs no network, so a thread may do it."""
        return preprocess(image[None], self.card)[0]

    @torch.no_grad()
    def embed_pixels(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of prepared pictures, in one pass, on the encoder's device."""
        assert not self.training, "a metric encoder is evaluated in eval mode"
        return self.features(pixels.to(next(self.parameters()).device)).float()

    def embed_images(self, images: Tensor, chunk: int = 64) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of images B3HW in [0, 1] of any size, `chunk` at a time through the network.

        A row does not depend on the other rows.

        Raises:
            UserError: not a batch of RGB images.
        """
        parts = preprocess(images.float(), self.card).split(chunk)
        return torch.cat([self.embed_pixels(part) for part in parts])


class PlainEncoder(MetricEncoder):
    """The embedding is the network's output: timm's class token after the last norm, CSD, the micro encoders."""

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network(pixels))


class TextImageEncoder(MetricEncoder):
    """Image and text towers of open_clip with one embedding space: CLIP-I, CLIP-T, retrieval, recognition."""

    def __init__(self, network: nn.Module, card: EncoderCard, tokenizer: Callable[..., Tensor]) -> None:
        super().__init__(network, card)
        self.tokenizer = tokenizer

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network.encode_image(pixels))

    def text_features(self, texts: list[str]) -> Float[Tensor, "T D"]:
        """Unit-length text embeddings with gradients; texts past the context (micro 32, OpenAI 77) are truncated."""
        device = next(self.parameters()).device
        return unit(self.network.encode_text(self.tokenizer(texts).to(device)))

    @torch.no_grad()
    def embed_texts(self, texts: list[str], chunk: int = 256) -> Float[Tensor, "T D"]:
        """Unit-length embeddings of texts exactly as given; `prompts` applies the card's template."""
        assert not self.training, "a metric encoder is evaluated in eval mode"
        parts = [self.text_features(texts[i : i + chunk]) for i in range(0, len(texts), chunk)]
        return torch.cat(parts).float()

    def prompts(self, names: list[str]) -> list[str]:
        """The card's text template filled with each name: `bunny` becomes `a bunny`."""
        assert self.card.text_template is not None
        return [self.card.text_template.format(name) for name in names]


class SavedEncoder(MetricEncoder):
    """An encoder of our own, which can be trained, written to a folder and loaded from it."""

    weights_file = "model.safetensors"

    @abstractmethod
    def write_config(self, folder: Path) -> None:
        """Everything but the weights and the card that is needed to rebuild the network from `folder`."""

    @classmethod
    @abstractmethod
    def untrained(cls, folder: Path, card: EncoderCard) -> Any:
        """The encoder of the configuration in `folder`, weights not yet loaded."""

    def save(self, folder: Path, trained_on: str) -> EncoderCard:
        """Write weights (float16 safetensors), configuration and card to `folder`, all or nothing.

        Returns the card as written: `trained_on` filled in, with the sha256 of the weights file.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            key: (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in self.network.state_dict().items()
        }
        with whole_folder(folder) as partial:
            save_tensors(partial / self.weights_file, tensors, {})
            self.write_config(partial)
            sha256 = sha256_file(partial / self.weights_file)
            card = replace(self.card, weights_sha256=sha256, trained_on=trained_on)
            write_json(partial / CARD_FILE, card.to_dict())
        return card

    @classmethod
    def load(cls, folder: Path) -> Any:
        """The encoder saved in `folder`, on the CPU in eval mode, in float32.

        Raises:
            UserError: as `check`, or the configuration of another network.
        """
        card = cls.check(folder)
        with expecting(f"the network's configuration in {folder}", KeyError, TypeError):
            encoder = cls.untrained(folder, card)
        weights = read_tensors(Path(folder) / cls.weights_file).tensors
        encoder.network.load_state_dict({key: value.float() for key, value in weights.items()})
        return encoder.eval()

    @classmethod
    def check(cls, folder: Path) -> EncoderCard:
        """The card in `folder`.

        Raises:
            UserError: it is missing or damaged, or the weights beside it are not the ones it speaks of.
        """
        path, weights = Path(folder) / CARD_FILE, Path(folder) / cls.weights_file
        if not (path.is_file() and weights.is_file()):
            raise UserError(
                f"expected an encoder folder with {CARD_FILE} and {weights.name}, got none at {folder}; check it"
            )
        card = read_record(path, EncoderCard)
        if (found := sha256_file(weights)) != card.weights_sha256:
            raise UserError(
                f"expected {weights} with sha256 {card.weights_sha256[:12]}..., got {found[:12]}...; "
                "the weights and their card do not belong together: train or copy the encoder folder again"
            )
        return card
