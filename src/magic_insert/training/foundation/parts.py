"""What every part of the foundation trains, on which batches, and what it publishes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magic_insert.config.schema.foundation import PartConfig
from magic_insert.core.jsonl import read_json, write_json
from magic_insert.data.toybox_pool import ToyboxPool
from magic_insert.models.attention import plain_attention
from magic_insert.models.micro import (
    MicroSizes,
    build_image_encoder,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
    widen_input,
)
from magic_insert.models.micro_controlnet import build_controlnet
from magic_insert.models.micro_parts import (
    assemble_micro,
    load_adapter,
    load_part,
    new_adapter,
    publish_adapter,
    without_adapter,
)
from magic_insert.training.fit import Batch
from magic_insert.training.foundation.adapter import AdapterModule, adapter_batches
from magic_insert.training.foundation.clip import ContrastiveModule, clip_pixels, contrastive_batches
from magic_insert.training.foundation.controlnet import ControlNetModule, controlnet_batches
from magic_insert.training.foundation.denoiser import DenoiserModule, denoiser_batches, tokenize
from magic_insert.training.foundation.encoders import Kind
from magic_insert.training.foundation.latents import composites, encode_array, vae_encoder
from magic_insert.training.foundation.module import PartModule, encode_ids
from magic_insert.training.foundation.styled import (
    StyledModule,
    StyledSources,
    plain,
    styled_batches,
    toned,
)
from magic_insert.training.foundation.vae import PatchCode, VaeModule, vae_batches
from magic_insert.training.insertion import EditLatents, InsertionModule, Task, edit_batches, mask_cells

EFFECT_WEIGHT = 12.0  # measured: half a decibel more in the effect region after 350 steps than without
TIME_SHIFT = 3.0  # noisy times more often: an edit is decided there
PHOTO = 0  # drawing 0 of the pool: the domain the edit models start from


@dataclass(frozen=True)
class Recipe:
    """One part: its module, its batches, and how the trained module is written into the part's folder."""

    module: PartModule
    batch_at: Callable[[int], Batch]
    publish: Callable[[Path], None]
    ema_decay: float | None = None


@dataclass
class Workshop:
    """What the parts share; a finished part is read back from disk, never handed on in memory."""

    out: Path
    pool: ToyboxPool
    sizes: MicroSizes
    seed: int
    device: str
    precision: str
    tokenizer: Any
    tokenizer_2: Any

    def part(self, name: str) -> Path:
        return self.out / "parts" / name

    def load(self, part: str, name: str) -> Any:
        """A published network, frozen, on the device."""
        return load_part(self.part(part) / name, name).to(self.device).eval().requires_grad_(False)

    def listened_to(self) -> tuple[Any, Any, Any]:
        """What a network beside the trained denoiser is given: both text encoders, frozen, and the scheduler."""
        encoders = (self.load("denoiser", name) for name in ("text_encoder", "text_encoder_2"))
        return *encoders, build_scheduler()

    def trainable(self, unet: Any) -> Any:
        """`unet` with the attention code that trains fastest on the device."""
        if self.device == "cpu":
            plain_attention(unet)
        return unet

    def latents(
        self, name: str, source: np.ndarray | Callable[[], np.ndarray], *, flip: bool = False
    ) -> np.ndarray:
        """Pool pictures as scaled latents; `source` may be a function, called only if nothing is kept yet."""
        encode = vae_encoder(self._vae, self.device, autocast=self.precision != "32-true")
        images = source() if callable(source) else source
        return encode_array(
            images, encode, self.out / "latents" / f"{name}{'-flip' if flip else ''}.npy", flip=flip
        )

    @cached_property
    def _vae(self) -> Any:
        return self.load("vae", "vae")

    def embeds(self, name: str, source: np.ndarray) -> np.ndarray:
        """Pool pictures as image-encoder embeddings [..., D]."""
        encoder = self.load("clip", "image_encoder")

        @torch.no_grad()
        def encode(images: Tensor) -> Tensor:
            return encoder(clip_pixels(images.to(self.device))).image_embeds.float()

        return encode_array(source, encode, self.out / "embeds" / f"{name}.npy")

    def assemble(self, facts: dict[str, Any]) -> Path:
        """One folder in half precision with every part and `training.json`, what trained it."""
        target = self.out / "micro"
        staged = self.out / "micro.new"
        shutil.rmtree(staged, ignore_errors=True)
        assemble_micro(staged, self.out / "parts", self.tokenizer, self.tokenizer_2, self.sizes)
        for name, kind in METRIC_PARTS.items():
            shutil.copytree(self.part(name) / "encoder", staged / "encoders" / kind)
        done = [read_json(self.part(n) / "done.json") for n in (*PARTS_IN_ORDER, *METRIC_PARTS)]
        write_json(staged / "training.json", {**facts, "pool": self.pool.plan.key, "parts": done})
        shutil.rmtree(target, ignore_errors=True)
        staged.rename(target)
        return target


def _vae(shop: Workshop, part: PartConfig) -> Recipe:
    crop, channels = min(64, shop.sizes.image_size), shop.sizes.latent_channels
    batches = vae_batches(shop.pool, seed=shop.seed, batch_size=part.batch_size, crop=crop, channels=channels)
    # Patches for the linear code come from batches that training never reaches.
    seen = torch.cat([batches(part.steps + number)["image"] for number in range(32)])
    module = VaeModule(build_vae(shop.sizes), PatchCode(seen, channels), lr=part.lr, steps=part.steps)

    def publish(folder: Path) -> None:
        vae = module.vae.to(shop.device).eval()
        vae.register_to_config(scaling_factor=1.0)
        encode = vae_encoder(vae, shop.device, autocast=False)
        sample = [
            encode(torch.from_numpy(shop.pool.subjects[i].copy()))
            for i in range(min(64, len(shop.pool.subjects)))
        ]
        # Unit variance is what the noise schedule expects of clean latents (Rombach et al. 2022, section D.1).
        vae.register_to_config(scaling_factor=1.0 / float(torch.cat(sample).std()))
        vae.save_pretrained(folder / "vae")

    return Recipe(module, batches, publish, 0.995)


def _clip(shop: Workshop, part: PartConfig) -> Recipe:
    text = build_text_encoder(shop.sizes, shop.tokenizer, second=True)
    image = build_image_encoder(shop.sizes)
    module = ContrastiveModule(
        text,
        image,
        embed_dim=shop.sizes.embed_dim,
        num_styles=len(shop.pool.style_names),
        lr=part.lr,
        steps=part.steps,
    )

    def publish(folder: Path) -> None:
        text.save_pretrained(folder / "text_encoder_2")
        image.save_pretrained(folder / "image_encoder")

    batches = contrastive_batches(shop.pool, shop.tokenizer_2, seed=shop.seed, batch_size=part.batch_size)
    return Recipe(module, batches, publish)


def _denoiser(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(build_unet(shop.sizes))
    text = build_text_encoder(shop.sizes, shop.tokenizer, second=False)
    text_2 = load_part(shop.part("clip") / "text_encoder_2", "text_encoder_2")
    module = DenoiserModule(
        unet, text, text_2, build_scheduler(), image_size=shop.sizes.image_size, lr=part.lr, steps=part.steps
    )

    def publish(folder: Path) -> None:
        unet.save_pretrained(folder / "unet")
        text.save_pretrained(folder / "text_encoder")
        text_2.save_pretrained(folder / "text_encoder_2")

    batches = denoiser_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        shop.latents("scenes_with", shop.pool.scenes_with),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, publish, 0.998)


def _adapter(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("denoiser", "unet"))
    new_adapter(unet, shop.sizes.embed_dim)
    module = AdapterModule(
        unet,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )
    embeds = {
        "scenes_without": shop.embeds("scenes_without", shop.pool.scenes_without),
        "subjects": shop.embeds("subjects", shop.pool.subjects),
    }
    batches = adapter_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        embeds,
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, lambda folder: publish_adapter(folder, unet), 0.995)


def _styled(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("denoiser", "unet"))
    load_adapter(unet, shop.part("adapter"))
    module = StyledModule(
        unet,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )

    def publish(folder: Path) -> None:
        publish_adapter(folder, unet)
        without_adapter(unet).save_pretrained(folder / "unet")

    batches = styled_batches(
        shop.pool,
        styled_sources(shop),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, publish, 0.998)


def styled_sources(shop: Workshop) -> StyledSources:
    """The pool as latents to be drawn and as embeddings that say how, in its own colours and in looks."""
    pool = shop.pool
    bright = toned(pool.subjects, pool.subject_styles, 2, shop.seed)
    tones = toned(pool.scenes_without, pool.scene_styles, pool.plan.drawings_per_scene, shop.seed)
    return StyledSources(
        subjects=plain(shop.latents("subjects", pool.subjects), pool.subject_styles),
        scenes=plain(shop.latents("scenes_with", pool.scenes_with), pool.scene_styles),
        toned_subjects=replace(bright, values=shop.latents("toned_subjects", bright.values)),
        said_by_scenes=plain(shop.embeds("scenes_without", pool.scenes_without), pool.scene_styles),
        said_by_subjects=plain(shop.embeds("subjects", pool.subjects), pool.subject_styles),
        said_by_toned_scenes=replace(tones, values=shop.embeds("toned_scenes_without", tones.values)),
    )


def _controlnet(shop: Workshop, part: PartConfig) -> Recipe:
    unet = shop.trainable(shop.load("styled", "unet"))
    network = shop.trainable(build_controlnet(unet))
    module = ControlNetModule(
        unet,
        network,
        *shop.listened_to(),
        image_size=shop.sizes.image_size,
        lr=part.lr,
        steps=part.steps,
    )
    batches = controlnet_batches(
        shop.pool,
        shop.latents("subjects", shop.pool.subjects),
        shop.tokenizer,
        shop.tokenizer_2,
        seed=shop.seed,
        batch_size=part.batch_size,
    )
    return Recipe(module, batches, lambda folder: network.save_pretrained(folder / "controlnet"), 0.995)


def edit_latents(shop: Workshop, task: Task) -> EditLatents:
    """Photo pairs as they are and mirrored; the other styles are left for the bootstrap to win."""
    pool = shop.pool
    mask = np.concatenate([pool.scene_mask, pool.photo_mask])
    cells = mask_cells(mask, shop.sizes.latent_size)
    sources: dict[str, tuple[Any, Any]] = {
        "with": (pool.scenes_with[:, PHOTO], pool.photos_with[:, 0]),
        "without": (pool.scenes_without[:, PHOTO], pool.photos_without[:, 0]),
        "pasted": (
            lambda: composites(pool.scenes_with[:, PHOTO], pool.scenes_without[:, PHOTO], pool.scene_mask),
            lambda: composites(pool.photos_with[:, 0], pool.photos_without[:, 0], pool.photo_mask),
        ),
    }

    def seen(layer: str, flip: bool) -> np.ndarray:
        named = zip(("photo", "photos"), sources[layer], strict=True)
        return np.concatenate([shop.latents(f"{name}_{layer}", source, flip=flip) for name, source in named])

    layers = ("with", "without") if task == "remove" else ("pasted", "with")
    condition, target = (np.stack([seen(layer, flip) for flip in (False, True)], axis=1) for layer in layers)
    return EditLatents(condition, target, np.stack([cells, cells[..., ::-1]], axis=1))


def _edit(task: Task, folder_name: str) -> Callable[[Workshop, PartConfig], Recipe]:
    def make(shop: Workshop, part: PartConfig) -> Recipe:
        unet = shop.trainable(widen_input(shop.load("denoiser", "unet"), 2 * shop.sizes.latent_channels + 1))
        with torch.no_grad():
            empty = encode_ids(
                shop.load("denoiser", "text_encoder"),
                shop.load("denoiser", "text_encoder_2"),
                tokenize(shop.tokenizer, [""]).to(shop.device),
                tokenize(shop.tokenizer_2, [""]).to(shop.device),
            )
        module = InsertionModule(
            unet,
            build_scheduler(),
            empty,
            image_size=shop.sizes.image_size,
            lr=part.lr,
            steps=part.steps,
            effect_weight=EFFECT_WEIGHT,
        )
        batches = edit_batches(
            edit_latents(shop, task),
            task=task,
            seed=shop.seed,
            batch_size=part.batch_size,
            time_shift=TIME_SHIFT,
        )
        return Recipe(module, batches, lambda folder: unet.save_pretrained(folder / folder_name), 0.995)

    return make


PARTS_IN_ORDER: dict[str, Callable[[Workshop, PartConfig], Recipe]] = {
    "vae": _vae,
    "clip": _clip,
    "denoiser": _denoiser,
    "adapter": _adapter,
    "styled": _styled,
    "controlnet": _controlnet,
    "remover": _edit("remove", "remover"),
    "inserter": _edit("insert", "inserter"),
}
METRIC_PARTS: dict[str, Kind] = {
    "metric_clip": "clip",
    "metric_identity": "identity",
    "metric_style": "style",
}
