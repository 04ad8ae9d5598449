"""The paper's encoders: preprocessing against PIL, golden vectors, published layouts, weights that are checked.

The networks are the real architectures with weights from a formula, since the published ones are not at hand: what can
be wrong in this project's part (resize, crop, statistics, pooling, activation, key names) shows with any weights.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import convert_csd
import huggingface_hub
import lpips
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import alexnet

from magic_insert.config.registry import ENCODERS
from magic_insert.config.schema.evaluation import EncodersConfig
from magic_insert.core.digest import sha256_file
from magic_insert.core.errors import UserError
from magic_insert.models.encoders import EncoderSet, paper
from magic_insert.models.encoders.base import preprocess

FORMULA = paper.Located(Path("formula"), "0" * 64, "a formula")


def picture(height: int, width: int) -> torch.Tensor:
    """Waves of several lengths and a hard edge, in whole levels of 1/255."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    waves = [torch.sin(40 * x + 7 * y), torch.cos(25 * x * y + 3), torch.sin(90 * y) * torch.cos(60 * x)]
    image = 0.5 + 0.45 * torch.stack(waves)
    image[:, : height // 3, : width // 4] = torch.tensor([0.9, 0.1, 0.3]).view(3, 1, 1)
    return (image * 255).round() / 255


def fill(network: nn.Module) -> nn.Module:
    """Weights from a formula, so that no random number generator decides what is golden."""
    with torch.no_grad():
        for i, (name, values) in enumerate(network.state_dict().items()):
            if not values.is_floating_point():
                continue
            steps = torch.arange(values.numel(), dtype=torch.float64)
            wave = torch.sin(steps * (1.7 + 0.013 * (i % 11)) + i).view(values.shape)
            fan_in = max(1, values.numel() // max(1, values.shape[0])) if values.ndim > 1 else 1
            scale = math.sqrt(2 / fan_in) if values.ndim > 1 else 0.1
            gain = 1.0 if values.ndim == 1 and name.endswith("weight") else 0.0
            values.copy_((gain + scale * wave).float())
    return network


def small_csd() -> paper.CsdNet:
    return paper.CsdNet(image_size=28, width=32, layers=2, heads=2, dim=16)


# (shorter side after the resize, mean, std) as the authors' own evaluation code states them, written out again here.
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
PROTOCOL = {
    "dino_vits16": (256, *IMAGENET),
    "dinov2_vits14": (256, *IMAGENET),
    "clip_vitb32": (224, *OPENAI),
    "clip_vitl14": (224, *OPENAI),
    "csd_vitl14": (224, *OPENAI),
}


def by_pil(image: torch.Tensor, resize: int, mean: list[float], std: list[float]) -> np.ndarray:
    """Resize the shorter side with PIL's bicubic, crop 224 from the centre, standardise: no code of ours."""
    levels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    height, width = levels.shape[:2]
    scale = resize / min(height, width)
    size = (resize, int(scale * height)) if width < height else (int(scale * width), resize)
    resized = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    top, left = round((resized.shape[0] - 224) / 2), round((resized.shape[1] - 224) / 2)
    crop = resized[top : top + 224, left : left + 224] / 255
    return ((crop - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


@pytest.mark.parametrize("name", PROTOCOL)
@pytest.mark.parametrize("size", [(301, 517), (150, 200)])
def test_a_picture_is_prepared_as_the_protocol_says(name: str, size: tuple[int, int]) -> None:
    resize, mean, std = PROTOCOL[name]
    image = picture(*size)
    ours = preprocess(image[None], ENCODERS.get(name).wrap(nn.Identity(), FORMULA).card)[0].double().numpy()
    error = np.abs(ours - by_pil(image, resize, mean, std)) * np.array(std)[:, None, None] * 255
    # PIL rounds to whole levels after each of its two passes; we round nowhere.
    assert error.max() < 2.0
    assert error.mean() < 0.35


GOLDEN = {
    "dino_vits16": [0.068021, 0.011369, 0.092002, -0.080447, -0.012215, -0.081662],
    "dinov2_vits14": [-0.062185, 0.032511, -0.005392, 0.120334, -0.018847, 0.016229],
    "clip_vitb32": [-0.019289, 0.061723, 0.000207, -0.061787, 0.018896, 0.055946],
}


LARGE = pytest.param("clip_vitb32", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["dino_vits16", "dinov2_vits14", LARGE])
def test_the_embedding_of_a_known_picture_by_known_weights_stays_what_it_was(name: str) -> None:
    network = ENCODERS.get(name).network()
    fill(getattr(network, "visual", network))  # of CLIP only the tower that is looked at
    encoder = ENCODERS.get(name).wrap(network, FORMULA)
    embedding = encoder.embed_images(picture(301, 517)[None])[0]
    assert embedding.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert embedding.shape == (encoder.card.embedding_dim,)
    torch.testing.assert_close(embedding[:6], torch.tensor(GOLDEN[name]), atol=5e-5, rtol=0)


def test_clip_is_the_variant_openai_trained() -> None:
    for name in ("clip_vitb32", "clip_vitl14"):
        config = open_clip.get_model_config(ENCODERS.get(name).architecture)
        assert config["quick_gelu"] is True
    with torch.device("meta"):
        network = paper.CLIP_B.network()
    assert type(network.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_csd_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        tensors = {key: tuple(value.shape) for key, value in paper.CsdNet().state_dict().items()}
    assert len(tensors) == 296  # the public checkpoint's 297 without the content head
    assert tensors["last_layer_style"] == (1024, 768)
    assert tensors["backbone.class_embedding"] == (1024,)
    assert tensors["backbone.positional_embedding"] == (257, 1024)
    assert tensors["backbone.conv1.weight"] == (1024, 3, 14, 14)
    assert tensors["backbone.transformer.resblocks.23.attn.in_proj_weight"] == (3072, 1024)
    assert tensors["backbone.transformer.resblocks.23.mlp.c_fc.weight"] == (4096, 1024)
    assert tensors["backbone.ln_post.bias"] == (1024,)


def checkpoint(path: Path, **changes: object) -> paper.CsdNet:
    """A file like the public one: a wrapper's prefix, two heads, an argument record, numpy scalars."""
    network = fill(small_csd()).eval()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    state["module.last_layer_content"] = torch.ones(32, 16)
    content = {
        "model_state_dict": {**state, **changes},
        "args": argparse.Namespace(lr=0.1),
        "iter": 7,
        "opt_bb": {"lr": np.float64(0.5)},
    }
    torch.save(content, path)
    return network


def test_a_converted_csd_checkpoint_is_the_same_network(tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "public.bin")
    out = tmp_path / "csd.safetensors"
    assert convert_csd.convert(tmp_path / "public.bin", out, expected_sha256=None) == sha256_file(out)
    again = small_csd().eval()
    again.load_state_dict(load_file(out))
    pixels = picture(28, 28)[None]
    with torch.no_grad():
        assert torch.equal(again(pixels), network(pixels))


def test_another_checkpoint_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "other.bin", **{"module.classifier.weight": torch.ones(2)})
    with pytest.raises(UserError, match=r"classifier\.weight"):
        convert_csd.convert(tmp_path / "other.bin", tmp_path / "out.safetensors", expected_sha256=None)
    with pytest.raises(UserError, match="download it again"):
        convert_csd.convert(tmp_path / "other.bin", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert convert_csd.main([str(tmp_path / "none.bin"), str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.startswith("error: expected the CSD checkpoint")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": {}, "args": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(UserError, match="only tensors"):
        convert_csd.convert(tmp_path / "evil.bin", tmp_path / "out.safetensors", expected_sha256=None)
    assert not (tmp_path / "was-run").exists()


def test_weights_from_a_folder_are_used_and_an_unknown_digest_is_told_in_the_card(tmp_path: Path) -> None:
    network = fill(paper.DINO.network())
    save_file(network.state_dict(), tmp_path / "dino_vits16.safetensors")
    with pytest.raises(UserError, match=r"encoders\.accept_unknown=true"):
        paper.DINO.load(root=tmp_path)
    encoder = paper.DINO.load(root=tmp_path, accept_unknown=True)
    assert "accepted by the user" in encoder.card.weights
    assert (encoder.card.verified, paper.DINO.wrap(network, FORMULA).card.verified) == (False, True)
    assert encoder.card.weights_sha256 == sha256_file(tmp_path / "dino_vits16.safetensors")
    image = picture(224, 224)[None]
    ours = paper.DINO.wrap(network, FORMULA).embed_images(image)
    assert torch.equal(encoder.embed_images(image), ours)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_nothing_is_downloaded_unasked_and_a_set_without_its_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"encoders\.download=true"):
        paper.CLIP_B.load()
    with pytest.raises(UserError, match=r"docs/metrics\.md"):
        ENCODERS.get("csd_vitl14").load()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"dino_vits16\.safetensors"):
        EncoderSet("paper", EncodersConfig(root=str(tmp_path))).load()
    with pytest.raises(UserError, match=r"encoders\.root"):
        EncoderSet("paper", EncodersConfig(root=str(tmp_path / "nowhere"))).check()
    with pytest.raises(UserError, match="image"):
        paper.load_reward(tmp_path)


def test_the_hubs_cache_is_read_at_the_pinned_commit_and_the_hub_asked_for_it_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--toy--weights" / "snapshots"
    for commit in ("a" * 40, "b" * 40):
        (folder / commit).mkdir(parents=True)
        save_file({"w": torch.full((2,), float(commit == "b" * 40))}, folder / commit / "model.safetensors")
    wanted = paper.WeightsFile(
        "w.safetensors",
        sha256_file(folder / ("b" * 40) / "model.safetensors"),
        repo="toy/weights",
        revision="b" * 40,
        hub_file="model.safetensors",
    )
    found = paper.locate(wanted, root=None)
    assert found.path.parent.name == "b" * 40
    assert found.label == "toy/weights@bbbbbbbbbbbb"
    # What a folder lacks is taken from the hub where that may be asked: CSD is not there, the others are.
    assert paper.locate(wanted, root=tmp_path, download=True).path == found.path
    with pytest.raises(UserError, match="no such file"):
        paper.locate(wanted, root=tmp_path)
    absent = replace(wanted, revision="c" * 40)
    fetched = {("toy/weights", "model.safetensors", "c" * 40): str(found.path)}
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, file, *, revision: fetched[repo, file, revision]
    )
    with pytest.raises(UserError, match=r"encoders\.download=true"):
        paper.locate(absent, root=None)
    assert paper.locate(absent, root=None, download=True).label == "toy/weights@cccccccccccc"
    other = replace(wanted, sha256="f" * 64)
    with pytest.raises(UserError, match="sha256 ffffffff"):
        paper.locate(other, root=None)
    assert "other weights" in paper.locate(other, root=None, accept_unknown=True).label


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
def distance() -> paper.Lpips:
    return paper.new_lpips(trunk(), paper.Located(Path("formula"), "0" * 64, "a formula"))


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


def test_the_distance_is_the_papers_symmetric_and_zero_to_itself(distance: paper.Lpips) -> None:
    first, second = noise(1), noise(2)
    torch.testing.assert_close(distance(first, second), by_hand(first, second), atol=1e-5, rtol=1e-4)
    assert distance(first, first).abs().max() == 0
    torch.testing.assert_close(distance(first, second), distance(second, first))
    with pytest.raises(UserError, match="32 pixels"):
        distance(noise(1, 16), noise(2, 16))


def test_tensors_that_are_not_alexnets_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / paper.ALEXNET.file)
    with pytest.raises(UserError, match="sha256"):
        paper.load_lpips(tmp_path)
    with pytest.raises(UserError, match="AlexNet's features"):
        paper.load_lpips(tmp_path, accept_unknown=True)
