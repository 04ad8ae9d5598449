"""Published judges: encoders of the paper's tables, each prepared as its authors evaluate it, LPIPS and ImageReward.

DINO ViT-S/16 and DINOv2 ViT-S/14 through timm: bicubic 256, centre crop 224, ImageNet statistics, CLS embedding. CLIP
ViT-B/32 and ViT-L/14 of OpenAI through open_clip: bicubic 224, centre crop, CLIP statistics, QuickGELU as they were
trained. CSD on CLIP's preprocessing. timm's DINO differs from the hub's in the last digits; its id stands in the card.

Weights come from a folder, or the hub at a pinned commit, never unasked. Every file is safetensors and its sha256 is
compared with the one this project knows; a file of which no digest is known is used only when the user says so, and the
encoder's card then says so too. One more encoder is a `PublishedEncoder` in a file of its own, registered in `ENCODERS`
or by an entry point of the group `magic_insert.encoders`, and loaded with `encoders.extra=[NAME]`.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lpips import LPIPS
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError, expecting, require_package
from magic_insert.models.encoders import base
from magic_insert.models.tensor_file import read_tensors

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
CROP = 224


# Weights


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    `file`: its name in a local folder (`encoders.root`). `sha256`: its digest, None when it is not known. `repo`,
    `revision`, `hub_file`: where the hub keeps it, `repo` None when it is not there as safetensors. `advice`: how to
    get it.
    """

    file: str
    sha256: str | None
    repo: str | None = None
    revision: str | None = None
    hub_file: str | None = None
    advice: str = ""

    @property
    def how_to_get(self) -> str:
        """What to do where the file is missing."""
        return self.advice or f"copy {self.hub_file} of {self.repo} at {self.revision} there under this name"


@dataclass(frozen=True)
class Located:
    """A file that may be loaded; `label` is what the card calls it."""

    path: Path
    sha256: str
    label: str


def locate(
    wanted: WeightsFile, *, root: Path | None, download: bool = False, accept_unknown: bool = False
) -> Located:
    """The file on this machine, its digest checked.

    With `root` that folder is looked at, and nothing else unless `download` is set. Then, and without `root`, so is the
    hub's cache on this machine, at the pinned commit; the hub itself when `download` is set.

    Raises:
        UserError: it is not there, its digest is another than the known one, or none is known and
            `accept_unknown` is not set.
    """
    elsewhere = root is None or (download and wanted.repo is not None and not (root / wanted.file).is_file())
    path = _from_hub(wanted, download) if root is None or elsewhere else _in_folder(wanted, root)
    found = sha256_file(path)
    origin = wanted.file if wanted.repo is None else f"{wanted.repo}@{(wanted.revision or '')[:12]}"
    if found == wanted.sha256:
        return Located(path, found, origin)
    if accept_unknown:
        kind = base.UNKNOWN if wanted.sha256 is None else "other weights than the published"
        return Located(path, found, f"{origin} ({kind}, {base.ACCEPTED})")
    if wanted.sha256 is None:
        raise UserError(
            f"expected a file with a known digest, got {path} with sha256 {found}, which cannot be checked here; "
            "compare it with its source and set encoders.accept_unknown=true"
        )
    raise UserError(
        f"expected {path} with sha256 {wanted.sha256[:16]}..., got {found[:16]}...; get the file again, or set "
        "encoders.accept_unknown=true to use other weights"
    )


def _in_folder(wanted: WeightsFile, root: Path) -> Path:
    path = root / wanted.file
    if not path.is_file():
        do = wanted.how_to_get if root.is_dir() else "set encoders.root=FOLDER"
        raise UserError(
            f"expected {wanted.file} in {root}, got no such {'file' if root.is_dir() else 'folder'}; {do}"
        )
    return path


def _from_hub(wanted: WeightsFile, download: bool) -> Path:
    # Imported here: a local folder needs no hub client.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if wanted.repo is None:
        raise UserError(f"expected encoders.root=FOLDER with {wanted.file}, got none; {wanted.how_to_get}")
    assert wanted.hub_file is not None, wanted
    cached = try_to_load_from_cache(wanted.repo, wanted.hub_file, revision=wanted.revision)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise UserError(
            f"expected {wanted.repo} at {wanted.revision} on this machine, got nothing in the hub's cache; set "
            f"encoders.download=true, or encoders.root=FOLDER with {wanted.file}"
        )
    try:
        return Path(hf_hub_download(wanted.repo, wanted.hub_file, revision=wanted.revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"expected to download {wanted.hub_file} of {wanted.repo}, got {type(error).__name__}; check the network, "
            f"or set encoders.root=FOLDER with {wanted.file}"
        ) from error


# Encoders


# timm and open_clip are imported where a network is built: seconds, which most jobs need not wait for.
def _timm(architecture: str) -> nn.Module:
    import timm

    # DINOv2 was published for 518 pixels; its position grid is resampled to the 224 of the protocol.
    dynamic = {"dynamic_img_size": True} if "dinov2" in architecture else {}
    return timm.create_model(architecture, pretrained=False, num_classes=0, **dynamic)


def _open_clip(architecture: str) -> nn.Module:
    import open_clip

    return open_clip.CLIP(**open_clip.get_model_config(architecture))


@dataclass(frozen=True)
class PublishedEncoder:
    """Which architecture, which weights, how a picture is prepared; `role` is the card's.

    `build` makes the untrained network of `architecture`. An encoder of role clip is open_clip's, with its tokenizer;
    of any other the network's output is the embedding.
    """

    name: str
    architecture: str
    build: Callable[[str], nn.Module]
    role: base.Role
    weights: WeightsFile
    resize: int
    statistics: tuple[Triple, Triple]
    embedding_dim: int
    trained_on: str

    def network(self) -> nn.Module:
        """The untrained network, in eval mode on the CPU; no file is read."""
        return self.build(self.architecture).eval()

    def locate(self, *, root: Path | None, download: bool, accept_unknown: bool) -> Located:
        """Its file of weights; raises as `locate`."""
        return locate(self.weights, root=root, download=download, accept_unknown=accept_unknown)

    def wrap(self, network: nn.Module, source: Located) -> base.MetricEncoder:
        """A loaded network as an encoder, with the card that says where its weights are from."""
        template = "{}" if self.role == "clip" else None
        card = base.EncoderCard(
            self.name, self.role, f"{self.architecture}, {source.label}", source.sha256, self.resize, CROP, "bicubic",
            *self.statistics, template, self.embedding_dim, self.trained_on,
        )  # fmt: skip
        if self.role == "clip":
            import open_clip

            return base.TextImageEncoder(network, card, open_clip.get_tokenizer(self.architecture)).eval()
        return base.PlainEncoder(network, card).eval()

    def load(
        self, *, root: Path | None = None, download: bool = False, accept_unknown: bool = False
    ) -> base.MetricEncoder:
        """The encoder with its published weights, on the CPU.

        Raises:
            UserError: as `locate`, or tensors that are not this architecture's.
        """
        source = self.locate(root=root, download=download, accept_unknown=accept_unknown)
        network = self.network()
        missing, strange = network.load_state_dict(read_tensors(source.path).tensors, strict=False)
        if wrong := [*missing, *strange]:
            raise UserError(
                f"expected the tensors of {self.architecture} in {source.path}, got a misfit at {wrong[0]}; is it "
                "another model's file?"
            )
        return self.wrap(network.requires_grad_(False), source)


class CsdNet(nn.Module):
    """CSD (Somepalli et al. 2024): cosine of two outputs, scaled to length one, is high for two pictures drawn alike.

    The visual tower of OpenAI's CLIP ViT-L/14 (QuickGELU, no projection), fine-tuned, then a linear style head.

    `backbone` and `last_layer_style` under the names of the public checkpoint; its content head is left out.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1024,
        layers: int = 24,
        heads: int = 16,
        dim: int = 768,
    ) -> None:
        from open_clip.transformer import QuickGELU, VisionTransformer

        super().__init__()
        self.backbone = VisionTransformer(
            image_size, patch_size, width, layers, heads, 4.0, output_dim=dim, act_layer=QuickGELU
        )
        self.backbone.proj = None
        self.last_layer_style = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return self.backbone(pixels) @ self.last_layer_style


def _vit(
    name: str, architecture: str, revision: str, sha256: str | None, trained_on: str
) -> PublishedEncoder:
    """A small vision transformer of timm, evaluated as DINO's authors do."""
    file = f"{name}.safetensors"
    weights = WeightsFile(file, sha256, f"timm/{architecture}", revision, "model.safetensors")
    return PublishedEncoder(name, architecture, _timm, "identity", weights, 256, IMAGENET, 384, trained_on)


def _openai_clip(
    name: str, architecture: str, repo: str, revision: str, sha256: str, embedding_dim: int
) -> PublishedEncoder:
    """A CLIP as OpenAI trained it, in open_clip's format."""
    file = f"{name}_openai.safetensors"
    return PublishedEncoder(
        name,
        architecture,
        _open_clip,
        "clip",
        WeightsFile(file, sha256, repo, revision, "open_clip_model.safetensors"),
        224,
        CLIP,
        embedding_dim,
        "OpenAI's 400 M image-text pairs (Radford et al. 2021)",
    )


DINO = _vit(
    "dino_vits16", "vit_small_patch16_224.dino", "733b42a211ebe03aa7327050699cfcee7cd96123", None,
    "ImageNet-1k without labels (Caron et al. 2021)",
)  # fmt: skip
DINOV2 = _vit(
    "dinov2_vits14", "vit_small_patch14_dinov2.lvd142m", "4610ca143709d58a633b6397a74412c2c3842454",
    "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    "LVD-142M without labels (Oquab et al. 2023)",
)  # fmt: skip
CLIP_B = _openai_clip(
    "clip_vitb32", "ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai",
    "a6f597a30f7b82c51704746581f9a4e41421e878",
    "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31", 512,
)  # fmt: skip
CLIP_L = _openai_clip(
    "clip_vitl14", "ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai",
    "18d0535469bb561bf468d76c1d73aa35156c922b",
    "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e", 768,
)  # fmt: skip
CSD = PublishedEncoder(
    name="csd_vitl14",
    architecture="CSD ViT-L/14",
    build=lambda architecture: CsdNet(),
    role="style",
    weights=WeightsFile(
        file="csd_vitl14.safetensors",
        sha256=None,
        advice="convert tomg-group-umd/CSD-ViT-L with tools/convert_csd.py (docs/metrics.md)",
    ),
    resize=224,
    statistics=CLIP,
    embedding_dim=768,
    trained_on="LAION-Styles (Somepalli et al. 2024); the authors dispute the released weights",
)


# LPIPS (Zhang et al. 2018), AlexNet, version 0.1. The linear heads come with the `lpips` package; the AlexNet trunk is
# a file under torchvision's key names.

SMALLEST = 32  # pixels; AlexNet pools a smaller picture away
ALEXNET = WeightsFile(
    file="alexnet_imagenet_features.safetensors",
    sha256="2417cb8c45f6cf984d9483f515360397da2d8f54d135bae3b481927696cfe1d0",
    advice="save the convolutional trunk of torchvision's AlexNet (keys features.N.weight) there as safetensors",
)


class Lpips(nn.Module):
    """How far apart two pictures look, 0 for equal ones; with its card, gradients are off."""

    def __init__(self, network: LPIPS, card: base.EncoderCard) -> None:
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
    half = (0.5, 0.5, 0.5)
    card = base.EncoderCard(
        "lpips-alex-v0.1", "distance", source.label, source.sha256, 0, 0, "bilinear", half, half, None, 1,
        "ImageNet; linear heads on BAPPS human judgements",
    )  # fmt: skip
    return Lpips(network.eval(), card)


def load_lpips(root: Path, *, accept_unknown: bool = False, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS with the AlexNet trunk `alexnet_imagenet_features.safetensors` in `root`.

    Raises:
        UserError: the file is not there, or not the known one and `accept_unknown` is not set.
    """
    source = locate(ALEXNET, root=root, accept_unknown=accept_unknown)
    return new_lpips(read_tensors(source.path).tensors, source).to(device)


# ImageReward (Xu et al. 2023): how much people would like a picture for a text. The package `image-reward` brings the
# network, BLIP ViT-L with 35-token prompts; the score is `(r - 0.16717363) / 1.03333950`. It pins older versions of
# libraries used here, so it is no extra of this project: it wants an environment of its own.

REWARD_FILES = ("ImageReward.pt", "med_config.json")


class RewardScorer:
    """`score(images, texts)`: one reward per pair; higher is better, about zero mean over people's prompts."""

    def __init__(self, network: Any, card: base.EncoderCard) -> None:
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
    apart = "it wants an older transformers: best in an environment of its own"
    do = f"install it ({apart}) or leave encoders.image_reward=false"
    require_package("image-reward", "image_reward", do, module="ImageReward")
    if root is None or not all((root / name).is_file() for name in REWARD_FILES):
        raise UserError(
            f"expected {' and '.join(REWARD_FILES)} in {root}, got none; set encoders.root=FOLDER"
        )
    return root


def load_reward(root: Path | None, device: torch.device | str = "cpu") -> RewardScorer:
    """ImageReward from the two files in `root`.

    Raises:
        UserError: see `check_reward`; or the package does not work with the libraries installed.
    """
    root = check_reward(root)
    older = "it wants an older transformers: score in an environment of its own or leave encoders.image_reward=false"
    with expecting("a working package image-reward", ImportError, do=older):
        import ImageReward
    weights, config = (root / name for name in REWARD_FILES)
    network = ImageReward.load(str(weights), device=str(device), med_config=str(config))
    card = base.EncoderCard(
        "image-reward-v1.0", "reward", f"THUDM/ImageReward ImageReward.pt ({base.UNKNOWN})", sha256_file(weights), 224,
        224, "bicubic", *CLIP, "{}", 1, "137 thousand human comparisons of generated pictures",
    )  # fmt: skip
    return RewardScorer(network, card)
