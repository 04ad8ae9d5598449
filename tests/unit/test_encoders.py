"""Metric encoders: open_clip's format, complete cards, rows that do not depend on each other, training that learns."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file
from torchvision.transforms.functional import to_pil_image

from magic_insert.config.schema.training import PartConfig
from magic_insert.core.errors import UserError
from magic_insert.core.jsonl import as_record
from magic_insert.data.renders import ToyboxPool
from magic_insert.foundation.metric_encoders import (
    DETAILS,
    SAMPLERS,
    caption_contrast,
    clip_batch,
    encoder_recipe,
    new_encoder,
    style_batch,
    supervised_contrast,
)
from magic_insert.models.encoders.base import EncoderCard, SavedEncoder
from magic_insert.models.encoders.micro import Encoders, load_encoders, new_clip, new_identity, new_style
from magic_insert.models.micro import build_tokenizer
from magic_insert.toybox.styles import TRAIN_STYLES, style_phrase
from magic_insert.training.trainer import TrainerOptions, fit

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
TEMPLATES = ("ball", "box", "bar")
ROLES = ("clip", "identity", "style")


class TinyPool(ToyboxPool):
    """Coloured shapes on paper: 12 identities (colour x shape) in two places, drawn flat, dark or striped."""

    def __init__(self) -> None:
        kinds = [(colour, shape) for shape in TEMPLATES for colour in COLOURS]
        self.style_names = list(TRAIN_STYLES[:3])
        masks = [_shape(shape, place) for _, shape in kinds for place in (0, 1)]
        paints = [COLOURS[colour] for colour, _ in kinds for _ in (0, 1)]
        self.subject_alpha = np.stack(masks)[:, None]
        self.subjects = np.stack(
            [
                [_drawn(mask, paint, style) for style in range(3)]
                for mask, paint in zip(masks, paints, strict=True)
            ]
        )
        self.subject_styles = np.tile(np.arange(3), (24, 1))
        self.identity = np.arange(24) // 2
        self.templates = [shape for _, shape in kinds for _ in (0, 1)]
        self.captions = [
            f"a {colour} {shape}, {pose}" for colour, shape in kinds for pose in ("sitting", "standing")
        ]
        self.scenes_with = self.subjects[::2]
        self.scenes_without = np.full_like(self.scenes_with, 90)
        self.scene_styles = self.subject_styles[::2]
        self.scene_captions = [f"{caption}, in a forest" for caption in self.captions[::2]]


def _shape(name: str, place: int) -> np.ndarray:
    y, x = np.mgrid[:128, :128] - 64 + 8 * place
    inside = {
        "ball": x**2 + y**2 < 1600,
        "box": (abs(x) < 36) & (abs(y) < 36),
        "bar": (abs(x) < 14) & (abs(y) < 50),
    }
    return (inside[name] * 255).astype(np.uint8)


def _drawn(mask: np.ndarray, paint: tuple[int, int, int], style: int) -> np.ndarray:
    flat = np.where(mask[None] > 0, np.array(paint)[:, None, None], 250)
    stripes = np.where(np.arange(128) % 4 < 2, 1.0, 0.5)
    return (flat * (1.0, 0.4, stripes)[style]).astype(np.uint8)


@pytest.fixture(scope="module")
def pool() -> TinyPool:
    return TinyPool()


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, pool: TinyPool) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder, pool.scene_captions)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for encoder in (new_clip(tokenizer_folder, seed=0), new_identity(seed=0), new_style(seed=0)):
        encoder.save(folder / encoder.card.role, trained_on="a test")
    return folder


@pytest.fixture(scope="module")
def encoders(folder: Path) -> Encoders:
    return load_encoders(folder)


def rainbow(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(5))


def test_open_clip_loads_the_folder_to_the_same_embeddings(folder: Path, encoders: Encoders) -> None:
    schema = f"local-dir:{folder / 'clip'}"
    model, _, transform = open_clip.create_model_and_transforms(schema)
    model.eval()
    images = (rainbow(3, 64, 64) * 255).round() / 255
    texts = ["a red ball, sitting", "a blue box"]
    with torch.no_grad():
        seen = torch.stack([transform(to_pil_image(image)) for image in images])
        theirs_image = model.encode_image(seen, normalize=True)
        theirs_text = model.encode_text(open_clip.get_tokenizer(schema)(texts), normalize=True)
    torch.testing.assert_close(encoders["clip"].embed_images(images), theirs_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoders["clip"].embed_texts(texts), theirs_text, atol=1e-5, rtol=0)


def test_timm_builds_the_identity_network_from_its_configuration(folder: Path, encoders: Encoders) -> None:
    config = json.loads((folder / "identity" / "config.json").read_text())
    network = timm.create_model(
        config["architecture"], num_classes=config["num_classes"], **config["model_args"]
    )
    network.load_state_dict(load_file(folder / "identity" / "model.safetensors"))
    pixels = rainbow(2, 64, 64) * 2 - 1
    with torch.no_grad():
        theirs = torch.nn.functional.normalize(network.eval()(pixels), dim=1)
    torch.testing.assert_close(encoders["identity"].embed_pixels(pixels), theirs, atol=1e-5, rtol=0)


def test_weights_that_are_not_the_cards_are_refused(folder: Path, tmp_path: Path) -> None:
    card = new_style(seed=1).save(tmp_path / "style", trained_on="another seed")
    assert card.weights_sha256
    (tmp_path / "style" / "encoder_card.json").write_text(
        (folder / "style" / "encoder_card.json").read_text()
    )
    for part in ("clip", "identity"):
        (tmp_path / part).symlink_to(folder / part)
    with pytest.raises(UserError, match="do not belong together"):
        load_encoders(tmp_path)


@pytest.mark.parametrize("role", ROLES)
def test_a_saved_card_is_complete_and_survives_the_file(role: Any, encoders: Encoders) -> None:
    card = encoders[role].card
    assert card.role == role
    assert len(card.weights_sha256) == 64
    assert card.trained_on == "a test"
    assert as_record(json.loads(json.dumps(card.to_dict())), EncoderCard, "it") == card
    assert encoders[role].embed_images(rainbow(1, 64, 64)).shape == (1, card.embedding_dim)


@pytest.mark.parametrize("change", [{"crop": 65}, {"std": (0.5, 0.0, 0.5)}, {"text_template": "a"}])
def test_a_card_that_cannot_be_applied_is_refused(change: dict[str, Any], encoders: Encoders) -> None:
    with pytest.raises(AssertionError):
        dataclasses.replace(encoders["clip"].card, **change)
    written = {**json.loads(json.dumps(encoders["clip"].card.to_dict())), "interpolation": "nearest"}
    with pytest.raises(UserError, match="interpolation"):
        as_record(written, EncoderCard, "it")


@pytest.mark.parametrize("role", ROLES)
def test_a_batch_gives_what_its_pictures_give_alone(role: Any, encoders: Encoders) -> None:
    images = rainbow(5, 80, 112)
    together = encoders[role].embed_images(images, chunk=2)
    alone = torch.cat([encoders[role].embed_images(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))


def test_the_style_of_a_picture_does_not_depend_on_where_things_are(encoders: Encoders) -> None:
    image = torch.full((1, 3, 128, 128), 0.9)
    image[..., 30:60, 20:50] = rainbow(1, 30, 30)
    moved = image.roll((32, 48), dims=(2, 3))
    first, second = encoders["style"].embed_images(image), encoders["style"].embed_images(moved)
    assert (first * second).sum().item() > 0.9999


@pytest.mark.parametrize("role", ROLES)
def test_the_batch_of_a_step_is_always_the_same_and_steps_differ(role: Any, pool: TinyPool) -> None:
    first, again, later = (SAMPLERS[role](pool, 3, step, 8) for step in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, later.frames)


def test_every_picture_of_a_clip_batch_is_told_what_is_true_of_it(pool: TinyPool) -> None:
    for step in range(12):
        batch = clip_batch(pool, 0, step, 13)
        assert len(set(batch.texts)) == len(batch.texts)
        assert batch.images.shape[0] == batch.told.shape[1] == 13
        for image, told in zip(batch.images, batch.told.T.tolist(), strict=True):
            said = {detail: batch.texts[row] for detail, row in zip(DETAILS, told, strict=True) if row >= 0}
            shown = (pool.subjects == image.numpy()).all(axis=(2, 3, 4))
            if not shown.any():
                continue  # moved onto a scene
            row, style = np.argwhere(shown)[0]
            assert said["full"].startswith(pool.captions[row])
            assert said["short"].startswith(pool.captions[row].split(",")[0])
            assert said["style"] == style_phrase(pool.style_names[style])
            if "template" in said:
                assert said["template"] == f"a {pool.templates[row]}"


def test_a_style_batch_shows_every_style_and_photo_is_not_the_most_frequent(pool: TinyPool) -> None:
    counts = sum(style_batch(pool, 0, step, 12).labels.bincount(minlength=3) for step in range(30))
    assert isinstance(counts, torch.Tensor)
    assert 0 < counts[0] < min(counts[1], counts[2])


def test_caption_contrast_is_two_cross_entropies_and_pushes_no_picture_of_a_text_away() -> None:
    image, text = rainbow(1, 5, 6)[0, 0], rainbow(1, 3, 6)[0, 1]
    told = [0, 1, 1, 2, 0]
    logits = (image @ text.T * 3).double().numpy()
    forward = [-np.log(np.exp(logits[i, t]) / np.exp(logits[i]).sum()) for i, t in enumerate(told)]
    backward = []
    for t in range(3):
        own = [i for i in range(5) if told[i] == t]
        backward.append(np.mean([-np.log(np.exp(logits[i, t]) / np.exp(logits[:, t]).sum()) for i in own]))
    ours = caption_contrast(image, text, torch.tensor(3.0), torch.tensor(told))
    assert ours.item() == pytest.approx((np.mean(forward) + np.mean(backward)) / 2, abs=1e-5)
    image = torch.eye(4)[:2].clone().requires_grad_()
    text = torch.eye(4)[2:3]
    caption_contrast(image, text, torch.tensor(5.0), torch.tensor([0, 0])).backward()
    assert image.grad is not None
    assert image.grad.abs().max() < 1e-6


def test_supervised_contrast_agrees_with_the_sum_of_khosla_and_others() -> None:
    features = torch.nn.functional.normalize(rainbow(1, 5, 4)[0, 0] - 0.5, dim=1)
    labels = [0, 0, 1, 1, 2]  # the last row has no positive and is no anchor
    z, terms = features.double().numpy(), []
    for i in range(4):
        others = sum(np.exp(z[i] @ z[a] / 0.2) for a in range(5) if a != i)
        mates = [p for p in range(5) if p != i and labels[p] == labels[i]]
        terms.append(-np.mean([np.log(np.exp(z[i] @ z[p] / 0.2) / others) for p in mates]))
    ours = supervised_contrast(features, torch.tensor(labels), temperature=0.2)
    assert ours.item() == pytest.approx(float(np.mean(terms)), abs=1e-5)


def train(
    encoder: SavedEncoder,
    pool: TinyPool,
    out: Path,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Trains as the foundation does and publishes to `out`/encoder; the losses."""
    recipe = encoder_recipe(encoder, pool, PartConfig(steps, 12, 1e-3), seed=1, trained_on="coloured shapes")
    losses: list[float] = []

    def log(step: int, values: Mapping[str, float]) -> None:
        losses.append(values["loss"])
        on_step(step)

    options = TrainerOptions(steps=steps, save_every=4, log_every=1, whole_batch=True)
    fit(recipe.module, recipe.batch_at, options, out, log=log)
    recipe.publish(out)
    return losses


@pytest.mark.parametrize("role", [pytest.param("clip", marks=pytest.mark.slow), "identity", "style"])
def test_a_few_steps_lower_the_loss_and_leave_a_folder_that_loads(
    role: Any, pool: TinyPool, folder: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    losses = train(new_encoder(role, 0, tokenizer_folder), pool, tmp_path / "run", 18)
    assert len(losses) == 18
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.05
    (tmp_path / role).symlink_to(tmp_path / "run" / "encoder")
    for other in set(ROLES) - {role}:
        (tmp_path / other).symlink_to(folder / other)
    assert load_encoders(tmp_path)[role].card.trained_on == "coloured shapes"
