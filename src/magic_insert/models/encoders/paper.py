"""The encoders of the paper's tables, each with the preprocessing its authors evaluate it with.

DINO ViT-S/16 and DINOv2 ViT-S/14 through timm: bicubic 256, centre crop 224, ImageNet statistics, CLS embedding. CLIP
ViT-B/32 and ViT-L/14 of OpenAI through open_clip: bicubic 224, centre crop, CLIP statistics, QuickGELU as they were
trained. CSD on CLIP's preprocessing. timm's DINO differs from the hub's in the last digits; its id stands in the card.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import open_clip
import timm
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from magic_insert.core.errors import UserError
from magic_insert.models.encoders.base import MetricEncoder, unit
from magic_insert.models.encoders.card import EncoderCard
from magic_insert.models.encoders.clip import TextImageEncoder
from magic_insert.models.encoders.csd import CsdEncoder, CsdNet
from magic_insert.models.encoders.weights import Located, WeightsFile, locate

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Triple, Triple] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class TimmEncoder(MetricEncoder):
    """A vision transformer of timm without a head: its class token after the last norm."""

    def features(self, pixels: Float[Tensor, "B 3 C C"]) -> Float[Tensor, "B D"]:
        return unit(self.network(pixels))


@dataclass(frozen=True)
class PaperEncoder:
    """One row of the table below: which architecture, which weights, how a picture is prepared.

    `library` is timm, open_clip or csd, and `architecture` its name there.
    """

    library: str
    architecture: str
    role: str
    weights: WeightsFile
    resize: int
    statistics: tuple[Triple, Triple]
    embedding_dim: int
    trained_on: str


PAPER_ENCODERS: Mapping[str, PaperEncoder] = {
    "dino_vits16": PaperEncoder(
        library="timm",
        architecture="vit_small_patch16_224.dino",
        role="identity",
        weights=WeightsFile(
            file="dino_vits16.safetensors",
            sha256=None,
            repo="timm/vit_small_patch16_224.dino",
            revision="733b42a211ebe03aa7327050699cfcee7cd96123",
            hub_file="model.safetensors",
        ),
        resize=256,
        statistics=IMAGENET,
        embedding_dim=384,
        trained_on="ImageNet-1k without labels (Caron et al. 2021)",
    ),
    "dinov2_vits14": PaperEncoder(
        library="timm",
        architecture="vit_small_patch14_dinov2.lvd142m",
        role="identity",
        weights=WeightsFile(
            file="dinov2_vits14.safetensors",
            sha256="04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
            repo="timm/vit_small_patch14_dinov2.lvd142m",
            revision="4610ca143709d58a633b6397a74412c2c3842454",
            hub_file="model.safetensors",
        ),
        resize=256,
        statistics=IMAGENET,
        embedding_dim=384,
        trained_on="LVD-142M without labels (Oquab et al. 2023)",
    ),
    "clip_vitb32": PaperEncoder(
        library="open_clip",
        architecture="ViT-B-32-quickgelu",
        role="clip",
        weights=WeightsFile(
            file="clip_vitb32_openai.safetensors",
            sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
            repo="timm/vit_base_patch32_clip_224.openai",
            revision="a6f597a30f7b82c51704746581f9a4e41421e878",
            hub_file="open_clip_model.safetensors",
        ),
        resize=224,
        statistics=CLIP,
        embedding_dim=512,
        trained_on="OpenAI's 400 M image-text pairs (Radford et al. 2021)",
    ),
    "clip_vitl14": PaperEncoder(
        library="open_clip",
        architecture="ViT-L-14-quickgelu",
        role="clip",
        weights=WeightsFile(
            file="clip_vitl14_openai.safetensors",
            sha256="9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
            repo="timm/vit_large_patch14_clip_224.openai",
            revision="18d0535469bb561bf468d76c1d73aa35156c922b",
            hub_file="open_clip_model.safetensors",
        ),
        resize=224,
        statistics=CLIP,
        embedding_dim=768,
        trained_on="OpenAI's 400 M image-text pairs (Radford et al. 2021)",
    ),
    "csd_vitl14": PaperEncoder(
        library="csd",
        architecture="CSD ViT-L/14",
        role="style",
        weights=WeightsFile(
            file="csd_vitl14.safetensors",
            sha256=None,
            advice="convert tomg-group-umd/CSD-ViT-L with python -m magic_insert.models.encoders.csd (docs/metrics.md)",
        ),
        resize=224,
        statistics=CLIP,
        embedding_dim=768,
        trained_on="LAION-Styles (Somepalli et al. 2024); the authors dispute the released weights",
    ),
}


def build_network(name: str) -> nn.Module:
    """The untrained network of a paper encoder, in eval mode on the CPU; no file is read.

    Raises:
        UserError: no such encoder.
    """
    row = _row(name)
    if row.library == "timm":
        # DINOv2 was published for 518 pixels; its position grid is resampled to the 224 of the protocol.
        dynamic = {"dynamic_img_size": True} if "dinov2" in row.architecture else {}
        network = timm.create_model(row.architecture, pretrained=False, num_classes=0, **dynamic)
    elif row.library == "open_clip":
        network = open_clip.CLIP(**open_clip.get_model_config(row.architecture))
    else:
        network = CsdNet()
    return network.eval()


def wrap(name: str, network: nn.Module, source: Located) -> MetricEncoder:
    """A loaded network as the encoder `name`, with the card that says where its weights are from."""
    row = _row(name)
    mean, std = row.statistics
    card = EncoderCard(
        name=name,
        role=row.role,
        weights=f"{row.architecture}, {source.label}",
        weights_sha256=source.sha256,
        resize=row.resize,
        crop=224,
        interpolation="bicubic",
        mean=mean,
        std=std,
        text_template="{}" if row.role == "clip" else None,
        embedding_dim=row.embedding_dim,
        trained_on=row.trained_on,
    )
    if row.library == "open_clip":
        tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer(row.architecture)
        return TextImageEncoder(network, card, tokenizer).eval()
    kinds: dict[str, type[MetricEncoder]] = {"timm": TimmEncoder, "csd": CsdEncoder}
    return kinds[row.library](network, card).eval()


def load_paper_encoder(
    name: str,
    *,
    root: Path | None = None,
    download: bool = False,
    accept_unknown: bool = False,
    device: torch.device | str = "cpu",
) -> MetricEncoder:
    """The encoder with its published weights; see `weights.locate` for where they may lie.

    Raises:
        UserError: no weights, weights with another digest, or tensors that are not this architecture's.
    """
    source = locate(_row(name).weights, root=root, download=download, accept_unknown=accept_unknown)
    network = build_network(name)
    missing, strange = network.load_state_dict(load_file(source.path), strict=False)
    if missing or strange:
        wrong = (list(missing) + list(strange))[0]
        raise UserError(
            f"expected the tensors of {_row(name).architecture} in {source.path}, got a misfit at {wrong}; is it "
            "another model's file?"
        )
    return wrap(name, network.requires_grad_(False), source).to(device)


def _row(name: str) -> PaperEncoder:
    if name not in PAPER_ENCODERS:
        raise UserError(f"expected an encoder of {', '.join(PAPER_ENCODERS)}, got {name!r}")
    return PAPER_ENCODERS[name]
